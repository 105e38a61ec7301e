//! A queue of messages, many to many, in a byte ring with two locks.
//!
//! ```text
//!            head                      tail
//!   ... free | message | message      |  being written      free ...
//!            under the lock rx         under the lock tx
//! ```
//!
//! Bytes from `head` to `tail` are messages, all others free. Putters have the lock `tx` and write behind the tail; **one store of the tail** then
//! publishes a message, or several at once. Takers have the lock `rx` and copy the message at the head; **one store of the head** takes it.
//! Head and tail are [marks](mark): bytes and messages in one word.
//!
//! The ring's memory is mapped twice in a row, so that each message is contiguous. A ring that is full grows, where the queue's bounds allow it: who
//! puts takes both locks, copies what is there into a larger ring, and one store of `ring` changes over.
//!
//! A message that is too long for the ring is a [blob](crate::blob), to which a short message refers. Objects that a message refers to
//! are kept by [holds](crate::arena), which belong to the queue as long as the message is in it: they change hands with the same
//! stores of tail and head.
//!
//! # Sleep
//!
//! Takers sleep on `items`, putters on `room`: numbers that the other side counts up if somebody sleeps there. The sleeper first says that it sleeps, then
//! reads the number, then looks once more; the other side first stores head or tail, then looks for sleepers, with a full fence between.
//!
//! # What a SIGKILL leaves
//!
//! * of a putter, before its store of the tail: a message that never was. The lock is freed; its next holder has nothing to repair.
//! * of a putter after it: the message is there; the broadcast wakes the takers.
//! * of a taker, before its store of the head: the message, for the next one. After it: a message that is gone, as it is when a taker dies
//!   with it in its hands.
//! * of who lets the ring grow: before the store of `ring`, the new ring goes with its hold; after it, the old one goes, of which it has a
//!   hold, too.

mod fast;
pub mod frame;
mod mark;
mod ring;
pub(crate) mod sleepers;
mod tasks;

use std::sync::Arc;

pub use tasks::TooManyDone;

use crate::arena::{Arena, Held, HoldId, Kind, Request, Transit, Words};
use crate::blob::Blob;
use crate::owner::Owner;
use crate::robust::lock::LockWord;
use crate::sync::{AtomicU32, AtomicU64, Deadline, Ordering, Parking, Slept, Word, fence};
use crate::{ArenaError, Corrupt};
use frame::Outgoing;
use mark::{MOST_BYTES, MOST_MESSAGES, Mark};
use ring::Side;
use sleepers::Sleepers;

/// Something on a pair of cache lines of its own.
#[derive(Debug, Default)]
#[repr(C, align(128))]
struct Line<T>(T);

/// The words of a queue. All zero bytes are an empty queue without bounds.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Control {
    fixed: Line<Fixed>,
    tx: Line<SideWords>,
    rx: Line<SideWords>,
    items: Line<Sleepers>,
    room: Line<Sleepers>,
    tasks: Line<tasks::Words>,
}

const _: () = assert!(size_of::<Control>() == 768);

// SAFETY: atomics throughout.
unsafe impl Words for Control {}

/// What seldom changes.
#[derive(Debug, Default)]
#[repr(C)]
struct Fixed {
    /// The most messages; 0: as many as there is memory for.
    most_messages: AtomicU32,
    /// [`CLOSED`], [`NO_TAKER`].
    closed: AtomicU32,
    /// The most bytes in the ring; 0: as many as there is memory for.
    most_bytes: AtomicU64,
    /// The ring: its object's number plus one, and the logarithm of its size above. 0: none yet. Changes under both locks.
    ring: AtomicU64,
    /// What the queue does with its limits: [`Limits`].
    refuses: AtomicU32,
    /// It is known which process has taken how many tasks.
    counts_tasks: AtomicU32,
}

/// No more is put.
const CLOSED: u32 = 1;

/// No more is taken.
const NO_TAKER: u32 = 2;

