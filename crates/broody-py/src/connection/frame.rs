//! How messages are told apart in a stream.
//!
//! As by the standard module, which the other side may be: the length in 4 bytes, signed and big-endian; or, if it is longer than that can say, -1
//! and the length in 8 bytes.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use broody_os::Result;
use broody_os::stream::{self, Way};
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

const SHORT: usize = 4;
const LONG: usize = 12;
/// In place of the length, where that follows.
const LONGER: i32 = -1;

/// From so many bytes on, copying takes so long that others should have the GIL meanwhile.
const LONG_COPY: usize = 64 << 10;

/// A message that is being sent.
pub(crate) struct Outgoing<'a> {
    header: [u8; LONG],
    header_length: usize,
    bytes: &'a [u8],
    done: usize,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let mut header = [0; LONG];
        let header_length = match i32::try_from(bytes.len()) {
            Ok(length) => {
                header[..SHORT].copy_from_slice(&length.to_be_bytes());
                SHORT
            }
            Err(_) => {
                header[..SHORT].copy_from_slice(&LONGER.to_be_bytes());
                header[SHORT..].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
                LONG
            }
        };
        Self { header, header_length, bytes, done: 0 }
    }

    /// One of which so many bytes have been sent, the header's among them.
    pub(crate) fn resumed(bytes: &'a [u8], done: usize) -> Self {
        Self { done, ..Self::new(bytes) }
    }

    /// How many bytes have been sent, the header's among them.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// What is left of one.
    pub(crate) fn rest(bytes: &'a [u8]) -> Self {
        Self { header: [0; LONG], header_length: 0, bytes, done: 0 }
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.done > 0
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done == self.header_length + self.bytes.len()
    }

    pub(crate) fn is_long(&self) -> bool {
        self.bytes.len() >= LONG_COPY
    }

    fn parts(&self) -> [&[u8]; 2] {
        let header = &self.header[self.done.min(self.header_length)..self.header_length];
        [header, &self.bytes[self.done.saturating_sub(self.header_length)..]]
    }

    /// Sends what there is room for; whether that was something.
    pub(crate) fn send_now(&mut self, fd: BorrowedFd<'_>, way: &Way) -> Result<bool> {
        let sent = stream::write_now(fd, way, &self.parts().map(IoSlice::new))?;
        self.done += sent.unwrap_or(0);
        Ok(sent.is_some())
    }

    /// What has not been sent.
    pub(super) fn unsent(&self) -> Vec<u8> {
        self.parts().concat()
    }

    /// The same; `None` if there is no memory for it.
    pub(crate) fn try_unsent(&self) -> Option<Vec<u8>> {
        let mut copy = Vec::new();
        let parts = self.parts();
        copy.try_reserve_exact(parts.iter().map(|part| part.len()).sum()).ok()?;
        parts.iter().for_each(|part| copy.extend_from_slice(part));
        Some(copy)
    }
}

/// Where a message goes that fits there: memory of the caller's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    start: *mut u8,
    room: usize,
}

impl Target {
    pub(super) fn new(start: *mut u8, room: usize) -> Self {
        Self { start, room }
    }
}

/// A message that is being received.
#[derive(Default)]
pub(super) struct Incoming {
    header: [u8; LONG],
    header_got: usize,
    body: Option<Body>,
    got: usize,
    cut_off: bool,
}

struct Body {
    start: *mut u8,
    length: usize,
    /// What the bytes are in; `None`: the caller's target.
    bytes: Option<Py<PyBytes>>,
}

// SAFETY: the address is that of memory which belongs to this message alone: a bytes object that nobody else has seen yet, or the target that the
// caller lends for the call, in which alone it is used.
unsafe impl Send for Body {}

impl Incoming {
    pub(super) fn is_begun(&self) -> bool {
        self.header_got > 0
    }

    fn header_length(&self) -> usize {
        let is_longer = self.header_got >= SHORT && self.header[..SHORT] == LONGER.to_be_bytes();
        if is_longer { LONG } else { SHORT }
    }

    pub(super) fn has_header(&self) -> bool {
        self.header_got == self.header_length()
    }

