//! Waiting for a notification.
//!
//! Each waiter has a line of its own in the arena's table of waiters, with a ticket that says who came first, and sleeps there:
//!
//! ```text
//! WAITING --notify(n): the n oldest--> NOTIFIED --the waiter--> (line freed)
//!     '---- the time is over, or a death ---> GONE
//! ```
//!
//! The word that says so also counts the uses of the line: a notifier that has looked at it a while ago does not notify somebody else.
//!
//! Each step is one compare-and-swap, so that a waiter is notified or has given up, and never both: `notify(n)` wakes exactly `n` waiters, if there
//! are as many. A waiter enters WAITING before it gives the lock back; a notification between that and its sleep finds it.
//!
//! # What a SIGKILL leaves
//!
//! * of a waiter that was WAITING: its line, freed by the repair. Of one that was NOTIFIED and had not got up yet: the notification
//!   is passed on to the next one.
//! * of a notifier between the compare-and-swap and the wake: the broadcast wakes the waiter, which sees NOTIFIED. Of one in the middle of
//!   `notify(n)`: the rest are not notified; if it held the lock of the condition, as is usual, the next to get that is told
//!   that its holder died.

use crate::ArenaError;
use crate::arena::{Arena, Kind, Words};
use crate::handle::{Handle, Primitive};
use crate::sync::{AtomicU32, Deadline, Ordering, Parking, Slept, Word};

/// The words, in shared memory. All zero bytes are a condition that nobody waits for.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Condition<W = AtomicU32> {
    /// How many may be waiting: never too few. Saves the look at the table.
    waiting: W,
}

/// A waiter's line: what a condition needs of it.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Line<W = AtomicU32> {
    /// Whether it was notified, in the two lowest bits; how often the line was used, above. It sleeps here.
    state: W,
    /// The object (its number plus one) whose condition it waits for; 0: none.
    object: W,
    /// Which came first: the low and the high half of a number.
    ticket: [W; 2],
}

/// Where waiters have their lines.
pub(crate) trait Lines<W: 'static> {
    /// Every line that somebody has.
    fn lines(&self) -> impl Iterator<Item = &Line<W>>;

    /// The number of one who comes now.
    fn next_ticket(&self) -> u64;
}

impl<W: Word> Line<W> {
    fn ticket(&self) -> u64 {
        // Relaxed: written before the line was published by its object.
        let [low, high] = &self.ticket;
        (u64::from(high.load(Ordering::Relaxed)) << 32) | u64::from(low.load(Ordering::Relaxed))
    }

    /// Its state, if it waits for the condition `index`.
    fn waits(&self, index: u32) -> Option<u32> {
        // Acquire: pairs with both releases of the line. The state first: if it is the same when it is changed, the object was of this use.
        let state = self.state.load(Ordering::Acquire);
        (is(state, WAITING) && self.object.load(Ordering::Acquire) == index + 1).then_some(state)
    }

    /// It waits for nothing any more.
    pub(crate) fn clear(&self) {
        self.object.store(0, Ordering::Relaxed);
    }

    /// Its process is dead: nobody notifies it any more. A notification that it had got and not used is given to `pass_on`, with the number of
    /// the condition. Whoever dies over this has perhaps passed it on, and it is done once more: rather twice than not at all.
    pub(crate) fn bury(&self, pass_on: impl FnOnce(u32)) {
        // Acquire, here and where it was notified in this instant: those who waited when the notifier came are seen by who passes on.
        let state = self.state.load(Ordering::Acquire);
        let gone = is(state, WAITING)
            && self
                .state
                .compare_exchange(state, to(state, GONE), Ordering::Relaxed, Ordering::Acquire)
                .is_ok();
        let state = self.state.load(Ordering::Acquire);
        if !gone
            && is(state, NOTIFIED)
            && let Some(index) = self.object.load(Ordering::Relaxed).checked_sub(1)
        {
            pass_on(index);
        }
        self.state.store(to(state, GONE), Ordering::Relaxed);
        self.clear();
    }
}

fn is(state: u32, status: u32) -> bool {
    state & 3 == status
}

fn to(state: u32, status: u32) -> u32 {
    (state & !3) | status
}

const NOTIFIED: u32 = 2;
const WAITING: u32 = 1;
const GONE: u32 = 3;

// SAFETY: an atomic.
unsafe impl Words for Condition {}

