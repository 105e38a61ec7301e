//! Two rings and some leases in one piece of memory: the link between a host and one worker.
//!
//! ```text
//! page 0: Shared (version, state, doorbell, leases, both rings' words) | ring to the worker | ring to the host
//! ```
//!
//! The host makes it, [`Host`]; the worker gets its descriptor and opens it, [`Worker`]. Each link is used by one worker and
//! thrown away with it: nothing that a dead worker left has to be cleaned for the next.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use broody_os::memory::{self, Mapping, page_size};

use crate::lease::Lease;
use crate::ring::{Consumer, Control, Memory, Producer};
use crate::sleep::Doorbell;

/// How many leases a link has; the frame `n` has lease `n % LEASES`.
pub const LEASES: usize = 16;

/// Tells a link from other memory, and this layout from others.
const VERSION: u32 = 0xb400_0003;

const STARTING: u32 = 0;
const READY: u32 = 1;

/// What lies in front of the rings. All zero bytes but the version are its beginning.
#[derive(Debug)]
#[repr(C, align(128))]
struct Shared {
    version: AtomicU32,
    state: AtomicU32,
    doorbell: Doorbell,
    leases: [Lease; LEASES],
    at_hand: AtHand,
    /// The task that is asked to stop, as in `at_hand`.
    stop: AtomicU64,
    to_worker: Control,
    to_host: Control,
}

const _: () = assert!(size_of::<Shared>() == 1280 && size_of::<Shared>() <= 4096);

/// What the worker says of the task that it runs, where it was asked to.
#[derive(Debug)]
#[repr(C)]
struct AtHand {
    task: AtomicU64,
    since: AtomicU64,
    resident: AtomicU64,
}

/// A task that a worker has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The frame, and the task's number in it.
    pub frame: u32,
    /// See `frame`.
    pub index: u16,
    /// When, on the clock that both processes share.
    pub since: Duration,
    /// How many bytes of memory the worker had then; 0 if it was not asked to say.
    pub resident: u64,
}

/// Never 0.
fn task_word(frame: u32, index: u16) -> u64 {
    (u64::from(frame) << 17) | (u64::from(index) << 1) | 1
}

/// The part of a link that is no ring.
#[derive(Debug, Clone)]
pub struct Duplex {
    mapping: Arc<Mapping>,
}

impl Duplex {
    fn shared(&self) -> &Shared {
        // SAFETY: the mapping begins with a page for it, zeroed when it was made, and is aligned to pages; all its fields are
        // atomics, which both processes may touch.
        unsafe { self.mapping.as_ptr().cast::<Shared>().as_ref() }
    }

    fn map(descriptor: &OwnedFd) -> broody_os::Result<(Self, usize)> {
        let ring =
            memory::sealed_length(std::os::fd::AsFd::as_fd(descriptor))?.saturating_sub(page_size()) / 2;
        Ok((Self { mapping: Arc::new(Mapping::mirrored(descriptor, page_size(), &[ring, ring])?) }, ring))
    }

    fn ring(&self, index: usize, control: &Control, capacity: usize) -> Memory {
        let offset = page_size() + index * 2 * capacity;
        // SAFETY: both copies of both rings lie behind the first page.
        let bytes = unsafe { self.mapping.as_ptr().add(offset) };
        Memory { _mapping: self.mapping.clone(), control: NonNull::from(control), bytes, capacity }
    }

    /// The lease of a frame.
    pub fn lease(&self, frame: u32) -> &Lease {
        &self.shared().leases[frame as usize % LEASES]
    }

    /// The worker says that it begins a task.
    pub fn begin(&self, begun: Begun) {
        let at_hand = &self.shared().at_hand;
        // In this order: a time that belongs to the next task makes the one before look younger, never older.
        at_hand.resident.store(begun.resident, Ordering::Relaxed);
        at_hand.since.store(begun.since.as_nanos() as u64, Ordering::Release);
        at_hand.task.store(task_word(begun.frame, begun.index), Ordering::Release);
    }

    /// The worker has no task at hand of which it says anything.
    pub fn begin_silently(&self) {
        self.shared().at_hand.task.store(0, Ordering::Release);
    }

    /// The last task that the worker has said it begins. It may be over.
    pub fn begun(&self) -> Option<Begun> {
        let at_hand = &self.shared().at_hand;
        let task = at_hand.task.load(Ordering::Acquire);
        if task & 1 == 0 {
            return None;
        }
        let since = Duration::from_nanos(at_hand.since.load(Ordering::Acquire));
        let resident = at_hand.resident.load(Ordering::Relaxed);
        Some(Begun { frame: (task >> 17) as u32, index: (task >> 1) as u16, since, resident })
    }

    /// The host asks a task to stop, if it is still at hand.
    pub fn ask_to_stop(&self, frame: u32, index: u16) {
        self.shared().stop.store(task_word(frame, index), Ordering::Release);
    }

