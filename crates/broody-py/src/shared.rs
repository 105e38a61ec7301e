//! Memory that processes share, and objects in it that a lock guards.

use broody::SharedMemory;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::pickling::lend;
use crate::sync::{RLock, Slot};

/// Bytes in shared memory, as a buffer.
#[pyclass(frozen, module = "broody._broody")]
pub(crate) struct Memory(Slot<SharedMemory>);

#[pymethods]
impl Memory {
    /// `size` zero bytes; without it, an empty object to be decoded into.
    #[new]
    #[pyo3(signature = (size=None))]
    fn new(size: Option<usize>) -> PyResult<Self> {
        let memory = Self(Slot::empty());
        if let Some(size) = size {
            memory.0.set(SharedMemory::new(size))?;
        }
        Ok(memory)
    }

    fn _encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.encode(py)
    }

    fn _decode(&self, bytes: &[u8]) -> PyResult<()> {
        self.0.decode(bytes)
    }

    /// # Safety
    /// `view` is as the interpreter gives it.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let memory = slf.get().0.get()?;
        // SAFETY: it lives as long as the object, which the view keeps. Others change it at any time, as they do with all of Python's shared memory.
        unsafe { lend(slf.as_any(), view, memory.as_ptr(), memory.len(), false, flags) }
    }
}

/// An object, and the lock under which it is used.
#[pyclass(subclass, frozen, module = "broody._broody")]
pub(crate) struct Guarded(PyOnceLock<Parts>);

struct Parts {
    object: Py<PyAny>,
    lock: Py<PyAny>,
    /// The lock, where it is one of broody's.
    known: Option<Py<RLock>>,
}

impl Guarded {
    #[inline]
    fn parts(&self, py: Python<'_>) -> PyResult<&Parts> {
        self.0.get(py).ok_or_else(|| PyRuntimeError::new_err("its __init__() was not called"))
    }

    /// Runs `step` on the object under the lock.
    #[inline]
    fn locked<'py, R>(
        &self,
        py: Python<'py>,
        step: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<R>,
    ) -> PyResult<R> {
        let parts = self.parts(py)?;
        if let Some(lock) = &parts.known {
            lock.get().take(py)?;
            let result = step(parts.object.bind(py));
            lock.get().give_back()?;
            return result;
        }
        let lock = parts.lock.bind(py);
        lock.call_method0("acquire")?;
        let result = step(parts.object.bind(py));
        lock.call_method0("release")?;
        result
    }
}

#[pymethods]
impl Guarded {
    #[new]
    #[pyo3(signature = (*_args, **_more))]
    fn new(_args: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self(PyOnceLock::new())
    }

    fn _make(&self, py: Python<'_>, object: Py<PyAny>, lock: Bound<'_, PyAny>) {
        let known = lock.cast::<RLock>().ok().map(|lock| lock.clone().unbind());
        // A second time it stays what it is.
        let _ = self.0.set(py, Parts { object, lock: lock.unbind(), known });
    }

    /// The object, to be used without the lock or by somebody who has it.
    fn get_obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts(py)?.object.clone_ref(py))
    }

    /// The lock.
    fn get_lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts(py)?.lock.clone_ref(py))
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.parts(py)?.lock.bind(py).call_method0("__enter__")
    }

    #[pyo3(signature = (*args))]
    fn __exit__<'py>(&self, py: Python<'py>, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.parts(py)?.lock.bind(py).call_method1("__exit__", args)
    }

    fn _length(&self, py: Python<'_>) -> PyResult<usize> {
        self.parts(py)?.object.bind(py).len()
    }

    /// `object[index]` under the lock.
    fn _get_item<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.locked(py, |object| object.get_item(index))
    }

    /// `object[index] = item` under the lock.
    fn _set_item<'py>(
        &self,
        py: Python<'py>,
        index: &Bound<'py, PyAny>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        self.locked(py, |object| object.set_item(index, item))
    }
}

/// A descriptor: an attribute of a guarded object, under its lock.
#[pyclass(frozen, module = "broody._broody")]
pub(crate) struct GuardedField(Py<PyString>);

#[pymethods]
impl GuardedField {
    #[new]
    fn new(name: Py<PyString>) -> Self {
        Self(name)
    }

    fn __get__<'py>(
        slf: &Bound<'py, Self>,
        object: Option<&Bound<'py, PyAny>>,
        _class: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(object) = object else { return Ok(slf.as_any().clone()) };
        let (py, name) = (slf.py(), slf.get().0.bind(slf.py()));
        object.cast::<Guarded>()?.get().locked(py, |object| object.getattr(name))
    }

    fn __set__<'py>(
        &self,
        py: Python<'py>,
        object: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        object.cast::<Guarded>()?.get().locked(py, |object| object.setattr(self.0.bind(py), value))
    }
}
