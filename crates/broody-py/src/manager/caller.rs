//! The calling side: a connection of one thread with a manager's server.
//!
//! A call is sent, and its answer waited for, without the GIL. Where both sides find that answers come at once, they look into a [`Mailbox`] beside the socket
//! before they sleep, and no system call is made; see `broody_shm::pace`.

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use broody_os::stream as socket;
use broody_shm::mailbox::{Mailbox, Way};
use broody_shm::pace::{Pace, Wait};
use pyo3::exceptions::{PyConnectionResetError, PyEOFError, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use pyo3::{ffi, intern};

use super::packed;
use super::stream::{self, Found, LONG, Message, Stream};
use crate::errors::os_error;
use crate::{lock, pickling, waiting};

/// After so many calls a mailbox is worth its memory.
const SOME: u32 = 16;

/// The longest look for an answer, and for the next request. On a virtual machine to wake a process on a CPU that has nothing to do takes a good part of it,
/// and only who looks for longer than that finds out that the other side is fast when it is awake.
pub(super) const LOOK: Duration = Duration::from_micros(100);

/// A connection for calls. Closed when it is dropped, and after a call that was interrupted: its answer would be the next one's.
#[pyclass(frozen, module = "broody._broody")]
pub(crate) struct Caller {
    /// `None` while it is in use, and when it is closed.
    line: Mutex<Option<Line>>,
    /// Functions in place of pickle.
    serializer: Option<(Py<PyAny>, Py<PyAny>)>,
    packs: bool,
}

struct Line {
    stream: Stream,
    mailbox: Option<Mailbox>,
    may_share: bool,
    calls: u32,
    pace: Pace,
    request: Vec<u8>,
    answer: Message,
}

#[pymethods]
impl Caller {
    /// `handle` is the caller's from now on. `packs`: the server is broody's; `is_local`: its socket carries descriptors.
    #[new]
    #[pyo3(signature = (handle, packs, is_local, serializer=None))]
    fn new(
        handle: RawFd,
        packs: bool,
        is_local: bool,
        serializer: Option<(Py<PyAny>, Py<PyAny>)>,
    ) -> PyResult<Self> {
        if handle < 0 {
            return Err(PyOSError::new_err("handle is closed"));
        }
        // SAFETY: the caller gives it away.
        let stream = Stream::new(unsafe { OwnedFd::from_raw_fd(handle) });
        let packs = packs && serializer.is_none();
        let line = Line {
            stream,
            mailbox: None,
            may_share: packs && is_local,
            calls: 0,
            pace: Pace::new(LOOK),
            request: Vec::new(),
            answer: Message::default(),
        };
        Ok(Self { line: Mutex::new(Some(line)), serializer, packs })
    }

    /// Closes it.
    fn close(&self) {
        self.lock().take();
    }
}

impl Caller {
    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        lock(&self.line)
    }

    fn call<'py>(&self, py: Python<'py>, mut line: Line, call: &Parts<'_, 'py>) -> PyResult<Answer<'py>> {
        line.request.clear();
        let packs = self.packs && call.pack(&mut line.request);
        if !packs {
            // Before anything is sent: what cannot be pickled leaves the connection as it was.
            line.request.clear();
            let encoded = call
                .message(py)
                .and_then(|message| encode(&message, self.serializer.as_ref(), &mut line.request));
            if let Err(error) = encoded {
                *self.lock() = Some(line);
                return Err(error);
            }
        }
        if let Err(error) = line.exchange(py) {
            return Ok(Answer::Lost(error));
        }
        if let Some(result) = packed::unpack_return(py, &line.answer) {
            *self.lock() = Some(line);
            return result.map(Answer::Result);
        }
        let mut answer = std::mem::take(&mut line.answer);
        // What is unpickled may call proxies, too.
        *self.lock() = Some(line);
        let answer = decode(py, &mut answer, self.serializer.as_ref())?;
        let [kind, result] = parts(&answer)?;
        let is_result = kind.cast::<PyString>().is_ok_and(|kind| kind == "#RETURN");
        Ok(if is_result { Answer::Result(result) } else { Answer::Other(kind, result) })
    }
}

/// What has become of a call.
enum Answer<'py> {
    Result(Bound<'py, PyAny>),
    /// The two parts of an answer of another kind.
    Other(Bound<'py, PyAny>, Bound<'py, PyAny>),
    /// The connection is lost, or the call was interrupted.
    Lost(PyErr),
}

