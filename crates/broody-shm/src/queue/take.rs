//! Taking: under the lock of takers, the message at the head is read, and one store of the head takes it.

use super::control::{LATER, Locked, SOON, Taking};
use super::mark::Mark;
use super::{Queue, QueueError, Taken};
use crate::Corrupt;
use crate::arena::{HoldId, Transit};
use crate::blob::Blob;
use crate::sync::{AtomicU32, Deadline, Ordering, Parking, Slept, Word};

impl Queue {
    /// Takes the next message; its bytes go into `buffer`, unless they come as a blob.
    ///
    /// # Errors
    /// [`TimedOut`](QueueError::TimedOut) when there was none before `deadline`; [`Closed`](QueueError::Closed) when there is none and there will
    /// be none.
    pub fn take(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<Taken, QueueError> {
        let short = self.take_short(|bytes| {
            buffer.clear();
            buffer.extend_from_slice(bytes);
            Some(())
        });
        if short.is_some() {
            return Ok(Taken::default());
        }
        let mut taken = None;
        self.take_many(1, deadline, |bytes, message| {
            buffer.clear();
            buffer.extend_from_slice(bytes);
            taken = Some(message);
        })?;
        taken.ok_or(QueueError::TimedOut)
    }

    /// As [`take`](Self::take): `each` makes something of the bytes, of which there are none where they come as a blob. Objects that the message
    /// refers to are let go of.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn take_as<R>(
        &self,
        deadline: Deadline,
        each: impl Fn(&[u8]) -> R,
    ) -> Result<(R, Option<Blob>), QueueError> {
        if let Some(made) = self.take_short(|bytes| Some(each(bytes))) {
            return Ok((made, None));
        }
        let mut taken = None;
        self.take_many(1, deadline, |bytes, message| taken = Some((each(bytes), message.blob)))?;
        taken.ok_or(QueueError::TimedOut)
    }

    /// Takes up to `most` messages at once, at least one; `each` gets the bytes of each, and whatever else belongs to it, under the lock of
    /// takers. How many there were.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_many(
        &self,
        most: usize,
        deadline: Deadline,
        mut each: impl FnMut(&[u8], Taken),
    ) -> Result<usize, QueueError> {
        let taken = self.take_or_sleep(most, deadline, &mut each);
        // Who gives up may have been woken: others who sleep are not forgotten.
        if matches!(taken, Err(QueueError::TimedOut)) && deadline != Deadline::Now && !self.is_empty() {
            self.announce_items(1);
        }
        taken
    }

    fn take_or_sleep(
        &self,
        most: usize,
        deadline: Deadline,
        each: &mut impl FnMut(&[u8], Taken),
    ) -> Result<usize, QueueError> {
        let (control, arena) = (self.control(), self.arena());
        let me = self.held.owner()?;
        let mut slept = Slept::Perhaps;
        loop {
            let locked = control.rx.0.lock(me, arena, deadline).map_err(|_| QueueError::TimedOut)?;
            let count = self.take_locked(&locked, most, each)?;
            drop(locked);
            if count > 0 {
                if slept == Slept::Bound {
                    arena.note_rescue();
                }
                <AtomicU32 as Word>::fence_after_exchange();
                self.announce_room(count);
                return Ok(count);
            }
            if self.is_closed() {
                // Who puts has looked under the other lock whether it is closed: once that was free, nobody puts any more.
                drop(control.tx.0.lock(me, arena, deadline).map_err(|_| QueueError::TimedOut)?);
                if self.is_empty() {
                    return Err(QueueError::Closed);
                }
                continue;
            }
            if slept == Slept::TimedOut || deadline.is_over() {
                return Err(QueueError::TimedOut);
            }
            let look = || !self.is_empty() || self.is_closed();
            if slept == Slept::Bound || !control.tx.0.spin(arena, self.first_look(), look) {
                slept = control.items.0.sleep(look, |word, value| arena.sleep(word, value, deadline));
                if slept != Slept::Perhaps {
                    self.look_after_others();
                }
            }
        }
    }

    /// How soon to look whether the queue is empty no more. Where more than one message came since the last time, more are under way.
    fn first_look(&self) -> u32 {
        let head = self.control().rx.0.mark();
        let before = Mark(self.emptied.swap(head.0, Ordering::Relaxed));
        if before.messages_to(head) > 1 { LATER } else { SOON }
    }

    /// Takes what is there, at most `most`. An error comes only if none was taken before it.
    fn take_locked(
        &self,
        locked: &Locked<'_>,
        most: usize,
        each: &mut impl FnMut(&[u8], Taken),
    ) -> Result<usize, QueueError> {
        let mut count = 0;
        while count < most {
            match self.take_one(locked, each) {
                Ok(true) => count += 1,
                Ok(false) => break,
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(count)
    }

    /// Takes the message at the head. Whether there was one.
    fn take_one(&self, locked: &Locked<'_>, each: &mut impl FnMut(&[u8], Taken)) -> Result<bool, QueueError> {
        let (control, arena, me) = (self.control(), self.arena(), locked.me);
        let head = control.rx.0.own_mark();
        let mut tail = Mark(control.rx.0.seen.load(Ordering::Relaxed));
        if head == tail {
            tail = control.tx.0.mark();
            control.rx.0.seen.store(tail.0, Ordering::Relaxed);
            if head == tail {
                return Ok(false);
            }
        }
        let Some(ring) = self.rx.ring(&self.held, me)? else { return Err(Corrupt.into()) };
        let read = ring.read(head, tail)?;
        for hold in read.holds() {
            if hold.index >= crate::arena::MOST_HOLDS {
                return Err(Corrupt.into());
            }
            // From the store of the head on, it is this process's.
            arena.hold(hold.index).process.store(me.bits(), Ordering::Relaxed);
        }
        // What may fail comes before the message is taken.
        let place = read.blob().map(|(name, _)| arena.find_place(name)).transpose()?;
        if control.counts_tasks() {
            self.note_taken(head);
        }
        let taking = Taking { control, head: head.after(read.length()) };
        if read.is_plain() {
            each(read.bytes(), Taken::default());
            drop(taking);
        } else {
            let blob = read.blob();
            let bytes = if blob.is_some() { Vec::new() } else { read.bytes().to_vec() };
            let taken_holds: Vec<HoldId> = read.holds().collect();
            drop(taking);
            let mut holds = Transit::new(arena);
            for hold in taken_holds {
                arena.hold(hold.index).queue.store(0, Ordering::Relaxed);
                holds.push(hold);
            }
            let blob = match blob {
                None => None,
                Some((name, hold)) => {
                    let held = arena.receive_at(place, name, hold)?;
                    Some(Blob::from_held(held).ok_or(Corrupt)?)
                }
            };
            each(&bytes, Taken { blob, holds: Some(holds) });
        }
        Ok(true)
    }
}
