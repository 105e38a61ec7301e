//! Messages through a descriptor: what Python's `Connection` is made of.
//!
//! A message is a header with its length and the bytes themselves, see [`frame`]. Both go by one system call where there is room, and come by two:
//! nothing is read ahead, since the descriptor may be somebody else's the next moment.
//!
//! Each operation is tried at once, with the GIL; only if it would have to wait, or has much to copy, it goes on without. What a signal handler's
//! exception interrupts is kept: the next call goes on with the message that was half received, or half sent.

mod frame;
mod ready;

use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use broody_os::stream::{self, Way};
use broody_shm::pace::Pace;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyEOFError, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use self::frame::{Incoming, Target};
use crate::errors::os_error;
use crate::waiting;

pub(crate) use self::frame::Outgoing;
pub(crate) use self::ready::wait_for_any;

const CLOSED: RawFd = -1;

/// One end of a pipe or a stream socket.
#[pyclass(subclass, frozen, name = "_ConnectionBase", module = "broody.connection")]
pub(crate) struct Connection {
    handle: AtomicI32,
    readable: AtomicBool,
    writable: AtomicBool,
    way: Way,
    pace: Pace,
    unfinished: Mutex<Unfinished>,
}

/// What was interrupted.
#[derive(Default)]
struct Unfinished {
    incoming: Option<Incoming>,
    unsent: Vec<u8>,
}

// Relaxed throughout: the GIL orders who changes these and who reads them.
#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            handle: AtomicI32::new(CLOSED),
            readable: AtomicBool::new(false),
            writable: AtomicBool::new(false),
            way: Way::default(),
            pace: Pace::default(),
            unfinished: Mutex::default(),
        }
    }

    /// `handle` is the connection's from now on.
    #[pyo3(signature = (handle, readable=true, writable=true))]
    fn __init__(&self, handle: RawFd, readable: bool, writable: bool) -> PyResult<()> {
        if handle < 0 {
            return Err(PyValueError::new_err("invalid handle"));
        }
        if !readable && !writable {
            return Err(PyValueError::new_err("at least one of `readable` and `writable` must be True"));
        }
        self.readable.store(readable, Ordering::Relaxed);
        self.writable.store(writable, Ordering::Relaxed);
        self.handle.store(handle, Ordering::Relaxed);
        Ok(())
    }

    #[getter(_handle)]
    fn handle(&self) -> Option<RawFd> {
        Some(self.handle.load(Ordering::Relaxed)).filter(|handle| *handle != CLOSED)
    }

    #[setter(_handle)]
    fn set_handle(&self, handle: Option<RawFd>) {
        self.handle.store(handle.unwrap_or(CLOSED), Ordering::Relaxed);
    }

    /// Whether it is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.handle().is_none()
    }

    /// Whether messages can be received.
    #[getter]
    fn readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    /// Whether messages can be sent.
    #[getter]
    fn writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    fn _check_closed(&self) -> PyResult<()> {
        self.open_handle().map(|_| ())
    }

    fn _check_readable(&self) -> PyResult<()> {
        self.readable().then_some(()).ok_or_else(|| PyOSError::new_err("connection is write-only"))
    }

    fn _check_writable(&self) -> PyResult<()> {
        self.writable().then_some(()).ok_or_else(|| PyOSError::new_err("connection is read-only"))
    }

    /// Its descriptor.
    fn fileno(&self) -> PyResult<RawFd> {
        self.open_handle()
    }

    /// Closes it.
    fn close(&self) -> PyResult<()> {
        let handle = self.handle.swap(CLOSED, Ordering::Relaxed);
        *self.unfinished() = Unfinished::default();
        match handle {
            CLOSED => Ok(()),
            handle => stream::close(handle).map_err(os_error),
        }
    }

    /// Sends the bytes of `buf`, or `size` of them from `offset` on, as one message.
    #[pyo3(signature = (buf, offset=0, size=None))]
    fn send_bytes(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: isize,
        size: Option<isize>,
    ) -> PyResult<()> {
        let fd = self.open_handle()?;
        self._check_writable()?;
        let buffer = contiguous(buf)?;
        let length = buffer.len_bytes() as isize;
        if offset < 0 {
            return Err(PyValueError::new_err("offset is negative"));
        }
        if length < offset {
            return Err(PyValueError::new_err("buffer length < offset"));
        }
        let size = match size {
            None => length - offset,
            Some(size) if size < 0 => return Err(PyValueError::new_err("size is negative")),
            Some(size) if size > length - offset => {
                return Err(PyValueError::new_err("buffer length < offset + size"));
            }
            Some(size) => size,
        };
        let bytes: &[u8] = match size {
            0 => &[],
            // SAFETY: within the buffer, which is contiguous and held for this call. As with every buffer, other threads may write to it
            // meanwhile; the bytes are only handed to the kernel.
            size => unsafe {
                std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>().offset(offset), size as usize)
            },
        };
        self.send_message(py, fd, bytes)
    }

    /// Receives a message of at most `maxlength` bytes.
    #[pyo3(signature = (maxlength=None))]
    fn recv_bytes<'py>(&self, py: Python<'py>, maxlength: Option<i64>) -> PyResult<Bound<'py, PyBytes>> {
        let fd = self.open_handle()?;
        self._check_readable()?;
        let most = match maxlength {
            Some(most) => Some(
                u64::try_from(most).map_err(|_| PyValueError::new_err("maxlength must be non-negative"))?,
            ),
            None => None,
        };
        let message = self.receive_message(py, fd, most, None)?;
        message.into_bytes(py)
    }

    /// Receives a message into `buf`, from `offset` on. Gives its length in bytes; BufferTooShort, with the message, if there is no room.
    #[pyo3(signature = (buf, offset=0))]
    fn recv_bytes_into(&self, py: Python<'_>, buf: &Bound<'_, PyAny>, offset: isize) -> PyResult<usize> {
        let fd = self.open_handle()?;
        self._check_readable()?;
        let buffer = contiguous(buf)?;
        if buffer.readonly() {
            return Err(PyTypeError::new_err(
                "a buffer that can be written to is needed, a bytearray for example",
            ));
        }
        let offset = usize::try_from(offset).map_err(|_| PyValueError::new_err("negative offset"))?;
        let Some(room) = buffer.len_bytes().checked_sub(offset) else {
            return Err(PyValueError::new_err("offset too large"));
        };
        let target = Target::new(buffer.buf_ptr().cast::<u8>().wrapping_add(offset), room);
        let message = self.receive_message(py, fd, None, Some(target))?;
        if message.is_in_target() {
            return Ok(message.length());
        }
        let bytes = message.into_bytes(py)?;
        let length = bytes.as_bytes().len();
        if length <= room {
            // It was begun by another call.
            // SAFETY: so many bytes of the buffer are there from `offset` on.
            unsafe {
                let start = buffer.buf_ptr().cast::<u8>().add(offset);
                start.copy_from_nonoverlapping(bytes.as_bytes().as_ptr(), length);
            }
            return Ok(length);
        }
        let too_short = py.import("broody.context")?.getattr("BufferTooShort")?;
        Err(PyErr::from_value(too_short.call1((bytes,))?))
    }

    /// Whether there is something to be received, or the end; waits for it for `timeout` seconds, for ever if that is None.
    #[pyo3(signature = (timeout=Some(0.0)))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let fd = self.open_handle()?;
        self._check_readable()?;
        let fd = borrow(fd);
        if stream::wait_readable(fd, Some(Instant::now())).map_err(os_error)? {
            return Ok(true);
        }
        if timeout.is_some_and(|timeout| timeout <= 0.0) {
            return Ok(false);
        }
        Ok(wait_until(py, waiting::limit(timeout), |until| stream::wait_readable(fd, Some(until)))?.is_some())
    }
}

