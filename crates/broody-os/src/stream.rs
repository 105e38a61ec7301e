//! Bytes through pipes, stream sockets and whatever else can be read and written.
//!
//! [`read_now`] and [`write_now`] never wait, whatever the descriptor's own mode, which belongs to all processes that have it: sockets are
//! asked with MSG_DONTWAIT, pipes with RWF_NOWAIT, anything else after a look by poll(2). See recv(2), sendmsg(2), preadv2(2), pipe(7).

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use crate::{Error, Result};

/// What is known of how a descriptor can be asked not to wait. It is found out by asking.
#[derive(Debug, Default)]
pub struct Way(AtomicU8);

const SOCKET: u8 = 0;
const PIPE: u8 = 1;

impl Way {
    // Relaxed: each thread may find out for itself.
    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// The next way (after those two: a look, and then the plain call), where `errno` says that this one is not for the descriptor.
    fn next_after(&self, way: u8, errno: i32) -> bool {
        let is_other = match way {
            SOCKET => errno == libc::ENOTSOCK,
            PIPE => matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::ESPIPE | libc::EINVAL),
            _ => false,
        };
        if is_other {
            self.0.store(way + 1, Ordering::Relaxed);
        }
        is_other
    }
}

/// Two connected stream sockets, close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::new("socketpair", error))
}

/// A pipe: its reading and its writing end, close-on-exec.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::new("pipe2", error))
}

/// Closes a descriptor that the caller owns. See close(2).
///
/// # Errors
/// EBADF when it was closed by others.
pub fn close(fd: RawFd) -> Result<()> {
    // SAFETY: close takes any integer.
    match unsafe { libc::close(fd) } {
        0 => Ok(()),
        // It is closed then, and must not be closed again.
        _ if Error::last("close").errno() == Some(libc::EINTR) => Ok(()),
        _ => Err(Error::last("close")),
    }
}

/// Reads what is there into the beginning of `buffer`. `None`: nothing is there now; 0 bytes: nothing will ever be.
pub fn read_now(fd: BorrowedFd<'_>, way: &Way, buffer: &mut [MaybeUninit<u8>]) -> Result<Option<usize>> {
    let (raw, start, length) = (fd.as_raw_fd(), buffer.as_mut_ptr().cast::<libc::c_void>(), buffer.len());
    loop {
        let now = way.get();
        // SAFETY: `length` bytes from `start` on are ours to write to.
        let (call, count) = unsafe {
            match now {
                SOCKET => ("recv", libc::recv(raw, start, length, libc::MSG_DONTWAIT)),
                PIPE => {
                    let part = libc::iovec { iov_base: start, iov_len: length };
                    ("preadv2", libc::preadv2(raw, &part, 1, -1, libc::RWF_NOWAIT))
                }
                _ if !is_ready(fd, PollFlags::IN)? => return Ok(None),
                _ => ("read", libc::read(raw, start, length)),
            }
        };
        if let Some(answer) = judge(call, count, way, now)? {
            return Ok(answer);
        }
    }
}

/// Writes as much of `parts` as there is room for. `None`: there is no room now.
pub fn write_now(fd: BorrowedFd<'_>, way: &Way, parts: &[IoSlice<'_>]) -> Result<Option<usize>> {
    let raw = fd.as_raw_fd();
    // SAFETY: IoSlice is ABI compatible with iovec, and the parts are borrowed for this call.
    let (vectors, count) = (parts.as_ptr().cast::<libc::iovec>(), parts.len());
    loop {
        let now = way.get();
        // SAFETY: as above; what is sent is only read.
        let (call, count) = unsafe {
            match now {
                SOCKET => {
                    let mut message: libc::msghdr = std::mem::zeroed();
                    message.msg_iov = vectors.cast_mut();
                    message.msg_iovlen = count as _;
                    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                    ("sendmsg", libc::sendmsg(raw, &message, flags))
                }
                PIPE => ("pwritev2", libc::pwritev2(raw, vectors, count as i32, -1, libc::RWF_NOWAIT)),
                _ if !is_ready(fd, PollFlags::OUT)? => return Ok(None),
                _ => ("writev", write_a_little(raw, parts)),
            }
        };
        if let Some(answer) = judge(call, count, way, now)? {
            return Ok(answer);
        }
    }
}