    /// Whether the task at hand was asked to stop. For the worker.
    pub fn should_stop(&self) -> bool {
        let shared = self.shared();
        let asked = shared.stop.load(Ordering::Acquire);
        asked != 0 && asked == shared.at_hand.task.load(Ordering::Relaxed)
    }

    /// Where the host waits: the worker rings after it has published.
    pub fn doorbell(&self) -> &Doorbell {
        &self.shared().doorbell
    }

    /// The worker says that it is ready to work.
    pub fn set_ready(&self) {
        // Release, though nothing is published but the fact itself.
        self.shared().state.store(READY, Ordering::Release);
    }

    /// Whether the worker has said that it is ready.
    pub fn is_ready(&self) -> bool {
        self.shared().state.load(Ordering::Acquire) == READY
    }
}

/// The host's end.
#[derive(Debug)]
pub struct Host {
    /// To the worker.
    pub outgoing: Producer,
    /// From the worker.
    pub incoming: Consumer,
    /// What is neither.
    pub duplex: Duplex,
}

impl Host {
    /// Makes a link with rings of `capacity` bytes each, rounded up to whole pages. Gives the descriptor for the worker, too.
    ///
    /// # Errors
    /// Of memfd_create(2), fallocate(2) and mmap(2): no descriptor or no memory.
    pub fn create(name: &str, capacity: usize) -> broody_os::Result<(Self, OwnedFd)> {
        let capacity = capacity.max(1).next_multiple_of(page_size());
        let descriptor = memory::create(name, page_size() + 2 * capacity)?;
        let (duplex, capacity) = Duplex::map(&descriptor)?;
        let shared = duplex.shared();
        shared.version.store(VERSION, Ordering::Relaxed);
        shared.state.store(STARTING, Ordering::Relaxed);
        let outgoing = Producer::new(duplex.ring(0, &shared.to_worker, capacity));
        let incoming = Consumer::new(duplex.ring(1, &shared.to_host, capacity));
        Ok((Self { outgoing, incoming, duplex }, descriptor))
    }
}

/// The worker's end.
#[derive(Debug)]
pub struct Worker {
    /// From the host.
    pub inbox: Consumer,
    /// To the host.
    pub outbox: Producer,
    /// What is neither.
    pub duplex: Duplex,
}

impl Worker {
    /// Opens the link behind `descriptor`. A link is opened once.
    ///
    /// # Errors
    /// Of mmap(2); EINVAL for memory that is no link.
    pub fn open(descriptor: &OwnedFd) -> broody_os::Result<Self> {
        let (duplex, capacity) = Duplex::map(descriptor)?;
        let shared = duplex.shared();
        if shared.version.load(Ordering::Relaxed) != VERSION {
            return Err(broody_os::Error::new("mmap", std::io::Error::from_raw_os_error(22)));
        }
        let inbox = Consumer::new(duplex.ring(0, &shared.to_worker, capacity));
        let outbox = Producer::new(duplex.ring(1, &shared.to_host, capacity));
        Ok(Self { inbox, outbox, duplex })
    }
}

#[cfg(test)]
impl Duplex {
    /// Both ends of a link, in one process.
    pub(crate) fn pair_for_tests(capacity: usize) -> (Host, Worker) {
        let (host, descriptor) = Host::create("test", capacity).unwrap();
        let worker = Worker::open(&descriptor).unwrap();
        (host, worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_see_the_same_words() {
        let (host, worker) = Duplex::pair_for_tests(4096);
        assert!(!host.duplex.is_ready());
        worker.duplex.set_ready();
        assert!(host.duplex.is_ready());
        host.duplex.lease(3).grant(3, 1);
        assert_eq!(worker.duplex.lease(3).claim(3), Some(0));
        host.duplex.doorbell().listen();
        assert!(worker.duplex.doorbell().ring());
    }

    #[test]
    fn the_host_sees_which_task_is_at_hand_and_can_ask_it_to_stop() {
        let (host, worker) = Duplex::pair_for_tests(4096);
        assert_eq!(host.duplex.begun(), None);
        let begun = Begun { frame: u32::MAX, index: 7, since: Duration::from_nanos(5), resident: 9 };
        worker.duplex.begin(begun);
        assert_eq!(host.duplex.begun(), Some(begun));
        assert!(!worker.duplex.should_stop());
        host.duplex.ask_to_stop(u32::MAX, 6);
        assert!(!worker.duplex.should_stop(), "it is another task that was meant");
        host.duplex.ask_to_stop(u32::MAX, 7);
        assert!(worker.duplex.should_stop());
    }

    #[test]
    fn memory_that_is_no_link_is_refused() {
        let other = memory::create("test", 3 * page_size()).unwrap();
        assert!(Worker::open(&other).is_err());
        let short = memory::create("test", page_size()).unwrap();
        assert!(Worker::open(&short).is_err());
    }
}
