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
//! Head and tail are [marks](mark): bytes and messages in one word. The ring's memory is mapped twice in a row, so that each message is
//! contiguous.
//!
//! | module | what it gives |
//! |---|---|
//! | [`control`] | the words in shared memory, the two locks |
//! | [`put`], [`take`] | the protocol |
//! | [`fast`] | the same for the common case, without what it does not need |
//! | [`grow`] | a full ring becomes a larger one |
//! | [`ring`], [`frame`], [`mark`] | where messages lie, what they look like, how positions are counted |
//! | [`sleepers`] | waiting for the other side |
//! | [`tasks`] | who has taken what and not done it yet |
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
//! * of who lets the ring grow: see [`grow`].
//!
//! A panic of the caller's code under the lock of takers gives the lock back, and takes the message.

pub(crate) mod control;
mod fast;
pub mod frame;
mod grow;
mod mark;
mod put;
mod ring;
pub(crate) mod sleepers;
mod take;
mod tasks;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub use tasks::TooManyDone;

use crate::arena::{Arena, Held, HoldId, Kind, Name, Request, Transit};
use crate::blob::Blob;
use crate::sync::{AtomicU64, Ordering};
use crate::{ArenaError, Corrupt};
use control::{CLOSED, Control, NO_TAKER};
use grow::LastChance;
use mark::{MOST_BYTES, MOST_MESSAGES};
use ring::Side;

/// What a queue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The most messages; `None`: no bound.
    pub messages: Option<u32>,
    /// The most bytes of messages; `None`: no bound.
    pub bytes: Option<u64>,
    /// Whether a message longer than `bytes` is refused. Otherwise it waits until the queue is empty, and goes alone, as does any that is longer
    /// than half of `bytes`.
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

/// A process's end of a queue: puts and takes.
#[derive(Debug)]
pub struct Queue {
    held: Arc<Held>,
    tx: Side,
    rx: Side,
    last_chance: LastChance,
    /// Where the head was when this process last found no message.
    emptied: AtomicU64,
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
        fits.then(|| Self {
            held,
            tx: Side::default(),
            rx: Side::default(),
            last_chance: LastChance::default(),
            emptied: AtomicU64::new(0),
        })
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
        let head = control.rx.0.mark();
        head.messages_to(control.tx.0.mark()) as usize
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        let control = self.control();
        control.rx.0.mark() == control.tx.0.mark()
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
        // In a fork's copy whose queue is gone: another object may be in its place.
        if self.held.owner().is_ok() {
            self.control().close(self.arena(), CLOSED);
        }
    }

    /// The kinds of ends that a queue can have: when all handles on one, in every process, are gone, the queue is closed.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn end(&self, which: End) -> Result<Arc<Held>, ArenaError> {
        let Name { index, name } = self.held.name();
        let tag = end_tag(name, which as u64);
        let request = Request { kind: Kind::End, length: 0, tag, parent: Some(index), zeroed: true };
        // Relaxed: whoever gets the queue gets it by a message, which orders.
        self.control().fixed.0.has_ends.store(1, Ordering::Relaxed);
        self.held.arena().make(&request)
    }

    /// Somebody waits for others, and nobody has told him anything for a while: looks whether they live, once a second. Those who have an end, or
    /// have taken tasks.
    pub fn look_after_others(&self) {
        let fixed = &self.control().fixed.0;
        let (has_ends, counts_tasks) =
            (fixed.has_ends.load(Ordering::Relaxed) != 0, self.control().counts_tasks());
        if !(has_ends || counts_tasks) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32);
        // Relaxed: that two look at once harms nobody. Who is killed between this and the look leaves it to the next second.
        if fixed.looked.swap(now, Ordering::Relaxed) == now {
            return;
        }
        let (arena, Name { index, name }) = (self.arena(), self.held.name());
        arena.bury_keepers(|object| {
            (has_ends && arena.object(object).is_end_of(name)) || (counts_tasks && object == index)
        });
    }

    /// The next one who puts, or closes the queue, shall ring the bells. Whoever asks looks at the queue after this.
    pub fn ask_to_be_told(&self) {
        if self.held.owner().is_ok() {
            self.control().items.0.watch();
        }
    }
}

/// What an end says of itself: how it closes its queue, and the name of that. An end may outlive its queue, whose number is another's then.
fn end_tag(name: u64, how: u64) -> u64 {
    name << END_BITS | how
}

const END_BITS: u32 = 2;

const _: () = assert!(CLOSED < 1 << END_BITS && NO_TAKER < 1 << END_BITS);

/// The name of the queue that an end was made for, and how it closes that.
pub(crate) fn end_of(tag: u64) -> (u64, u64) {
    (tag >> END_BITS, tag & ((1 << END_BITS) - 1))
}

/// A side of a queue that closes it when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Those who put.
    Sending = CLOSED as isize,
    /// Those who take.
    Receiving = NO_TAKER as isize,
}
