//! Locks, semaphores, conditions, events and barriers.
//!
//! Locks and semaphores are the very classes that users have, to which `broody.synchronize` adds what is Python's: a call of a method of an exact class is
//! cheaper than one of a base class. Each object is made empty, as pickle makes objects, and gets the engine's object by `_make` or `_decode`. What can be had at once is taken with the
//! GIL held: to let go of it would cost more than the lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use broody::embed;
use broody::{BareLock, Error, OwnerDied};
use broody_os::interrupt;
use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors::raised;
use crate::waiting::{self, Truth};

const TOO_OFTEN: &str = "semaphore or lock released too many times";

/// The engine's object of a Python object, once it has one.
pub(crate) struct Slot<T>(OnceLock<T>);

impl<T> Slot<T> {
    pub(crate) fn empty() -> Self {
        Self(OnceLock::new())
    }

    #[inline]
    pub(crate) fn get(&self) -> PyResult<&T> {
        self.0.get().ok_or_else(|| PyRuntimeError::new_err("its __init__() was not called"))
    }

    pub(crate) fn set(&self, made: broody::Result<T>) -> PyResult<()> {
        // A second time it stays what it is, as other handles on it do.
        let _ = self.0.set(made.map_err(raised)?);
        Ok(())
    }
}

impl<T: Serialize> Slot<T> {
    pub(crate) fn encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &embed::encode_handle(self.get()?).map_err(raised)?))
    }
}

impl<T: DeserializeOwned> Slot<T> {
    pub(crate) fn decode(&self, bytes: &[u8]) -> PyResult<()> {
        self.set(embed::decode_handle(bytes))
    }
}

/// A number that the calling thread has alone among those that run; not 0.
#[inline]
fn this_thread() -> usize {
    thread_local! {
        static PLACE: u8 = const { 0 };
    }
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

/// A class of `broody.exceptions`.
fn class<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    cell.import(py, "broody.exceptions", name)
}

const DIED: &str = "the process that held this lock before was ended while it held it: what the lock guards may be half-changed";

/// The lock is this thread's, and its last holder died with it: says so.
#[cold]
fn warn_of_death(py: Python<'_>) -> PyResult<()> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = std::ffi::CString::new(DIED).map_err(|_| PyRuntimeError::new_err(DIED))?;
    PyErr::warn(py, class(py, &CLASS, "OwnerDiedWarning")?, &message, 1)
}

#[cold]
fn death(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    match class(py, &CLASS, "OwnerDiedError") {
        Ok(class) => {
            PyErr::from_type(class.clone(), format!("{DIED}. Put it right, and acquire the lock again"))
        }
        Err(error) => error,
    }
}

/// What is common to both kinds of locks.
trait Mutex {
    fn try_acquire(&self) -> broody::Result<Option<OwnerDied>>;
    fn acquire(&self, limit: std::time::Duration) -> broody::Result<Option<OwnerDied>>;
    fn give_back(&self);
}

impl Mutex for BareLock {
    #[inline]
    fn try_acquire(&self) -> broody::Result<Option<OwnerDied>> {
        BareLock::try_acquire(self)
    }

    fn acquire(&self, limit: std::time::Duration) -> broody::Result<Option<OwnerDied>> {
        BareLock::acquire(self, Some(limit))
    }

    fn give_back(&self) {
        let _ = self.release();
    }
}

impl Mutex for broody::RLock {
    #[inline]
    fn try_acquire(&self) -> broody::Result<Option<OwnerDied>> {
        broody::RLock::try_acquire(self)
    }

    fn acquire(&self, limit: std::time::Duration) -> broody::Result<Option<OwnerDied>> {
        broody::RLock::acquire(self, Some(limit))
    }

    fn give_back(&self) {
        let _ = self.release();
    }
}

/// Takes the lock. Whether it was free in time.
#[inline]
fn take(
    py: Python<'_>,
    lock: &(impl Mutex + Sync),
    strict: bool,
    block: bool,
    timeout: Option<f64>,
) -> PyResult<bool> {
    let taken = match lock.try_acquire().map_err(raised)? {
        None if block => wait_for(py, lock, timeout)?,
        taken => taken,
    };
    match taken {
        None => Ok(false),
        Some(OwnerDied(false)) => Ok(true),
        Some(OwnerDied(true)) => {
            let told = if strict { Err(death(py)) } else { warn_of_death(py) };
            if told.is_err() {
                lock.give_back();
            }
            told.map(|()| true)
        }
    }
}

