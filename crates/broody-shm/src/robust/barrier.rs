//! A meeting of a number of parties.
//!
//! One word of 64 bits, so that every step is one compare-and-swap:
//!
//! ```text
//! | arrived: 16 | how the last 16 phases ended: 16 | phase: 31 | broken: 1 |      the low half is what is slept on
//! ```
//!
//! Each party counts `arrived` up. When all have come, the last one runs its action and then counts the phase up, and everybody of the phase
//! before goes on; who comes in between waits for the next phase. A *reset* also begins a new phase, and notes that the one before ended
//! without a meeting: whoever waited in it is told that the barrier broke.
//!
//! # What a SIGKILL leaves
//!
//! A party that died will not come, in this phase or any later one. Its hold on the barrier says that it took part, and the repair breaks the barrier,
//! for those who wait and those who come, until somebody resets it. A process that ends in an orderly way, or lets go of its handle,
//! breaks nothing. The last party is no exception until its second compare-and-swap; killed after that, before the wake: the broadcast.

use crate::ArenaError;
use crate::arena::{Arena, Kind, Words};
use crate::handle::{Handle, Primitive};
use crate::owner::Owner;
use crate::sync::{AtomicU32, AtomicU64, Deadline, Ordering, Parking, Slept};

/// The words, in shared memory. All zero bytes, but for the number of parties, are a barrier that nobody has come to.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Barrier {
    word: AtomicU64,
    parties: AtomicU32,
    _unused: AtomicU32,
}

// SAFETY: atomics.
unsafe impl Words for Barrier {}

/// The barrier was broken: by a death, by a party that gave up, by [`abort`](Barrier::abort) or [`reset`](Barrier::reset).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// Runs something when it is dropped, also by a panic.
struct Defer<F: FnMut()>(F);

impl<F: FnMut()> Drop for Defer<F> {
    fn drop(&mut self) {
        self.0();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    arrived: u16,
    /// The lowest bit: whether the phase before this one ended by a reset.
    resets: u16,
    phase: u32,
    broken: bool,
}

const PHASES: u32 = u32::MAX >> 1;

impl State {
    fn unpack(word: u64) -> Self {
        let low = word as u32;
        Self {
            arrived: (word >> 48) as u16,
            resets: (word >> 32) as u16,
            phase: low >> 1,
            broken: low & 1 != 0,
        }
    }

    fn pack(self) -> u64 {
        (u64::from(self.arrived) << 48)
            | (u64::from(self.resets) << 32)
            | (u64::from(self.phase) << 1)
            | u64::from(self.broken)
    }

    fn next(self, reset: bool) -> Self {
        Self {
            arrived: 0,
            resets: (self.resets << 1) | u16::from(reset),
            phase: self.phase.wrapping_add(1) & PHASES,
            broken: false,
        }
    }

    /// How the phase `phase`, which is over, ended. One that is long over has ended well.
    fn was_reset(self, phase: u32) -> bool {
        let ago = self.phase.wrapping_sub(phase).wrapping_sub(1) & PHASES;
        ago < 16 && (self.resets >> ago) & 1 != 0
    }
}

impl Barrier {
    /// The most parties.
    pub const MOST: u32 = u16::MAX as u32;

    /// How many parties meet.
    pub fn parties(&self) -> u32 {
        self.parties.load(Ordering::Relaxed)
    }

    fn state(&self) -> State {
        State::unpack(self.word.load(Ordering::Acquire))
    }

    /// The half that is slept on, which the phase and the flag are in.
    fn half(&self) -> &AtomicU32 {
        const { assert!(cfg!(target_endian = "little"), "the low half comes first") };
        // SAFETY: the first four bytes of an atomic of eight, aligned, used only as an address to sleep on and for waking.
        unsafe { &*std::ptr::from_ref(&self.word).cast::<AtomicU32>() }
    }

    /// Waits until all parties have come, at most until `deadline`. Gives how many came after this one: 0 for the last one, which
    /// runs `action` before the others go on. Nobody else runs his, however many come.
    ///
    /// # Errors
    /// [`Broken`], also where the time is over or `action` fails or panics: then the barrier breaks for all.
    pub fn wait(
        &self,
        parking: &impl Parking,
        deadline: Deadline,
        action: impl FnOnce() -> bool,
    ) -> Result<u32, Broken> {
        let (phase, after_us) = self.arrive(parking, deadline)?;
        if after_us > 0 {
            self.await_phase(parking, deadline, phase)?;
        } else {
            self.meet(parking, phase, action)?;
        }
        Ok(after_us)
    }

    /// Counts this party. In which phase that was, and how many come after it.
    fn arrive(&self, parking: &impl Parking, deadline: Deadline) -> Result<(u32, u32), Broken> {
        let parties = self.parties();
        let mut state = self.state();
        loop {
            if state.broken {
                return Err(Broken);
            }
            if u32::from(state.arrived) >= parties {
                // All have come, and the last one runs its action: this is a party of the next phase.
                self.await_phase(parking, deadline, state.phase)?;
                state = self.state();
                continue;
            }
            let next = State { arrived: state.arrived + 1, ..state };
            // AcqRel: what each party did before is seen by all after.
            match self.word.compare_exchange(state.pack(), next.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok((state.phase, parties - u32::from(next.arrived))),
                Err(now) => state = State::unpack(now),
            }
        }
    }

