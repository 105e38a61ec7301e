//! Pools: Python's calls as tasks of the engine's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broody::embed::Encoded;
use broody::policy::Scheduling;
use broody::{AsyncResult, Imap, StartMethod, TaskOptions, WhenFull};
use pyo3::exceptions::{PyStopIteration, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::exception;
use crate::process::encoded;
use crate::tasks::{self, Answer};
use crate::waiting;

/// A pool of workers. The class `broody.pool.Pool` gives it the face that Python's users know.
#[pyclass(frozen)]
pub(crate) struct Pool {
    pool: Option<Arc<broody::Pool>>,
    /// Whether tasks that raise are tried again, where nothing else is said of them.
    retry_errors: bool,
}

/// How tasks are handed in: each is one of Python's chunks.
fn options(options: Option<&Bound<'_, PyDict>>) -> PyResult<TaskOptions> {
    let mut made = TaskOptions::new();
    for (name, value) in options.into_iter().flatten() {
        if value.is_none() {
            continue;
        }
        let seconds = || -> PyResult<Duration> {
            let seconds: f64 = value.extract()?;
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| PyValueError::new_err(format!("{seconds} is no time in seconds")))
        };
        made = match name.extract::<&str>()? {
            "timeout" => made.timeout(seconds()?),
            "soft_timeout" => made.soft_timeout(seconds()?),
            "retries" => made.retries(value.extract()?),
            "retry_errors" => made.retry_errors(value.is_truthy()?),
            "backoff" => made.backoff(seconds()?),
            "memory_limit" => made.memory_limit(value.extract()?),
            "cost" => made.cost(value.extract()?),
            "priority" => made.priority(value.extract()?),
            other => return Err(PyValueError::new_err(format!("{other:?} is no option of tasks"))),
        };
    }
    Ok(made)
}

#[pymethods]
impl Pool {
    /// A pool whose workers call `broody._worker.begin` with what `encode` gives.
    #[new]
    fn new(
        py: Python<'_>,
        method: &str,
        workers: (usize, usize),
        encode: &Bound<'_, PyAny>,
        settings: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let method = match method {
            "fork" => StartMethod::Fork,
            "spawn" => StartMethod::Spawn,
            "forkserver" => StartMethod::Forkserver,
            _ => return Err(PyValueError::new_err(format!("cannot find start method {method:?}"))),
        };
        let mut retry_errors = false;
        let mut builder = broody::Pool::builder()
            .workers_between(workers.0, workers.1)
            .start_method(method)
            .initializer(tasks::begin, encoded(encode)?)
            .finalizer(tasks::end, ());
        for (name, value) in settings {
            if value.is_none() {
                continue;
            }
            builder = match name.extract::<&str>()? {
                "name" => builder.name(value.extract::<String>()?),
                "tasks" => {
                    let terms: &Bound<'_, PyDict> = value.cast()?;
                    if let Some(said) = terms.get_item("retry_errors")? {
                        retry_errors = said.is_truthy()?;
                    }
                    builder.tasks(options(Some(terms))?)
                }
                "tasks_per_worker" => builder.max_tasks_per_worker(value.extract()?),
                "memory_per_worker" => builder.memory_per_worker(value.extract()?),
                "idle_timeout" => builder.idle_timeout(Duration::from_secs_f64(value.extract()?)),
                "start_timeout" => builder.start_timeout(Duration::from_secs_f64(value.extract()?)),
                "max_queue" => builder.max_queued(value.extract()?, WhenFull::Wait),
                "nice" => builder.nice(value.extract()?),
                "pin_cpus" => builder.pin_cpus(value.extract()?),
                "policy" => {
                    let policy = value.extract::<&str>()?.parse::<Scheduling>();
                    builder.scheduling(policy.map_err(|error| exception(py, error))?)
                }
                other => return Err(PyValueError::new_err(format!("{other:?} is no setting of pools"))),
            };
        }
        let pool = py.detach(move || builder.build()).map_err(|error| exception(py, error))?;
        Ok(Self { pool: Some(Arc::new(pool)), retry_errors })
    }

