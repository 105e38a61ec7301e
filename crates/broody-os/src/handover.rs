//! Descriptors for whoever asks with the right token.
//!
//! A [`Desk`] is a thread that listens on a socket with an abstract name, which no file stands for. Who connects, says a token, and gets the descriptor that was
//! left for it, once. The token is the key: nobody can guess it. See unix(7), SO_PEERCRED, SCM_RIGHTS.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::events::{self, EventFd};
use crate::socket::{self, Received};
use crate::{Error, Result, fork, signals};

/// What names a descriptor: nobody else can guess it.
pub type Token = [u8; 16];

/// How long who has connected may take to say a token. It does so at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same for other users: such as processes that have given up their rights, or anybody who only wants to keep the others waiting.
const LITTLE_PATIENCE: Duration = Duration::from_millis(200);

const STACK: usize = 128 * 1024;

type Left = Arc<Mutex<HashMap<Token, OwnedFd>>>;

/// Where descriptors are left.
#[derive(Debug)]
pub struct Desk {
    name: Vec<u8>,
    listener: RawFd,
    left: Left,
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
    owner: crate::Pid,
}

impl Desk {
    /// Opens one, by this abstract name.
    ///
    /// # Errors
    /// EADDRINUSE when the name is taken; what the system refuses.
    pub fn open(name: &[u8]) -> Result<Self> {
        let address = address(name)?;
        let listener = UnixListener::bind_addr(&address).map_err(|error| Error::new("bind", error))?;
        // Who has connected may go away again before it is accepted.
        listener.set_nonblocking(true).map_err(|error| Error::new("fcntl", error))?;
        let number = listener.as_raw_fd();
        let (left, stop) = (Left::default(), Arc::new(EventFd::new()?));
        let (theirs, told) = (left.clone(), stop.clone());
        let builder = Builder::new().name("broody-handover".to_owned()).stack_size(STACK);
        let thread = signals::with_all_blocked(|| builder.spawn(move || serve(&listener, &theirs, &told)));
        let thread = thread.map_err(|error| Error::new("clone", error))?;
        Ok(Self { name: name.to_owned(), listener: number, left, stop, thread, owner: fork::pid() })
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether this process has opened it, or is a fork of one that has.
    pub fn is_own(&self) -> bool {
        self.owner == fork::pid()
    }

    /// Leaves a descriptor.
    pub fn leave(&self, token: Token, fd: OwnedFd) {
        self.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(token, fd);
    }

    /// Closes it, and the descriptors that nobody has taken.
    pub fn close(self) {
        self.stop.signal();
        let _ = self.thread.join();
    }

    /// In a fork of its process, which has copies of the descriptors but not the thread: closes them.
    pub fn forget(self) {
        // The thread may have held the lock; then the copies stay until this process ends.
        if let Ok(mut left) = self.left.try_lock() {
            left.clear();
        }
        let _ = crate::stream::close(self.listener);
        // As the thread would: it has a share of this.
        let _ = crate::stream::close(self.stop.as_fd().as_raw_fd());
        std::mem::forget(self.stop);
    }
}

fn address(name: &[u8]) -> Result<SocketAddr> {
    SocketAddr::from_abstract_name(name).map_err(|error| Error::new("bind", error))
}

fn serve(listener: &UnixListener, left: &Left, stop: &EventFd) {
    while let Ok([ready, false]) = events::poll(&[listener.as_fd(), stop.as_fd()], None) {
        if ready && let Ok((asker, _)) = listener.accept() {
            // Who does not keep to the rules gets nothing.
            let _ = answer(asker, left);
        }
    }
}

fn answer(mut asker: UnixStream, left: &Left) -> std::io::Result<()> {
    let who = rustix::net::sockopt::socket_peercred(&asker)?;
    let is_same = who.uid == rustix::process::geteuid() || who.uid.is_root();
    asker.set_nonblocking(false)?;
    asker.set_read_timeout(Some(if is_same { PATIENCE } else { LITTLE_PATIENCE }))?;
    let mut token = Token::default();
    asker.read_exact(&mut token)?;
    let fd = left.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&token);
    if let Some(fd) = fd {
        let _ = socket::send(&asker, &[b"."], &[fd.as_fd()], true);
    }
    Ok(())
}

/// Asks at the desk of this name for what was left for `token`. The answer comes by [`taken`].
///
/// # Errors
/// ECONNREFUSED when there is no such desk.
pub fn ask(name: &[u8], token: &Token) -> Result<OwnedFd> {
    let mut desk = UnixStream::connect_addr(&address(name)?).map_err(|error| Error::new("connect", error))?;
    desk.write_all(token).map_err(|error| Error::new("write", error))?;
    Ok(desk.into())
}

/// The descriptor that came, once what [`ask`] gave is readable; `None` when there is none.
pub fn taken(asked: &OwnedFd) -> Result<Option<OwnedFd>> {
    match socket::receive(asked, &mut [0], true)? {
        Received::Message { descriptors, .. } => Ok(descriptors.into_iter().next()),
        Received::Truncated { .. } => Err(Error::new("recvmsg", rustix::io::Errno::MFILE)),
        Received::Closed | Received::Empty => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_taken_once_by_who_knows_the_token() {
        let name = format!("broody-handover-test-{}", fork::pid()).into_bytes();
        let desk = Desk::open(&name).unwrap();
        let take = |token: Token| taken(&ask(&name, &token).unwrap()).unwrap();
        let (reader, writer) = crate::stream::pipe().unwrap();
        desk.leave([7; 16], writer);
        assert!(take([8; 16]).is_none());
        // Who says nothing, or half of it, keeps nobody up for long.
        drop(UnixStream::connect_addr(&address(&name).unwrap()).unwrap());
        let writer = take([7; 16]).unwrap();
        assert!(take([7; 16]).is_none());
        assert!(!events::is_readable(reader.as_fd()).unwrap());
        desk.leave([9; 16], writer);
        desk.close();
        assert!(events::is_readable(reader.as_fd()).unwrap(), "it was closed with the desk");
        assert!(ask(&name, &[9; 16]).is_err());
    }
}
