//! Queues.
//!
//! A put or get that need not wait is one call that keeps the GIL; everything else lets go of it.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use broody::Error;
use broody::embed::MessageQueue;
use pyo3::exceptions::{PyException, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use crate::errors::raised;
use crate::pickling::{self, Message};
use crate::sync::Slot;
use crate::waiting::{self, Truth};

/// The short way did not do.
enum Put {
    Done,
    Full,
}

fn put(py: Python<'_>, queue: &MessageQueue, message: Message<'_>, limit: Option<Duration>) -> PyResult<Put> {
    if let Message::Plain(bytes) = message
        && queue.try_put(bytes)
    {
        return Ok(Put::Done);
    }
    if limit == Some(Duration::ZERO) && queue.is_full() {
        return Ok(Put::Full);
    }
    let put = match message {
        Message::Plain(bytes) => waiting::wait(py, limit, |limit| in_time(queue.put(bytes, Some(limit)))),
        Message::Encoded(encoded) => {
            let encoded = Alone(encoded);
            waiting::wait(py, limit, move |limit| in_time(queue.put_encoded(encoded.it(), Some(limit))))
        }
    }?;
    match put {
        None => Ok(Put::Full),
        Some(put) => put.map(|()| Put::Done).map_err(raised),
    }
}

/// Something that only this call uses, in this thread, while it lets go of the GIL.
struct Alone<'a, T>(&'a T);

// SAFETY: `detach` runs its closure in the calling thread.
unsafe impl<T> Send for Alone<'_, T> {}

impl<T> Alone<'_, T> {
    fn it(&self) -> &T {
        self.0
    }
}

/// `None` where the time was over.
fn in_time<T>(done: broody::Result<T>) -> Option<broody::Result<T>> {
    match done {
        Err(Error::TimedOut { .. }) => None,
        done => Some(done),
    }
}

/// The next object; `None` when there was none in time.
fn get<'py>(
    py: Python<'py>,
    queue: &MessageQueue,
    limit: Option<Duration>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Some(taken) = queue.try_take(|bytes| pickling::short(py, bytes)) {
        return taken.finish().map(Some);
    }
    if limit == Some(Duration::ZERO) && queue.is_empty() {
        return Ok(None);
    }
    let taken = waiting::wait(py, limit, |limit| in_time(queue.take(Some(limit))))?;
    taken.map(|taken| pickling::object(py, taken.map_err(raised)?)).transpose()
}

/// How long a call waits: none that does not `block`.
fn limit(block: Truth, timeout: Option<f64>) -> Option<Duration> {
    if block.0 { waiting::limit(timeout) } else { Some(Duration::ZERO) }
}

fn error_of(py: Python<'_>, cell: &'static PyOnceLock<Py<PyType>>, name: &str) -> PyErr {
    match cell.import(py, "queue", name) {
        Ok(class) => PyErr::from_type(class.clone(), ()),
        Err(error) => error,
    }
}

#[cold]
fn full(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    error_of(py, &CLASS, "Full")
}

#[cold]
fn empty(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    error_of(py, &CLASS, "Empty")
}

/// What a queue is in one process.
struct Inner {
    queue: Slot<MessageQueue>,
    /// This process puts and gets no more.
    closed: AtomicBool,
    /// It has put something.
    used: AtomicBool,
}

impl Inner {
    fn empty() -> Self {
        Self { queue: Slot::empty(), closed: AtomicBool::new(false), used: AtomicBool::new(false) }
    }
}

/// A queue of objects.
#[pyclass(subclass, frozen, module = "broody._broody")]
pub(crate) struct Queue(Inner);

impl Queue {
    #[inline]
    fn open(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().0.closed.load(Relaxed) { Err(Self::closed_error(slf)) } else { Ok(()) }
    }

