//! Waiting for the first of several connections, sockets, processes.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use broody::embed::MessageQueue;
use broody::{Source, Waitable};
use broody_os::events;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList};

use super::{Connection, borrow};
use crate::errors::raised;
use crate::messages;
use crate::waiting;

/// What is waited for.
enum Thing {
    Descriptor(BorrowedFd<'static>),
    /// Looked at itself: its descriptor is signalled by a thread, and who has put something may be seen to end before that thread has come to it.
    Queue(MessageQueue),
}

impl Waitable for Thing {
    fn source(&self) -> broody::Result<Source<'_>> {
        match self {
            Self::Descriptor(fd) => Ok(Source::descriptor(*fd)),
            Self::Queue(queue) => queue.source(),
        }
    }
}

/// Those of `objects` that are ready, after at most `timeout` seconds; for ever if that is None.
#[pyfunction]
#[pyo3(signature = (objects, timeout=None))]
pub(crate) fn wait_for_any<'py>(
    py: Python<'py>,
    objects: &Bound<'py, PyAny>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyList>> {
    let objects = objects.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    let things = objects.iter().map(thing).collect::<PyResult<Vec<_>>>()?;
    let look = |limit| match first_of(&things, limit) {
        Ok(ready) if ready.is_empty() => None,
        looked => Some(looked),
    };
    let mut ready = look(Duration::ZERO);
    if ready.is_none() && timeout.is_none_or(|timeout| timeout > 0.0) {
        ready = waiting::wait(py, waiting::limit(timeout), look)?;
    }
    let ready = ready.transpose().map_err(raised)?.unwrap_or_default();
    PyList::new(py, ready.into_iter().map(|index| &objects[index]))
}

fn first_of(things: &[Thing], limit: Duration) -> broody::Result<Vec<usize>> {
    if things.is_empty() {
        // Python's waits for nothing, for as long as it may.
        events::poll_all(&[], Some(Instant::now() + limit))?;
    }
    broody::wait(&things.iter().map(|thing| thing as &dyn Waitable).collect::<Vec<_>>(), Some(limit))
}

/// What to look at.
fn thing(object: &Bound<'_, PyAny>) -> PyResult<Thing> {
    let fd: RawFd = if let Ok(connection) = object.cast::<Connection>() {
        connection.get().open_handle()?
    } else if object.is_instance_of::<PyInt>() {
        object.extract()?
    } else {
        let fd = object.call_method0("fileno")?.extract()?;
        if let Some(queue) = messages::of_end(object, fd)? {
            return Ok(Thing::Queue(queue));
        }
        fd
    };
    if fd < 0 {
        return Err(PyValueError::new_err(format!("invalid file descriptor: {fd}")));
    }
    Ok(Thing::Descriptor(borrow(fd)))
}
