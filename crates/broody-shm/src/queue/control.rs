//! The words of a queue in shared memory, and its two locks.

use std::time::Duration;

use super::mark::Mark;
use super::ring::{self, Ring};
use super::sleepers::Sleepers;
use super::tasks;
use crate::arena::{Arena, HoldId, Kind, Words};
use crate::owner::Owner;
use crate::robust::lock::LockWord;
use crate::sync::{AtomicU32, AtomicU64, Deadline, Ordering, Parking, TimedOut, fence, place, spin};

/// Something on a pair of cache lines of its own.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Line<T>(pub(super) T);

/// The words of a queue. All zero bytes are an empty queue without bounds.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Control {
    pub(super) fixed: Line<Fixed>,
    pub(super) tx: Line<SideWords>,
    pub(super) rx: Line<SideWords>,
    pub(super) items: Line<Sleepers>,
    pub(super) room: Line<Sleepers>,
    pub(super) tasks: Line<tasks::Words>,
}

const _: () = assert!(size_of::<Control>() == 1024);

// SAFETY: atomics throughout.
unsafe impl Words for Control {}

/// What seldom changes.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Fixed {
    /// The most messages; 0: as many as there is memory for.
    pub(super) most_messages: AtomicU32,
    /// [`CLOSED`], [`NO_TAKER`].
    pub(super) closed: AtomicU32,
    /// The most bytes in the ring; 0: as many as there is memory for.
    pub(super) most_bytes: AtomicU64,
    /// The ring: its object's number plus one, and the logarithm of its size above. 0: none yet. Changes under both locks.
    pub(super) ring: AtomicU64,
    /// What the queue does with its limits: [`Limits`](super::Limits).
    pub(super) refuses: AtomicU32,
    /// Who waits until the queue is empty, to put a message that goes alone: nobody else puts any meanwhile. 0: nobody.
    pub(super) loner: AtomicU32,
    /// It is known which process has taken how many tasks.
    pub(super) counts_tasks: AtomicU32,
    /// It has [ends](super::End).
    pub(super) has_ends: AtomicU32,
    /// In which second somebody last looked whether those live that he waits for.
    pub(super) looked: AtomicU32,
}

/// No more is put.
pub(super) const CLOSED: u32 = 1;

/// No more is taken.
pub(super) const NO_TAKER: u32 = 2;

/// The words under one of the two locks.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct SideWords {
    lock: LockWord,
    /// Where this side was last at work; 0: nowhere yet.
    place: AtomicU32,
    /// The other side's mark when it was last looked at: there is at least so much, or so much room.
    pub(super) seen: AtomicU64,
    /// The tail, or the head: on a line of its own, which the other side reads again and again, so that the lock stays with this one.
    mark: Line<AtomicU64>,
}

/// One side of a queue while this thread has its lock: given back however the thread goes on, also by a panic of the caller's code.
pub(super) struct Locked<'a> {
    lock: &'a LockWord,
    pub(super) me: Owner,
    arena: &'a Arena,
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lock.release(self.me, self.arena);
    }
}

/// A message that is being read. It is taken when this is dropped: not before the reader is done, and also if the reader panics, so that it is
/// not the next one's trouble.
pub(super) struct Taking<'a> {
    pub(super) control: &'a Control,
    pub(super) head: Mark,
}

impl Drop for Taking<'_> {
    #[inline]
    fn drop(&mut self) {
        self.control.rx.0.publish(self.head);
        self.control.noted_taken();
    }
}

/// For how many pauses one who waits for the other side spins before it sleeps: about as long as it takes to wake an idle CPU of a virtual
/// machine (some 40 us). With less, two processes that answer each other never find each other awake.
const PATIENCE: u32 = 2048;

/// How long an operation waits for one of the locks, at least.
const GRACE: Duration = Duration::from_millis(100);

/// Pauses before the first look of one who waits for an answer.
pub(super) const SOON: u32 = 4;

/// Pauses before the first look of one who waits for more of many. The line with the other side's mark goes to and fro between the CPUs with each look: it
/// shall be worth it.
pub(super) const LATER: u32 = 64;

impl SideWords {
    /// The tail, or the head. Acquire: what the other side did before it came so far is seen.
    #[inline]
    pub(super) fn mark(&self) -> Mark {
        Mark(self.mark.0.load(Ordering::Acquire))
    }

    /// The same for who has the lock: nobody else stores it.
    #[inline]
    pub(super) fn own_mark(&self) -> Mark {
        Mark(self.mark.0.load(Ordering::Relaxed))
    }

    /// The one store that puts messages, or takes one. Release: they are written, or read.
    #[inline]
    pub(super) fn publish(&self, mark: Mark) {
        self.mark.0.store(mark.0, Ordering::Release);
        self.place.store(place(), Ordering::Relaxed);
    }

