//! The messages between a starter, the supervisor and a child.
//!
//! A message is one datagram: the header's length (4 bytes, little endian), the header (postcard), and raw bytes that the
//! header gives a meaning to. What is longer than [`INLINE`] goes as a memfd among the descriptors instead, so that no sender
//! ever waits for a reader because of a message's size.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use broody_os::socket::{self, Received};
use broody_os::wait::{ExitStatus, Usage};
use broody_os::{Pid, image, memory};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::embed::Runtime;
use crate::function::{FunctionId, Outcome};

/// The most raw bytes that travel inside a message.
pub(crate) const INLINE: usize = 16 * 1024;

/// The longest message: a header is at most as long as the inlined bytes.
pub(crate) const LONGEST: usize = 2 * INLINE + 4;

/// From the host or any of its descendants to the supervisor; the kernel tells who sent it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The first message. Raw: the program's name. Descriptors: the host's pidfd, the sending end of the request socket, for children, and the
    /// program's shared memory (or, where it could not be made, anything).
    Hello {
        /// The host has made the shared memory: with it, the program is over. Another one is a child that has a supervisor of its own.
        is_first: bool,
    },
    /// Start a process. Descriptors: the channel, then those that [`Start`] lists. Raw: the argument.
    Start(Start),
    /// `pid` is a forked child of `parent` (one of them is the sender): end it when the program dies. Descriptors: its pidfd.
    Adopt { pid: Pid, parent: Pid },
    /// The sender gave up the start of this number: end what came of it.
    Cancel { number: u64 },
    /// The child `pid` of the sender shall survive the program.
    Detach { pid: Pid },
    /// The host exits: end what is left, then yourself. Descriptors: where to say that it is done.
    Quit,
}

/// What to start. The descriptors behind the channel come in the order of the fields that stand for one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) identity: Identity,
    /// Which of the sender's starts this is.
    pub(crate) number: u64,
    pub(crate) function: FunctionId,
    /// Exec the program anew after the fork.
    pub(crate) exec: bool,
    /// What to exec, where it is not the supervisor's own program.
    pub(crate) program: Option<Program>,
    /// The argument is in a memfd, and not in the message.
    pub(crate) argument_apart: bool,
    /// The environment, where it differs from the supervisor's, is in a memfd.
    pub(crate) environment: bool,
    /// The working directory, where it differs.
    pub(crate) directory: bool,
    /// Standard output and standard error, where they differ.
    pub(crate) streams: [Stream; 2],
    /// How many descriptors follow that are the function's own.
    pub(crate) own: u8,
    /// What keeps the shared objects in the argument alive until the child has taken them: number and use of each hold.
    pub(crate) holds: Vec<(u32, u32)>,
}

/// A runtime's program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) path: OsString,
    pub(crate) arguments: Vec<OsString>,
    /// The build that the starter runs.
    pub(crate) build_id: Vec<u8>,
}

impl Program {
    /// How a process of the runtime is exec'ed.
    pub(crate) fn of(runtime: &Runtime) -> Self {
        Self {
            path: runtime.program.clone().into_os_string(),
            arguments: runtime.arguments.clone(),
            build_id: image::build_id().0,
        }
    }
}

/// Where a standard stream of the child comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    /// As the supervisor has it.
    Same,
    /// A descriptor among those of the message.
    Passed,
    /// The starter has it closed: /dev/null.
    Closed,
}

/// Who a process is, as [`current_process`](crate::current_process) tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// Whether the name was given, and is to be shown by ps.
    pub(crate) named: bool,
    pub(crate) daemon: bool,
    pub(crate) method: Option<crate::process::StartMethod>,
    pub(crate) parent: Option<Parent>,
}

/// Who started a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parent {
    pub(crate) name: String,
    pub(crate) pid: Pid,
}

/// From the supervisor to the host, once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) build_id: Vec<u8>,
    /// Of broody.
    pub(crate) version: String,
    pub(crate) pid: Pid,
    pub(crate) threads: usize,
}

/// On a channel, to the starter.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// From the supervisor (or a forked child): it runs. Descriptors: its pidfd.
    Started { pid: Pid },
    /// From the supervisor or a child before its function: it could not be started.
    Failed(String),
    /// From the child: how the call ended. Raw, or as a memfd: the result.
    Outcome { outcome: Outcome, apart: bool },
    /// From the supervisor: it was reaped. Nothing follows.
    Ended { code: Option<i32>, usage: RawUsage },
    /// The answer to [`Request::Quit`]: everything that shall end has ended.
    Gone,
}

/// [`Usage`] on the wire.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RawUsage(u64, u64, u64);

impl From<Usage> for RawUsage {
    fn from(usage: Usage) -> Self {
        Self(usage.user.as_micros() as u64, usage.system.as_micros() as u64, usage.peak_memory)
    }
}

