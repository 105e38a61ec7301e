//! The engine's errors as Python's exceptions.

use broody::Error;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::tasks;

/// The exception that stands for `error`.
pub(crate) fn exception(py: Python<'_>, error: Error) -> PyErr {
    if let Error::Panicked { message, .. } = &error
        && let Some(raised) = tasks::raised_at_last(py, message)
    {
        return raised;
    }
    let text = error.to_string();
    let made = match error {
        Error::Os(error) => Ok(os_error(error)),
        Error::Invalid { what } => Ok(PyValueError::new_err(what)),
        Error::Start { .. } | Error::SupervisorStart { .. } => Ok(PyOSError::new_err(text)),
        Error::PoolClosed => Ok(PyValueError::new_err("Pool not running")),
        Error::WorkerLost { pid, status, task } => {
            own(py, "WorkerLostError", (task, pid, status.exit_code()))
        }
        Error::TaskTimedOut { task, pid, limit } => {
            own(py, "TaskTimeoutError", (task, pid, limit.as_secs_f64()))
        }
        Error::TaskMemory { task, pid, limit, grown } => {
            own(py, "TaskMemoryError", (task, pid, limit, grown))
        }
        Error::Cancelled { task } => own(py, "TaskCancelledError", (task,)),
        Error::PoolTerminated { task } => own(py, "PoolTerminatedError", (task,)),
        Error::PoolBroken { reason } => own(py, "PoolBrokenError", (reason,)),
        Error::PoolFull { waiting } => own(py, "PoolFullError", (waiting,)),
        _ => Ok(PyRuntimeError::new_err(text)),
    };
    made.unwrap_or_else(|error| error)
}

/// The exception that stands for a failed system call.
pub(crate) fn os_error(error: broody_os::Error) -> PyErr {
    match error.errno() {
        Some(errno) => PyOSError::new_err((errno, error.to_string())),
        None => PyOSError::new_err(error.to_string()),
    }
}

/// One of those in `broody.exceptions`.
fn own<'py>(
    py: Python<'py>,
    name: &str,
    fields: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<PyErr> {
    let class = py.import("broody.exceptions")?.getattr(name)?;
    let fields = fields.into_pyobject(py)?;
    Ok(PyErr::from_value(class.getattr("_of")?.call1(fields)?))
}

/// As [`exception`], where nobody has the GIL at hand.
#[cold]
pub(crate) fn raised(error: Error) -> PyErr {
    Python::attach(|py| exception(py, error))
}
