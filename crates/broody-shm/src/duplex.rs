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
use std::sync::atomic::{AtomicU32, Ordering};

use broody_os::memory::{self, Mapping, page_size};

use crate::lease::Lease;
use crate::ring::{Consumer, Control, Memory, Producer};
use crate::sleep::Doorbell;

/// How many leases a link has; the frame `n` has lease `n % LEASES`.
pub const LEASES: usize = 16;

/// Tells a link from other memory, and this layout from others.
const VERSION: u32 = 0xb400_0001;

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
    to_worker: Control,
    to_host: Control,
}

const _: () = assert!(size_of::<Shared>() == 1280 && size_of::<Shared>() <= 4096);

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
    fn memory_that_is_no_link_is_refused() {
        let other = memory::create("test", 3 * page_size()).unwrap();
        assert!(Worker::open(&other).is_err());
        let short = memory::create("test", page_size()).unwrap();
        assert!(Worker::open(&short).is_err());
    }
}
