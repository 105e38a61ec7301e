//! The short way: one short message, without objects, in a queue that nobody else is busy with.
//!
//! The same protocol as in the [module](super), with nothing in it that is not needed for this case. Whatever is out of the ordinary (the lock
//! is taken, or says that its holder died; the queue is closed, full or empty; its ring has changed) is left to the other way.

use super::frame::Incoming;
use super::mark::{MOST_MESSAGES, Mark};
use super::{Control, Queue, frame};
use crate::owner::Owner;
use crate::sync::{AtomicU32, Ordering, Word};

/// A message of more bytes than this is not short.
const SHORT: usize = 4096;

impl Queue {
    /// Puts a message, if it can be done the short way. Whether it was.
    #[inline]
    pub(super) fn put_short(&self, bytes: &[u8]) -> bool {
        let control = self.control();
        let Ok(me) = self.held.owner() else { return false };
        if bytes.len() > SHORT || !control.tx.0.lock.try_take(me) {
            return false;
        }
        let put = self.put_short_locked(control, me, bytes);
        control.tx.0.lock.release(me, self.arena());
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
        let most_bytes = if most_bytes == 0 { ring.capacity() } else { most_bytes.min(ring.capacity()) };
        let most = match fixed.most_messages.load(Ordering::Relaxed) {
            0 => MOST_MESSAGES - 1,
            most => most,
        };
        let tail = Mark(control.tx.0.mark.load(Ordering::Relaxed));
        let fits = |head: Mark| head.bytes_to(tail) + length <= most_bytes && head.messages_to(tail) < most;
        if !fits(Mark(control.tx.0.seen.load(Ordering::Relaxed))) {
            // Acquire: the takers have read what they took.
            let head = Mark(control.rx.0.mark.load(Ordering::Acquire));
            control.tx.0.seen.store(head.0, Ordering::Relaxed);
            if !fits(head) {
                return false;
            }
        }
        ring.write_short(tail, bytes);
        // Release: publishes the message. The one store that puts it.
        control.tx.0.mark.store(tail.after(length).0, Ordering::Release);
        true
    }

    /// Takes a message, if there is one and it can be done the short way. `each` gets its bytes, and leaves the message where it is if it gives `None`.
    #[inline]
    pub fn take_short<R>(&self, each: impl FnOnce(&[u8]) -> Option<R>) -> Option<R> {
        let control = self.control();
        let me = self.held.owner().ok()?;
        if !control.rx.0.lock.try_take(me) {
            return None;
        }
        let taken = self.take_short_locked(control, me, each);
        control.rx.0.lock.release(me, self.arena());
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
        let head = Mark(control.rx.0.mark.load(Ordering::Relaxed));
        let mut tail = Mark(control.rx.0.seen.load(Ordering::Relaxed));
        if head == tail {
            // Acquire: the messages that it publishes.
            tail = Mark(control.tx.0.mark.load(Ordering::Acquire));
            control.rx.0.seen.store(tail.0, Ordering::Relaxed);
        }
        if head == tail || control.fixed.0.counts_tasks.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let ring = self.rx.current(control, me)?;
        let message = ring.read(head, tail).ok().filter(Incoming::is_plain)?;
        let result = each(message.bytes())?;
        // Release: this taker has read it. The one store that takes it.
        control.rx.0.mark.store(head.after(message.length()).0, Ordering::Release);
        Some(result)
    }
}