    pub(super) fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Receives of the header what is there, and gives how many bytes that was; 0: the stream is at its end.
    pub(super) fn receive_header(&mut self, fd: BorrowedFd<'_>, way: &Way) -> Result<Option<usize>> {
        let (got, length) = (self.header_got, self.header_length());
        let mut bytes = [MaybeUninit::new(0); LONG];
        let count = stream::read_now(fd, way, &mut bytes[..length - got])?;
        if let Some(count) = count {
            for (place, byte) in self.header[got..got + count].iter_mut().zip(bytes) {
                // SAFETY: they were initialised from the beginning.
                *place = unsafe { byte.assume_init() };
            }
            self.header_got += count;
        }
        Ok(count)
    }

    /// The length that the header says; `None` for what cannot be one.
    pub(super) fn announced(&self) -> Option<u64> {
        let [a, b, c, d, long @ ..] = self.header;
        match i32::from_be_bytes([a, b, c, d]) {
            LONGER => Some(u64::from_be_bytes(long)),
            length => u64::try_from(length).ok(),
        }
    }

    /// Makes room for the message: in the target if it fits there.
    pub(super) fn make_body(&mut self, py: Python<'_>, length: u64, target: Option<Target>) -> PyResult<()> {
        let too_long = || PyMemoryError::new_err(format!("a message of {length} bytes was announced"));
        let length = usize::try_from(length).map_err(|_| too_long())?;
        self.body = Some(match target.filter(|target| length <= target.room) {
            Some(target) => Body { start: target.start, length, bytes: None },
            None => Body::new(py, length).map_err(|_| too_long())?,
        });
        Ok(())
    }

    pub(super) fn is_in_target(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.bytes.is_none())
    }

    pub(super) fn length(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.length)
    }

    pub(super) fn is_long(&self) -> bool {
        self.length() - self.got >= LONG_COPY
    }

    pub(super) fn is_done(&self) -> bool {
        self.got == self.length()
    }

    /// The stream has ended in the middle of it.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// Receives of the bytes what is there; whether that was something.
    pub(super) fn receive_body(&mut self, fd: BorrowedFd<'_>, way: &Way) -> Result<bool> {
        let Some(body) = self.body.as_ref().filter(|body| self.got < body.length) else { return Ok(true) };
        // SAFETY: see `Body`: `length` bytes are this message's alone, and need not be initialised.
        let rest = unsafe {
            let start = body.start.add(self.got).cast::<MaybeUninit<u8>>();
            std::slice::from_raw_parts_mut(start, body.length - self.got)
        };
        let count = stream::read_now(fd, way, rest)?;
        self.got += count.unwrap_or(0);
        self.cut_off = count == Some(0);
        Ok(count.is_some())
    }

    /// The message, all of which was received.
    pub(super) fn into_bytes(self, py: Python<'_>) -> PyResult<Bound<'_, PyBytes>> {
        match self.body.and_then(|body| body.bytes) {
            Some(bytes) => Ok(bytes.into_bound(py)),
            None => Ok(PyBytes::new(py, b"")),
        }
    }

    /// What another call can go on with: nothing of the caller's.
    pub(super) fn into_rest(mut self, py: Python<'_>) -> Option<Self> {
        if !self.is_begun() || self.cut_off {
            return None;
        }
        if let Some(body) = self.body.as_mut().filter(|body| body.bytes.is_none()) {
            let own = Body::new(py, body.length).ok()?;
            // SAFETY: so many bytes of both are there, and they are different objects.
            unsafe { own.start.copy_from_nonoverlapping(body.start, self.got) };
            *body = own;
        }
        Some(self)
    }
}

impl Body {
    /// A bytes object whose bytes are still to come. No page of it is touched before: who only announces much takes no memory.
    fn new(py: Python<'_>, length: usize) -> PyResult<Self> {
        let size = ffi::Py_ssize_t::try_from(length)?;
        // SAFETY: called with the GIL; without bytes to copy they are left as they are, for us to write, as long as nobody else has the object.
        let (bytes, start) = unsafe {
            let bytes =
                Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size))?;
            let start = ffi::PyBytes_AsString(bytes.as_ptr()).cast::<u8>();
            (bytes.cast_into_unchecked::<PyBytes>(), start)
        };
        Ok(Self { start, length, bytes: Some(bytes.unbind()) })
    }
}