#[cold]
fn wait_for(py: Python<'_>, lock: &(impl Mutex + Sync), timeout: Option<f64>) -> PyResult<Option<OwnerDied>> {
    let taken = waiting::wait(py, waiting::limit(timeout), |limit| Mutex::acquire(lock, limit).transpose())?;
    taken.transpose().map_err(raised)
}

/// A lock that anybody may release.
#[pyclass(subclass, dict, weakref, frozen, module = "broody.synchronize")]
pub(crate) struct Lock {
    lock: Slot<BareLock>,
    strict: AtomicBool,
    /// The thread of this process that has taken it by this object.
    thread: AtomicUsize,
}

impl Lock {
    fn is_mine(&self) -> bool {
        self.thread.load(Relaxed) == this_thread() && self.lock.get().is_ok_and(BareLock::is_held_here)
    }
}

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self { lock: Slot::empty(), strict: AtomicBool::new(false), thread: AtomicUsize::new(0) }
    }

    fn _make(&self, strict: bool) -> PyResult<()> {
        self.strict.store(strict, Relaxed);
        self.lock.set(BareLock::new())
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, bool)> {
        Ok((self.lock.encode(py)?, self.strict.load(Relaxed)))
    }

    fn _decode(&self, bytes: &[u8], strict: bool) -> PyResult<()> {
        self.strict.store(strict, Relaxed);
        self.lock.decode(bytes)
    }

    /// Takes the lock, waiting for it if `block`, at most for `timeout` seconds if that is not None. Whether it was taken.
    #[pyo3(signature = (block=Truth(true), timeout=None))]
    fn acquire(&self, py: Python<'_>, block: Truth, timeout: Option<f64>) -> PyResult<bool> {
        let taken = take(py, self.lock.get()?, self.strict.load(Relaxed), block.0, timeout)?;
        if taken {
            self.thread.store(this_thread(), Relaxed);
        }
        Ok(taken)
    }

    /// Gives the lock back, whoever has taken it. ValueError when nobody has.
    fn release(&self) -> PyResult<()> {
        let lock = self.lock.get()?;
        // Before: afterwards it may be another thread's.
        self.thread.store(0, Relaxed);
        lock.release().map_err(|error| match error {
            Error::NotHeld { .. } => PyValueError::new_err(TOO_OFTEN),
            error => raised(error),
        })
    }

    /// Whether anybody has the lock, at this instant.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.lock.get()?.locked())
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, Truth(true), None)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release()
    }

    fn _is_mine(&self) -> bool {
        self.is_mine()
    }

    /// How often this process has taken it.
    fn _count(&self) -> PyResult<u32> {
        Ok(self.lock.get()?.is_held_here().into())
    }

    fn _get_value(&self) -> PyResult<u32> {
        Ok((!self.lock.get()?.locked()).into())
    }

    fn _is_zero(&self) -> PyResult<bool> {
        self.locked()
    }
}

/// A lock of one thread, which may take it again.
#[pyclass(subclass, dict, weakref, frozen, module = "broody.synchronize")]
pub(crate) struct RLock {
    lock: Slot<broody::RLock>,
    strict: AtomicBool,
}

impl RLock {
    #[inline]
    pub(crate) fn take(&self, py: Python<'_>) -> PyResult<()> {
        take(py, self.lock.get()?, self.strict.load(Relaxed), true, None).map(|_| ())
    }

