//! A byte ring for one producer and one consumer, in memory that both have mapped.
//!
//! ```text
//!            head                      tail
//!   ... free |  record  |  record     |  being written      free ...
//!            the consumer's           the producer's
//! ```
//!
//! `tail` and `head` count bytes since the beginning and never wrap; a position is the count modulo the capacity. The ring's memory
//! is mapped twice in a row, so that a record is contiguous wherever it lies. A record is its length (4 bytes) and its bytes,
//! padded to a multiple of 8.
//!
//! # Who owns what, and what a death leaves
//!
//! Bytes from `head` to `tail` are the consumer's, all others the producer's. A record becomes the consumer's by **one store** of
//! `tail`, after all of it was written: a producer that dies before the store leaves a ring in which the record never was. A
//! consumer that dies before its store of `head` leaves the record where it is. There is no third state.
//!
//! Each side keeps its own counter to itself and only publishes it; it reads the other's, and checks it: a peer with a memory
//! error can make a ring [`Corrupt`], and nothing worse.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use broody_os::memory::Mapping;

use crate::Corrupt;
use crate::sleep::Doorbell;

/// The length in front of each record, in bytes.
const HEADER: usize = 4;

/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// Something on a cache line of its own (two, since neighbours are fetched in pairs).
#[derive(Debug, Default)]
#[repr(C, align(128))]
struct Line<T>(T);

/// The shared words of a ring. All zero bytes are an empty ring.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Control {
    tail: Line<AtomicU64>,
    head: Line<AtomicU64>,
    consumer: Line<Doorbell>,
    producer: Line<Doorbell>,
}

const _: () = assert!(size_of::<Control>() == 512);

impl Control {
    /// Where the consumer sleeps while the ring is empty.
    pub fn consumer(&self) -> &Doorbell {
        &self.consumer.0
    }

    /// Where the producer sleeps while the ring is full.
    pub fn producer(&self) -> &Doorbell {
        &self.producer.0
    }
}

/// The memory of a ring, as one side has it mapped.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    /// Kept for as long as anything points into it.
    pub(crate) _mapping: Arc<Mapping>,
    pub(crate) control: NonNull<Control>,
    /// The first byte of the first of the two copies.
    pub(crate) bytes: NonNull<u8>,
    /// The length of one copy.
    pub(crate) capacity: usize,
}

// SAFETY: an address and a length; who may touch what is said by the protocol, which `Producer` and `Consumer` keep.
unsafe impl Send for Memory {}

impl Memory {
    fn control(&self) -> &Control {
        // SAFETY: it lies in the mapping, which lives as long as `self`; the words are atomics.
        unsafe { self.control.as_ref() }
    }

    /// The address of the byte that the counter `count` stands for.
    fn at(&self, count: u64) -> *mut u8 {
        self.bytes.as_ptr().wrapping_add((count % self.capacity as u64) as usize)
    }
}

fn padded(length: usize) -> usize {
    (HEADER + length).next_multiple_of(ALIGNMENT)
}

/// The writing end.
#[derive(Debug)]
pub struct Producer {
    memory: Memory,
    tail: u64,
    /// The last `head` that was read: there may be more room than it says, never less.
    head: u64,
}

impl Producer {
    pub(crate) fn new(memory: Memory) -> Self {
        Self { memory, tail: 0, head: 0 }
    }

    /// The longest record that ever has room, in bytes.
    pub fn longest(&self) -> usize {
        self.memory.capacity - ALIGNMENT
    }

    /// The shared words.
    pub fn control(&self) -> &Control {
        self.memory.control()
    }

    /// Whether a record of `length` bytes has room now.
    pub fn has_room(&mut self, length: usize) -> Result<bool, Corrupt> {
        Ok(self.begin(length)?.is_some())
    }

    /// Begins a record of at most `most` bytes; `None` when there is no room for so many now.
    pub fn begin(&mut self, most: usize) -> Result<Option<Draft<'_>>, Corrupt> {
        let needed = padded(most) as u64;
        if self.room()? < needed {
            // Acquire: what the consumer has read is read before it is written over.
            self.head = self.memory.control().head.0.load(Ordering::Acquire);
            if self.room()? < needed {
                return Ok(None);
            }
        }
        Ok(Some(Draft { length: 0, most, producer: self }))
    }

    /// Adds one record. `false` when there is no room now.
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<bool, Corrupt> {
        let Some(mut draft) = self.begin(parts.iter().map(|part| part.len()).sum())? else {
            return Ok(false);
        };
        parts.iter().for_each(|part| draft.put(part));
        draft.publish();
        Ok(true)
    }

    fn room(&self) -> Result<u64, Corrupt> {
        let used = self.tail.wrapping_sub(self.head);
        (self.memory.capacity as u64).checked_sub(used).ok_or(Corrupt)
    }
}

