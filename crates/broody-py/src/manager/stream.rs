//! Messages through a stream socket that this process has for itself.
//!
//! Framed as by [`Connection`](crate::connection::Connection), but read ahead: a message that has come takes one system call. Nothing here waits, and half
//! a message stays until the rest of it comes. Memory is taken for bytes that have come, never for bytes that were announced.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broody_os::stream::{self, Way};
use broody_os::{Error, Result, socket};

use crate::connection::Outgoing;

/// What one look at the socket takes at most, of short messages.
const CHUNK: usize = 4096;
/// As much more room is made at a time for a long one.
const STEP: usize = 1 << 20;
/// From so many bytes on a message is a long one.
pub(super) const LONG: usize = 64 << 10;
/// Who sends a long message and makes a pause of that length is not waited for.
const PAUSE: Duration = Duration::from_millis(1);
/// Memory longer than this is not kept.
const KEPT: usize = 64 << 10;

const SHORT_HEADER: usize = 4;
const LONG_HEADER: usize = 12;

/// A message that was received.
#[derive(Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
    /// Where it begins.
    start: usize,
}

impl Message {
    /// Its memory, and where in it it begins.
    pub(super) fn into_parts(self) -> (Vec<u8>, usize) {
        (self.bytes, self.start)
    }

    /// The memory for another one.
    pub(super) fn reset(&mut self) -> &mut Vec<u8> {
        self.start = 0;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        &mut self.bytes
    }
}

impl std::ops::Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// The memory of a long message that nobody uses any more, for the next one: new memory would have to be given by the kernel, page by page.
static SPARE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// No more is kept, in bytes.
const MOST_SPARE: usize = 8 << 20;

/// Keeps memory for the next long message, if there is none.
pub(super) fn spare(mut bytes: Vec<u8>) {
    // Only tried: a fork may have been made while another thread had it.
    if (LONG..=MOST_SPARE).contains(&bytes.capacity())
        && let Ok(mut spare) = SPARE.try_lock()
        && spare.capacity() < bytes.capacity()
    {
        bytes.clear();
        std::mem::swap(&mut *spare, &mut bytes);
    }
}

fn take_spare(length: usize) -> Option<Vec<u8>> {
    let mut spare = SPARE.try_lock().ok()?;
    (spare.capacity() >= length).then(|| std::mem::take(&mut *spare))
}

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Message,
    Nothing,
    /// The other side has closed it; half a message is lost.
    End,
    /// No length of a message, or one longer than is allowed.
    Nonsense,
    /// A message of so many bytes, for which there is no memory. It is passed over; what follows it is received.
    TooLong(usize),
}

/// A descriptor that is closed on purpose: in a fork nobody is left to drop what other threads had.
#[derive(Debug)]
pub(super) struct Socket(AtomicI32);

const CLOSED: RawFd = -1;

