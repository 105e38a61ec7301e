//! Waiting for the first of several things.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broody_os::{events, interrupt};

use crate::queue::{
    BytesQueue, Connection, JoinableBytesQueue, JoinableQueue, MessageQueue, Queue, Receiver,
};
use crate::sync::{BoundedSemaphore, Event, Semaphore};
use crate::watch::Watch;
use crate::{Child, ParentProcess, Process, Result};

/// Something that can be waited for together with others: queues, ends of pipes, events, semaphores, processes, and whatever has a descriptor.
///
/// Locks, conditions and barriers are not among them. To give a lock back would have to look for those who watch, at the price of a full
/// fence, each time; and who waits for a notification or a meeting is counted and has his turn, which somebody who may or may not come back
/// from poll(2) cannot have.
///
/// See [`wait`].
pub trait Waitable {
    /// What to look at.
    ///
    /// # Errors
    /// [`Os`](crate::Error::Os) when there are no descriptors left.
    fn source(&self) -> Result<Source<'_>>;
}

/// What is looked at to know whether something is ready: a descriptor that is readable then.
///
/// Give it to poll(2), epoll(7) or an event loop of your own. That it is readable means that it is worth a try: another process may be faster
/// in taking what there is.
#[derive(Debug)]
pub struct Source<'a>(Repr<'a>);

#[derive(Debug)]
enum Repr<'a> {
    Descriptor(BorrowedFd<'a>),
    Watch(Arc<Watch>),
    /// Has ended long ago.
    Ready,
}

impl<'a> Source<'a> {
    /// A descriptor that is readable when the thing is ready.
    pub fn descriptor(fd: BorrowedFd<'a>) -> Self {
        Self(Repr::Descriptor(fd))
    }

    /// The descriptor, if one is needed: what is ready for good has none.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Repr::Descriptor(fd) => Some(*fd),
            Repr::Watch(watch) => Some(watch.as_fd()),
            Repr::Ready => None,
        }
    }

    /// Whether it is ready; `None` when that is not known without asking the kernel.
    fn is_ready(&self) -> Option<bool> {
        match &self.0 {
            Repr::Descriptor(_) => None,
            Repr::Watch(watch) => Some(watch.is_ready()),
            Repr::Ready => Some(true),
        }
    }
}

/// Waits until at least one of `things` is ready, at most for `limit` if there is one. Gives the indices of those that are, in their order; none
/// when the time was over, and at once where there are no things.
///
/// A queue or pipe is ready when there is something to be taken, or when it is closed; an event when it is set; a semaphore when it has a token or
/// permit; a process when it has ended; a descriptor when it is readable. As Python's `multiprocessing.connection.wait`.
///
/// ```
/// # broody::init();
/// use broody::{Queue, wait};
/// use std::time::Duration;
/// let queue = Queue::<u32>::new()?;
/// let child = broody::spawn(|queue: Queue<u32>| queue.put(7).unwrap(), queue.clone())?;
/// assert_eq!(wait(&[&queue], Some(Duration::from_secs(60)))?, [0]);
/// assert_eq!(queue.get()?, 7);
/// child.join()?;
/// # Ok::<(), broody::Error>(())
/// ```
///
/// # Errors
/// [`Os`](crate::Error::Os) when there are no descriptors left.
pub fn wait(things: &[&dyn Waitable], limit: Option<Duration>) -> Result<Vec<usize>> {
    if things.is_empty() {
        return Ok(Vec::new());
    }
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let sources = things.iter().map(|thing| thing.source()).collect::<Result<Vec<_>>>()?;
    loop {
        let known: Vec<_> = sources.iter().map(Source::is_ready).collect();
        // Where something is ready already, the others are only looked at.
        let until = if known.contains(&Some(true)) { Some(Instant::now()) } else { deadline };
        let fds: Vec<_> = sources.iter().filter_map(Source::as_fd).collect();
        let mut polled = events::poll_all(&fds, until)?.into_iter();
        let readable: Vec<_> = sources
            .iter()
            .map(|source| source.as_fd().is_some_and(|_| polled.next() == Some(true)))
            .collect();
        let ready: Vec<_> = (0..sources.len())
            .filter(|index| match &sources[*index].0 {
                Repr::Descriptor(_) => readable[*index],
                Repr::Watch(watch) => {
                    watch.look_again();
                    watch.is_ready()
                }
                Repr::Ready => true,
            })
            .collect();
        // What was ready may have been taken meanwhile by others: then only the caller's own time counts.
        let is_over =
            || interrupt::is_raised() || deadline.is_some_and(|deadline| deadline <= Instant::now());
        if !ready.is_empty() || is_over() {
            return Ok(ready);
        }
    }
}

impl<T: ?Sized> Waitable for Queue<T> {
    fn source(&self) -> Result<Source<'_>> {
        Ok(Source(Repr::Watch(self.core().watch()?)))
    }
}

impl<T> Waitable for JoinableQueue<T> {
    fn source(&self) -> Result<Source<'_>> {
        self.queue().source()
    }
}

impl<T: ?Sized> Waitable for Receiver<T> {
    fn source(&self) -> Result<Source<'_>> {
        self.queue().source()
    }
}

impl<S: ?Sized, R: ?Sized> Waitable for Connection<S, R> {
    fn source(&self) -> Result<Source<'_>> {
        self.receiver().source()
    }
}

impl Waitable for BytesQueue {
    fn source(&self) -> Result<Source<'_>> {
        Ok(Source(Repr::Watch(self.0.watch()?)))
    }
}

impl Waitable for JoinableBytesQueue {
    fn source(&self) -> Result<Source<'_>> {
        Ok(Source(Repr::Watch(self.core().watch()?)))
    }
}

impl Waitable for MessageQueue {
    fn source(&self) -> Result<Source<'_>> {
        self.bytes().source()
    }
}

macro_rules! is_watched {
    ($($type:ty),*) => {
        $(
            impl Waitable for $type {
                fn source(&self) -> Result<Source<'_>> {
                    Ok(Source(Repr::Watch(self.watch()?)))
                }
            }
        )*
    };
}

is_watched!(Event, Semaphore, BoundedSemaphore);

impl Waitable for ParentProcess {
    fn source(&self) -> Result<Source<'_>> {
        Ok(self.sentinel().map_or(Source(Repr::Ready), Source::descriptor))
    }
}

macro_rules! has_a_descriptor {
    ($($(#[$of:tt])? $type:ty),* $(,)?) => {
        $(
            impl Waitable for $type {
                fn source(&self) -> Result<Source<'_>> {
                    Ok(Source::descriptor(self.as_fd()))
                }
            }
        )*
    };
}

has_a_descriptor!(
    BorrowedFd<'_>,
    OwnedFd,
    Process,
    std::fs::File,
    std::io::PipeReader,
    std::io::Stdin,
    std::net::TcpListener,
    std::net::TcpStream,
    std::net::UdpSocket,
    std::os::unix::net::UnixDatagram,
    std::os::unix::net::UnixListener,
    std::os::unix::net::UnixStream,
);

impl<R> Waitable for Child<R> {
    fn source(&self) -> Result<Source<'_>> {
        Ok(Source::descriptor(self.sentinel()))
    }
}
