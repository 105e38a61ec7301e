//! The short way: one short message, without objects, in a queue that nobody else is busy with.
//!
//! The same protocol as in the [module](super), with nothing in it that is not needed for this case. Whatever is out of the ordinary (the lock
//! is taken, or says that its holder died; the queue is closed, full or empty; its ring has changed) is left to the other way.

use super::control::{Control, Taking};
use super::frame::Incoming;
use super::mark::{MOST_MESSAGES, Mark};
use super::{Queue, frame};
use crate::owner::Owner;
use crate::sync::{AtomicU32, Ordering, Word};

/// A message of more bytes than this is not short.
const SHORT: usize = 4096;

impl Queue {
    /// Puts a message, if it can be done the short way. Whether it was.
    #[inline]
    pub fn put_short(&self, bytes: &[u8]) -> bool {
        let control = self.control();
        let Ok(me) = self.held.owner() else { return false };
        if bytes.len() > SHORT {
            return false;
        }
        let Some(locked) = control.tx.0.try_lock(me, self.arena()) else { return false };
        let put = self.put_short_locked(control, me, bytes);
        drop(locked);
        if put {
            <AtomicU32 as Word>::fence_after_exchange();
            control.items.0.announce(self.arena(), 1);
        }
        put
    }

    #[inline]
    fn put_short_locked(&self, control: &Control, me: Owner, bytes: &[u8]) -> bool {
        let fixed = &control.fixed.0;
        if fixed.closed.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let Some(ring) = self.tx.current(control, me) else { return false };
        let length = frame::short_length(bytes);
        let most_bytes = fixed.most_bytes.load(Ordering::Relaxed) as usize;
        if most_bytes != 0 && fixed.loner.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let most_bytes = if most_bytes == 0 { ring.capacity() } else { most_bytes.min(ring.capacity()) };
        let most = match fixed.most_messages.load(Ordering::Relaxed) {
            0 => MOST_MESSAGES - 1,
            most => most,
        };
        let tail = control.tx.0.own_mark();
        let fits = |head: Mark| head.bytes_to(tail) + length <= most_bytes && head.messages_to(tail) < most;
        if !fits(Mark(control.tx.0.seen.load(Ordering::Relaxed))) {
            let head = control.rx.0.mark();
            control.tx.0.seen.store(head.0, Ordering::Relaxed);
            if !fits(head) {
                return false;
            }
        }
        ring.write_short(tail, bytes);
        control.tx.0.publish(tail.after(length));
        true
    }

    /// Takes a message, if there is one and it can be done the short way. `each` gets its bytes, and leaves the message where it is if it gives `None`.
    #[inline]
    pub fn take_short<R>(&self, each: impl FnOnce(&[u8]) -> Option<R>) -> Option<R> {
        let control = self.control();
        let me = self.held.owner().ok()?;
        let locked = control.rx.0.try_lock(me, self.arena())?;
        let taken = self.take_short_locked(control, me, each);
        drop(locked);
        if taken.is_some() {
            <AtomicU32 as Word>::fence_after_exchange();
            self.announce_room(1);
        }
        taken
    }

    #[inline]
    fn take_short_locked<R>(
        &self,
        control: &Control,
        me: Owner,
        each: impl FnOnce(&[u8]) -> Option<R>,
    ) -> Option<R> {
        let head = control.rx.0.own_mark();
        let mut tail = Mark(control.rx.0.seen.load(Ordering::Relaxed));
        if head == tail {
            tail = control.tx.0.mark();
            control.rx.0.seen.store(tail.0, Ordering::Relaxed);
        }
        if head == tail || control.counts_tasks() {
            return None;
        }
        let ring = self.rx.current(control, me)?;
        let message = ring.read(head, tail).ok().filter(Incoming::is_plain)?;
        let taking = Taking { control, head: head.after(message.length()) };
        let result = each(message.bytes());
        match result {
            Some(_) => drop(taking),
            // It stays where it is.
            None => std::mem::forget(taking),
        }
        result
    }
}
