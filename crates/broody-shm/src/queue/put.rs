//! Putting: what is too long for the ring is set apart first; then, under the lock of putters, as many messages as there is room for are
//! written behind the tail, and one store of the tail publishes them.

use super::control::{Locked, SOON};
use super::frame::Outgoing;
use super::mark::{MOST_MESSAGES, Mark};
use super::ring::Ring;
use super::{Message, Queue, QueueError};
use crate::ArenaError;
use crate::arena::Transit;
use crate::blob::Blob;
use crate::owner::Owner;
use crate::sync::{AtomicU32, Deadline, Ordering, Parking, Slept, Word};

/// Fewer shared objects than this are in a message: a frame counts them in 16 bits.
const MOST_HOLDS: usize = u16::MAX as usize;

/// A message of more bytes than this is a blob, in a queue without a bound on its bytes.
const LONGEST_INLINE: usize = 64 << 10;

impl Queue {
    /// Puts a message. When this returns, it is in shared memory, and nothing of it in this process.
    ///
    /// # Errors
    /// [`TimedOut`](QueueError::TimedOut) when there was no room before `deadline`, [`Closed`](QueueError::Closed),
    /// [`TooLong`](QueueError::TooLong), and [`Arena`](QueueError::Arena) without memory. Then the queue is as it was, and the holds are the
    /// caller's.
    #[inline]
    pub fn put(&self, message: Message<'_>, deadline: Deadline) -> Result<(), QueueError> {
        if message.holds.is_empty() && self.put_short(message.bytes) {
            return Ok(());
        }
        self.put_many(&[message], deadline).map(|_| ())
    }

