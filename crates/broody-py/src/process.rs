//! Starting processes, and handles on them.

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};

use broody::embed::{self, Encoded, Start};
use broody::{ExitStatus, Process, StartMethod};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::exception;
use crate::waiting;

/// Who reaped it knows, and has not told.
const UNKNOWN: i32 = 255;

/// A process that this one has started.
#[pyclass(frozen)]
pub(crate) struct Child(Process);

#[pymethods]
impl Child {
    #[getter]
    fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// A descriptor that is readable when it has ended: a pidfd.
    #[getter]
    fn sentinel(&self) -> RawFd {
        self.0.sentinel().as_raw_fd()
    }

    /// The exit code, negative for a signal; None while it runs.
    fn poll(&self, py: Python<'_>) -> Option<i32> {
        py.detach(|| self.0.exit_status()).map(code)
    }

    /// As `poll`, after it has ended or `timeout` seconds are over.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<i32>> {
        let ended = waiting::wait(py, waiting::limit(timeout), |limit| {
            self.0.wait_timeout(limit).transpose().map(|_| ())
        })?;
        Ok(ended.and_then(|()| self.poll(py)))
    }

    /// Sends a signal; none to a process that has ended.
    fn signal(&self, py: Python<'_>, signal: i32) -> PyResult<()> {
        self.0.signal(signal).map_err(|error| exception(py, error))
    }

    /// Lets it survive this program.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.0.clone().detach().map_err(|error| exception(py, error))
    }
}

fn code(status: ExitStatus) -> i32 {
    status.exit_code().unwrap_or(UNKNOWN)
}

/// Starts an interpreter ("spawn"), or forks one from the template ("forkserver"), that calls `broody._child.main` with what `encode` gives: bytes
/// in which handles on shared objects may be. The descriptors are there at numbers that `own_descriptors` gives.
#[pyfunction]
pub(crate) fn start(
    py: Python<'_>,
    method: &str,
    name: &str,
    daemon: bool,
    encode: &Bound<'_, PyAny>,
    descriptors: &Bound<'_, PyAny>,
) -> PyResult<Child> {
    let method = match method {
        "spawn" => StartMethod::Spawn,
        "forkserver" => StartMethod::Forkserver,
        _ => return Err(PyValueError::new_err(format!("cannot find start method {method:?}"))),
    };
    let argument = encoded(encode)?;
    // After that: encoding is what finds them.
    let descriptors: Vec<RawFd> = descriptors.extract()?;
    // SAFETY: the caller keeps them open during this call.
    let descriptors: Vec<_> = descriptors.iter().map(|fd| unsafe { BorrowedFd::borrow_raw(*fd) }).collect();
    let how = Start { name, daemon, method, descriptors: &descriptors };
    py.detach(move || embed::start(how, run, &argument)).map(Child).map_err(|error| exception(py, error))
}

/// What Python's pickle makes of something, with the shared objects in it.
pub(crate) fn encoded(encode: &Bound<'_, PyAny>) -> PyResult<Encoded> {
    Encoded::new(|| Ok(encode.call0()?.cast_into::<PyBytes>()?.as_bytes().to_vec()))
}

/// Forks this process. None in the child.
#[pyfunction]
pub(crate) fn fork(py: Python<'_>, name: &str, daemon: bool) -> PyResult<Option<Child>> {
    // With the GIL: the handlers of Python need it, and so does the child.
    Ok(embed::fork_here(name, daemon).map_err(|error| exception(py, error))?.map(Child))
}

/// The descriptors that came with the start of this process. They are the caller's then.
#[pyfunction]
pub(crate) fn own_descriptors() -> Vec<RawFd> {
    embed::own_descriptors().into_iter().map(IntoRawFd::into_raw_fd).collect()
}

/// The function of every process.
fn run(argument: Encoded) {
    let code = Python::attach(|py| -> PyResult<i32> {
        let main = py.import("broody._child")?.getattr("main")?;
        main.call1((PyBytes::new(py, &argument.bytes),))?.extract()
    });
    let code = code.unwrap_or_else(|error| {
        Python::attach(|py| error.print(py));
        1
    });
    embed::set_exit_code((code & 0xff) as u8);
}
