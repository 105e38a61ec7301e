//! What is put right when a process has died.
//!
//! By the supervisor, which looks at each dead child before it reaps it; or by whoever has waited for [a while](crate::sync::BOUND) and finds
//! the holder dead. Under the arena's lock, so that there is one at a time, and in an order that can begin anew at any point:
//!
//! 1. The arena's own lock, if the dead process held it, is freed; who takes it next, this process most likely, rebuilds what is derived.
//! 2. Each object that it kept is repaired: a lock that it held is free and says OWNER_DIED; permits that it had are back; a barrier that
//!    it took part in is broken.
//! 3. Its holds go, and with the last one its objects.
//! 4. Notifications that it had got and not used are passed on, and its waiters' lines are freed.
//! 5. Pages that it was reserving, or giving back, become this process's to give back.
//! 6. Its slot is free: now nothing is left of it.
//! 7. Everybody who sleeps in the arena is woken, to look again.
//! 8. Pages that nobody has any more are given back, outside of the lock.
//!
//! A process that is killed in the middle of this leaves a slot that is still the dead one's: it is done again.

use std::time::Duration;

use broody_os::Pid;

use super::holds::Hold;
use super::layout::{HOLD_TABLE, OBJECT_TABLE};
use super::objects::Kind;
use super::{Arena, TOOK_PART};
use crate::owner::Owner;
use crate::robust::condition::notify_waiters;
use crate::sync::{Deadline, Ordering};
use crate::{queue, robust};

/// For how long who waits for something else waits for the arena's lock, to put right what a dead process has left.
const BRIEFLY: Duration = Duration::from_millis(10);

impl Arena {
    /// Puts right what the process `owner`, which is dead, has left. `false` when the arena's lock could not be had before `deadline`.
    pub(crate) fn recover(&self, owner: Owner, deadline: Deadline) -> bool {
        self.me().is_ok_and(|me| self.recover_as(me, owner, deadline))
    }

    /// As [`recover`](Self::recover), by a process that is `me`.
    pub(super) fn recover_as(&self, me: Owner, owner: Owner, deadline: Deadline) -> bool {
        self.header().lock.repair(owner);
        let Ok(locked) = self.lock_as(me, deadline) else { return false };
        if self.pid_of(owner).is_none() {
            // Somebody else has done it.
            return true;
        }
        let orderly = self.took_leave(owner);
        locked.release_holds_of(owner, |object, hold| {
            let took_part = hold.flags.load(Ordering::Relaxed) & TOOK_PART != 0 && !orderly;
            self.repair_object(object, owner, took_part, hold);
        });
        for (_, waiter) in self.waiters().filter(|(whose, _)| *whose == owner) {
            // The broadcast wakes whoever gets it.
            waiter.line.bury(|condition| _ = notify_waiters(self, condition, 1, |_| {}));
            Self::free_waiter(waiter, owner);
        }
        locked.take_over(owner);
        self.free_slot(owner);
        // Pages that nobody has any more are given back last: that takes its time.
        let freed = locked.freed.take();
        drop(locked);
        self.broadcast();
        drop(freed);
        true
    }

    /// Whether a process that lets go of its handle has something of the object still: a lock that it has not given back, a permit.
    pub(super) fn still_owns(&self, index: u32, me: Owner) -> bool {
        let Some(kind @ (Kind::Lock | Kind::Permits)) = self.object(index).kind() else { return false };
        let Some(body) = self.body_of(index, kind) else { return false };
        match kind {
            Kind::Lock => body.get::<robust::guarded::Guarded>().lock().holder() == Some(me),
            _ => body.get::<robust::permits::Permits>().has_any(&body, me),
        }
    }

    /// Whether the process `pid` has something that others may be waiting for: a lock, a permit, a place in the middle of a queue. It must be
    /// stopped while this looks.
    pub fn keeps_others_up(&self, pid: Pid) -> bool {
        let Some(owner) = self.owners().find(|owner| self.pid_of(*owner) == Some(pid)) else { return false };
        if self.header().lock.holder() == Some(owner) {
            return true;
        }
        self.holds_by(owner).any(|index| self.still_owns(index, owner) || self.is_busy_in_queue(index, owner))
    }

