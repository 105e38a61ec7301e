//! Waiting for a notification.
//!
//! Each waiter has a line of its own in the arena's table of waiters, with a ticket that says who came first, and sleeps there:
//!
//! ```text
//! WAITING --notify(n): the n oldest--> NOTIFIED --the waiter--> (line freed)
//!     '---- the time is over ---> GONE
//! ```
//!
//! Each step is one compare-and-swap, so that a waiter is notified or has given up, and never both: `notify(n)` wakes exactly `n` waiters, if there
//! are as many. A waiter enters WAITING before it gives the lock back; a notification between that and its sleep finds it.
//!
//! # What a SIGKILL leaves
//!
//! * of a waiter that was WAITING: its line, freed by the repair. Of one that was NOTIFIED and had not got up yet: the notification
//!   is passed on to the next one ([`pass_on`](Condition::pass_on)).
//! * of a notifier between the compare-and-swap and the wake: the broadcast wakes the waiter, which sees NOTIFIED. Of one in the middle of
//!   `notify(n)`: the rest are not notified; if it held the lock of the condition, as is usual, the next to get that is told
//!   that its holder died.

use crate::ArenaError;
use crate::arena::{Arena, Kind, Words};
use crate::handle::{Handle, Primitive};
use crate::sync::{AtomicU32, Deadline, Ordering, Parking, Slept, fence};

/// The words, in shared memory. All zero bytes are a condition that nobody waits for.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Condition {
    /// How many may be waiting: never too few. Saves the look at the table.
    waiting: AtomicU32,
}

// SAFETY: an atomic.
unsafe impl Words for Condition {}

const WAITING: u32 = 1;
const GONE: u32 = 3;

impl Condition {
    pub(crate) const NOTIFIED: u32 = 2;

    /// Waits for a notification of the condition with the number `index`, until `deadline`. Whether it came. `release` gives the lock back
    /// that protects what is waited for; the caller takes it again afterwards.
    ///
    /// # Errors
    /// [`ArenaError::TooMany`] waiters, and then `release` was not called.
    pub(crate) fn wait(
        &self,
        arena: &Arena,
        index: u32,
        deadline: Deadline,
        release: impl FnOnce(),
    ) -> Result<bool, ArenaError> {
        let line = arena.claim_waiter(arena.me()?).ok_or(arena.too_many_waiters())?;
        line.line.ticket.store(arena.next_ticket(), Ordering::Relaxed);
        line.line.state.store(WAITING, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Release: the line as a whole. The fence: before any look at what the lock protects by somebody else.
        line.line.object.store(index + 1, Ordering::Release);
        fence(Ordering::SeqCst);
        release();
        let mut slept = Slept::Perhaps;
        let notified = loop {
            // Acquire: what the notifier did before is seen.
            if line.line.state.load(Ordering::Acquire) == Self::NOTIFIED {
                if slept == Slept::Bound {
                    arena.note_rescue();
                }
                break true;
            }
            if slept == Slept::TimedOut || deadline.is_over() {
                // Acquire on failure: it was notified in this instant.
                let gone =
                    line.line.state.compare_exchange(WAITING, GONE, Ordering::Relaxed, Ordering::Acquire);
                break gone.is_err();
            }
            slept = arena.sleep_with(Some(line.line), &line.line.state, WAITING, deadline);
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(notified)
    }

    /// Notifies the `count` that have waited longest. How many there were.
    pub(crate) fn notify(&self, arena: &Arena, index: u32, count: u32) -> u32 {
        // The waiter stores its line before it gives the lock back, and the fence keeps this load behind what came before.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        Self::notify_waiters(arena, index, count)
    }

    fn notify_waiters(arena: &Arena, index: u32, count: u32) -> u32 {
        let mut waiting: Vec<_> = arena
            .waiters()
            .map(|(_, line)| line)
            .filter(|line| {
                line.object.load(Ordering::Acquire) == index + 1
                    && line.state.load(Ordering::Relaxed) == WAITING
            })
            .map(|line| (line.ticket.load(Ordering::Relaxed), line))
            .collect();
        waiting.sort_by_key(|(ticket, _)| *ticket);
        let mut notified = 0;
        for (_, line) in waiting {
            if notified == count {
                break;
            }
            // Release: what was done before is seen by the waiter.
            let took =
                line.state.compare_exchange(WAITING, Self::NOTIFIED, Ordering::Release, Ordering::Relaxed);
            if took.is_ok() {
                notified += 1;
                arena.wake(&line.state, 1);
            }
        }
        notified
    }

    /// A waiter of the condition `index` died with a notification that it had not used: somebody else gets it.
    pub(crate) fn pass_on(arena: &Arena, index: u32) {
        Self::notify_waiters(arena, index, 1);
    }
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

    /// Waits for a notification, until `deadline`. Whether it came. `release` gives back the lock that protects what is waited for; the caller
    /// takes it again afterwards, in any case.
    ///
    /// # Errors
    /// [`ArenaError`], and then `release` was not called.
    pub fn wait(&self, deadline: Deadline, release: impl FnOnce()) -> Result<bool, ArenaError> {
        let (words, _, arena) = self.enter()?;
        words.wait(arena, self.held().name().index, deadline, release)
    }

    /// Notifies the `count` that have waited longest. How many there were.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn notify(&self, count: u32) -> Result<u32, ArenaError> {
        let (words, _, arena) = self.enter()?;
        Ok(words.notify(arena, self.held().name().index, count))
    }
}