    /// Hands in one task: `function(*arguments, **keywords)`.
    fn apply(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        arguments: &Bound<'_, PyAny>,
        keywords: &Bound<'_, PyAny>,
        terms: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Pending> {
        let task = tasks::call(function, arguments, keywords, self.retries(terms)?)?;
        self.hand_in(py, vec![task], terms)
    }

    /// Hands in a task for each `chunk_size` of `items`, a list: `function(item)`, or `function(*item)` if `star`.
    fn map(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        items: &Bound<'_, PyAny>,
        star: bool,
        chunk_size: usize,
        terms: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Pending> {
        let head = tasks::head(function, star, chunk_size, self.retries(terms)?)?;
        let mut items = items.try_iter()?;
        let mut tasks = Vec::new();
        while let Some(task) = tasks::chunk(&head, &mut items, chunk_size)? {
            tasks.push(task);
        }
        self.hand_in(py, tasks, terms)
    }

    /// Hands in tasks as results are asked for. Each item of `items` is a chunk.
    #[allow(clippy::too_many_arguments)]
    fn imap(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        items: &Bound<'_, PyAny>,
        star: bool,
        chunk_size: usize,
        ordered: bool,
        most: Option<usize>,
        terms: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Stream> {
        let options = options(terms)?;
        let source = tasks::Source::new(function, star, items, chunk_size, self.retries(terms)?)?;
        let failure = source.failure();
        self.with(py, |pool| {
            let with = pool.with(options);
            match ordered {
                true => with.imap(tasks::run, source),
                false => with.imap_unordered(tasks::run, source),
            }
        })
        .map(|imap| {
            let imap = match most {
                Some(most) => imap.at_most(most),
                None => imap,
            };
            Stream { imap: Mutex::new(Some(imap)), failure }
        })
    }

    /// Takes no more tasks; the workers end when those there are are done.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, broody::Pool::close)
    }

    /// Ends the workers at once. How many tasks were left undone: begun, waiting.
    fn terminate(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        self.with(py, broody::Pool::terminate).map(|undone| (undone.begun, undone.waiting))
    }

    /// Waits until the workers have ended, at most for `timeout` seconds. Whether they have.
    #[pyo3(signature = (timeout=None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let ended = waiting::wait(py, waiting::limit(timeout), |limit| {
            match self.pool.as_ref().map(|pool| pool.join_timeout(limit)) {
                Some(Ok(false)) => None,
                Some(Err(error)) => Some(Err(error)),
                _ => Some(Ok(())),
            }
        })?;
        match ended {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(error)) => Err(exception(py, error)),
        }
    }

    fn worker_pids(&self, py: Python<'_>) -> PyResult<Vec<i32>> {
        self.with(py, |pool| Ok(pool.worker_pids()))
    }

    /// Numbers, by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.with(py, |pool| Ok(pool.stats()))?;
        let dict = PyDict::new(py);
        for (name, number) in [
            ("workers", stats.workers as u64),
            ("paused", stats.paused as u64),
            ("waiting", stats.waiting as u64),
            ("leased", stats.leased as u64),
            ("done", stats.done),
            ("failed", stats.failed),
            ("lost", stats.lost),
            ("retried", stats.retried),
            ("preempted", stats.preempted),
            ("started", stats.started),
        ] {
            dict.set_item(name, number)?;
        }
        Ok(dict)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Without the GIL: the pool's thread may need it, while it has what `act` waits for.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&broody::Pool) -> broody::Result<T> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| self.pool.as_deref().map(act));
        match done {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(exception(py, error)),
            None => Err(PyValueError::new_err("Pool not running")),
        }
    }

    /// Whether tasks of these terms are tried again when they raise.
    fn retries(&self, terms: Option<&Bound<'_, PyDict>>) -> PyResult<bool> {
        let said = terms.map(|terms| terms.get_item("retry_errors")).transpose()?.flatten();
        said.filter(|said| !said.is_none()).map_or(Ok(self.retry_errors), |said| said.is_truthy())
    }

    fn hand_in(
        &self,
        py: Python<'_>,
        tasks: Vec<Encoded>,
        terms: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Pending> {
        let options = options(terms)?;
        self.with(py, |pool| pool.with(options).map_async(tasks::run, tasks)).map(Pending)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let pool = self.pool.take();
        // Its end waits for the pool's thread, which may need the GIL.
        Python::attach(|py| py.detach(|| drop(pool)));
    }
}