/// What a call consists of.
struct Parts<'a, 'py> {
    ident: &'a Bound<'py, PyAny>,
    name: &'a Bound<'py, PyAny>,
    args: &'a Bound<'py, PyAny>,
    kwds: &'a Bound<'py, PyAny>,
}

impl<'py> Parts<'_, 'py> {
    fn pack(&self, request: &mut Vec<u8>) -> bool {
        let (Ok(ident), Ok(name)) = (self.ident.cast::<PyString>(), self.name.cast::<PyString>()) else {
            return false;
        };
        let has_no_kwds = self.kwds.cast::<PyDict>().is_ok_and(|kwds| kwds.is_empty());
        let (Ok(ident), Ok(name)) = (ident.to_str(), name.to_str()) else { return false };
        has_no_kwds && packed::pack_call(ident, name, self.args, request)
    }

    fn message(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyTuple::new(py, [self.ident, self.name, self.args, self.kwds])?.into_any())
    }
}

/// The parts of a message, which other serializers than pickle do not give as a tuple.
pub(super) fn parts<'py, const N: usize>(message: &Bound<'py, PyAny>) -> PyResult<[Bound<'py, PyAny>; N]> {
    let parts = message.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    parts.try_into().map_err(|parts: Vec<_>| {
        PyValueError::new_err(format!("a message of {} parts where {N} are expected", parts.len()))
    })
}

/// Appends an object as a message.
pub(super) fn encode(
    object: &Bound<'_, PyAny>,
    serializer: Option<&(Py<PyAny>, Py<PyAny>)>,
    bytes: &mut Vec<u8>,
) -> PyResult<()> {
    let Some((dumps, _)) = serializer else { return pickling::append_pickle(object, bytes) };
    let dumped = dumps.bind(object.py()).call1((object,))?;
    bytes.extend_from_slice(dumped.cast::<PyBytes>()?.as_bytes());
    Ok(())
}

/// A message as an object.
pub(super) fn decode<'py>(
    py: Python<'py>,
    message: &mut Message,
    serializer: Option<&(Py<PyAny>, Py<PyAny>)>,
) -> PyResult<Bound<'py, PyAny>> {
    match serializer {
        Some((_, loads)) => loads.bind(py).call1((PyBytes::new(py, message),)),
        None if message.len() < LONG => pickling::loads_bytes(py, message),
        None => {
            let (bytes, start) = std::mem::take(message).into_parts();
            let (object, bytes) = pickling::loads_owned(py, bytes, start)?;
            stream::spare(bytes);
            Ok(object)
        }
    }
}

impl Line {
    /// Sends the request and waits for the answer.
    fn exchange(&mut self, py: Python<'_>) -> PyResult<()> {
        self.calls = self.calls.saturating_add(1);
        if self.may_share && self.calls > SOME {
            self.may_share = false;
            self.share(py)?;
        }
        let (mut is_sent, mut done) = (false, 0);
        let mut wait = self.pace.begin();
        waiting::wait(py, None, |slice| {
            let until = Instant::now() + slice;
            if !is_sent {
                is_sent = match self.send(&mut done, &wait, until) {
                    Ok(true) => true,
                    Ok(false) => return None,
                    Err(error) => return Some(Err(os_error(error))),
                };
                if let found @ Some(_) = self.look(&mut wait) {
                    return found;
                }
            }
            self.receive(until)
        })?
        .transpose()?;
        self.pace.learn(wait);
        Ok(())
    }

