//! One slot for each process that uses an arena.
//!
//! ```text
//! word: | pid: 32 | generation: 31 | live: 1 |
//! ```
//!
//! A process claims a free slot by one compare-and-swap that writes its pid and the next generation at once, so that there is no
//! instant in which a slot is taken by nobody. It keeps the slot until it is dead *and* everything that it owned has been repaired;
//! only then is the slot free, and whoever gets it next is another [`Owner`].
//!
//! Whether a process is dead is asked from the kernel, by its pid and the time when it started: a pid that was given away
//! since has another one.

use std::ops::Range;

use broody_os::pidfd::PidFd;
use broody_os::{Pid, fork, proc};

use super::Arena;
use super::layout::SLOT_TABLE;
use crate::ArenaError;
use crate::owner::Owner;
use crate::sync::{AtomicU32, AtomicU64, BOUND, Deadline, Ordering};

/// A process's line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    word: AtomicU64,
    /// In clock ticks since boot; 0 until its process has written it.
    started: AtomicU64,
    /// Rung when something happened that this process watches. A futex.
    pub(super) bell: AtomicU32,
    /// It ends in an orderly way, and took leave.
    left: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == 64);

const LIVE: u64 = 1;

/// The last slot is for who looks for dead processes in the others.
const SPARE: u32 = SLOT_TABLE.most - 1;

/// So many dead processes are looked after at a time.
const ENOUGH: usize = 16;

fn generation(word: u64) -> u32 {
    (word as u32) >> 1
}

impl Arena {
    fn slot(&self, owner: Owner) -> &Slot {
        self.item(&SLOT_TABLE, owner.slot())
    }

    /// Claims a slot for the calling process.
    pub(super) fn claim_slot(&self) -> Result<Owner, ArenaError> {
        match self.claim_of(0..SPARE) {
            Err(ArenaError::TooMany { .. }) => self.claim_of_dead(),
            claimed => claimed,
        }
    }

    /// Claims the slot of a dead process that nobody has looked after: one that broody has not started, and nobody has waited for.
    #[cold]
    fn claim_of_dead(&self) -> Result<Owner, ArenaError> {
        // Recovering needs an owner, too.
        let spare = self.claim_of(SPARE..SPARE + 1)?;
        let dead = self.owners().filter(|owner| self.is_dead(*owner));
        let freed = dead.filter(|owner| self.recover_as(spare, *owner, Deadline::after(BOUND)));
        let _ = freed.take(ENOUGH).count();
        self.free_slot(spare);
        self.claim_of(0..SPARE)
    }