/// Whether the task that this process runs for a pool was asked to stop: its `soft_timeout` is over.
#[pyfunction]
pub(crate) fn should_stop() -> bool {
    broody::should_stop()
}

/// Tasks that were handed in together.
#[pyclass(frozen)]
pub(crate) struct Pending(AsyncResult<Vec<Answer>>);

#[pymethods]
impl Pending {
    fn ready(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.ready())
    }

    /// What the tasks gave, in their order, after waiting for at most `timeout` seconds; None if it is not there then. Raises what the first one (in
    /// order) raised that raised anything.
    #[pyo3(signature = (timeout=None))]
    fn get<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
        let answers =
            waiting::wait(py, waiting::limit(timeout), |limit| self.0.get_timeout(limit).transpose())?;
        match answers {
            None => Ok(None),
            Some(Err(error)) => Err(exception(py, error)),
            Some(Ok(answers)) => {
                answers.into_iter().map(|answer| answer.open(py)).collect::<PyResult<_>>().map(Some)
            }
        }
    }

    /// Waits until it is ready, at most for `timeout` seconds. Whether it is.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let ready = waiting::wait(py, waiting::limit(timeout), |limit| {
            self.0.wait_timeout(limit).map_or(Some(()), |ready| ready.then_some(()))
        })?;
        Ok(ready.is_some())
    }

    /// Gives up what is not done. Whether there was anything.
    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.0.cancel()).map_err(|error| exception(py, error))
    }

    /// Calls `function()` when it is ready, in a thread of the engine's.
    fn on_done(&self, py: Python<'_>, function: Py<PyAny>) -> PyResult<()> {
        let call = move |_| {
            Python::attach(|py| {
                if let Err(error) = function.call0(py) {
                    error.write_unraisable(py, Some(function.bind(py)));
                }
                drop(function);
            });
        };
        py.detach(|| self.0.on_done(call)).map_err(|error| exception(py, error))
    }
}

/// Results as they come.
#[pyclass(frozen)]
pub(crate) struct Stream {
    imap: Mutex<Option<Imap<tasks::Source, Answer>>>,
    failure: tasks::FailureOf,
}

#[pymethods]
impl Stream {
    /// Takes all that is left of the caller's items, and hands it in.
    fn hand_in_all(&self, py: Python<'_>) {
        py.detach(|| {
            if let Some(imap) = lock(&self.imap).as_mut() {
                imap.hand_in_all();
            }
        });
    }

    /// What the next task gave. Raises what the task raised, TimeoutError if it is not there after `timeout` seconds, and StopIteration in the end.
    #[pyo3(signature = (timeout=None))]
    fn next<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let next = waiting::wait(py, waiting::limit(timeout), |limit| match lock(&self.imap).as_mut() {
            Some(imap) => imap.next_timeout(limit),
            None => Some(None),
        })?;
        match next {
            None => Err(PyErr::from_value(py.import("broody.context")?.getattr("TimeoutError")?.call0()?)),
            Some(Some(Ok(answer))) => answer.open(py),
            Some(Some(Err(error))) => Err(exception(py, error)),
            Some(None) => Err(self.failure.take().unwrap_or_else(|| PyStopIteration::new_err(()))),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let imap = lock(&self.imap).take();
        Python::attach(|py| py.detach(|| drop(imap)));
    }
}