    #[inline]
    pub(crate) fn give_back(&self) -> PyResult<()> {
        self.lock.get()?.release().map_err(|error| match error {
            Error::NotHeld { .. } => {
                PyAssertionError::new_err("attempt to release recursive lock not owned by thread")
            }
            error => raised(error),
        })
    }
}

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self { lock: Slot::empty(), strict: AtomicBool::new(false) }
    }

    fn _make(&self, strict: bool) -> PyResult<()> {
        self.strict.store(strict, Relaxed);
        self.lock.set(broody::RLock::new())
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, bool)> {
        Ok((self.lock.encode(py)?, self.strict.load(Relaxed)))
    }

    fn _decode(&self, bytes: &[u8], strict: bool) -> PyResult<()> {
        self.strict.store(strict, Relaxed);
        self.lock.decode(bytes)
    }

    /// Takes the lock once more, waiting if `block` for other threads and processes, at most for `timeout` seconds if that is not None. Whether it
    /// was taken.
    #[pyo3(signature = (block=Truth(true), timeout=None))]
    fn acquire(&self, py: Python<'_>, block: Truth, timeout: Option<f64>) -> PyResult<bool> {
        take(py, self.lock.get()?, self.strict.load(Relaxed), block.0, timeout)
    }

    /// Gives the lock back once. AssertionError when this thread does not have it.
    fn release(&self) -> PyResult<()> {
        self.give_back()
    }

    /// Whether anybody has the lock, at this instant.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.lock.get()?.locked())
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, Truth(true), None)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.give_back()
    }

    fn _is_mine(&self) -> PyResult<bool> {
        Ok(self.lock.get()?.is_mine())
    }

    /// How often this process has taken it.
    fn _count(&self) -> PyResult<u32> {
        let lock = self.lock.get()?;
        Ok(if lock.is_held_here() { lock.depth() } else { 0 })
    }

    fn _get_value(&self) -> PyResult<u32> {
        Ok((!self.lock.get()?.locked()).into())
    }

    fn _is_zero(&self) -> PyResult<bool> {
        self.locked()
    }
}

/// What a semaphore is made of.
enum Tokens {
    Counting(broody::Semaphore),
    /// Each permit belongs to a process, which takes it along when it dies.
    Owned(broody::BoundedSemaphore),
    /// More permits than could each have an owner.
    Capped(broody::Semaphore, u32),
}

/// A semaphore; bounded, where it was made so.
#[pyclass(subclass, dict, weakref, frozen, module = "broody.synchronize")]
pub(crate) struct Semaphore(Slot<Tokens>);

impl Semaphore {
    fn take(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let tokens = self.0.get()?;
        if tokens.try_acquire().map_err(raised)? {
            return Ok(true);
        }
        if !block {
            return Ok(false);
        }
        let taken = waiting::wait(py, waiting::limit(timeout), |limit| {
            tokens.acquire(Some(limit)).map(|taken| taken.then_some(())).transpose()
        })?;
        Ok(taken.transpose().map_err(raised)?.is_some())
    }
}

impl Tokens {
    fn try_acquire(&self) -> broody::Result<bool> {
        match self {
            Tokens::Counting(tokens) | Tokens::Capped(tokens, _) => tokens.try_acquire(),
            Tokens::Owned(permits) => permits.acquire(Some(std::time::Duration::ZERO)),
        }
    }

    fn acquire(&self, limit: Option<std::time::Duration>) -> broody::Result<bool> {
        match self {
            Tokens::Counting(tokens) | Tokens::Capped(tokens, _) => tokens.acquire(limit),
            Tokens::Owned(permits) => permits.acquire(limit),
        }
    }

    /// Whether there was room for it.
    fn release(&self) -> broody::Result<bool> {
        match self {
            Tokens::Counting(tokens) => tokens.release_to(1, i32::MAX as u32),
            Tokens::Capped(tokens, most) => tokens.release_to(1, *most),
            Tokens::Owned(permits) => match permits.release() {
                Err(Error::NotHeld { .. }) => Ok(false),
                released => released.map(|()| true),
            },
        }
    }

