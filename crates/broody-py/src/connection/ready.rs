//! Waiting for the first of several connections, sockets, processes.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Instant;

use broody_os::events;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{Connection, borrow};
use crate::errors::os_error;
use crate::waiting;

/// Those of `objects` that are ready, after at most `timeout` seconds; for ever if that is None.
#[pyfunction]
#[pyo3(signature = (objects, timeout=None))]
pub(crate) fn wait_for_any<'py>(
    py: Python<'py>,
    objects: &Bound<'py, PyAny>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyList>> {
    let objects = objects.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    let fds = objects.iter().map(descriptor).collect::<PyResult<Vec<_>>>()?;
    let look = |until| -> broody_os::Result<Option<Vec<bool>>> {
        let ready = events::poll_all(&fds, Some(until))?;
        Ok(Some(ready).filter(|ready| ready.contains(&true)))
    };
    let mut ready = look(Instant::now()).map_err(os_error)?;
    if ready.is_none() && timeout.is_none_or(|timeout| timeout > 0.0) {
        let waited =
            waiting::wait(py, waiting::limit(timeout), |slice| look(Instant::now() + slice).transpose());
        ready = waited?.transpose().map_err(os_error)?;
    }
    let ready = ready.unwrap_or_default();
    PyList::new(
        py,
        objects
            .into_iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|(object, _)| object)
            .collect::<Vec<_>>(),
    )
}

/// What to look at.
fn descriptor(object: &Bound<'_, PyAny>) -> PyResult<BorrowedFd<'static>> {
    let fd: RawFd = if let Ok(connection) = object.cast::<Connection>() {
        connection.get().open_handle()?
    } else if let Ok(fd) = object.extract() {
        fd
    } else {
        object.call_method0("fileno")?.extract()?
    };
    if fd < 0 {
        return Err(PyValueError::new_err(format!("invalid file descriptor: {fd}")));
    }
    Ok(borrow(fd))
}