/// The words under one of the two locks.
#[derive(Debug, Default)]
#[repr(C)]
struct SideWords {
    lock: LockWord,
    _unused: AtomicU32,
    /// The tail, or the head.
    mark: AtomicU64,
    /// The other side's mark when it was last looked at: there is at least so much, or so much room.
    seen: AtomicU64,
}

/// What a queue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The most messages; `None`: no bound.
    pub messages: Option<u32>,
    /// The most bytes of messages; `None`: no bound.
    pub bytes: Option<u64>,
    /// Whether a message longer than `bytes` is refused. Otherwise it waits until the queue is empty, and goes alone.
    pub refuse_long: bool,
}

/// Why nothing was put or taken.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The time was over: the queue was full, or empty.
    #[error("the time was over")]
    TimedOut,
    /// The queue is closed, and empty where something was to be taken.
    #[error("the queue is closed")]
    Closed,
    /// The message is longer than the queue's bound.
    #[error("a message of {length} bytes is longer than the queue's bound of {bound} bytes")]
    TooLong {
        /// Of the message, in bytes.
        length: u64,
        /// Of the queue, in bytes.
        bound: u64,
    },
    /// The arena has no room, or the queue is no more.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The queue's memory was overwritten.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// A message that was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// The bytes, where they were too long for the ring; else they are in the caller's buffer.
    pub blob: Option<Blob>,
    /// The holds of objects that the message refers to, if there are any: now this process's.
    pub holds: Option<Transit>,
}

/// A message to be put.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// The holds, on their way, of the objects that they refer to.
    pub holds: &'a [HoldId],
}

/// A message of more bytes than this is a blob.
const LONGEST_INLINE: usize = 64 << 10;

/// A process's end of a queue: puts and takes.
#[derive(Debug)]
pub struct Queue {
    held: Arc<Held>,
    tx: Side,
    rx: Side,
}

