//! A ring that is full becomes a larger one, where the queue's bounds allow it.
//!
//! Who puts has the putters' lock and takes the takers' as well, so that nobody else touches either ring. He copies what is there, and **one
//! store of `ring`** changes over. Marks stay what they are: they count bytes, and a ring's size only says where they wrap.
//!
//! Killed before the store, the new ring goes with its hold; after it, the old one goes, of which there is a hold, too.

use std::time::Duration;

use super::control::LATER;
use super::mark::Mark;
use super::{Queue, QueueError, ring};
use crate::arena::{Kind, Request};
use crate::owner::Owner;
use crate::sync::{AtomicU64, Deadline, Ordering, Parking, Slept};

/// Up to this size, in bytes, a ring grows as soon as it is full.
const GROWS_AT_ONCE: usize = 256 << 10;

/// How long a larger ring that is full waits for its takers before it grows: a nanosecond for each four bytes, which is about what the page faults
/// of the next ring would take, within these bounds.
const CHANCE: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(5));

/// Where the tail was when the takers last got a chance to keep up.
#[derive(Debug, Default)]
pub(super) struct LastChance(AtomicU64);

impl Queue {
    /// Under the lock of putters, when the ring has no room for `length` bytes more: afterwards it has, or there is a larger one.
    #[cold]
    pub(super) fn make_room(
        &self,
        me: Owner,
        tail: Mark,
        length: usize,
        deadline: Deadline,
    ) -> Result<(), QueueError> {
        let capacity = self.tx.ring(&self.held, me)?.map_or(0, |ring| ring.capacity());
        if deadline != Deadline::Now && self.takers_keep_up(tail, capacity, deadline) {
            return Ok(());
        }
        let control = self.control();
        let _both = control.rx.0.lock(me, self.arena(), deadline).map_err(|_| QueueError::TimedOut)?;
        self.grow(me, tail, length)
    }

    /// Gives the takers a chance. A ring that stays small stays in the caches, and growing costs page faults. At most twice a turn of the
    /// ring, so that takers who do not keep up keep nobody up.
    fn takers_keep_up(&self, tail: Mark, capacity: usize, deadline: Deadline) -> bool {
        let (control, arena) = (self.control(), self.arena());
        let last = Mark(self.last_chance.0.load(Ordering::Relaxed));
        if capacity < GROWS_AT_ONCE || last.bytes_to(tail) < capacity / 2 || !control.rx.0.was_used() {
            return false;
        }
        self.last_chance.0.store(tail.0, Ordering::Relaxed);
        let look = || control.rx.0.mark().bytes_to(tail) <= capacity / 2;
        let chance = Duration::from_nanos(capacity as u64 / 4).clamp(CHANCE.0, CHANCE.1);
        let deadline = deadline.within(chance);
        loop {
            if control.rx.0.spin(arena, LATER, look) {
                return true;
            }
            let slept = control.room.0.sleep(look, |word, value| arena.sleep(word, value, deadline));
            if look() {
                return true;
            }
            if slept == Slept::TimedOut {
                return false;
            }
        }
    }

    /// Under both locks.
    fn grow(&self, me: Owner, tail: Mark, length: usize) -> Result<(), QueueError> {
        let (control, arena) = (self.control(), self.arena());
        let head = control.rx.0.own_mark();
        let used = head.bytes_to(tail);
        let old = self.tx.ring(&self.held, me)?;
        let before = old.as_ref().map_or(0, |ring| ring.capacity());
        // The takers may have been faster than this came to have their lock.
        if used + length <= before / 2 {
            return Ok(());
        }
        let bound = control.fixed.0.most_bytes.load(Ordering::Relaxed) as usize;
        let capacity = ring::next_capacity(before, used, length, bound);
        let index = self.held.name().index;
        let request =
            Request { kind: Kind::Ring, length: capacity as u64, tag: 0, parent: Some(index), zeroed: true };
        let made = arena.make(&request)?;
        let new = self.tx.replacement(&made, capacity)?;
        // Held until the change is done: whichever of the two is not the queue's then goes with its hold.
        let old_held = match ring::index(control.fixed.0.ring.load(Ordering::Relaxed)) {
            Some(index) => Some(arena.hold_object(index)?),
            None => None,
        };
        if let Some(old) = &old {
            new.copy_from(old, head, used);
        }
        // Release: the copy. The one store that changes over.
        control.fixed.0.ring.store(ring::word(made.name().index, capacity), Ordering::Release);
        drop(old_held);
        Ok(())
    }
}