    /// Puts messages in their order, as many at once as there is room for, until all are put or `deadline` is over. How many were put: at
    /// least one.
    ///
    /// # Errors
    /// As [`put`](Self::put), when none was put.
    pub fn put_many(&self, messages: &[Message<'_>], deadline: Deadline) -> Result<usize, QueueError> {
        let mut put = 0;
        while put < messages.len() {
            match self.put_some(&messages[put..], deadline) {
                Ok(count) => put += count,
                Err(error) => {
                    // Who gives up may have been woken: others who sleep are not forgotten.
                    if deadline != Deadline::Now {
                        self.announce_room(1);
                    }
                    return if put == 0 { Err(error) } else { Ok(put) };
                }
            }
        }
        Ok(put)
    }

    /// Puts the first of `messages`, and the next ones as far as there is room.
    fn put_some(&self, messages: &[Message<'_>], deadline: Deadline) -> Result<usize, QueueError> {
        let first = messages.first().ok_or(QueueError::TimedOut)?;
        self.check_length(first)?;
        let me = self.held.owner()?;
        // What is too long for the ring is copied before anybody is kept waiting.
        let apart = self.set_apart(first)?;
        let put = self.put_or_sleep(me, messages, &apart, deadline);
        match apart {
            Some((_, transit)) if put.is_ok() => transit.forget(),
            Some(_) => self.no_loner(me),
            None => {}
        }
        put
    }

    fn put_or_sleep(
        &self,
        me: Owner,
        messages: &[Message<'_>],
        apart: &Option<(Blob, Transit)>,
        deadline: Deadline,
    ) -> Result<usize, QueueError> {
        let (control, arena) = (self.control(), self.arena());
        let mut slept = Slept::Perhaps;
        loop {
            let locked = control.tx.0.lock(me, arena, deadline).map_err(|_| QueueError::TimedOut)?;
            let count = self.put_locked(&locked, messages, apart, deadline)?;
            if count > 0 && apart.is_some() {
                self.no_loner(me);
            }
            drop(locked);
            if count > 0 {
                if slept == Slept::Bound {
                    arena.note_rescue();
                }
                <AtomicU32 as Word>::fence_after_exchange();
                self.announce_items(count);
                return Ok(count);
            }
            if slept == Slept::TimedOut || deadline.is_over() {
                return Err(QueueError::TimedOut);
            }
            self.mind_loner(me, apart.is_some(), slept);
            let look = || self.has_room(&messages[0]) || self.is_closed();
            if slept == Slept::Bound || !control.rx.0.spin(arena, SOON, look) {
                slept = control.room.0.sleep(look, |word, value| arena.sleep(word, value, deadline));
                if slept != Slept::Perhaps {
                    self.look_after_others();
                }
            }
        }
    }

    /// Before a wait for room. Who has a message that goes alone lets nobody else put any, or the queue would perhaps never be empty. But not
    /// for ever: he may be stopped.
    fn mind_loner(&self, me: Owner, is_alone: bool, slept: Slept) {
        let loner = &self.control().fixed.0.loner;
        // Relaxed: a matter of fairness only.
        if is_alone {
            let _ = loner.compare_exchange(0, me.bits(), Ordering::Relaxed, Ordering::Relaxed);
        } else if slept == Slept::Bound {
            loner.store(0, Ordering::Relaxed);
        }
    }

    /// This process does not wait any more for the queue to be empty.
    fn no_loner(&self, me: Owner) {
        let loner = &self.control().fixed.0.loner;
        let _ = loner.compare_exchange(me.bits(), 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether nobody else waits for the queue to be empty.
    fn has_no_other_loner(&self) -> bool {
        let loner = self.control().fixed.0.loner.load(Ordering::Relaxed);
        loner == 0 || self.held.owner().is_ok_and(|me| me.bits() == loner)
    }

    fn check_length(&self, message: &Message<'_>) -> Result<(), QueueError> {
        let fixed = &self.control().fixed.0;
        let bound = fixed.most_bytes.load(Ordering::Relaxed);
        let length = message.bytes.len() as u64;
        if message.holds.len() >= MOST_HOLDS {
            let most = MOST_HOLDS as u32;
            return Err(ArenaError::TooMany { what: "shared objects in a message", most }.into());
        }
        if bound != 0 && length > bound && fixed.refuses.load(Ordering::Relaxed) != 0 {
            return Err(QueueError::TooLong { length, bound });
        }
        Ok(())
    }

    /// The longest message that goes into the ring, in bytes. Where there is a bound, the ring is what it bounds: of longer ones no two have room
    /// at a time, and they go alone.
    fn longest_inline(&self) -> usize {
        match self.control().fixed.0.most_bytes.load(Ordering::Relaxed) {
            0 => LONGEST_INLINE,
            bound => (bound / 2) as usize,
        }
    }

    /// Copies a long message into a blob, with a hold for the message.
    fn set_apart(&self, message: &Message<'_>) -> Result<Option<(Blob, Transit)>, QueueError> {
        if message.bytes.len() <= self.longest_inline() {
            return Ok(None);
        }
        let blob = Blob::for_message(self.arena(), message.bytes)?;
        let mut transit = Transit::new(self.arena());
        transit.push(blob.held().send()?);
        Ok(Some((blob, transit)))
    }

    /// Writes as many messages as there is room for, and publishes them. 0: there is no room.
    fn put_locked(
        &self,
        locked: &Locked<'_>,
        messages: &[Message<'_>],
        apart: &Option<(Blob, Transit)>,
        deadline: Deadline,
    ) -> Result<usize, QueueError> {
        let control = self.control();
        if self.is_closed() {
            return Err(QueueError::Closed);
        }
        let mut tail = control.tx.0.own_mark();
        let mut count = 0;
        for message in messages {
            let record = match (apart, count) {
                (Some((blob, transit)), 0) => Outgoing::apart(blob, transit.holds()[0], message.holds),
                // Another long one: it goes alone.
                _ if message.bytes.len() > self.longest_inline() => break,
                _ => Outgoing::inline(message.bytes, message.holds),
            };
            let Some(ring) = self.ring_with_room(locked, tail, &record, count, deadline)? else { break };
            for hold in record.holds() {
                let hold = self.arena().hold(hold.index);
                hold.position.store(tail.position(), Ordering::Relaxed);
                hold.queue.store(self.held.name().index + 1, Ordering::Relaxed);
            }
            ring.write(tail, &record);
            tail = tail.after(record.length());
            count += 1;
        }
        if count > 0 {
            control.tx.0.publish(tail);
        }
        Ok(count)
    }

    /// The ring, if there is room in it for one more message at `tail`; `before` others are written and not published yet.
    fn ring_with_room(
        &self,
        locked: &Locked<'_>,
        tail: Mark,
        record: &Outgoing<'_>,
        before: usize,
        deadline: Deadline,
    ) -> Result<Option<&Ring>, QueueError> {
        let control = self.control();
        let seen = &control.tx.0.seen;
        loop {
            let ring = self.tx.ring(&self.held, locked.me)?;
            let enough = |head: Mark| {
                ring.filter(|ring| head.bytes_to(tail) + record.length() <= ring.capacity())
                    .filter(|_| self.fits(head, tail, record, before))
            };
            if let Some(ring) = enough(Mark(seen.load(Ordering::Relaxed))) {
                return Ok(Some(ring));
            }
            let head = control.rx.0.mark();
            seen.store(head.0, Ordering::Relaxed);
            if let Some(ring) = enough(head) {
                return Ok(Some(ring));
            }
            if before > 0 || !self.fits(head, tail, record, before) {
                return Ok(None);
            }
            self.make_room(locked.me, tail, record.length(), deadline)?;
        }
    }

    /// Whether the queue's bounds allow one more message between `head` and `tail`.
    fn fits(&self, head: Mark, tail: Mark, record: &Outgoing<'_>, before: usize) -> bool {
        let fixed = &self.control().fixed.0;
        let most_messages = fixed.most_messages.load(Ordering::Relaxed);
        let most_bytes = fixed.most_bytes.load(Ordering::Relaxed);
        let messages = head.messages_to(tail);
        if most_bytes != 0 && !self.has_no_other_loner() {
            return false;
        }
        let most = if most_messages == 0 { MOST_MESSAGES - 1 } else { most_messages };
        if messages >= most {
            return false;
        }
        // A message apart is as long as it is, and may come alone only.
        messages == 0 && before == 0
            || most_bytes == 0
            || (!record.is_apart() && (head.bytes_to(tail) + record.length()) as u64 <= most_bytes)
    }

    /// Whether it looks, without the lock, as if a message could be put.
    fn has_room(&self, message: &Message<'_>) -> bool {
        let control = self.control();
        let (head, tail) = (control.rx.0.mark(), control.tx.0.mark());
        let length = message.bytes.len();
        let record = if length > self.longest_inline() {
            Outgoing::reference()
        } else {
            Outgoing::inline(message.bytes, message.holds)
        };
        self.fits(head, tail, &record, 0)
    }
}