    fn value(&self) -> u32 {
        match self {
            Tokens::Counting(tokens) | Tokens::Capped(tokens, _) => tokens.value(),
            Tokens::Owned(permits) => permits.value(),
        }
    }
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Slot::empty())
    }

    fn _make(&self, value: i64, bounded: bool) -> PyResult<()> {
        let value = u32::try_from(value).ok().filter(|value| *value <= i32::MAX as u32);
        let value = value
            .ok_or_else(|| PyValueError::new_err(format!("a semaphore's value is 0 to {}", i32::MAX)))?;
        self.0.set(if !bounded {
            broody::Semaphore::new(value).map(Tokens::Counting)
        } else if value <= broody::BoundedSemaphore::MOST {
            broody::BoundedSemaphore::new(value).map(Tokens::Owned)
        } else {
            broody::Semaphore::new(value).map(|tokens| Tokens::Capped(tokens, value))
        })
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, u8, u32)> {
        let (bytes, kind, most) = match self.0.get()? {
            Tokens::Counting(tokens) => (embed::encode_handle(tokens), 0, 0),
            Tokens::Owned(permits) => (embed::encode_handle(permits), 1, 0),
            Tokens::Capped(tokens, most) => (embed::encode_handle(tokens), 2, *most),
        };
        Ok((PyBytes::new(py, &bytes.map_err(raised)?), kind, most))
    }

    fn _decode(&self, bytes: &[u8], kind: u8, most: u32) -> PyResult<()> {
        self.0.set(match kind {
            0 => embed::decode_handle(bytes).map(Tokens::Counting),
            1 => embed::decode_handle(bytes).map(Tokens::Owned),
            _ => embed::decode_handle(bytes).map(|tokens| Tokens::Capped(tokens, most)),
        })
    }

    /// Takes a token, waiting for one if `block`, at most for `timeout` seconds if that is not None. Whether one was taken.
    #[pyo3(signature = (block=Truth(true), timeout=None))]
    fn acquire(&self, py: Python<'_>, block: Truth, timeout: Option<f64>) -> PyResult<bool> {
        self.take(py, block.0, timeout)
    }

    /// Gives a token. ValueError when there would be too many.
    fn release(&self) -> PyResult<()> {
        if self.0.get()?.release().map_err(raised)? { Ok(()) } else { Err(PyValueError::new_err(TOO_OFTEN)) }
    }

    /// How many tokens there are, at this instant.
    fn get_value(&self) -> PyResult<u32> {
        Ok(self.0.get()?.value())
    }

    /// Whether there is no token, at this instant.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.0.get()?.value() == 0)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.take(py, true, None)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release()
    }

    fn _get_value(&self) -> PyResult<u32> {
        self.get_value()
    }

    fn _is_zero(&self) -> PyResult<bool> {
        self.locked()
    }
}

/// Waiting for a notification.
#[pyclass(subclass, frozen, module = "broody._broody")]
pub(crate) struct Condition(Slot<broody::Condition>);

#[pymethods]
impl Condition {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Slot::empty())
    }

    fn _make(&self) -> PyResult<()> {
        self.0.set(broody::Condition::new())
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.encode(py)
    }

    fn _decode(&self, bytes: &[u8]) -> PyResult<()> {
        self.0.decode(bytes)
    }

    /// Gives `lock` back altogether, waits for a notification at most for `timeout` seconds if that is not None, and takes the lock as often again.
    /// Whether a notification came. The caller has the lock.
    fn _wait(&self, py: Python<'_>, lock: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let (condition, limit) = (self.0.get()?, waiting::limit(timeout));
        let (waited, interrupted) = if let Ok(lock) = lock.cast::<RLock>() {
            let lock = lock.get().lock.get()?;
            waiting::wait_once(py, || condition.wait_with(lock, limit))
        } else if let Ok(lock) = lock.cast::<Lock>() {
            let (object, lock) = (lock.get(), lock.get().lock.get()?);
            let thread = object.thread.swap(0, Relaxed);
            let acquire = || interrupt::ignoring(|| lock.acquire(None));
            let waited =
                waiting::wait_once(py, || condition.wait_around(limit, || lock.give_back(), acquire));
            object.thread.store(thread, Relaxed);
            let died = |(notified, acquired): (bool, broody::Result<Option<OwnerDied>>)| {
                Ok((notified, acquired?.unwrap_or(OwnerDied(false))))
            };
            (waited.0.and_then(died), waited.1)
        } else if let Ok(tokens) = lock.cast::<Semaphore>() {
            let tokens = tokens.get().0.get()?;
            let acquire = || interrupt::ignoring(|| tokens.acquire(None));
            let release = || drop(tokens.release());
            let (waited, interrupted) =
                waiting::wait_once(py, || condition.wait_around(limit, release, acquire));
            let taken =
                |(notified, taken): (bool, broody::Result<bool>)| taken.map(|_| (notified, OwnerDied(false)));
            (waited.and_then(taken), interrupted)
        } else {
            return Err(PyTypeError::new_err("a condition's lock is a Lock, an RLock or a Semaphore"));
        };
        let (notified, OwnerDied(died)) = waited.map_err(raised)?;
        if let Some(error) = interrupted {
            // Who does not use the notification passes it on.
            if notified {
                condition.notify_one().map_err(raised)?;
            }
            return Err(error);
        }
        if died {
            // The lock is the caller's either way, as it was before.
            warn_of_death(py)?;
        }
        Ok(notified)
    }

    /// Notifies the `n` that have waited longest. How many there were.
    fn _notify(&self, n: u32) -> PyResult<u32> {
        self.0.get()?.notify(n).map_err(raised)
    }

    /// How many wait.
    fn _waiting(&self) -> PyResult<usize> {
        self.0.get()?.waiting().map_err(raised)
    }
}