impl Connection {
    fn open_handle(&self) -> PyResult<RawFd> {
        self.handle().ok_or_else(|| PyOSError::new_err("handle is closed"))
    }

    fn unfinished(&self) -> MutexGuard<'_, Unfinished> {
        self.unfinished.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn send_message(&self, py: Python<'_>, fd: RawFd, bytes: &[u8]) -> PyResult<()> {
        let fd = borrow(fd);
        let unsent = std::mem::take(&mut self.unfinished().unsent);
        if !unsent.is_empty() {
            let mut rest = Outgoing::rest(&unsent);
            if let Err(error) = self.send_all(py, fd, &mut rest) {
                self.unfinished().unsent = rest.unsent();
                return Err(error);
            }
        }
        let mut message = Outgoing::new(bytes);
        self.send_all(py, fd, &mut message).inspect_err(|_| {
            if message.is_begun() {
                self.unfinished().unsent = message.unsent();
            }
        })
    }

    fn send_all(&self, py: Python<'_>, fd: BorrowedFd<'_>, message: &mut Outgoing<'_>) -> PyResult<()> {
        if !message.is_long() {
            message.send_now(fd, &self.way).map_err(os_error)?;
        }
        if message.is_done() {
            return Ok(());
        }
        wait_until(py, None, |until| {
            while !message.is_done() {
                if !message.send_now(fd, &self.way)? && !stream::wait_writable(fd, Some(until))? {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(())
    }

    fn receive_message(
        &self,
        py: Python<'_>,
        fd: RawFd,
        most: Option<u64>,
        target: Option<Target>,
    ) -> PyResult<Incoming> {
        let mut message = self.unfinished().incoming.take().unwrap_or_default();
        match self.receive_all(py, borrow(fd), &mut message, most, target) {
            Ok(()) => Ok(message),
            Err(Failure::Interrupted(error)) => {
                if let Some(rest) = message.into_rest(py) {
                    self.unfinished().incoming = Some(rest);
                }
                Err(error)
            }
            Err(Failure::Lost(error)) => {
                // Where the next message begins is not known any more.
                self.readable.store(false, Ordering::Relaxed);
                if !self.writable() {
                    let _ = self.close();
                }
                Err(error)
            }
        }
    }

    fn receive_all(
        &self,
        py: Python<'_>,
        fd: BorrowedFd<'_>,
        message: &mut Incoming,
        most: Option<u64>,
        target: Option<Target>,
    ) -> Result<(), Failure> {
        while !message.has_header() {
            let count = match message.receive_header(fd, &self.way).map_err(os_error)? {
                Some(count) => count,
                None => match self.wait_for_header(py, fd, message)? {
                    Some(count) => count,
                    None => continue,
                },
            };
            if count == 0 && message.is_begun() {
                return Err(PyOSError::new_err("got end of file during message").into());
            }
            if count == 0 {
                return Err(PyEOFError::new_err(()).into());
            }
        }
        if !message.has_body() {
            let length = message.announced().filter(|length| most.is_none_or(|most| *length <= most));
            let Some(length) = length else {
                return Err(Failure::Lost(PyOSError::new_err("bad message length")));
            };
            message.make_body(py, length, target).map_err(Failure::Lost)?;
        }
        if !message.is_long() {
            message.receive_body(fd, &self.way).map_err(os_error)?;
        }
        if !message.is_done() && !message.is_cut_off() {
            wait_until(py, None, |until| {
                while !message.is_done() && !message.is_cut_off() {
                    if !message.receive_body(fd, &self.way)? && !stream::wait_readable(fd, Some(until))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
        }
        if message.is_cut_off() {
            return Err(PyOSError::new_err("got end of file during message").into());
        }
        Ok(())
    }

    /// Waits, without the GIL. How many bytes of the header came; `None`: it is to be tried.
    fn wait_for_header(
        &self,
        py: Python<'_>,
        fd: BorrowedFd<'_>,
        message: &mut Incoming,
    ) -> PyResult<Option<usize>> {
        let mut count = None;
        let mut wait = self.pace.begin();
        wait_until(py, None, |until| {
            let attempt = || match message.receive_header(fd, &self.way) {
                Ok(Some(got)) => Some(Ok(got)),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            };
            if let Some(got) = wait.look(attempt) {
                count = Some(got?);
                return Ok(true);
            }
            stream::wait_readable(fd, Some(until))
        })?;
        self.pace.learn(wait);
        Ok(count)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// Why a message was not received.
enum Failure {
    /// It may come with the next call.
    Interrupted(PyErr),
    /// It will never come.
    Lost(PyErr),
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Interrupted(error)
    }
}

/// A descriptor that the connection has, or that its user has given it, rightly or wrongly: the kernel answers EBADF then.
fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: not -1, as it is that of an open connection. Like every method of Python's that works on descriptors, those of one connection are
    // not meant to be used while another thread closes it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Any object with a buffer, in one piece.
fn contiguous(object: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    let buffer = PyUntypedBuffer::get(object)?;
    if buffer.is_c_contiguous() {
        return Ok(buffer);
    }
    Err(PyBufferError::new_err("the buffer is not contiguous; send its tobytes()"))
}

/// Calls `attempt`, without the GIL, with the time until which it may wait, until it succeeds or `limit` is over.
fn wait_until(
    py: Python<'_>,
    limit: Option<std::time::Duration>,
    mut attempt: impl FnMut(Instant) -> broody_os::Result<bool> + Send,
) -> PyResult<Option<()>> {
    let waited = waiting::wait(py, limit, |slice| match attempt(Instant::now() + slice) {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    })?;
    waited.transpose().map_err(os_error)
}

/// Two descriptors, connected; if not `duplex`, the first one is for reading and the second one for writing.
#[pyfunction]
pub(crate) fn pipe(duplex: bool) -> PyResult<(RawFd, RawFd)> {
    let (first, second) = if duplex { stream::pair() } else { stream::pipe() }.map_err(os_error)?;
    Ok((first.into_raw_fd(), second.into_raw_fd()))
}
