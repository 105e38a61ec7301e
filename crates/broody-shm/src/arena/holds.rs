//! Holds: who keeps an object alive.
//!
//! A hold is a line of a table: this object, kept by that process, or on its way in that queue. An object is freed when its last
//! hold goes. Counting in one word would be wrong for ever after a death between the count and what was counted; lines say who
//! counts, and those of a dead process are taken away.
//!
//! ```text
//! process P, no queue           P keeps the object (one line for all of P's handles)
//! process P, queue Q at p       in transit: P puts a message at position p that refers to the object, or takes such a message
//! ```
//!
//! The line of a message needs no change of its own when the message is published or taken: it belongs to the queue as long as the queue's
//! head <= p < tail. **The store of the tail hands it from the putter to the queue, the store of the head from the queue to the taker**,
//! both in the same instant as the message itself. A putter that dies before its store is found with p >= tail, and its line goes;
//! a taker that dies before its store is found with p still in the queue, and the line stays.
//!
//! All else happens under the arena's lock, where a line is made or freed by the one store of its object.

use super::layout::{HOLD_TABLE, OBJECT_TABLE};
use super::{Arena, Locked};
use crate::ArenaError;
use crate::owner::Owner;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A hold's line.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Hold {
    /// The object's number plus one; 0: the line is free.
    pub(super) object: AtomicU32,
    /// The process that keeps it, or that put or takes the message.
    pub(crate) process: AtomicU32,
    /// The queue's number plus one.
    pub(crate) queue: AtomicU32,
    pub(super) flags: AtomicU32,
    /// Where in the queue.
    pub(crate) position: AtomicU64,
    /// Which use of the line this is, so that an old reference to it is known as such. From one counter for all lines, which goes on when
    /// the table begins anew.
    pub(super) use_number: AtomicU32,
    /// The next free line plus one. Derived.
    next: AtomicU32,
}

const _: () = assert!(size_of::<Hold>() == 32);

/// It is not the process's own, but on its way to somebody.
pub(super) const IN_TRANSIT: u32 = 1;

/// The process has taken part in the barrier that this is a hold of.
pub(crate) const TOOK_PART: u32 = 2;

/// A hold on its way: in an encoded handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldId {
    /// The line.
    pub index: u32,
    /// Which use of it.
    pub use_number: u32,
}