    fn repair_object(&self, index: u32, dead: Owner, took_part: bool, hold: &Hold) {
        let object = self.object(index);
        let offset = object.offset.load(Ordering::Relaxed);
        let (Some(kind), Ok(body)) = (object.kind(), self.small(offset)) else { return };
        if !object.is_there() {
            return;
        }
        let body = super::Body::new(body, object.length.load(Ordering::Relaxed));
        let least = match kind {
            Kind::Lock => size_of::<robust::guarded::Guarded>(),
            Kind::Permits => size_of::<robust::permits::Permits>(),
            Kind::Barrier => size_of::<robust::barrier::Barrier>(),
            Kind::Queue => size_of::<queue::control::Control>(),
            _ => 0,
        };
        if body.length() < least as u64 {
            return;
        }
        match kind {
            Kind::Lock => body.get::<robust::guarded::Guarded>().repair(dead),
            Kind::Permits => body.get::<robust::permits::Permits>().repair(&body, dead),
            Kind::Barrier if took_part => body.get::<robust::barrier::Barrier>().break_by_death(),
            Kind::Queue => body.get::<queue::control::Control>().repair(dead, &hold.position),
            Kind::Barrier
            | Kind::Semaphore
            | Kind::Condition
            | Kind::Event
            | Kind::End
            | Kind::Ring
            | Kind::Blob
            | Kind::Memory
            | Kind::Named
            | Kind::Keeper => {}
        }
    }

    /// Puts right what the process `pid`, which has ended, has left; nothing, if it did not use the arena.
    ///
    /// For whoever sees a process end, before it is reaped. `false` when it has to be done again, later: the arena's lock is held
    /// by a process that is stopped, or there is no descriptor to look at the process with.
    pub fn recover_process(&self, pid: Pid, deadline: Deadline) -> bool {
        let owners: Vec<Owner> = self.owners().filter(|owner| self.pid_of(*owner) == Some(pid)).collect();
        self.recover_dead(&owners, deadline)
    }

    /// Puts right what any dead process has left. `false` as for [`recover_process`](Self::recover_process).
    pub fn recover_all(&self, deadline: Deadline) -> bool {
        let owners: Vec<Owner> = self.owners().collect();
        self.recover_dead(&owners, deadline)
    }

    /// Puts right what dead processes have left that keep one of certain objects. For who has waited for them for long: the supervisor, who
    /// would have told of their end, may have ended, too.
    pub(crate) fn bury_keepers(&self, is_one: impl Fn(u32) -> bool) {
        let holds = (0..self.used(&HOLD_TABLE)).map(|index| self.hold(index));
        let objects = self.used(&OBJECT_TABLE);
        // Relaxed: a guess, without the lock; who is dead is looked at anew under it. A line that was made just now is found the next time.
        let of_those = holds.filter(|hold| {
            let object = hold.object.load(Ordering::Relaxed).checked_sub(1);
            object.filter(|object| *object < objects).is_some_and(&is_one)
        });
        let mut keepers: Vec<u32> = of_those.map(|hold| hold.process.load(Ordering::Relaxed)).collect();
        keepers.sort_unstable();
        keepers.dedup();
        let keepers: Vec<Owner> = keepers.into_iter().filter_map(Owner::in_word).collect();
        self.recover_dead(&keepers, Deadline::after(BRIEFLY));
    }

    fn recover_dead(&self, owners: &[Owner], deadline: Deadline) -> bool {
        let mut done = true;
        for owner in owners {
            done &= match self.has_ended(*owner) {
                Some(true) => self.recover(*owner, deadline),
                // Another process that has got the pid since.
                Some(false) => true,
                None => false,
            };
        }
        done
    }
}
