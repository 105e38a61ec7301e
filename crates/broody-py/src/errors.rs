//! The engine's errors as Python's exceptions.

use broody::Error;
use pyo3::PyErr;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};

/// The exception that stands for `error`.
pub(crate) fn exception(error: Error) -> PyErr {
    match error {
        Error::Os(error) => match error.errno() {
            Some(errno) => PyOSError::new_err((errno, error.to_string())),
            None => PyOSError::new_err(error.to_string()),
        },
        Error::Invalid { what } => PyValueError::new_err(what),
        Error::Start { .. } | Error::SupervisorStart { .. } => PyOSError::new_err(error.to_string()),
        _ => PyRuntimeError::new_err(error.to_string()),
    }
}