/// A record that is being written. Dropped without [`publish`](Self::publish), it never was.
#[derive(Debug)]
pub struct Draft<'a> {
    producer: &'a mut Producer,
    most: usize,
    length: usize,
}

impl Draft<'_> {
    /// Appends bytes.
    ///
    /// # Panics
    /// When they are more than was asked for.
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.most - self.length, "a record is longer than was reserved for it");
        let target = self.producer.memory.at(self.producer.tail).wrapping_add(HEADER + self.length);
        // SAFETY: from `tail` on, `padded(most)` bytes are free, so they are the producer's, and contiguous in the double mapping;
        // the assertion keeps within them. The source is this process's own memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        self.length += bytes.len();
    }

    /// Gives the record to the consumer.
    pub fn publish(self) {
        let memory = &self.producer.memory;
        let header = memory.at(self.producer.tail).cast::<u32>();
        // SAFETY: free and aligned, as in `put`: records begin at multiples of 8.
        unsafe { header.write(self.length as u32) };
        self.producer.tail += padded(self.length) as u64;
        // Release: the record is written before the consumer can see it.
        self.producer.memory.control().tail.0.store(self.producer.tail, Ordering::Release);
    }
}

/// The reading end.
#[derive(Debug)]
pub struct Consumer {
    memory: Memory,
    head: u64,
    /// The last `tail` that was read: there may be more records than it says, never fewer.
    tail: u64,
}

impl Consumer {
    pub(crate) fn new(memory: Memory) -> Self {
        Self { memory, head: 0, tail: 0 }
    }

    /// The shared words.
    pub fn control(&self) -> &Control {
        self.memory.control()
    }

    /// Whether there is no record now.
    pub fn is_empty(&self) -> bool {
        // Relaxed: only whether; the record itself is read after `take_next`.
        self.memory.control().tail.0.load(Ordering::Relaxed) == self.head
    }

    /// The oldest record that was not taken yet; it is the caller's until [`release`](Self::release).
    pub fn take_next(&mut self) -> Result<Option<Record<'_>>, Corrupt> {
        if self.tail == self.head {
            // Acquire: the record is read after it was written.
            self.tail = self.memory.control().tail.0.load(Ordering::Acquire);
            if self.tail == self.head {
                return Ok(None);
            }
        }
        let available = self.tail.wrapping_sub(self.head);
        if available > self.memory.capacity as u64 || available < ALIGNMENT as u64 {
            return Err(Corrupt);
        }
        let start = self.memory.at(self.head);
        // SAFETY: at least a header lies between head and tail, aligned to 8, and the producer does not write there.
        let length = unsafe { start.cast::<u32>().read() } as usize;
        if padded(length) as u64 > available {
            return Err(Corrupt);
        }
        self.head += padded(length) as u64;
        Ok(Some(Record { start: start.wrapping_add(HEADER), length, ring: std::marker::PhantomData }))
    }

    /// Gives the room of every record that was taken back to the producer, and wakes it if it waits for room.
    pub fn release(&mut self) {
        let control = self.memory.control();
        // Release: what was read is read before it can be written over.
        control.head.0.store(self.head, Ordering::Release);
        control.producer().ring();
    }
}

/// A record, still in the ring.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    start: *const u8,
    length: usize,
    ring: std::marker::PhantomData<&'a Consumer>,
}

