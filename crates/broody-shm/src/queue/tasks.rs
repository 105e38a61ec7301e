//! Who has taken how many messages of a queue and not said yet that they are done.
//!
//! Each process counts its own, in its [hold](crate::arena) on the queue. What is unfinished is counted from there, and stored nowhere:
//! messages in the queue, and tasks taken. A taker counts up before the store of the head that takes the message, and writes down in `intent` what it
//! is doing, so that the repair knows whether the store was made.
//!
//! ```text
//! intent: | valid: 1 | the taker's count before: 35 | the head's count of messages: 28 |
//! ```
//!
//! # What a SIGKILL leaves
//!
//! The tasks of a dead process, and of one that drops its last handle on the queue, will not be done. They vanish with its hold, so that a join does not wait for them, and are added to `lost`, so that
//! they can be seen.

use super::Queue;
use super::control::Control;
use super::mark::{MOST_MESSAGES, Mark};
use crate::arena::Arena;
use crate::owner::Owner;
use crate::sync::{AtomicU32, AtomicU64, Deadline, Ordering, Parking, Slept, fence};

/// The words of the tasks.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Words {
    intent: AtomicU64,
    /// While a repair adds to `lost`: what it was before.
    lost_before: AtomicU64,
    /// Tasks whose process died.
    lost: AtomicU32,
    changes: AtomicU32,
    joining: AtomicU32,
}

const VALID: u64 = 1 << 63;

/// More tasks were said to be done than were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyDone;

impl Words {
    /// Something may be finished.
    pub(super) fn announce(&self, arena: &Arena) {
        if self.joining.load(Ordering::Relaxed) > 0 {
            // Release: pairs with the acquire in `join`.
            self.changes.fetch_add(1, Ordering::Release);
            arena.wake(&self.changes, u32::MAX);
        }
    }
}

fn intent(count: u64, head: Mark) -> u64 {
    VALID | (count << 28) | u64::from(Mark::default().messages_to(head))
}

impl Queue {
    /// Under the lock of takers, before the store of the head.
    pub(super) fn note_taken(&self, head: Mark) {
        let leases = self.held.own_hold();
        let count = leases.load(Ordering::Relaxed);
        // Release: in this order for whoever repairs.
        self.control().tasks.0.intent.store(intent(count, head), Ordering::Release);
        leases.fetch_add(1, Ordering::Release);
    }

    /// A task that was taken is done: one of this process's, or, if it has none, anybody's.
    ///
    /// # Errors
    /// [`TooManyDone`] when none is taken.
    pub fn task_done(&self) -> Result<(), TooManyDone> {
        let step = |count: u64| count.checked_sub(1);
        let finish = |leases: &AtomicU64| {
            leases.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step).map(|before| before == 1)
        };
        self.held.owner().map_err(|_| TooManyDone)?;
        let own = finish(self.held.own_hold());
        let finished = own.or_else(|_| {
            self.arena()
                .holds_of(self.held.name().index)
                .find_map(|leases| finish(leases).ok())
                .ok_or(TooManyDone)
        })?;
        if finished {
            fence(Ordering::SeqCst);
            self.control().tasks.0.announce(self.arena());
        }
        Ok(())
    }

    /// How many messages were put and are not done, those in the queue included.
    pub fn unfinished(&self) -> usize {
        loop {
            let (before, waiting) = (self.control().tx.0.mark(), self.len());
            let index = self.held.name().index;
            let taken: u64 = self.arena().holds_of(index).map(|leases| leases.load(Ordering::Acquire)).sum();
            // A task that was put in the meantime may have been overlooked on its way.
            if before == self.control().tx.0.mark() {
                return waiting + taken as usize;
            }
        }
    }

    /// How many tasks were lost since this was last asked: taken by processes that died with them.
    pub fn take_lost(&self) -> u32 {
        self.held.owner().map_or(0, |_| self.control().tasks.0.lost.swap(0, Ordering::AcqRel))
    }

    /// Waits until every message that was put is done, at most until `deadline`. Whether they are.
    pub fn join(&self, deadline: Deadline) -> bool {
        let (tasks, arena) = (&self.control().tasks.0, self.arena());
        if self.held.owner().is_err() {
            // A fork's copy whose queue is gone.
            return true;
        }
        let mut slept = Slept::Perhaps;
        loop {
            tasks.joining.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let changes = tasks.changes.load(Ordering::Acquire);
            let finished = self.unfinished() == 0;
            let over = !finished && (slept == Slept::TimedOut || deadline.is_over());
            if !finished && !over {
                slept = arena.sleep(&tasks.changes, changes, deadline);
            }
            tasks.joining.fetch_sub(1, Ordering::Relaxed);
            if finished || over {
                if finished && slept == Slept::Bound {
                    arena.note_rescue();
                }
                return finished;
            }
            if slept != Slept::Perhaps {
                self.look_after_others();
            }
        }
    }
}

impl Control {
    #[inline]
    pub(super) fn counts_tasks(&self) -> bool {
        self.fixed.0.counts_tasks.load(Ordering::Relaxed) != 0
    }

    /// Under the lock of takers, after the store of the head.
    #[inline]
    pub(super) fn noted_taken(&self) {
        if self.counts_tasks() {
            self.tasks.0.intent.store(0, Ordering::Release);
        }
    }

    /// The tasks of `dead`, which holds whatever lock it held, are lost.
    pub(super) fn repair_tasks(&self, dead: Owner, leases: &AtomicU64) {
        let tasks = &self.tasks.0;
        let noted = tasks.intent.load(Ordering::Acquire);
        if noted & VALID != 0 && self.rx.0.holder() == Some(dead) {
            let head = self.rx.0.mark();
            let before = (noted & !VALID) >> 28;
            let taken = intent(before, head) != noted;
            leases.store(before + u64::from(taken), Ordering::Relaxed);
            tasks.intent.store(0, Ordering::Relaxed);
        }
        self.lose(leases);
        // The broadcast wakes those who join.
        tasks.changes.fetch_add(1, Ordering::Release);
    }

    /// The tasks that a process had taken will not be done. Under the arena's lock.
    fn lose(&self, leases: &AtomicU64) {
        let tasks = &self.tasks.0;
        // In this order, so that a repair which is broken off is done again and counts once.
        let count = leases.load(Ordering::Relaxed).min(MOST_MESSAGES.into());
        let mut before = tasks.lost_before.load(Ordering::Acquire);
        if before & VALID == 0 {
            before = VALID | u64::from(tasks.lost.load(Ordering::Acquire));
            tasks.lost_before.store(before, Ordering::Release);
        }
        if count > 0 {
            tasks.lost.store((before & !VALID).wrapping_add(count) as u32, Ordering::Release);
            leases.store(0, Ordering::Release);
        }
        tasks.lost_before.store(0, Ordering::Release);
    }
}

impl Arena {
    /// A process lets go of its last handle on the object `index`. If that is a queue of which it has taken tasks, it can never say any more that
    /// they are done.
    pub(crate) fn give_up_tasks(&self, index: u32, leases: &AtomicU64) {
        if leases.load(Ordering::Relaxed) > 0
            && let Some(control) = self.queue_control(index)
        {
            control.lose(leases);
            fence(Ordering::SeqCst);
            control.tasks.0.announce(self);
        }
    }
}