impl Queue {
    /// Makes a queue.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(
        arena: &'static Arena,
        limits: Limits,
        tag: u64,
        counts_tasks: bool,
    ) -> Result<Self, ArenaError> {
        let request = Request {
            kind: Kind::Queue,
            length: size_of::<Control>() as u64,
            tag,
            parent: None,
            zeroed: true,
        };
        let queue = Self::from_held(arena.make(&request)?).ok_or(ArenaError::Foreign { what: "contents" })?;
        let fixed = &queue.control().fixed.0;
        fixed.most_messages.store(limits.messages.unwrap_or(0).min(MOST_MESSAGES), Ordering::Relaxed);
        fixed.most_bytes.store(limits.bytes.unwrap_or(0).min(MOST_BYTES), Ordering::Relaxed);
        fixed.refuses.store(limits.refuse_long.into(), Ordering::Relaxed);
        fixed.counts_tasks.store(counts_tasks.into(), Ordering::Relaxed);
        Ok(queue)
    }

    /// The queue behind a handle; `None` when it is something else.
    pub fn from_held(held: Arc<Held>) -> Option<Self> {
        let fits = held.kind() == Kind::Queue && held.body().length() >= size_of::<Control>() as u64;
        fits.then(|| Self { held, tx: Side::default(), rx: Side::default() })
    }

    /// The handle.
    pub fn held(&self) -> &Arc<Held> {
        &self.held
    }

    #[inline]
    fn control(&self) -> &Control {
        self.held.body().get()
    }

    #[inline]
    fn arena(&self) -> &'static Arena {
        self.held.arena()
    }

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
        let (control, arena) = (self.control(), self.arena());
        let me = self.held.owner()?;
        let first = messages.first().ok_or(QueueError::TimedOut)?;
        self.check_length(first)?;
        // What is too long for the ring is copied before anybody is kept waiting.
        let apart = self.set_apart(first)?;
        let mut slept = Slept::Perhaps;
        let mut round = 0;
        loop {
            control.tx.0.lock.acquire(me, arena, deadline).map_err(|_| QueueError::TimedOut)?;
            let put = self.put_locked(me, messages, &apart, deadline);
            control.tx.0.lock.release(me, arena);
            match put {
                Ok(0) => {}
                Ok(count) => {
                    if slept == Slept::Bound {
                        arena.note_rescue();
                    }
                    <AtomicU32 as Word>::fence_after_exchange();
                    self.announce_items(count);
                    if let Some((_, transit)) = apart {
                        transit.forget();
                    }
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
            if slept == Slept::TimedOut || deadline.is_over() {
                return Err(QueueError::TimedOut);
            }
            if arena.spin(round) {
                round += 1;
                continue;
            }
            let look = || self.has_room(first) || self.is_closed();
            slept = control.room.0.sleep(look, |word, value| arena.sleep(word, value, deadline));
        }
    }

    fn check_length(&self, message: &Message<'_>) -> Result<(), QueueError> {
        let fixed = &self.control().fixed.0;
        let bound = fixed.most_bytes.load(Ordering::Relaxed);
        let length = message.bytes.len() as u64;
        if bound != 0 && length > bound && fixed.refuses.load(Ordering::Relaxed) != 0 {
            return Err(QueueError::TooLong { length, bound });
        }
        Ok(())
    }

    /// The longest message that goes into the ring, in bytes.
    fn longest_inline(&self) -> usize {
        match self.control().fixed.0.most_bytes.load(Ordering::Relaxed) {
            0 => LONGEST_INLINE,
            bound => LONGEST_INLINE.min((bound / 2) as usize),
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

    /// Under the lock: writes as many messages as there is room for, and publishes them. 0: there is no room.
    fn put_locked(
        &self,
        me: Owner,
        messages: &[Message<'_>],
        apart: &Option<(Blob, Transit)>,
        deadline: Deadline,
    ) -> Result<usize, QueueError> {
        let (control, arena) = (self.control(), self.arena());
        if control.fixed.0.closed.load(Ordering::Acquire) != 0 {
            return Err(QueueError::Closed);
        }
        let index = self.held.name().index;
        // Relaxed: only holders of this lock store it.
        let start = Mark(control.tx.0.mark.load(Ordering::Relaxed));
        let mut tail = start;
        let mut count = 0;
        for message in messages {
            let record = match (apart, count) {
                (Some((blob, transit)), 0) => Outgoing::apart(blob, transit.holds()[0], message.holds),
                // Another long one: it goes alone.
                _ if message.bytes.len() > self.longest_inline() => break,
                _ => Outgoing::inline(message.bytes, message.holds),
            };
            let mut head = Mark(control.tx.0.seen.load(Ordering::Relaxed));
            if !self.fits(head, tail, &record, count) {
                // Acquire: the takers have read what they took.
                head = Mark(control.rx.0.mark.load(Ordering::Acquire));
                control.tx.0.seen.store(head.0, Ordering::Relaxed);
                if !self.fits(head, tail, &record, count) {
                    break;
                }
            }
            let Some(ring) = self
                .tx
                .ring(&self.held, me)?
                .filter(|ring| head.bytes_to(tail) + record.length() <= ring.capacity())
            else {
                if count > 0 {
                    break;
                }
                self.grow(me, tail, record.length(), deadline)?;
                return self.put_locked(me, messages, apart, deadline);
            };
            for hold in record.holds() {
                let hold = arena.hold(hold.index);
                hold.position.store(tail.position(), Ordering::Relaxed);
                hold.queue.store(index + 1, Ordering::Relaxed);
            }
            ring.write(tail, &record);
            tail = tail.after(record.length());
            count += 1;
        }
        if count > 0 {
            // Release: publishes the messages. The one store that puts them.
            control.tx.0.mark.store(tail.0, Ordering::Release);
        }
        Ok(count)
    }

    /// Whether the queue's bounds allow one more message between `head` and `tail`.
    fn fits(&self, head: Mark, tail: Mark, record: &Outgoing<'_>, before: usize) -> bool {
        let fixed = &self.control().fixed.0;
        let most_messages = fixed.most_messages.load(Ordering::Relaxed);
        let most_bytes = fixed.most_bytes.load(Ordering::Relaxed);
        let messages = head.messages_to(tail);
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
        let (head, tail) = (Mark(control.rx.0.mark.load(Ordering::Acquire)), self.tail());
        let length = message.bytes.len();
        let record = if length > self.longest_inline() {
            Outgoing::reference()
        } else {
            Outgoing::inline(message.bytes, message.holds)
        };
        self.fits(head, tail, &record, 0)
    }

    fn tail(&self) -> Mark {
        Mark(self.control().tx.0.mark.load(Ordering::Acquire))
    }

    /// Under the lock of putters: gets a ring with room for `length` bytes more.
    fn grow(&self, me: Owner, tail: Mark, length: usize, deadline: Deadline) -> Result<(), QueueError> {
        let (control, arena) = (self.control(), self.arena());
        control.rx.0.lock.acquire(me, arena, deadline).map_err(|_| QueueError::TimedOut)?;
        let grown = self.grow_locked(me, tail, length);
        control.rx.0.lock.release(me, arena);
        grown
    }

    fn grow_locked(&self, me: Owner, tail: Mark, length: usize) -> Result<(), QueueError> {
        let (control, arena) = (self.control(), self.arena());
        let head = Mark(control.rx.0.mark.load(Ordering::Relaxed));
        let used = head.bytes_to(tail);
        let old = self.tx.ring(&self.held, me)?;
        let before = old.as_ref().map_or(0, |ring| ring.capacity());
        let capacity = ring::next_capacity(before, used, length);
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
        let mut round = 0;
        loop {
            control.rx.0.lock.acquire(me, arena, deadline).map_err(|_| QueueError::TimedOut)?;
            let count = self.take_locked(me, most, each);
            control.rx.0.lock.release(me, arena);
            match count? {
                0 => {}
                count => {
                    if slept == Slept::Bound {
                        arena.note_rescue();
                    }
                    <AtomicU32 as Word>::fence_after_exchange();
                    self.announce_room(count);
                    return Ok(count);
                }
            }
            // Closed first, then empty: what was put before the close is seen.
            if self.is_closed() && self.is_empty() {
                return Err(QueueError::Closed);
            }
            if slept == Slept::TimedOut || deadline.is_over() {
                return Err(QueueError::TimedOut);
            }
            while self.is_empty() && !self.is_closed() && arena.spin(round) {
                round += 1;
            }
            if round > 0 && !self.is_empty() {
                arena.spun_well();
                round = 0;
            }
            if self.is_empty() {
                let look = || !self.is_empty() || self.is_closed();
                slept = control.items.0.sleep(look, |word, value| arena.sleep(word, value, deadline));
            }
        }
    }

    /// Under the lock: takes what is there, at most `most`.
    fn take_locked(
        &self,
        me: Owner,
        most: usize,
        each: &mut impl FnMut(&[u8], Taken),
    ) -> Result<usize, QueueError> {
        let (control, arena) = (self.control(), self.arena());
        let mut count = 0;
        while count < most {
            // Relaxed: only holders of this lock store it.
            let head = Mark(control.rx.0.mark.load(Ordering::Relaxed));
            let mut tail = Mark(control.rx.0.seen.load(Ordering::Relaxed));
            if head == tail {
                // Acquire: the messages that it publishes.
                tail = self.tail();
                control.rx.0.seen.store(tail.0, Ordering::Relaxed);
                if head == tail {
                    break;
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
            let blob = read.blob();
            if self.counts_tasks() {
                self.note_taken(head);
            }
            let taken_holds: Vec<HoldId> = read.holds().collect();
            if blob.is_none() && taken_holds.is_empty() {
                each(read.bytes(), Taken::default());
                // Release: this taker has read it. The one store that takes it.
                control.rx.0.mark.store(head.after(read.length()).0, Ordering::Release);
                self.noted_taken();
            } else {
                let bytes = if blob.is_some() { Vec::new() } else { read.bytes().to_vec() };
                control.rx.0.mark.store(head.after(read.length()).0, Ordering::Release);
                self.noted_taken();
                let mut holds = Transit::new(arena);
                for hold in taken_holds {
                    arena.hold(hold.index).queue.store(0, Ordering::Relaxed);
                    holds.push(hold);
                }
                let blob = match blob {
                    None => None,
                    Some((name, hold)) => {
                        let held = arena.receive(name, hold)?;
                        Some(Blob::from_held(held).ok_or(Corrupt)?)
                    }
                };
                each(&bytes, Taken { blob, holds: Some(holds) });
            }
            count += 1;
        }
        Ok(count)
    }

    fn announce_items(&self, count: usize) {
        self.control().items.0.announce(self.arena(), count as u32);
    }

    fn announce_room(&self, count: usize) {
        let room = &self.control().room.0;
        // A bound in bytes: one message may have made room for many.
        let by_messages = self.control().fixed.0.most_bytes.load(Ordering::Relaxed) == 0;
        room.announce(self.arena(), if by_messages { count as u32 } else { u32::MAX });
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        let control = self.control();
        // The head first: the tail is then at least as far.
        let head = Mark(control.rx.0.mark.load(Ordering::Acquire));
        head.messages_to(self.tail()) as usize
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.control().rx.0.mark.load(Ordering::Acquire) == self.tail().0
    }

    /// Whether no more messages can be put; unlimited queues are never full.
    pub fn is_full(&self) -> bool {
        let most = self.control().fixed.0.most_messages.load(Ordering::Relaxed) as usize;
        most != 0 && self.len() >= most
    }

    /// Whether no more is put: what is there can still be taken.
    pub fn is_closed(&self) -> bool {
        self.control().fixed.0.closed.load(Ordering::Acquire) != 0
    }

    /// No more is put. Whoever waits for room or for a message is told.
    pub fn close(&self) {
        self.control().close(self.arena(), CLOSED);
    }

    /// The kinds of ends that a queue can have: when all handles on one, in every process, are gone, the queue is closed.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn end(&self, which: End) -> Result<Arc<Held>, ArenaError> {
        let parent = Some(self.held.name().index);
        let request = Request { kind: Kind::End, length: 0, tag: which as u64, parent, zeroed: true };
        self.held.arena().make(&request)
    }

    /// The next one who puts, or closes the queue, shall ring the bells. Whoever asks looks at the queue after this.
    pub fn ask_to_be_told(&self) {
        self.control().items.0.watch();
    }
}

/// A side of a queue that closes it when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Those who put.
    Sending = CLOSED as isize,
    /// Those who take.
    Receiving = NO_TAKER as isize,
}

impl Control {
    fn close(&self, arena: &Arena, how: u32) {
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
        self.tx.0.lock.repair(dead);
        self.rx.0.lock.repair(dead);
        self.items.0.repair();
        self.room.0.repair();
    }

    /// Whether a message at `position` is in the queue.
    fn has(&self, position: u64) -> bool {
        let head = Mark(self.rx.0.mark.load(Ordering::Acquire));
        head.reaches(Mark(self.tx.0.mark.load(Ordering::Acquire)), position)
    }
}

/// What the arena has to know of queues.
impl Arena {
    fn queue_control(&self, index: u32) -> Option<&Control> {
        self.body_of(index, Kind::Queue).filter(|body| body.length() >= size_of::<Control>() as u64).map(
            |body| {
                // SAFETY: small bodies stay mapped for good.
                unsafe { body.as_ptr().cast::<Control>().as_ref() }
            },
        )
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
        let (mut head, tail) = (
            Mark(control.rx.0.mark.load(Ordering::Acquire)),
            Mark(control.tx.0.mark.load(Ordering::Acquire)),
        );
        let mut holds = Vec::new();
        if head != tail
            && let Some(ring) = ring::Ring::open(self, control.fixed.0.ring.load(Ordering::Acquire))
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