    /// The last party has come: runs `action`, and ends the phase.
    fn meet(&self, parking: &impl Parking, phase: u32, action: impl FnOnce() -> bool) -> Result<(), Broken> {
        // An action that fails or panics breaks the barrier: the others do not wait for ever.
        let give_up = Defer(|| {
            self.end_phase(phase, |state| State { broken: true, ..state });
            parking.wake(self.half(), u32::MAX);
        });
        if !action() {
            return Err(Broken);
        }
        std::mem::forget(give_up);
        let met = self.end_phase(phase, |state| state.next(false));
        parking.wake(self.half(), u32::MAX);
        if met { Ok(()) } else { Err(Broken) }
    }

    /// Ends the phase, unless it was ended or broken meanwhile.
    fn end_phase(&self, phase: u32, step: impl Fn(State) -> State) -> bool {
        let end = |word| {
            let state = State::unpack(word);
            (state.phase == phase && !state.broken).then(|| step(state).pack())
        };
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, end).is_ok()
    }

    fn await_phase(&self, parking: &impl Parking, deadline: Deadline, phase: u32) -> Result<(), Broken> {
        let mut slept = Slept::Perhaps;
        loop {
            let state = self.state();
            if state.phase != phase || state.broken {
                if slept == Slept::Bound {
                    parking.note_rescue();
                }
                let met = state.phase != phase && !state.was_reset(phase);
                return if met { Ok(()) } else { Err(Broken) };
            }
            if slept == Slept::TimedOut || deadline.is_over() {
                // Who gives up breaks it, unless the last one has come in this instant.
                let broken = State { broken: true, ..state };
                let gave_up = self.word.compare_exchange(
                    state.pack(),
                    broken.pack(),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                if gave_up.is_ok() {
                    parking.wake(self.half(), u32::MAX);
                    return Err(Broken);
                }
                continue;
            }
            slept = parking.sleep(self.half(), state.pack() as u32, deadline);
        }
    }

    /// Breaks the barrier.
    pub fn abort(&self, parking: &impl Parking) {
        self.break_by_death();
        parking.wake(self.half(), u32::MAX);
    }

    /// Breaks the barrier; the caller wakes everybody.
    pub(crate) fn break_by_death(&self) {
        self.word.fetch_or(1, Ordering::AcqRel);
    }

    /// Makes it whole again, and empty. Whoever waits is told that it broke.
    pub fn reset(&self, parking: &impl Parking) {
        let step = |word| {
            let state = State::unpack(word);
            Some(if state.arrived > 0 || state.broken { state.next(true) } else { state }.pack())
        };
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, step);
        parking.wake(self.half(), u32::MAX);
    }

    /// How many have come and wait.
    pub fn waiting(&self) -> u32 {
        let state = self.state();
        if state.broken { 0 } else { state.arrived.into() }
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.state().broken
    }
}

impl Primitive for Barrier {
    const KIND: Kind = Kind::Barrier;
}

/// How parties sleep: they look now and then whether the others live. The supervisor, who tells of deaths, may have ended with one of them.
struct Parties {
    arena: &'static Arena,
    barrier: u32,
}

impl Parking for Parties {
    fn sleep(&self, word: &AtomicU32, value: u32, deadline: Deadline) -> Slept {
        let slept = self.arena.sleep(word, value, deadline);
        if slept == Slept::Bound {
            self.arena.bury_keepers(|object| object == self.barrier);
        }
        slept
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        self.arena.wake(word, count);
    }

    fn may_spin(&self) -> bool {
        self.arena.may_spin()
    }

    fn bury(&self, owner: Owner) -> bool {
        self.arena.bury(owner)
    }

    fn note_rescue(&self) {
        self.arena.note_rescue();
    }
}

impl Handle<Barrier> {
    /// Makes a barrier for `parties`, 1 to [`MOST`](Barrier::MOST).
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(arena: &'static Arena, parties: u32) -> Result<Self, ArenaError> {
        let made = Self::make(arena, 0, 0)?;
        made.words().parties.store(parties.clamp(1, Barrier::MOST), Ordering::Relaxed);
        Ok(made)
    }

    /// See [`Barrier::wait`].
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn wait(
        &self,
        deadline: Deadline,
        action: impl FnOnce() -> bool,
    ) -> Result<Result<u32, Broken>, ArenaError> {
        let (words, _, arena) = self.enter()?;
        self.held().take_part();
        Ok(words.wait(&Parties { arena, barrier: self.held().name().index }, deadline, action))
    }

    /// Breaks the barrier, for all who wait and who come.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn abort(&self) -> Result<(), ArenaError> {
        let (words, _, arena) = self.enter()?;
        words.abort(arena);
        Ok(())
    }

    /// See [`Barrier::reset`].
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn reset(&self) -> Result<(), ArenaError> {
        let (words, _, arena) = self.enter()?;
        words.reset(arena);
        Ok(())
    }

    /// How many have come and wait.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn waiting(&self) -> u32 {
        self.look().waiting()
    }

    /// How many parties meet.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn parties(&self) -> u32 {
        self.look().parties()
    }

    /// Whether it is broken.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn is_broken(&self) -> bool {
        self.look().is_broken()
    }
}