// Relaxed throughout: who closes it knows that nobody uses it.
impl Socket {
    pub(super) fn close(&self) {
        let fd = self.0.swap(CLOSED, Ordering::Relaxed);
        if fd != CLOSED {
            let _ = stream::close(fd);
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.load(Ordering::Relaxed)
    }

    /// Lets the other side, and who waits for it, see the end.
    pub(super) fn hang_up(&self) {
        if self.fd() != CLOSED {
            stream::hang_up(self.as_fd());
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // A descriptor that nobody can have stands for a closed one: the kernel answers EBADF.
        let fd = if self.fd() == CLOSED { RawFd::MAX } else { self.fd() };
        // SAFETY: it is open as long as `self` is not closed, which nobody does who uses it.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close();
    }
}

pub(super) struct Stream {
    socket: Arc<Socket>,
    way: Way,
    /// What has come; the first `read` bytes were given out.
    come: Vec<u8>,
    read: usize,
    /// So many bytes are still to come of a message that is passed over.
    passed_over: usize,
    /// What could not be sent yet; the first `sent` bytes were.
    out: Vec<u8>,
    sent: usize,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let socket = Arc::new(Socket(AtomicI32::new(fd.into_raw_fd())));
        Self {
            socket,
            way: Way::default(),
            come: Vec::new(),
            read: 0,
            passed_over: 0,
            out: Vec::new(),
            sent: 0,
        }
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// The next message, of at most `most` bytes, into `message`.
    pub(super) fn receive(&mut self, most: u64, message: &mut Message) -> Result<Found> {
        self.receive_until(most, message, |_| false)
    }

    /// As [`receive`](Self::receive), but nothing of what makes a message a long one: `Nothing` then.
    pub(super) fn receive_a_little(&mut self, most: u64, message: &mut Message) -> Result<Found> {
        self.receive_until(most, message, |stream| stream.expects(LONG))
    }

    /// As [`receive`](Self::receive), for a long message: as long as more of it comes without a pause.
    pub(super) fn receive_steadily(&mut self, most: u64, message: &mut Message) -> Result<Found> {
        loop {
            let before = self.come.len();
            match self.receive(most, message)? {
                Found::Nothing if self.come.len() > before => {
                    stream::wait_readable(self.as_fd(), Some(Instant::now() + PAUSE))?;
                }
                found => return Ok(found),
            }
        }
    }

    fn receive_until(
        &mut self,
        most: u64,
        message: &mut Message,
        is_enough: impl Fn(&Self) -> bool,
    ) -> Result<Found> {
        loop {
            if self.passed_over > 0 {
                if is_enough(self) {
                    return Ok(Found::Nothing);
                }
                match self.pass_over()? {
                    None => return Ok(Found::Nothing),
                    Some(0) => return Ok(Found::End),
                    Some(_) => continue,
                }
            }
            let have = self.come.len() - self.read;
            let (header, length) = match self.announced() {
                Some(Ok((header, length))) if length <= most => (header, length as usize),
                Some(_) => return Ok(Found::Nonsense),
                None => (0, usize::MAX),
            };
            if length <= have.saturating_sub(header) && header > 0 {
                self.give_out(header, length, message);
                return Ok(Found::Message);
            }
            if is_enough(self) {
                return Ok(Found::Nothing);
            }
            if !self.make_room(header, length)? {
                return Ok(Found::TooLong(length));
            }
            match self.read_more(header, length)? {
                None => return Ok(Found::Nothing),
                Some(0) => return Ok(Found::End),
                Some(_) => {}
            }
        }
    }

    /// Whether something has come that was not given out, or waits to be sent.
    pub(super) fn has_more(&self) -> bool {
        self.read < self.come.len() || !self.out.is_empty()
    }

    /// Whether a message of at least so many bytes is coming.
    pub(super) fn expects(&self, length: usize) -> bool {
        self.passed_over > 0
            || matches!(self.announced(), Some(Ok((_, announced))) if announced >= length as u64)
    }

    /// The lengths of the header and of what follows it, if they have come.
    fn announced(&self) -> Option<std::result::Result<(usize, u64), ()>> {
        let come = &self.come[self.read..];
        let short = i32::from_be_bytes(*come.first_chunk::<SHORT_HEADER>()?);
        if short != -1 {
            return Some(u64::try_from(short).map(|length| (SHORT_HEADER, length)).map_err(|_| ()));
        }
        let long = u64::from_be_bytes(*come.get(SHORT_HEADER..LONG_HEADER)?.first_chunk()?);
        Some(if long <= isize::MAX as u64 { Ok((LONG_HEADER, long)) } else { Err(()) })
    }

    fn give_out(&mut self, header: usize, length: usize, message: &mut Message) {
        let start = self.read + header;
        let end = start + length;
        if length > CHUNK && end == self.come.len() {
            // As it is: it is not copied.
            message.bytes = std::mem::take(&mut self.come);
            message.start = start;
            self.read = 0;
            return;
        }
        message.reset().extend_from_slice(&self.come[start..end]);
        self.read = end;
        if end == self.come.len() {
            self.come.clear();
            self.read = 0;
        }
    }

    /// How much is read at once of a message whose length is known, or of whatever comes.
    fn step(&self, header: usize, length: usize) -> usize {
        match header {
            0 => CHUNK,
            _ => (header + length - self.come.len()).clamp(CHUNK, STEP),
        }
    }

    /// Makes room for the next step. Whether there is memory for it; if not, the message is passed over.
    fn make_room(&mut self, header: usize, length: usize) -> Result<bool> {
        if self.read > 0 {
            self.come.drain(..self.read);
            self.read = 0;
        }
        let left = self.step(header, length);
        if left > CHUNK
            && self.come.capacity() < header + length
            && let Some(mut spare) = take_spare(header + length)
        {
            spare.extend_from_slice(&self.come);
            self.come = spare;
        }
        // As much again as there is, or else just what is needed.
        let come = &mut self.come;
        if come.try_reserve(left).or_else(|_| come.try_reserve_exact(left)).is_ok() {
            return Ok(true);
        }
        if header == 0 {
            return Err(no_memory());
        }
        self.passed_over = header + length - self.come.len();
        self.come = Vec::new();
        Ok(false)
    }

    /// Reads what there is of a message that is passed over. How many bytes that were; 0: the end.
    fn pass_over(&mut self) -> Result<Option<usize>> {
        let mut bytes = [MaybeUninit::uninit(); KEPT];
        let most = self.passed_over.min(bytes.len());
        let count = stream::read_now(self.socket.as_fd(), &self.way, &mut bytes[..most])?;
        self.passed_over -= count.unwrap_or(0);
        Ok(count)
    }

    /// Reads into the room that was made. How many bytes that were; 0: the end.
    fn read_more(&mut self, header: usize, length: usize) -> Result<Option<usize>> {
        let left = self.step(header, length);
        let room = self.come.spare_capacity_mut();
        // Of a long message not a byte too much: then its memory is the message's.
        let room = if left > CHUNK { &mut room[..left] } else { room };
        let count = stream::read_now(self.socket.as_fd(), &self.way, room)?;
        let come = self.come.len() + count.unwrap_or(0);
        // SAFETY: so many bytes of the spare capacity were written.
        unsafe { self.come.set_len(come) };
        if come == 0 {
            // Who says nothing costs nothing.
            self.come = Vec::new();
        }
        Ok(count)
    }

    /// Sends a message, or as much of it as there is room for; the rest is for [`flush`](Self::flush). Whether all of it was sent.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<bool> {
        if !self.out.is_empty() {
            let behind = Outgoing::new(bytes);
            self.out.append(&mut behind.try_unsent().ok_or_else(no_memory)?);
            return self.flush();
        }
        let mut message = Outgoing::new(bytes);
        while !message.is_done() {
            if !message.send_now(self.socket.as_fd(), &self.way)? {
                self.out = message.try_unsent().ok_or_else(no_memory)?;
                self.sent = 0;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As [`send`](Self::send), for who keeps the message until all of it is sent: `done` says how much was.
    pub(super) fn send_more(&mut self, bytes: &[u8], done: &mut usize) -> Result<bool> {
        let mut message = Outgoing::resumed(bytes, *done);
        while !message.is_done() {
            let was_sent = message.send_now(self.socket.as_fd(), &self.way);
            *done = message.done();
            if !was_sent? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on with what could not be sent. Whether nothing is left.
    pub(super) fn flush(&mut self) -> Result<bool> {
        while self.sent < self.out.len() {
            let rest = [IoSlice::new(&self.out[self.sent..])];
            match stream::write_now(self.socket.as_fd(), &self.way, &rest)? {
                Some(count) => self.sent += count,
                None => return Ok(false),
            }
        }
        self.out = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// Whether something waits to be sent.
    pub(super) fn is_full(&self) -> bool {
        !self.out.is_empty()
    }

    /// Sends a short message and a descriptor with it, if there is room for it at once.
    pub(super) fn send_with(&mut self, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<()> {
        let length = (bytes.len() as i32).to_be_bytes();
        socket::send(&*self.socket, &[&length, bytes], &[descriptor], false)
    }

    /// A message that perhaps has a descriptor with it, which may be here already. `None`: not yet.
    pub(super) fn receive_with(&mut self, message: &mut Message) -> Result<Option<Option<OwnedFd>>> {
        let mut chunk = [0; 64];
        let descriptor = match socket::receive(&*self.socket, &mut chunk, false)? {
            socket::Received::Message { length, descriptors, .. } => {
                self.come.extend_from_slice(&chunk[..length]);
                descriptors.into_iter().next()
            }
            socket::Received::Empty => return Ok(None),
            // There was no room for the descriptor in this process.
            socket::Received::Truncated { length } => {
                self.come.extend_from_slice(&chunk[..length]);
                None
            }
            socket::Received::Closed => return Err(closed()),
        };
        match self.receive(CHUNK as u64, message)? {
            Found::Message => Ok(Some(descriptor)),
            _ => Err(closed()),
        }
    }
}

fn no_memory() -> Error {
    Error::new("malloc", std::io::Error::from(std::io::ErrorKind::OutOfMemory))
}

fn closed() -> Error {
    Error::new("recvmsg", std::io::Error::from(std::io::ErrorKind::ConnectionReset))
}