    fn claim_of(&self, slots: Range<u32>) -> Result<Owner, ArenaError> {
        let pid = fork::pid();
        let started = proc::stat(pid).ok().flatten().map_or(0, |stat| stat.start_time);
        for index in slots {
            self.ensure(&SLOT_TABLE, index)?;
            let slot = self.item(&SLOT_TABLE, index);
            let word = slot.word.load(Ordering::Relaxed);
            if word & LIVE != 0 {
                continue;
            }
            let next = generation(word).wrapping_add(1) & (u32::MAX >> 1);
            let claimed = ((pid as u64) << 32) | (u64::from(next) << 1) | LIVE;
            // Acquire: what the last owner's repair has left is seen.
            if slot.word.compare_exchange(word, claimed, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            slot.left.store(0, Ordering::Relaxed);
            slot.started.store(started, Ordering::Release);
            return Ok(Owner::new(index, next));
        }
        Err(ArenaError::TooMany { what: "processes", most: SPARE })
    }

    /// The pid behind `owner`, if its slot is still in that generation.
    pub(super) fn pid_of(&self, owner: Owner) -> Option<Pid> {
        let word = self.slot(owner).word.load(Ordering::Acquire);
        let same = word & LIVE != 0 && Owner::new(owner.slot(), generation(word)) == owner;
        same.then_some((word >> 32) as Pid)
    }

    /// Whether the process behind `owner` has ended, all its threads included; `None` when that cannot be known now, for want of a
    /// descriptor or of memory. Nobody may be taken for dead by mistake: what he holds would be given to others.
    pub(super) fn has_ended(&self, owner: Owner) -> Option<bool> {
        let Some(pid) = self.pid_of(owner) else { return Some(true) };
        if pid == fork::pid() {
            return Some(false);
        }
        if !fork::exists(pid) {
            return Some(true);
        }
        let started = self.slot(owner).started.load(Ordering::Acquire);
        match proc::stat(pid).ok()? {
            // Reaped in this instant; or it is there, and /proc does not show it.
            None => (!fork::exists(pid)).then_some(true),
            Some(stat) if started != 0 && stat.start_time != started => Some(true),
            // The first thread may be a zombie while others run: the pidfd knows.
            Some(stat) if stat.letter == 'Z' || stat.letter == 'X' => match PidFd::open(pid) {
                Ok(pidfd) => pidfd.has_ended().ok(),
                // Reaped in this instant.
                Err(error) => (error.errno() == Some(broody_os::NO_SUCH_PROCESS)).then_some(true),
            },
            Some(_) => Some(false),
        }
    }

    /// Whether the process behind `owner` is known to have ended.
    pub(super) fn is_dead(&self, owner: Owner) -> bool {
        self.has_ended(owner) == Some(true)
    }

    /// Every process that has a slot.
    pub(super) fn owners(&self) -> impl Iterator<Item = Owner> {
        (0..self.used(&SLOT_TABLE)).filter_map(|index| {
            let word = self.item(&SLOT_TABLE, index).word.load(Ordering::Acquire);
            (word & LIVE != 0).then(|| Owner::new(index, generation(word)))
        })
    }

    /// Gives the slot of a dead process, of which nothing is left, to whoever claims it next.
    pub(super) fn free_slot(&self, owner: Owner) {
        let slot = self.slot(owner);
        let word = slot.word.load(Ordering::Relaxed);
        if self.pid_of(owner).is_some() {
            slot.started.store(0, Ordering::Relaxed);
            // Release: the repairs, for the next owner. The generation stays, to be counted up by the next claim.
            let free = u64::from(generation(word)) << 1;
            let _ = slot.word.compare_exchange(word, free, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// The calling process ends in an orderly way.
    pub(super) fn take_leave(&self, me: Owner) {
        self.slot(me).left.store(1, Ordering::Release);
    }

    /// Whether `owner` took leave before it ended.
    pub(super) fn took_leave(&self, owner: Owner) -> bool {
        self.slot(owner).left.load(Ordering::Acquire) != 0
    }

    /// The word that is rung for `owner`.
    pub(super) fn bell_of(&self, owner: Owner) -> &AtomicU32 {
        &self.slot(owner).bell
    }
}

#[cfg(test)]
mod tests {
    use broody_os::fork::Fork;
    use broody_os::wait;

    use super::*;

    #[test]
    fn the_slots_of_dead_processes_are_claimed_when_there_are_no_others() {
        let arena = Arena::create(1).unwrap();
        // As so many processes that nobody waits for.
        // SAFETY: the child uses only the arena, and exits.
        let Fork::Parent(pid) = unsafe { fork::fork() }.unwrap() else {
            while arena.claim_of(0..SPARE).is_ok() {}
            let is_full = matches!(arena.claim_slot(), Err(ArenaError::TooMany { .. }));
            fork::exit_now((!is_full).into())
        };
        let status = loop {
            match wait::reap_pid(pid).unwrap() {
                wait::Reaped::Running => std::thread::yield_now(),
                wait::Reaped::Ended(status, _) => break status,
                wait::Reaped::Stolen => panic!("nobody else waits for it"),
            }
        };
        assert_eq!(status, wait::ExitStatus::Code(0), "who lives keeps his slot");
        assert_eq!(arena.owners().count() as u32, SPARE);
        assert!(arena.claim_slot().is_ok());
        assert_eq!(arena.owners().count() as u32, SPARE - ENOUGH as u32 + 1);
    }
}
