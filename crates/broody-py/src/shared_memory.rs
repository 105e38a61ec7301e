//! Files in /dev/shm as Python's `SharedMemory` knows them.
//!
//! Their memory is allocated when they are made, so that a full /dev/shm is an error then and no SIGBUS later. Their names are the program's, see
//! [`embed::keep_name`].

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use broody::embed;
use broody_os::memory::Mapping;
use broody_os::named::{self, NamedFile};
use pyo3::exceptions::{PyBufferError, PyOSError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::{exception, os_error};

/// A file in /dev/shm, mapped.
#[pyclass(frozen)]
pub(crate) struct NamedMemory {
    length: u64,
    number: u64,
    state: Mutex<State>,
}

struct State {
    file: Option<NamedFile>,
    mapping: Option<Mapping>,
    /// How many buffers are in use.
    exports: usize,
}

fn check_name(name: &str) -> PyResult<()> {
    if name.contains('\0') {
        return Err(PyValueError::new_err("embedded null character"));
    }
    if name.len() > named::LONGEST {
        let what = format!("a name of shared memory has at most {} bytes", named::LONGEST);
        return Err(PyOSError::new_err((libc_errno::ENAMETOOLONG, what)));
    }
    if !named::is_valid(name) {
        let what = format!("{name:?} cannot name shared memory: no slash may be in it");
        return Err(PyOSError::new_err((libc_errno::EINVAL, what)));
    }
    Ok(())
}

/// Linux's numbers on every architecture.
mod libc_errno {
    pub(super) const EINVAL: i32 = 22;
    pub(super) const ENAMETOOLONG: i32 = 36;
}

impl NamedMemory {
    fn new(file: NamedFile) -> PyResult<Self> {
        let mapping = file.map().map_err(os_error)?;
        if mapping.is_none() {
            return Err(PyValueError::new_err("cannot map an empty file"));
        }
        let (length, number) = (file.length(), file.number());
        Ok(Self { length, number, state: Mutex::new(State { file: Some(file), mapping, exports: 0 }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[pymethods]
impl NamedMemory {
    /// Makes `length` zero bytes by this name; if `kept`, the name goes with the program.
    #[staticmethod]
    fn create(py: Python<'_>, name: &str, length: u64, kept: bool) -> PyResult<Self> {
        check_name(name)?;
        // Refused here, a long length costs nothing.
        if named::number(name).is_some() {
            return Err(PyOSError::new_err((17, format!("there is shared memory of the name {name:?}"))));
        }
        let file = py.detach(|| NamedFile::create(length)).map_err(os_error)?;
        if kept {
            // In this order: who dies in between leaves nothing that has a name.
            py.detach(|| embed::keep_name(file.number(), name)).map_err(|error| exception(py, error))?;
        }
        if let Err(error) = file.publish(name) {
            if kept {
                let _ = embed::forget_name(file.number(), name);
            }
            return Err(os_error(error));
        }
        Self::new(file)
    }

    /// Maps the file of this name.
    #[staticmethod]
    fn open(name: &str) -> PyResult<Self> {
        check_name(name)?;
        Self::new(NamedFile::open(name).map_err(os_error)?)
    }

    /// How many bytes there are.
    fn size(&self) -> u64 {
        self.length
    }

    /// The file's number.
    #[getter]
    fn number(&self) -> u64 {
        self.number
    }

    /// The file's descriptor; -1 after it was closed.
    fn fileno(&self) -> RawFd {
        self.state().file.as_ref().map_or(-1, |file| file.as_fd().as_raw_fd())
    }

    /// Whether it is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.state().mapping.is_none()
    }

    /// Gives up the mapping. BufferError as long as something uses it.
    fn close(&self) -> PyResult<()> {
        let mut state = self.state();
        if state.exports > 0 {
            return Err(PyBufferError::new_err(
                "cannot close: a memoryview or an array on this memory is still alive; delete it first",
            ));
        }
        state.mapping = None;
        state.file = None;
        Ok(())
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let mut state = slf.get().state();
        let Some(mapping) = state.mapping.as_ref() else {
            return Err(PyValueError::new_err("this shared memory is closed"));
        };
        let (start, length) = (mapping.as_ptr().as_ptr().cast(), mapping.len() as ffi::Py_ssize_t);
        // SAFETY: the bytes are there as long as the mapping is, which is not given up before every view is released. Each view keeps this
        // object, too.
        let answer = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 0, flags) };
        if answer != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        state.exports += 1;
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.state().exports -= 1;
    }
}

/// The name of a file that is there already goes with the program from now on.
#[pyfunction]
pub(crate) fn keep_name(py: Python<'_>, name: &str) -> PyResult<()> {
    match named::number(name) {
        Some(number) => py.detach(|| embed::keep_name(number, name)).map_err(|error| exception(py, error)),
        None => Ok(()),
    }
}

/// Removes a name, which is not the program's any more then.
#[pyfunction]
pub(crate) fn remove_name(py: Python<'_>, name: &str) -> PyResult<()> {
    check_name(name)?;
    let number = named::number(name);
    named::remove(name).map_err(os_error)?;
    number.map_or(Ok(()), |number| embed::forget_name(number, name).map_err(|error| exception(py, error)))
}

/// The name, if it is that of the file with this number, is not the program's any more, and stays.
#[pyfunction]
pub(crate) fn forget_name(py: Python<'_>, name: &str, number: u64) -> PyResult<()> {
    embed::forget_name(number, name).map_err(|error| exception(py, error))
}