/// A flag to wait for.
#[pyclass(subclass, frozen, module = "broody._broody")]
pub(crate) struct Event(Slot<broody::Event>);

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Slot::empty())
    }

    fn _make(&self) -> PyResult<()> {
        self.0.set(broody::Event::new())
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.encode(py)
    }

    fn _decode(&self, bytes: &[u8]) -> PyResult<()> {
        self.0.decode(bytes)
    }

    /// Whether the flag is set.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.0.get()?.is_set())
    }

    /// Sets the flag: whoever waits goes on.
    fn set(&self) -> PyResult<()> {
        self.0.get()?.set().map_err(raised)
    }

    /// Clears the flag.
    fn clear(&self) -> PyResult<()> {
        self.0.get()?.clear();
        Ok(())
    }

    /// Waits until the flag is set, at most for `timeout` seconds if that is not None. Whether it was.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let event = self.0.get()?;
        if event.is_set() {
            return Ok(true);
        }
        let set = waiting::wait(py, waiting::limit(timeout), |limit| {
            event.wait(Some(limit)).map(|set| set.then_some(())).transpose()
        })?;
        Ok(set.transpose().map_err(raised)?.is_some())
    }
}

/// A meeting of a number of parties.
#[pyclass(subclass, frozen, module = "broody._broody")]
pub(crate) struct Barrier(Slot<broody::Barrier>);

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Slot::empty())
    }

    fn _make(&self, parties: u32) -> PyResult<()> {
        self.0.set(broody::Barrier::new(parties))
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.encode(py)
    }

    fn _decode(&self, bytes: &[u8]) -> PyResult<()> {
        self.0.decode(bytes)
    }

    /// Waits for all others; the last one runs `action`. The number of this party, or None where the barrier broke.
    fn _wait(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        action: Option<Py<PyAny>>,
    ) -> PyResult<Option<u32>> {
        let (barrier, limit) = (self.0.get()?, waiting::limit(timeout));
        let mut failed = None;
        let act = || {
            let Some(action) = &action else { return true };
            failed = Python::attach(|py| action.call0(py).err());
            failed.is_none()
        };
        let (met, interrupted) = waiting::wait_once(py, || barrier.wait_and(limit, act));
        match (failed.or(interrupted), met) {
            (Some(error), _) => Err(error),
            (None, Ok(number)) => Ok(Some(number)),
            (None, Err(Error::BrokenBarrier)) => Ok(None),
            (None, Err(error)) => Err(raised(error)),
        }
    }

    /// Makes it whole and empty again. Whoever waits is told that it broke.
    fn reset(&self) -> PyResult<()> {
        self.0.get()?.reset().map_err(raised)
    }

    /// Breaks it: whoever waits or comes is told, until it is reset.
    fn abort(&self) -> PyResult<()> {
        self.0.get()?.abort().map_err(raised)
    }

    /// How many parties it is for.
    #[getter]
    fn parties(&self) -> PyResult<u32> {
        Ok(self.0.get()?.parties())
    }

    /// How many wait, at this instant.
    #[getter]
    fn n_waiting(&self) -> PyResult<u32> {
        Ok(self.0.get()?.waiting())
    }

    /// Whether it is broken.
    #[getter]
    fn broken(&self) -> PyResult<bool> {
        Ok(self.0.get()?.is_broken())
    }
}