impl From<RawUsage> for Usage {
    fn from(raw: RawUsage) -> Self {
        let micros = std::time::Duration::from_micros;
        Self { user: micros(raw.0), system: micros(raw.1), peak_memory: raw.2 }
    }
}

impl Notice {
    pub(crate) fn ended(status: ExitStatus, usage: Usage) -> Self {
        Notice::Ended { code: status.exit_code(), usage: usage.into() }
    }
}

/// A message as it arrived.
#[derive(Debug)]
pub(crate) struct Message<T> {
    pub(crate) header: T,
    pub(crate) raw: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) sender: Option<Pid>,
}

/// What a receive found.
#[derive(Debug)]
pub(crate) enum Arrived<T> {
    Message(Message<T>),
    Empty,
    Closed,
    /// Not to be understood, or its descriptors found no room in this process.
    Spoiled(&'static str),
}

/// Sends one message.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    header: &T,
    raw: &[u8],
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> broody_os::Result<()> {
    let refused = |_| broody_os::Error::new("sendmsg", std::io::Error::from(std::io::ErrorKind::InvalidData));
    let header = crate::codec::encode(header).map_err(refused)?;
    let length = (header.len() as u32).to_le_bytes();
    socket::send(socket, &[&length, &header, raw], descriptors, wait)
}

thread_local! {
    /// Where messages arrive. Kept, since the memory for the longest one would have to be cleared for each, and in the supervisor,
    /// which has just forked, each touched page is a copied page.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Receives one message.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd, wait: bool) -> broody_os::Result<Arrived<T>> {
    // At exit this thread's own may be gone already.
    let mut buffer = BUFFER.try_with(RefCell::take).unwrap_or_default();
    buffer.resize(LONGEST, 0);
    let received = receive_into(&mut buffer, socket, wait);
    let _ = BUFFER.try_with(|kept| kept.replace(buffer));
    received
}

fn receive_into<T: DeserializeOwned>(
    buffer: &mut [u8],
    socket: impl AsFd,
    wait: bool,
) -> broody_os::Result<Arrived<T>> {
    let (length, descriptors, sender) = match socket::receive(socket, buffer, wait)? {
        Received::Message { length, descriptors, sender } => (length, descriptors, sender),
        Received::Empty => return Ok(Arrived::Empty),
        Received::Closed => return Ok(Arrived::Closed),
        Received::Truncated { .. } => {
            return Ok(Arrived::Spoiled("its descriptors found no room (RLIMIT_NOFILE), or it was too long"));
        }
    };
    let Some((header, raw)) = split(&buffer[..length]) else {
        return Ok(Arrived::Spoiled("it has no header"));
    };
    match crate::codec::decode(header) {
        Ok(header) => Ok(Arrived::Message(Message { header, raw: raw.to_vec(), descriptors, sender })),
        Err(_) => Ok(Arrived::Spoiled("its header cannot be decoded")),
    }
}

/// Splits a datagram into its header and the raw bytes.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Puts bytes that are too long for a message into memory of their own.
pub(crate) fn apart(name: &str, bytes: &[u8]) -> broody_os::Result<Option<OwnedFd>> {
    if bytes.len() <= INLINE { Ok(None) } else { memory::create_with(name, bytes).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_split_or_refused() {
        assert_eq!(split(&[1, 0, 0, 0, 9, 7, 7]), Some((&[9u8][..], &[7u8, 7][..])));
        assert_eq!(split(&[2, 0, 0, 0, 9]), None);
        assert_eq!(split(&[2, 0]), None);
    }

    #[test]
    fn descriptors_and_bytes_arrive_with_their_header() {
        let (ours, theirs) = socket::pair().unwrap();
        let memory = memory::create_with("test", b"apart").unwrap();
        send(&ours, &Request::Detach { pid: 7 }, b"raw", &[memory.as_fd()], true).unwrap();
        let Arrived::Message(message) = receive::<Request>(&theirs, true).unwrap() else { panic!() };
        assert!(matches!(message.header, Request::Detach { pid: 7 }));
        assert_eq!(message.raw, b"raw");
        assert_eq!(&*memory::SealedBytes::new(&message.descriptors[0]).unwrap(), b"apart");
        assert!(matches!(receive::<Request>(&theirs, false).unwrap(), Arrived::Empty));
        drop(ours);
        assert!(matches!(receive::<Request>(&theirs, false).unwrap(), Arrived::Closed));
    }

    #[test]
    fn noise_is_refused() {
        let (ours, theirs) = socket::pair().unwrap();
        for noise in [&[0xffu8; 3][..], &[0xff; 40], &[1, 0, 0, 0, 0x77]] {
            socket::send(&ours, &[noise], &[], true).unwrap();
            assert!(matches!(receive::<Request>(&theirs, true).unwrap(), Arrived::Spoiled(_)));
        }
    }
}
