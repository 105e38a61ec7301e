//! Descriptors that were pickled. See [`broody_os::handover`].

use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use broody_os::handover::{self, Desk, Token};
use broody_os::{fork, stream};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::os_error;
use crate::waiting;

/// Used with the GIL only, so that no fork finds it locked.
static DESK: Mutex<Option<Desk>> = Mutex::new(None);

fn desk() -> MutexGuard<'static, Option<Desk>> {
    DESK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Leaves a duplicate of `fd` for whoever has `token`. Gives the name to ask by: `name`, if nothing was left before.
#[pyfunction]
pub(crate) fn leave_descriptor<'py>(
    py: Python<'py>,
    fd: RawFd,
    token: Token,
    name: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    if fd < 0 {
        return Err(PyOSError::new_err((9, format!("{fd} is not a descriptor"))));
    }
    // SAFETY: the caller keeps it open during this call; if it does not, the kernel says so.
    let duplicate = fork::duplicate(unsafe { BorrowedFd::borrow_raw(fd) }).map_err(os_error)?;
    let mut desk = desk();
    if desk.as_ref().is_some_and(|desk| !desk.is_own())
        && let Some(theirs) = desk.take()
    {
        theirs.forget();
    }
    if desk.is_none() {
        *desk = Some(Desk::open(name).map_err(os_error)?);
    }
    let Some(desk) = desk.as_ref() else { unreachable!("it was opened just now") };
    desk.leave(token, duplicate);
    Ok(PyBytes::new(py, desk.name()))
}

/// Takes what was left for `token`. None when there is nothing.
#[pyfunction]
pub(crate) fn take_descriptor(py: Python<'_>, name: &[u8], token: Token) -> PyResult<Option<RawFd>> {
    let asked = py.detach(|| handover::ask(name, &token)).map_err(os_error)?;
    waiting::wait(py, None, |slice| {
        let until = std::time::Instant::now() + slice;
        match stream::wait_readable(std::os::fd::AsFd::as_fd(&asked), Some(until)) {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    })?
    .transpose()
    .map_err(os_error)?;
    Ok(handover::taken(&asked).map_err(os_error)?.map(IntoRawFd::into_raw_fd))
}

/// Closes what was left and not taken.
#[pyfunction]
pub(crate) fn close_desk(py: Python<'_>) {
    let taken = desk().take();
    match taken {
        Some(desk) if desk.is_own() => py.detach(|| desk.close()),
        Some(desk) => desk.forget(),
        None => {}
    }
}