impl<W: Word + 'static> Condition<W> {
    /// Waits for a notification of the condition with the number `index`, until `deadline`, on `line`, which is the caller's. Whether it came.
    /// `release` gives the lock back that protects what is waited for; the caller takes it again afterwards. `sleep` sleeps on the line's
    /// state while it is the value given.
    pub(crate) fn wait(
        &self,
        lines: &impl Lines<W>,
        line: &Line<W>,
        index: u32,
        release: impl FnOnce(),
        mut sleep: impl FnMut(&W, u32) -> Slept,
        mut rescued: impl FnMut(),
    ) -> bool {
        let ticket = lines.next_ticket();
        for (word, half) in line.ticket.iter().zip([ticket as u32, (ticket >> 32) as u32]) {
            word.store(half, Ordering::Relaxed);
        }
        let waiting = to(line.state.load(Ordering::Relaxed).wrapping_add(4), WAITING);
        // Release: whoever sees this use of the line sees that the use before is over.
        line.state.store(waiting, Ordering::Release);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Release: the line as a whole. The fence: before any look at what the lock protects by somebody else.
        line.object.store(index + 1, Ordering::Release);
        W::fence();
        release();
        let mut slept = Slept::Perhaps;
        let notified = loop {
            // Acquire: what the notifier did before is seen.
            if is(line.state.load(Ordering::Acquire), NOTIFIED) {
                if slept == Slept::Bound {
                    rescued();
                }
                break true;
            }
            if slept == Slept::TimedOut {
                // Acquire on failure: it was notified in this instant.
                let gone = to(waiting, GONE);
                break line
                    .state
                    .compare_exchange(waiting, gone, Ordering::Relaxed, Ordering::Acquire)
                    .is_err();
            }
            slept = sleep(&line.state, waiting);
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        notified
    }

    /// Notifies the `count` that have waited longest. How many there were.
    pub(crate) fn notify(&self, lines: &impl Lines<W>, index: u32, count: u32, wake: impl Fn(&W)) -> u32 {
        // The waiter stores its line before it gives the lock back, and the fence keeps this load behind what came before.
        W::fence();
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        notify_waiters(lines, index, count, wake)
    }
}

/// Notifies the `count` waiters of the condition `index` that have waited longest. How many there were.
pub(crate) fn notify_waiters<W: Word + 'static>(
    lines: &impl Lines<W>,
    index: u32,
    count: u32,
    wake: impl Fn(&W),
) -> u32 {
    let waiting =
        lines.lines().filter_map(|line| line.waits(index).map(|state| (line.ticket(), state, line)));
    let mut waiting: Vec<_> = waiting.collect();
    waiting.sort_by_key(|(ticket, ..)| *ticket);
    let mut notified = 0;
    for (_, state, line) in waiting {
        if notified == count {
            break;
        }
        // Release: what was done before is seen by the waiter.
        let new = to(state, NOTIFIED);
        if line.state.compare_exchange(state, new, Ordering::Release, Ordering::Relaxed).is_ok() {
            notified += 1;
            wake(&line.state);
        }
    }
    notified
}

impl Primitive for Condition {
    const KIND: Kind = Kind::Condition;
}

impl Handle<Condition> {
    /// Makes a condition that nobody waits for.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(arena: &'static Arena) -> Result<Self, ArenaError> {
        Self::make(arena, 0, 0)
    }

    /// Waits for a notification, until `deadline`. Whether it came, and what `acquire` gave. `release` gives back the lock that protects what is
    /// waited for, and `acquire` takes it again: until then the notification is not used, and passes on if this process dies.
    ///
    /// # Errors
    /// [`ArenaError`], and then neither was called.
    pub fn wait<R>(
        &self,
        deadline: Deadline,
        release: impl FnOnce(),
        acquire: impl FnOnce() -> R,
    ) -> Result<(bool, R), ArenaError> {
        let (words, me, arena) = self.enter()?;
        let claimed = arena.claim_waiter(me).ok_or_else(|| arena.too_many_waiters())?;
        let mut wait = arena.pace.begin();
        let sleep = |word: &AtomicU32, value| {
            // Relaxed: it is looked at once more.
            let changed = wait.look(|| (word.load(Ordering::Relaxed) != value).then_some(Slept::Perhaps));
            changed.unwrap_or_else(|| arena.sleep_with(Some(claimed.waiter), word, value, deadline))
        };
        let (index, line) = (self.held().name().index, &claimed.waiter.line);
        let notified = words.wait(arena, line, index, release, sleep, || arena.note_rescue());
        arena.pace.learn(wait);
        Ok((notified, acquire()))
    }

    /// How many wait and are not notified.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn waiting(&self) -> Result<usize, ArenaError> {
        let (_, _, arena) = self.enter()?;
        let index = self.held().name().index;
        Ok(arena.lines().filter(|line| line.waits(index).is_some()).count())
    }

    /// Notifies the `count` that have waited longest. How many there were.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn notify(&self, count: u32) -> Result<u32, ArenaError> {
        let (words, _, arena) = self.enter()?;
        Ok(words.notify(arena, self.held().name().index, count, |word| arena.wake(word, 1)))
    }
}
