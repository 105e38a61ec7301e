//! Waiting for descriptors. See epoll(7), eventfd(2), ppoll(2).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::{Error, Result};

/// Whether `fd` is readable (or at its end of file) now.
pub fn is_readable(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(poll(&[fd], Some(Instant::now()))?[0])
}

/// Waits until one of `fds` is readable, at its end of file or in error, or until `deadline`. Says which are.
pub fn poll<const N: usize>(fds: &[BorrowedFd<'_>; N], deadline: Option<Instant>) -> Result<[bool; N]> {
    let mut set = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    wait(&mut set, deadline)?;
    Ok(std::array::from_fn(|i| !set[i].revents().is_empty()))
}

/// As [`poll`], for any number of descriptors.
pub fn poll_all(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Result<Vec<bool>> {
    let mut set: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    wait(&mut set, deadline)?;
    Ok(set.iter().map(|fd| !fd.revents().is_empty()).collect())
}

fn wait(set: &mut [PollFd<'_>], deadline: Option<Instant>) -> Result<()> {
    loop {
        let limit = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        match rustix::event::poll(set, limit.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) if crate::interrupt::interrupted() => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(Error::new("poll", error)),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().min(i64::MAX as u64) as i64,
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// A counter that wakes whoever polls it.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new counter at 0, close-on-exec.
    pub fn new() -> Result<Self> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Self)
            .map_err(|error| Error::new("eventfd", error))
    }

    /// Takes what was signalled: it is unreadable then.
    pub fn reset(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }

    /// Wakes the poller. A full counter is awake already.
    pub fn signal(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl From<OwnedFd> for EventFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How an [`Epoll`] reports a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// As long as it is readable.
    Level,
    /// Once for each time that it becomes readable; an [`EventFd`] then never needs to be read.
    Edge,
    /// Once, to one of those who wait, and not again before it is [rearmed](Epoll::rearm).
    Once,
}

/// A set of descriptors to wait for, each with a token of the caller's.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Epoll {
    /// An empty set.
    pub fn new() -> Result<Self> {
        rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)
            .map(Self)
            .map_err(|error| Error::new("epoll_create1", error))
    }

    /// Adds `fd`; its events carry `token`.
    pub fn add(&self, fd: impl AsFd, token: u64, trigger: Trigger) -> Result<()> {
        use rustix::event::epoll::{EventData, EventFlags};
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::ET, trigger == Trigger::Edge);
        flags.set(EventFlags::ONESHOT | EventFlags::RDHUP, trigger == Trigger::Once);
        rustix::event::epoll::add(&self.0, fd, EventData::new_u64(token), flags)
            .map_err(|error| Error::new("epoll_ctl", error))
    }

    /// Reports once more a descriptor that was added with [`Trigger::Once`]: when it is readable or at its end, or also when there is room to write.
    pub fn rearm(&self, fd: impl AsFd, token: u64, or_writable: bool) -> Result<()> {
        use rustix::event::epoll::{EventData, EventFlags};
        let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        flags.set(EventFlags::OUT, or_writable);
        rustix::event::epoll::modify(&self.0, fd, EventData::new_u64(token), flags)
            .map_err(|error| Error::new("epoll_ctl", error))
    }

    /// Removes `fd`.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = rustix::event::epoll::delete(&self.0, fd);
    }

    /// Waits until a descriptor is readable, a signal arrives or `limit` is over, and gives the tokens of the readable
    /// ones into `ready`. See epoll_wait(2).
    pub fn wait(&self, ready: &mut Vec<u64>, limit: Option<Duration>) -> Result<()> {
        self.wait_for::<64>(ready, limit)
    }

    /// As [`wait`](Self::wait), for one token: others may wait for the rest.
    pub fn wait_for_one(&self, limit: Option<Duration>) -> Result<Option<u64>> {
        let mut ready = Vec::new();
        self.wait_for::<1>(&mut ready, limit)?;
        Ok(ready.pop())
    }

    fn wait_for<const MOST: usize>(&self, ready: &mut Vec<u64>, limit: Option<Duration>) -> Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST];
        let limit = limit.map_or(-1, |limit| {
            // Rounded up, so that a wait for less than a millisecond is not a busy loop.
            limit.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32
        });
        // SAFETY: the buffer holds MOST events.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), MOST as i32, limit) };
        if count < 0 {
            let error = Error::last("epoll_wait");
            return if error.errno() == Some(libc::EINTR) { Ok(()) } else { Err(error) };
        }
        ready.extend(events[..count as usize].iter().map(|event| event.u64));
        Ok(())
    }
}