// Relaxed throughout: all of it is done under the arena's lock, except what the module comment says of messages.
impl Locked<'_> {
    /// Lets an object that was prepared be there, with one hold of this process's. Gives its name, and the hold.
    pub(super) fn found(&self, object: u32) -> Result<(u64, u32), ArenaError> {
        match self.add_hold(object, 0) {
            Ok(hold) => Ok((self.name(object), hold.index)),
            Err(error) => {
                // It was never there: only its line and its pages are.
                self.arena.header().objects.fetch_add(1, Ordering::Relaxed);
                self.unname(object);
                Err(error)
            }
        }
    }

    /// A new hold of this process's.
    pub(super) fn add_hold(&self, object: u32, flags: u32) -> Result<HoldId, ArenaError> {
        let header = self.arena.header();
        let index = match header.free_hold.load(Ordering::Relaxed).checked_sub(1) {
            Some(index) => {
                header
                    .free_hold
                    .store(self.arena.hold(index).next.load(Ordering::Relaxed), Ordering::Relaxed);
                index
            }
            None => {
                let index = self.arena.used(&HOLD_TABLE);
                self.arena.ensure(&HOLD_TABLE, index)?;
                index
            }
        };
        let hold = self.arena.hold(index);
        hold.process.store(self.me.bits(), Ordering::Relaxed);
        hold.queue.store(0, Ordering::Relaxed);
        hold.flags.store(flags, Ordering::Relaxed);
        hold.position.store(0, Ordering::Relaxed);
        let use_number = header.last_use.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        hold.use_number.store(use_number, Ordering::Relaxed);
        hold.object.store(object + 1, Ordering::Release);
        self.arena.object(object).holds.fetch_add(1, Ordering::Relaxed);
        Ok(HoldId { index, use_number })
    }

    /// Ends a hold of this process's that lets go of its handle.
    ///
    /// It stays, until the process ends, where the process still has something of the object, a lock for example: by the hold that is found
    /// and freed then. Where nobody else keeps the object, nobody waits for that.
    pub(super) fn let_go(&self, index: u32) {
        let Some(object) = self.arena.hold(index).object.load(Ordering::Relaxed).checked_sub(1) else {
            return;
        };
        self.arena.give_up_tasks(object, &self.arena.hold(index).position);
        let is_last = self.arena.object(object).holds.load(Ordering::Relaxed) == 1;
        if is_last || !self.arena.still_owns(object, self.me) {
            self.release_hold(index);
        }
    }

    /// Ends a hold; frees its object if that was the last one.
    pub(super) fn release_hold(&self, index: u32) {
        let hold = self.arena.hold(index);
        let Some(object) = hold.object.swap(0, Ordering::Release).checked_sub(1) else { return };
        let free = &self.arena.header().free_hold;
        hold.next.store(free.load(Ordering::Relaxed), Ordering::Relaxed);
        free.store(index + 1, Ordering::Relaxed);
        let line = self.arena.object(object);
        if line.holds.fetch_sub(1, Ordering::Relaxed) == 1 && line.is_there() && !self.is_kept(object) {
            self.free_object(object);
        }
    }

    /// The hold, if it is still in that use and on its way.
    pub(super) fn in_transit(&self, id: HoldId) -> Option<&Hold> {
        if id.index >= self.arena.used(&HOLD_TABLE) {
            return None;
        }
        let hold = self.arena.hold(id.index);
        let same = hold.object.load(Ordering::Relaxed) != 0
            && hold.use_number.load(Ordering::Relaxed) == id.use_number
            && hold.flags.load(Ordering::Relaxed) & IN_TRANSIT != 0;
        same.then_some(hold)
    }

    /// Whether a message in a queue keeps the object alive by this hold.
    fn is_in_queue(&self, hold: &Hold) -> bool {
        let queue = hold.queue.load(Ordering::Relaxed).checked_sub(1);
        queue.is_some_and(|queue| self.arena.queue_has(queue, hold.position.load(Ordering::Relaxed)))
    }

    /// Takes away what a dead process held, in the order that [recovery](super::recovery) needs. `repair` is called for each object
    /// that it kept, with its hold.
    pub(super) fn release_holds_of(&self, dead: Owner, repair: impl Fn(u32, &Hold)) {
        let dead_ones = || {
            (0..self.arena.used(&HOLD_TABLE)).map(|index| (index, self.arena.hold(index))).filter(
                |(_, hold)| {
                    hold.object.load(Ordering::Relaxed) != 0
                        && hold.process.load(Ordering::Relaxed) == dead.bits()
                },
            )
        };
        // First what was on its way: as long as a queue that it put into or took from is still locked by the dead process, nobody else
        // puts a message at the same position.
        for (index, hold) in dead_ones().filter(|(_, hold)| hold.queue.load(Ordering::Relaxed) != 0) {
            if self.is_in_queue(hold) {
                // Unless somebody takes it just now.
                let _ = hold.process.compare_exchange(dead.bits(), 0, Ordering::Relaxed, Ordering::Relaxed);
            } else if hold.process.load(Ordering::Acquire) == dead.bits() {
                // Whoever has taken it since had written his own name there before he moved the head.
                self.release_hold(index);
            }
        }
        for (_, hold) in dead_ones().filter(|(_, hold)| hold.flags.load(Ordering::Relaxed) & IN_TRANSIT == 0)
        {
            repair(hold.object.load(Ordering::Relaxed) - 1, hold);
        }
        for (index, _) in dead_ones() {
            self.release_hold(index);
        }
    }

    /// Counts the holds of each object anew, and makes the list of free lines.
    pub(super) fn count_holds(&self) {
        let (arena, free) = (self.arena, &self.arena.header().free_hold);
        free.store(0, Ordering::Relaxed);
        for index in 0..arena.used(&HOLD_TABLE) {
            let hold = arena.hold(index);
            let object = hold.object.load(Ordering::Relaxed).checked_sub(1);
            let object = object.filter(|object| *object < arena.used(&OBJECT_TABLE));
            match object.map(|object| arena.object(object)).filter(|object| object.is_there()) {
                Some(object) => _ = object.holds.fetch_add(1, Ordering::Relaxed),
                None => {
                    hold.object.store(0, Ordering::Relaxed);
                    hold.next.store(free.load(Ordering::Relaxed), Ordering::Relaxed);
                    free.store(index + 1, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Arena {
    /// The objects that a process keeps.
    pub(super) fn holds_by(&self, owner: Owner) -> impl Iterator<Item = u32> {
        (0..self.used(&HOLD_TABLE)).map(|index| self.hold(index)).filter_map(move |hold| {
            let own = hold.process.load(Ordering::Acquire) == owner.bits()
                && hold.flags.load(Ordering::Relaxed) & IN_TRANSIT == 0;
            hold.object.load(Ordering::Relaxed).checked_sub(1).filter(|_| own)
        })
    }

    pub(crate) fn hold(&self, index: u32) -> &Hold {
        self.item(&HOLD_TABLE, index)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::fd::AsFd;

    use broody_os::fork::{self, Fork};
    use broody_os::{events, pidfd, wait};

    use super::*;
    use crate::queue::{Limits, Queue};
    use crate::sync::Deadline;

    #[test]
    fn what_was_on_its_way_is_judged_while_the_dead_one_still_has_its_locks() {
        let arena = Arena::create(1).unwrap();
        let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
        // SAFETY: the child uses only what this test made, and is killed.
        let pid = match unsafe { fork::fork() }.unwrap() {
            Fork::Parent(pid) => pid,
            Fork::Child => {
                // What a putter leaves that dies before its store of the tail.
                if let Ok(sent) = queue.held().send() {
                    arena.hold(sent.index).queue.store(queue.held().name().index + 1, Ordering::Relaxed);
                }
                fork::kill_child(fork::pid(), 9).unwrap();
                unreachable!("it was killed");
            }
        };
        events::poll(&[pidfd::PidFd::open(pid).unwrap().as_fd()], None).unwrap();
        let dead = arena.owners().find(|owner| arena.pid_of(*owner) == Some(pid)).unwrap();
        let on_its_way = || {
            let holds = (0..arena.used(&HOLD_TABLE)).map(|index| arena.hold(index));
            let is_there = |hold: &&Hold| hold.object.load(Ordering::Relaxed) != 0;
            holds.filter(is_there).filter(|hold| hold.queue.load(Ordering::Relaxed) != 0).count()
        };
        assert_eq!(on_its_way(), 1);
        let repaired = Cell::new(0);
        let locked = arena.lock(Deadline::Never).unwrap();
        locked.release_holds_of(dead, |_, _| {
            assert_eq!(on_its_way(), 0, "with its lock free, another one puts a message in this position");
            repaired.set(repaired.get() + 1);
        });
        drop(locked);
        assert_eq!(repaired.get(), 1, "the queue");
        assert!(arena.recover_process(pid, Deadline::Never));
        wait::reap_pid(pid).unwrap();
    }
}