impl<'a> Record<'a> {
    /// Its length in bytes.
    pub fn len(self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Copies its first `N` bytes and gives them with the rest; `None` if it is shorter.
    pub fn split<const N: usize>(self) -> Option<([u8; N], Record<'a>)> {
        let rest = self.length.checked_sub(N)?;
        // SAFETY: `N` bytes of the record are there, and bytes have no alignment.
        let first = unsafe { self.start.cast::<[u8; N]>().read() };
        Some((first, Record { start: self.start.wrapping_add(N), length: rest, ring: self.ring }))
    }

    /// Appends its bytes to `buffer`.
    pub fn copy_to(self, buffer: &mut Vec<u8>) {
        buffer.reserve(self.length);
        // SAFETY: the record's bytes are the consumer's; the room was just reserved, and is filled before it counts.
        unsafe {
            let end = buffer.as_mut_ptr().add(buffer.len());
            std::ptr::copy_nonoverlapping(self.start, end, self.length);
            buffer.set_len(buffer.len() + self.length);
        }
    }

    /// Its bytes, where they are.
    ///
    /// # Safety
    /// The producer must be known to keep the protocol while the bytes are looked at: one with a memory error could change them.
    pub unsafe fn as_slice(self) -> &'a [u8] {
        // SAFETY: the record's bytes are mapped, and not written to until they are released, says the caller.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duplex::Duplex;

    fn text(record: Option<Record<'_>>) -> Option<String> {
        let mut bytes = Vec::new();
        record?.copy_to(&mut bytes);
        Some(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let (mut host, mut worker) = Duplex::pair_for_tests(4096);
        assert!(worker.inbox.take_next().unwrap().is_none());
        assert!(host.outgoing.push(&[b"one"]).unwrap());
        assert!(host.outgoing.push(&[b"tw", b"", b"o"]).unwrap());
        assert!(host.outgoing.push(&[]).unwrap());
        assert_eq!(text(worker.inbox.take_next().unwrap()).as_deref(), Some("one"));
        assert_eq!(text(worker.inbox.take_next().unwrap()).as_deref(), Some("two"));
        assert_eq!(text(worker.inbox.take_next().unwrap()).as_deref(), Some(""));
        assert!(worker.inbox.take_next().unwrap().is_none());
    }

    #[test]
    fn a_full_ring_takes_no_more_until_room_is_released() {
        let (mut host, mut worker) = Duplex::pair_for_tests(4096);
        let mut taken = 0;
        while host.outgoing.push(&[&[7; 100]]).unwrap() {
            taken += 1;
        }
        assert_eq!(taken, 4096 / 104);
        assert!(worker.inbox.take_next().unwrap().is_some());
        assert!(!host.outgoing.push(&[&[7; 100]]).unwrap());
        worker.inbox.release();
        assert!(host.outgoing.push(&[&[7; 100]]).unwrap());
    }

    #[test]
    fn records_of_all_lengths_wrap_around_whole() {
        let (mut host, mut worker) = Duplex::pair_for_tests(4096);
        let pattern: Vec<u8> = (0..2048u32).map(|byte| byte as u8).collect();
        let (mut sent, mut seen) = (0usize, 0usize);
        let length = |number: usize| (number * 7919) % 1500;
        while seen < 100_000 {
            while sent < 100_000
                && host.outgoing.push(&[&sent.to_le_bytes(), &pattern[..length(sent)]]).unwrap()
            {
                sent += 1;
            }
            while let Some(record) = worker.inbox.take_next().unwrap() {
                let (number, rest) = record.split::<8>().unwrap();
                assert_eq!(usize::from_le_bytes(number), seen);
                let mut bytes = Vec::new();
                rest.copy_to(&mut bytes);
                assert_eq!(bytes, &pattern[..length(seen)]);
                seen += 1;
            }
            worker.inbox.release();
        }
    }

    #[test]
    fn a_draft_that_is_dropped_never_was() {
        let (mut host, mut worker) = Duplex::pair_for_tests(4096);
        {
            let mut draft = host.outgoing.begin(10).unwrap().unwrap();
            draft.put(b"half");
        }
        assert!(worker.inbox.take_next().unwrap().is_none());
        assert!(host.outgoing.push(&[b"whole"]).unwrap());
        assert_eq!(text(worker.inbox.take_next().unwrap()).as_deref(), Some("whole"));
    }

    #[test]
    fn wild_counters_and_lengths_are_corrupt_and_nothing_worse() {
        let (mut host, mut worker) = Duplex::pair_for_tests(4096);
        assert!(host.outgoing.push(&[b"x"]).unwrap());
        host.outgoing.control().tail.0.store(u64::MAX - 7, Ordering::Relaxed);
        assert_eq!(worker.inbox.take_next().unwrap_err(), Corrupt);
        host.outgoing.control().tail.0.store(8, Ordering::Relaxed);
        // SAFETY: the first record's header is mapped and aligned.
        unsafe { host.outgoing.memory.at(0).cast::<u32>().write(u32::MAX) };
        worker.inbox.tail = 0;
        assert_eq!(worker.inbox.take_next().unwrap_err(), Corrupt);
        host.outgoing.control().head.0.store(1 << 40, Ordering::Relaxed);
        host.outgoing.tail += 4090;
        assert_eq!(host.outgoing.begin(100).unwrap_err(), Corrupt);
    }
}