    /// The lock, if it is free and there is nothing to say about it.
    #[inline]
    pub(super) fn try_lock<'a>(&'a self, me: Owner, arena: &'a Arena) -> Option<Locked<'a>> {
        self.lock.try_take(me).then(|| Locked { lock: &self.lock, me, arena })
    }

    /// The lock. Where its holder died, there is nothing to repair.
    ///
    /// Who has it is about to give it back. To wait for that belongs to every operation, also to one that only tries: a queue is not empty
    /// because somebody else is just taking from it. `deadline` counts only when it takes longer than anything but a holder that is stopped.
    pub(super) fn lock<'a>(
        &'a self,
        me: Owner,
        arena: &'a Arena,
        deadline: Deadline,
    ) -> Result<Locked<'a>, TimedOut> {
        if self.lock.try_acquire(me).is_none() {
            self.lock.acquire(me, arena, deadline.not_before(GRACE))?;
        }
        Ok(Locked { lock: &self.lock, me, arena })
    }

    pub(super) fn holder(&self) -> Option<Owner> {
        self.lock.holder()
    }

    /// Whether anybody was ever at work here.
    pub(super) fn was_used(&self) -> bool {
        self.place.load(Ordering::Relaxed) != 0
    }

    /// Looks again and again, first after so many pauses, whether this side has done something. Whether it was worth it.
    pub(super) fn spin(&self, arena: &Arena, first: u32, look: impl Fn() -> bool) -> bool {
        // Where this side is at home on this very CPU, it gets on only when this thread sleeps.
        arena.may_spin() && self.place.load(Ordering::Relaxed) != place() && spin(first, PATIENCE, look)
    }
}

impl Control {
    pub(super) fn close(&self, arena: &Arena, how: u32) {
        // Release: what was put before is seen by who sees this.
        self.fixed.0.closed.fetch_or(how, Ordering::Release);
        fence(Ordering::SeqCst);
        self.items.0.announce(arena, u32::MAX);
        self.room.0.announce(arena, u32::MAX);
        self.tasks.0.announce(arena);
    }

    /// Puts right what `dead` has left; `leases` is how many tasks it had.
    pub(crate) fn repair(&self, dead: Owner, leases: &AtomicU64) {
        self.repair_tasks(dead, leases);
        // Nothing else: what was not published never was, what was not taken is there.
        let _ = self.fixed.0.loner.compare_exchange(dead.bits(), 0, Ordering::Relaxed, Ordering::Relaxed);
        self.tx.0.lock.repair(dead);
        self.rx.0.lock.repair(dead);
        self.items.0.repair();
        self.room.0.repair();
    }

    /// Whether a process is in the middle of a put or a get.
    fn is_held_by(&self, owner: Owner) -> bool {
        self.tx.0.holder() == Some(owner) || self.rx.0.holder() == Some(owner)
    }

    /// Whether a message at `position` is in the queue.
    fn has(&self, position: u64) -> bool {
        self.rx.0.mark().reaches(self.tx.0.mark(), position)
    }
}

/// What the arena has to know of queues.
impl Arena {
    pub(super) fn queue_control(&self, index: u32) -> Option<&Control> {
        self.body_of(index, Kind::Queue).filter(|body| body.length() >= size_of::<Control>() as u64).map(
            |body| {
                // SAFETY: small bodies stay mapped for good.
                unsafe { body.as_ptr().cast::<Control>().as_ref() }
            },
        )
    }

    /// Whether a process is in the middle of a put or a get, if that object is a queue.
    pub(crate) fn is_busy_in_queue(&self, index: u32, owner: Owner) -> bool {
        self.queue_control(index).is_some_and(|control| control.is_held_by(owner))
    }

    /// The number of a queue's ring.
    pub(crate) fn ring_of(&self, queue: u32) -> Option<u32> {
        ring::index(self.queue_control(queue)?.fixed.0.ring.load(Ordering::Relaxed))
    }

    /// Whether a queue has a message at `position`.
    pub(crate) fn queue_has(&self, queue: u32, position: u64) -> bool {
        self.queue_control(queue).is_some_and(|control| control.has(position))
    }

    /// The end `end` of a queue is gone.
    pub(crate) fn close_queue(&self, queue: u32, how: u64) {
        if let Some(control) = self.queue_control(queue) {
            control.close(self, how as u32);
        }
    }

    /// The holds of the messages in a queue that nobody has any more.
    pub(crate) fn holds_in_queue(&self, queue: u32) -> Vec<HoldId> {
        let Some(control) = self.queue_control(queue) else { return Vec::new() };
        let (mut head, tail) = (control.rx.0.mark(), control.tx.0.mark());
        let mut holds = Vec::new();
        if head != tail
            && let Some(ring) = Ring::open(self, control.fixed.0.ring.load(Ordering::Acquire))
        {
            while head != tail
                && let Ok(read) = ring.read(head, tail)
            {
                holds.extend(read.holds());
                head = head.after(read.length());
            }
        }
        holds
    }
}
