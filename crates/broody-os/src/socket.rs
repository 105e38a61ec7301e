//! Message sockets that pass descriptors and credentials.
//!
//! `SOCK_SEQPACKET` keeps message boundaries, so that many processes can send on one socket without a lock and a message is
//! there as a whole or not at all. See unix(7), cmsg(3).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::{Error, Pid, Result};

/// The most descriptors that one message of broody's carries.
pub const MAX_DESCRIPTORS: usize = 16;

const ANCILLARY: usize =
    rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS), ScmCredentials(1)) + std::mem::size_of::<usize>();

/// What was received.
#[derive(Debug)]
pub enum Received {
    /// A message of this many bytes.
    Message {
        /// Its length in the buffer.
        length: usize,
        /// The descriptors that came with it, close-on-exec.
        descriptors: Vec<OwnedFd>,
        /// The sender, where the socket [asks](pass_credentials) for it.
        sender: Option<Pid>,
    },
    /// Every other end is closed.
    Closed,
    /// There is no message now.
    Empty,
    /// A message was longer than the buffer, or its descriptors did not fit into this process (EMFILE).
    Truncated {
        /// How many bytes of it are in the buffer.
        length: usize,
    },
}

/// A connected pair of message sockets, close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::new("socketpair", error))
}

/// Lets messages received on `socket` tell their sender's pid, as the kernel knows it.
pub fn pass_credentials(socket: BorrowedFd<'_>) -> Result<()> {
    rustix::net::sockopt::set_socket_passcred(socket, true)
        .map_err(|error| Error::new("setsockopt(SO_PASSCRED)", error))
}

/// Lets a [`send`] on `socket` that waits fail with EAGAIN after `limit`.
pub fn limit_sending(socket: BorrowedFd<'_>, limit: std::time::Duration) -> Result<()> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    set_socket_timeout(socket, Timeout::Send, Some(limit))
        .map_err(|error| Error::new("setsockopt(SO_SNDTIMEO)", error))
}

/// Sends one message made of `parts` with `descriptors`. Waits for room if `wait`.
///
/// # Errors
/// EPIPE or ECONNRESET when the other end is closed, EAGAIN when there is no room, EMSGSIZE when the message is too long.
pub fn send(socket: impl AsFd, parts: &[&[u8]], descriptors: &[BorrowedFd<'_>], wait: bool) -> Result<()> {
    let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Error::new("sendmsg", Errno::TOOMANYREFS));
    }
    let flags = if wait { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
    loop {
        match rustix::net::sendmsg(&socket, &parts, &mut ancillary, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(Error::new("sendmsg", error)),
        }
    }
}

/// Receives one message into `buffer`. Waits for it if `wait`.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], wait: bool) -> Result<Received> {
    let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY];
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, !wait);
    let mut end_seen = false;
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let answer = rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags);
        let message = match answer {
            Ok(message) => message,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Ok(Received::Empty),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(Error::new("recvmsg", error)),
        };
        let mut descriptors = Vec::new();
        let mut sender = None;
        for part in ancillary.drain() {
            match part {
                RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
                RecvAncillaryMessage::ScmCredentials(who) => sender = Some(who.pid.as_raw_nonzero().get()),
                _ => {}
            }
        }
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Ok(Received::Truncated { length: message.bytes });
        }
        // No message of broody's is empty, so that an empty one is the end of file. The kernel looks at the queue first and at the end
        // of file then, without a lock around both: a last message that is sent in between is still there. After an end of file
        // nothing can be sent any more, so that the second look is the truth.
        if message.bytes == 0 {
            if end_seen {
                return Ok(Received::Closed);
            }
            end_seen = true;
            continue;
        }
        return Ok(Received::Message { length: message.bytes, descriptors, sender });
    }
}

/// Whether a failed [`send`] means that nobody will ever receive on the other end.
pub fn is_gone(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EPIPE | libc::ECONNRESET | libc::ECONNREFUSED | libc::ENOTCONN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes next, where nobody waits.
    fn next(socket: &OwnedFd) -> Received {
        let mut buffer = [0; 8];
        loop {
            match receive(socket, &mut buffer, false).unwrap() {
                Received::Empty => {}
                other => return other,
            }
        }
    }

    #[test]
    fn a_message_behind_an_end_of_file_is_received() {
        // To who receives, an empty message looks as an end of file does that the kernel tells too early.
        let (ours, theirs) = pair().unwrap();
        send(&theirs, &[], &[], false).unwrap();
        send(&theirs, &[b"last"], &[], false).unwrap();
        drop(theirs);
        assert!(matches!(next(&ours), Received::Message { length: 4, .. }));
        assert!(matches!(next(&ours), Received::Closed));
    }

    #[test]
    fn a_last_message_is_received_before_the_end_of_file() {
        // The kernel's race itself, which comes about once in 30,000 rounds: seldom seen here, but as it is.
        let (ends, to_use) = std::sync::mpsc::channel::<OwnedFd>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for theirs in to_use {
                    send(&theirs, &[b"last"], &[], false).unwrap();
                }
            });
            for _ in 0..10_000 {
                let (ours, theirs) = pair().unwrap();
                ends.send(theirs).unwrap();
                assert!(matches!(next(&ours), Received::Message { length: 4, .. }));
                assert!(matches!(next(&ours), Received::Closed));
            }
            drop(ends);
        });
    }
}