    /// Sends the request, of which `done` bytes were sent before. Whether all of it was sent in time.
    fn send(&mut self, done: &mut usize, wait: &Wait, until: Instant) -> broody_os::Result<bool> {
        if *done == 0
            && let Some(mailbox) = &self.mailbox
        {
            if wait.looks() {
                mailbox.watch(Way::Answer);
            }
            if mailbox.put(Way::Request, &self.request) {
                return Ok(true);
            }
        }
        while !self.stream.send_more(&self.request, done)? {
            if !socket::wait_writable(self.stream.as_fd(), Some(until))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks for the answer for a moment, where that pays.
    fn look(&mut self, wait: &mut Wait) -> Option<PyResult<()>> {
        if !wait.looks() {
            return None;
        }
        let Self { stream, mailbox, answer, .. } = self;
        let Some(mailbox) = mailbox else {
            return wait.look(&mut || found(stream.receive(u64::MAX, answer)));
        };
        let mut attempt = || mailbox.is_full(Way::Answer).then_some(());
        let _ = match mailbox.is_apart(Way::Answer) {
            true => wait.look(&mut attempt),
            false => wait.look_by_turns(&mut attempt),
        };
        if !mailbox.unwatch(Way::Answer) {
            return None;
        }
        match mailbox.take(Way::Answer, answer.reset()) {
            Ok(_) => Some(Ok(())),
            Err(corrupt) => Some(Err(PyOSError::new_err(corrupt.to_string()))),
        }
    }

    /// Waits in the kernel.
    fn receive(&mut self, until: Instant) -> Option<PyResult<()>> {
        loop {
            // Not tried before: so fast is only who is looked for.
            match socket::wait_readable(self.stream.as_fd(), Some(until)) {
                Ok(false) => return None,
                Ok(true) => {}
                Err(error) => return Some(Err(os_error(error))),
            }
            if let found @ Some(_) = found(self.stream.receive(u64::MAX, &mut self.answer)) {
                return found;
            }
        }
    }

    /// Asks for a mailbox. There is none if the server has no memory for it.
    fn share(&mut self, py: Python<'_>) -> PyResult<()> {
        self.stream.send(&[packed::MAILBOX]).map_err(os_error)?;
        let descriptor = waiting::wait(py, None, |slice| {
            match socket::wait_readable(self.stream.as_fd(), Some(Instant::now() + slice)) {
                Ok(true) => self.stream.receive_with(&mut self.answer).transpose(),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        })?;
        if let Some(descriptor) = descriptor.transpose().map_err(os_error)?.flatten() {
            // Without it calls are slower, and nothing else.
            self.mailbox = Mailbox::open(&descriptor).ok().flatten();
        }
        Ok(())
    }
}

/// The error of a message for which there is no memory.
pub(super) fn too_long(length: usize) -> PyErr {
    PyMemoryError::new_err(format!("there is no memory for a message of {length} bytes of a manager"))
}

fn found(found: broody_os::Result<Found>) -> Option<PyResult<()>> {
    match found {
        Ok(Found::Message) => Some(Ok(())),
        Ok(Found::Nothing) => None,
        Ok(Found::End) => Some(Err(PyEOFError::new_err(()))),
        Ok(Found::TooLong(length)) => Some(Err(too_long(length))),
        Ok(Found::Nonsense) => Some(Err(PyConnectionResetError::new_err("bad message length"))),
        Err(error) => Some(Err(os_error(error))),
    }
}

/// The calling thread's callers, by session.
#[pyfunction]
pub(crate) fn callers(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: called with the GIL; the reference is borrowed, or null in a thread that has no such dictionary.
    let local = unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyThreadState_GetDict()) };
    let Some(local) = local else { return Ok(PyDict::new(py)) };
    let local = local.cast_into::<PyDict>()?;
    let key = intern!(py, "broody.callers");
    if let Some(found) = local.get_item(key)? {
        return Ok(found.cast_into()?);
    }
    let made = PyDict::new(py);
    local.set_item(key, &made)?;
    Ok(made)
}

/// Calls a method of the object that `proxy` stands for, over the calling thread's connection of `session`. What is no plain result goes to
/// `proxy._answered`, and a connection that is lost to `proxy._lost`.
#[pyfunction]
pub(crate) fn call<'py>(
    py: Python<'py>,
    proxy: &Bound<'py, PyAny>,
    session: &Bound<'py, PyAny>,
    ident: &Bound<'py, PyAny>,
    name: &Bound<'py, PyAny>,
    args: &Bound<'py, PyAny>,
    kwds: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let answer = match take(session) {
        Ok((caller, line)) => caller.get().call(py, line, &Parts { ident, name, args, kwds })?,
        Err(error) => Answer::Lost(error),
    };
    match answer {
        Answer::Result(result) => Ok(result),
        Answer::Other(kind, result) => proxy.call_method1(intern!(py, "_answered"), (kind, result)),
        Answer::Lost(error) => proxy.call_method1(intern!(py, "_lost"), (session, error.into_value(py))),
    }
}

/// The calling thread's connection of `session`, made if there is none.
fn take<'py>(session: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, Caller>, Line)> {
    let py = session.py();
    let callers = callers(py)?;
    let known = callers.get_item(session)?.map(|caller| caller.cast_into::<Caller>()).transpose()?;
    // Not there while it is in use: a signal's handler that calls a proxy, too, gets another one.
    let known = known.and_then(|caller| {
        let line = caller.get().lock().take();
        line.map(|line| (caller, line))
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let caller = session.call_method0(intern!(py, "connect"))?.cast_into::<Caller>()?;
    let line = caller.get().lock().take();
    let line = line.ok_or_else(|| PyOSError::new_err("handle is closed"))?;
    callers.set_item(session, &caller)?;
    Ok((caller, line))
}