/// As much as a pipe takes without waiting when poll(2) says that it is writable.
///
/// # Safety
/// None beyond that of writev(2): the parts are borrowed.
unsafe fn write_a_little(fd: i32, parts: &[IoSlice<'_>]) -> isize {
    let Some(part) = parts.iter().find(|part| !part.is_empty()) else { return 0 };
    // SAFETY: the part is borrowed.
    unsafe { libc::write(fd, part.as_ptr().cast(), part.len().min(libc::PIPE_BUF)) }
}

/// What a call has answered: a count, "not now", or nothing, when it is to be tried again.
fn judge(call: &'static str, count: isize, way: &Way, now: u8) -> Result<Option<Option<usize>>> {
    if count >= 0 {
        return Ok(Some(Some(count as usize)));
    }
    let error = Error::last(call);
    match error.errno() {
        Some(libc::EAGAIN) => Ok(Some(None)),
        Some(libc::EINTR) => Ok(None),
        Some(errno) if way.next_after(now, errno) => Ok(None),
        _ => Err(error),
    }
}

fn is_ready(fd: BorrowedFd<'_>, what: PollFlags) -> Result<bool> {
    wait_for(fd, what, Some(Instant::now()))
}

/// Whether the other end of a stream socket has been closed; what it has sent before may still be there.
pub fn has_hung_up(fd: BorrowedFd<'_>) -> Result<bool> {
    wait_for(fd, PollFlags::RDHUP, Some(Instant::now()))
}

/// Lets both ends of a stream socket see its end, whoever else has its descriptor. See shutdown(2).
pub fn hang_up(fd: BorrowedFd<'_>) {
    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
}

/// Accepts a client of a listening socket, close-on-exec. `None`: there is none now, or the one there was has gone away. See accept4(2).
///
/// # Errors
/// EMFILE and its like: the client stays where it is.
pub fn accept_now(listener: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    if !wait_readable(listener, Some(Instant::now()))? {
        return Ok(None);
    }
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(client) => Ok(Some(client)),
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(error) => Err(Error::new("accept4", error)),
    }
}

/// Waits until something can be read, or will never be, or until `deadline` or a [signal](crate::interrupt). Whether it can.
pub fn wait_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
    wait_for(fd, PollFlags::IN, deadline)
}

/// Waits until there is room to write, as [`wait_readable`].
pub fn wait_writable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
    wait_for(fd, PollFlags::OUT, deadline)
}

fn wait_for(fd: BorrowedFd<'_>, what: PollFlags, deadline: Option<Instant>) -> Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, what)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) if crate::interrupt::interrupted() => return Ok(false),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(Error::new("poll", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn read(fd: &OwnedFd, way: &Way) -> Option<Vec<u8>> {
        let mut buffer = [MaybeUninit::new(0); 64];
        let count = read_now(fd.as_fd(), way, &mut buffer).unwrap()?;
        // SAFETY: all of it was initialised.
        Some(buffer[..count].iter().map(|byte| unsafe { byte.assume_init() }).collect())
    }

    #[test]
    fn nothing_waits_whatever_the_descriptor_is() {
        for (way, (reader, writer)) in [(0, pair()), (1, pipe()), (2, pipe())].map(|(w, p)| (w, p.unwrap())) {
            let new = || Way(AtomicU8::new(if way == 2 { 2 } else { 0 }));
            let (reads, writes) = (new(), new());
            assert_eq!(read(&reader, &reads), None);
            let parts = [IoSlice::new(b"ab"), IoSlice::new(b"")];
            assert_eq!(write_now(writer.as_fd(), &writes, &parts).unwrap(), Some(2));
            assert!(wait_readable(reader.as_fd(), None).unwrap());
            assert_eq!(read(&reader, &reads).as_deref(), Some(&b"ab"[..]));
            // Until it is full.
            let much = [7; 1 << 16];
            while write_now(writer.as_fd(), &writes, &[IoSlice::new(&much)]).unwrap().is_some() {}
            drop(writer);
            while read(&reader, &reads).is_some_and(|bytes| !bytes.is_empty()) {}
            assert_eq!(read(&reader, &reads).as_deref(), Some(&b""[..]), "the end");
            assert!((way == 0) == (reads.get() == SOCKET));
        }
    }
}