    #[cold]
    fn closed_error(slf: &Bound<'_, Self>) -> PyErr {
        match slf.repr() {
            Ok(name) => PyValueError::new_err(format!("Queue {name} is closed")),
            Err(error) => error,
        }
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Inner::empty())
    }

    fn _make(&self, maxsize: Option<u32>, counts_tasks: bool) -> PyResult<()> {
        self.0.queue.set(MessageQueue::new(maxsize, counts_tasks))
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.queue.encode(py)
    }

    fn _decode(&self, bytes: &[u8]) -> PyResult<()> {
        self.0.queue.decode(bytes)
    }

    /// Puts an object; if the queue is full, waits if `block`, at most for `timeout` seconds if that is not None. `queue.Full` when there was no room.
    #[pyo3(signature = (obj, block=Truth(true), timeout=None))]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        Self::open(slf)?;
        let (py, inner) = (slf.py(), &slf.get().0);
        let queue = inner.queue.get()?;
        let limit = limit(block, timeout);
        match pickling::with_message(obj, |message| put(py, queue, message, limit)) {
            Ok(Ok(Put::Done)) => {
                inner.used.store(true, Relaxed);
                Ok(())
            }
            Ok(Ok(Put::Full)) => Err(full(py)),
            Ok(Err(error)) => Err(error),
            Err(error) if error.is_instance_of::<PyException>(py) => {
                slf.call_method1("_on_queue_feeder_error", (error, obj)).map(|_| ())
            }
            Err(error) => Err(error),
        }
    }

    /// As `put`, without waiting.
    fn put_nowait(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::put(slf, obj, Truth(false), None)
    }

    /// Takes the next object; if there is none, waits if `block`, at most for `timeout` seconds if that is not None. `queue.Empty` when there was
    /// none.
    #[pyo3(signature = (block=Truth(true), timeout=None))]
    fn get<'py>(slf: &Bound<'py, Self>, block: Truth, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Self::open(slf)?;
        let py = slf.py();
        get(py, slf.get().0.queue.get()?, limit(block, timeout))?.ok_or_else(|| empty(py))
    }

    /// As `get`, without waiting.
    fn get_nowait<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::get(slf, Truth(false), None)
    }

    /// How many objects there are, at this instant.
    fn qsize(&self) -> PyResult<usize> {
        Ok(self.0.queue.get()?.len())
    }

    /// Whether there is none, at this instant.
    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let inner = &slf.get().0;
        if inner.closed.load(Relaxed) && inner.used.load(Relaxed) {
            return Err(PyOSError::new_err(format!("Queue {} is closed", slf.repr()?)));
        }
        Ok(inner.queue.get()?.is_empty())
    }

    /// Whether there are as many as there may be, at this instant.
    fn full(&self) -> PyResult<bool> {
        Ok(self.0.queue.get()?.is_full())
    }

    /// This process puts and gets no more.
    fn close(&self) {
        self.0.closed.store(true, Relaxed);
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.0.closed.load(Relaxed)
    }

    /// As `get` for whoever waits with others, whether it is closed or not.
    fn _take<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        get(py, self.0.queue.get()?, waiting::limit(timeout))?.ok_or_else(|| empty(py))
    }

    /// A descriptor that is readable when there is something.
    fn _descriptor(&self) -> PyResult<RawFd> {
        self.0.queue.get()?.descriptor().map_err(raised)
    }

    /// A task that was taken is done. False when none is.
    fn _task_done(&self) -> PyResult<bool> {
        match self.0.queue.get()?.task_done() {
            Err(Error::NotHeld { .. }) => Ok(false),
            done => done.map(|()| true).map_err(raised),
        }
    }

    /// Waits until all tasks are done. How many were lost.
    fn _join(&self, py: Python<'_>) -> PyResult<u32> {
        let queue = self.0.queue.get()?;
        match waiting::wait(py, None, |limit| in_time(queue.join(Some(limit))))? {
            Some(Err(Error::TasksLost { count })) => Ok(count),
            Some(joined) => joined.map(|()| 0).map_err(raised),
            None => Ok(0),
        }
    }
}

/// A queue without frills.
#[pyclass(subclass, frozen, module = "broody._broody")]
pub(crate) struct SimpleQueue(Inner);

impl SimpleQueue {
    #[inline]
    fn open(&self) -> PyResult<&MessageQueue> {
        if self.0.closed.load(Relaxed) {
            Err(PyOSError::new_err("handle is closed"))
        } else {
            self.0.queue.get()
        }
    }
}

#[pymethods]
impl SimpleQueue {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Inner::empty())
    }

    fn _make(&self) -> PyResult<()> {
        self.0.queue.set(MessageQueue::new(None, false))
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.queue.encode(py)
    }

    fn _decode(&self, bytes: &[u8]) -> PyResult<()> {
        self.0.queue.decode(bytes)
    }

    /// Puts an object.
    fn put(&self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let queue = self.open()?;
        pickling::with_message(obj, |message| put(py, queue, message, None)).flatten().map(|_| ())
    }

    /// Takes the next object, waiting for it.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        get(py, self.open()?, None)?.ok_or_else(|| empty(py))
    }

    /// Whether there is none, at this instant.
    fn empty(&self) -> PyResult<bool> {
        Ok(self.open()?.is_empty())
    }

    /// This process puts and gets no more.
    fn close(&self) {
        self.0.closed.store(true, Relaxed);
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.0.closed.load(Relaxed)
    }

    fn _take<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        get(py, self.open()?, waiting::limit(timeout))?.ok_or_else(|| empty(py))
    }

    fn _descriptor(&self) -> PyResult<RawFd> {
        self.open()?.descriptor().map_err(raised)
    }
}

/// The queue whose reading side `end` is, if it is one of broody's, with the descriptor `fd`.
pub(crate) fn of_end(end: &Bound<'_, PyAny>, fd: RawFd) -> PyResult<Option<MessageQueue>> {
    let Some(queue) = end.getattr_opt("_queue")? else { return Ok(None) };
    let queue = if let Ok(queue) = queue.cast::<Queue>() {
        queue.get().0.queue.get()?
    } else if let Ok(queue) = queue.cast::<SimpleQueue>() {
        queue.get().0.queue.get()?
    } else {
        return Ok(None);
    };
    // Whoever has a queue may have another descriptor.
    Ok((queue.descriptor().map_err(raised)? == fd).then(|| queue.clone()))
}
