//! How processes of the interpreter come into being. See [`broody::embed`].

use std::cell::Cell;
use std::ffi::OsString;
use std::path::PathBuf;

use broody::embed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::exception;

thread_local! {
    /// How this thread had the GIL before the fork.
    static TAKEN: Cell<Option<ffi::PyGILState_STATE>> = const { Cell::new(None) };
}

/// The forking thread may be one of the engine's, which has no GIL. It holds no lock of the engine's that somebody with the GIL waits for: whoever calls
/// the engine lets go of the GIL first.
fn before_fork() {
    // SAFETY: the interpreter is there: it has loaded this code, and ends pools before it ends itself.
    unsafe {
        TAKEN.set(Some(ffi::PyGILState_Ensure()));
    }
    flush_streams();
    // SAFETY: as above.
    unsafe { ffi::PyOS_BeforeFork() };
}

/// What is buffered would be in the child's buffers as well, and be written twice. A worker that replaces another one may be forked at any time.
fn flush_streams() {
    Python::attach(|py| {
        let flushed = py.import("broody.util").and_then(|util| util.call_method0("_flush_std_streams"));
        if let Err(error) = flushed {
            error.write_unraisable(py, None);
        }
    });
}

fn after_fork() {
    // SAFETY: this thread has the GIL since `before_fork`, and gives back what it took there.
    unsafe {
        ffi::PyOS_AfterFork_Parent();
        if let Some(state) = TAKEN.take() {
            ffi::PyGILState_Release(state);
        }
    }
}

fn after_fork_in_child() {
    // SAFETY: as above. The state of a thread that had none before stays: it is the main thread's now, and is not to be deleted.
    unsafe {
        ffi::PyOS_AfterFork_Child();
        match TAKEN.take() {
            Some(state @ ffi::PyGILState_STATE::PyGILState_LOCKED) => ffi::PyGILState_Release(state),
            _ => {
                ffi::PyEval_SaveThread();
            }
        }
    }
}

/// Says what to exec: the native supervisor, and the interpreter with arguments (its name first) that lead to `role()`, in a child and in the
/// template.
#[pyfunction]
pub(crate) fn install(
    supervisor: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    template_arguments: Vec<OsString>,
) {
    embed::install(embed::Runtime {
        supervisor,
        program,
        arguments,
        template_arguments,
        before_fork,
        after_fork,
        after_fork_in_child,
    });
}

/// What broody has exec'ed this process as: "template", "child", or None. Once.
#[pyfunction]
pub(crate) fn role() -> Option<&'static str> {
    // SAFETY: called by the first lines of such a process, which has no other thread.
    match unsafe { embed::role() }? {
        embed::Role::Template => Some("template"),
        embed::Role::Child => Some("child"),
    }
}

/// The process that children of the start method forkserver are forked from.
#[pyclass]
pub(crate) struct Template(Option<embed::Template>);

#[pymethods]
impl Template {
    /// Makes this process the template.
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        embed::Template::begin().map(|template| Self(Some(template))).map_err(|error| exception(py, error))
    }

    /// Forks children until the program ends; never returns.
    fn serve(&mut self, py: Python<'_>) -> PyResult<()> {
        match self.0.take() {
            Some(template) => py.detach(|| template.serve()),
            None => Err(PyRuntimeError::new_err("it serves already")),
        }
    }
}

/// The pid of the template, which is started if there is none.
#[pyfunction]
pub(crate) fn template_pid(py: Python<'_>) -> PyResult<i32> {
    py.detach(embed::template_pid).map_err(|error| exception(py, error))
}

/// The pid of the supervisor; None if there is none, unless `start`.
#[pyfunction]
pub(crate) fn supervisor_pid(py: Python<'_>, start: bool) -> PyResult<Option<i32>> {
    py.detach(|| embed::supervisor_pid(start)).map_err(|error| exception(py, error))
}

/// Makes this process the child that it was exec'ed as, and runs it. Gives its exit code.
#[pyfunction]
pub(crate) fn resume(py: Python<'_>) -> u8 {
    py.detach(embed::resume)
}

/// Ends the process at once, as os._exit does, and gives back what it has in shared memory.
#[pyfunction]
pub(crate) fn exit_now(code: i32) {
    embed::exit_now((code & 0xff) as u8)
}

/// The environment as it is outside os.environ.
#[pyfunction]
pub(crate) fn variables() -> Vec<(OsString, OsString)> {
    embed::variables()
}

/// Calls `function()` in a thread of the engine's.
#[pyfunction]
pub(crate) fn run_apart(py: Python<'_>, name: &str, function: Py<PyAny>) -> PyResult<()> {
    let work = move || {
        Python::attach(|py| {
            if let Err(error) = function.call0(py) {
                error.write_unraisable(py, Some(function.bind(py)));
            }
            drop(function);
        });
    };
    py.detach(|| embed::start_thread(name, work)).map_err(PyErr::from)
}
