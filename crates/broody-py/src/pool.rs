//! Pools: Python's calls as tasks of the engine's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broody::embed::Encoded;
use broody::policy::Scheduling;
use broody::{AsyncResult, Imap, StartMethod, TaskOptions, WhenFull, With};
use pyo3::exceptions::{PyException, PyStopIteration, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::exception;
use crate::process::encoded;
use crate::tasks::{self, Answer};
use crate::{lock, waiting};

/// A pool of workers. The class `broody.pool.Pool` gives it the face that Python's users know.
#[pyclass(frozen, weakref)]
pub(crate) struct Pool {
    pool: Option<Arc<broody::Pool>>,
    /// Somebody wants to see the names of functions.
    traced: AtomicBool,
    /// The workers do not import the program's main module.
    without_main: bool,
    /// Whether tasks that raise are tried again, where nothing else is said of them.
    retry_errors: bool,
}

/// How long a worker that is just being started is waited for.
const START: Duration = Duration::from_secs(10);

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
        let mut without_main = false;
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
                "environment" => {
                    let variables: BTreeMap<String, String> = value.extract()?;
                    variables.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value))
                }
                "without_main" => {
                    without_main = value.extract()?;
                    builder
                }
                "pin_cpus" => builder.pin_cpus(value.extract()?),
                "policy" => {
                    let policy = value.extract::<&str>()?.parse::<Scheduling>();
                    builder.scheduling(policy.map_err(|error| exception(py, error))?)
                }
                other => return Err(PyValueError::new_err(format!("{other:?} is no setting of pools"))),
            };
        }
        let pool = py.detach(move || builder.build()).map_err(|error| exception(py, error))?;
        Ok(Self { pool: Some(Arc::new(pool)), traced: AtomicBool::new(false), without_main, retry_errors })
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
        let task = tasks::call(function, arguments, keywords, self.kind(false, terms)?)?;
        self.hand_in(py, vec![task], self.name_of(function), terms)
    }

    /// As `apply`, for an executor: what the task raises is raised as it is. Gives the exception of a call that cannot be pickled.
    fn submit<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyAny>,
        keywords: &Bound<'py, PyAny>,
        terms: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match tasks::call(function, arguments, keywords, self.kind(true, terms)?) {
            Ok(task) => {
                let pending = self.hand_in(py, vec![task], self.name_of(function), terms)?;
                Ok(Bound::new(py, pending)?.into_any())
            }
            Err(error) if error.is_instance_of::<PyException>(py) => {
                Ok(error.into_value(py).into_bound(py).into_any())
            }
            Err(error) => Err(error),
        }
    }

    /// Hands in a task for each `chunk_size` of `items`, a list: `function(item)`, or `function(*item)` if `star`. Calls `tell(done, all)` now and then.
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (function, items, star, chunk_size, terms, tell=None))]
    fn map(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        items: &Bound<'_, PyAny>,
        star: bool,
        chunk_size: usize,
        terms: Option<&Bound<'_, PyDict>>,
        tell: Option<Py<PyAny>>,
    ) -> PyResult<Pending> {
        let common = self.kind(false, terms)?;
        let head = tasks::head(function, star, chunk_size, common)?;
        let mut items = items.try_iter()?;
        let mut tasks = Vec::new();
        while let Some(task) = tasks::chunk(&head, &mut items, chunk_size, common)? {
            tasks.push(task);
        }
        let Some(tell) = tell else { return self.hand_in(py, tasks, self.name_of(function), terms) };
        let (options, name) = (options(terms)?, self.name_of(function));
        let told = move |done: usize, all: usize| {
            Python::attach(|py| {
                if let Err(error) = tell.call1(py, (done, all)) {
                    error.write_unraisable(py, Some(tell.bind(py)));
                }
            });
        };
        self.with(py, |pool| named(pool.with(options), name).on_progress(told).map_async(tasks::run, tasks))
            .map(Pending)
    }

    /// Hands in tasks as results are asked for. Each item of `items` is a chunk.
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (function, items, star, chunk_size, ordered, most, terms, bare=false))]
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
        bare: bool,
    ) -> PyResult<Stream> {
        let options = options(terms)?;
        let name = self.name_of(function);
        let source = tasks::Source::new(function, star, items, chunk_size, self.kind(bare, terms)?)?;
        let failure = source.failure();
        self.with(py, |pool| {
            let with = named(pool.with(options), name);
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
            Stream { imap: Mutex::new(Some(imap)), failure, bare }
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

    /// As `terminate`; workers get SIGTERM, and those that are still there after `grace` seconds SIGKILL.
    fn terminate_within(&self, py: Python<'_>, grace: f64) -> PyResult<(usize, usize)> {
        let grace = waiting::limit(Some(grace)).unwrap_or(Duration::MAX);
        let undone = self.with(py, |pool| pool.terminate_within(grace))?;
        Ok((undone.begun, undone.waiting))
    }

    /// Gives up what has not begun. How many tasks those were.
    fn cancel_waiting(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, broody::Pool::cancel_waiting)
    }

    /// Waits until callbacks have run that are due by now, at most for `timeout` seconds. Whether they have.
    #[pyo3(signature = (timeout=None))]
    fn join_callbacks(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let ran = waiting::wait(py, waiting::limit(timeout), |limit| {
            match self.pool.as_ref().map(|pool| pool.await_callbacks(limit)) {
                Some(Ok(false)) => None,
                Some(Err(error)) => Some(Err(error)),
                _ => Some(Ok(())),
            }
        })?;
        ran.transpose().map(|ran| ran.is_some()).map_err(|error| exception(py, error))
    }

    /// The workers that take tasks, and those that are just being started.
    fn pids_at_work(&self, py: Python<'_>) -> PyResult<Vec<i32>> {
        self.with(py, |pool| pool.pids_at_work(START))
    }

    /// Why the pool has given up; None if it has not.
    fn broken(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.with(py, |pool| Ok(pool.broken()))
    }

    /// Collects from now on what happens.
    fn trace(&self, py: Python<'_>) -> PyResult<Trace> {
        let trace = self.with(py, broody::Pool::trace)?;
        self.traced.store(true, Ordering::Relaxed);
        Ok(Trace(Mutex::new(trace)))
    }

    /// Whether there was such a worker.
    fn signal_worker(&self, py: Python<'_>, pid: i32, signal: i32) -> PyResult<bool> {
        self.with(py, |pool| pool.signal_worker(pid, signal))
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

    fn hand_in(
        &self,
        py: Python<'_>,
        tasks: Vec<Encoded>,
        name: Option<&'static str>,
        terms: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Pending> {
        let options = options(terms)?;
        self.with(py, |pool| named(pool.with(options), name).map_async(tasks::run, tasks)).map(Pending)
    }

    fn kind(&self, bare: bool, terms: Option<&Bound<'_, PyDict>>) -> PyResult<tasks::Kind> {
        let said = terms.map(|terms| terms.get_item("retry_errors")).transpose()?.flatten();
        let retry = said.filter(|said| !said.is_none());
        let retry = retry.map_or(Ok(self.retry_errors), |said| said.is_truthy())?;
        Ok(tasks::Kind { bare, without_main: self.without_main, retry })
    }

    /// The name of a function in a trace, where there is one.
    fn name_of(&self, function: &Bound<'_, PyAny>) -> Option<&'static str> {
        if !self.traced.load(Ordering::Relaxed) {
            return None;
        }
        let name = function.getattr("__qualname__").or_else(|_| function.get_type().getattr("__qualname__"));
        name.and_then(|name| name.extract::<String>()).ok().map(kept_name)
    }
}

fn named<'a>(with: With<'a>, name: Option<&'static str>) -> With<'a> {
    match name {
        Some(name) => with.named(name),
        None => with,
    }
}

/// The one copy of a name, which stays for ever: a program has few functions.
fn kept_name(name: String) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    /// Except for one that makes them up.
    const MOST: usize = 4096;
    let mut names = lock(&NAMES);
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    if names.len() >= MOST {
        return "one of many";
    }
    let kept: &'static str = Box::leak(name.into_boxed_str());
    names.insert(kept);
    kept
}

/// What happens in a pool, collected for a timeline.
#[pyclass(frozen)]
pub(crate) struct Trace(Mutex<broody::observe::Trace>);

#[pymethods]
impl Trace {
    /// Writes what has happened so far, in the Trace Event Format.
    fn write(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| lock(&self.0).write(path)).map_err(|error| exception(py, error))
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
    // With the GIL, where nothing is waited for that somebody may hold who waits for the GIL: to let go of it and to have it again costs more than the rest.

    fn ready(&self) -> bool {
        self.0.ready()
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

    /// What a single task gave, which is ready; raises what it raised. What cannot be unpickled is a TransferError.
    fn outcome<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.0.try_get() {
            Ok(answers) => match answers.and_then(|mut answers| answers.pop()) {
                Some(answer) => answer.open_bare(py),
                None => Err(PyValueError::new_err("it is not ready")),
            },
            Err(error) => Err(exception(py, error)),
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

    /// Gives up a task that has not begun. Whether it is given up.
    fn revoke(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.0.revoke()).map_err(|error| exception(py, error))
    }

    /// Whether a worker has begun it, and it is not over.
    fn is_running(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.is_running())
    }

    /// Calls `function()` when it is ready, in a thread of the engine's.
    fn on_done(&self, py: Python<'_>, function: Py<PyAny>) -> PyResult<()> {
        self.0.when_done(calling(function)).map_err(|error| exception(py, error))
    }
}

/// Results as they come.
#[pyclass(frozen, weakref)]
pub(crate) struct Stream {
    imap: Mutex<Option<Imap<tasks::Source, Answer>>>,
    failure: tasks::FailureOf,
    bare: bool,
}

#[pymethods]
impl Stream {
    /// Takes all that is left of the caller's items, and hands it in.
    fn hand_in_all(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            if let Some(imap) = lock(&self.imap).as_mut() {
                imap.hand_in_all();
            }
        });
        self.failure.interrupt(py)
    }

    /// What the next task gave. Raises what the task raised, TimeoutError if it is not there after `timeout` seconds, and StopIteration in the end.
    #[pyo3(signature = (timeout=None))]
    fn next<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        match self.next_answer(py, timeout)? {
            Next::Answer(value) => Ok(value),
            Next::End => Err(PyStopIteration::new_err(())),
            Next::Late => {
                let error = py.import("broody.context")?.getattr("TimeoutError")?.call0()?;
                Err(PyErr::from_value(error))
            }
        }
    }

    /// As `next`; gives `late` if it is not there after `timeout` seconds, and `end` in the end: what a task raises is not taken for one of them.
    fn take<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
        late: Bound<'py, PyAny>,
        end: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.next_answer(py, timeout)? {
            Next::Answer(value) => value,
            Next::End => end,
            Next::Late => late,
        })
    }

    /// Forgets it: what has not begun never will, unless it is to be kept going.
    fn forget(&self, py: Python<'_>) {
        py.detach(|| drop(lock(&self.imap).take()));
    }

    /// Hands in the first tasks, before a result is asked for.
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| lock(&self.imap).as_mut().map(Imap::begin));
        self.failure.interrupt(py)
    }

    /// Says whether tasks that were handed in are done also when this is forgotten.
    fn keep_going(&self, py: Python<'_>, keep: bool) {
        py.detach(|| lock(&self.imap).as_mut().map(|imap| imap.keep_going(keep)));
    }

    /// Takes no more items.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| lock(&self.imap).as_mut().map(Imap::stop));
    }

    /// Gives up everything, also what runs.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        let cancelled = py.detach(|| lock(&self.imap).as_mut().map(Imap::cancel));
        cancelled.unwrap_or(Ok(())).map_err(|error| exception(py, error))
    }

    /// Calls `function()` once, when `next` need not wait, in a thread of the engine's.
    fn on_ready(&self, py: Python<'_>, function: Py<PyAny>) -> PyResult<()> {
        let call = calling(function);
        let set = py.detach(|| lock(&self.imap).as_mut().map(|imap| imap.on_ready(call)));
        set.unwrap_or(Ok(())).map_err(|error| exception(py, error))
    }
}

/// What comes next.
enum Next<'py> {
    Answer(Bound<'py, PyAny>),
    End,
    Late,
}

impl Stream {
    fn next_answer<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Next<'py>> {
        let next = waiting::wait(py, waiting::limit(timeout), |limit| match lock(&self.imap).as_mut() {
            Some(imap) => imap.next_timeout(limit),
            None => Some(None),
        })?;
        match next {
            None => Ok(Next::Late),
            Some(Some(Ok(answer))) if self.bare => answer.open_bare(py).map(Next::Answer),
            Some(Some(Ok(answer))) => answer.open(py).map(Next::Answer),
            Some(Some(Err(error))) => Err(exception(py, error)),
            Some(None) => self.failure.take().map_or(Ok(Next::End), Err),
        }
    }
}

/// Calls a function, wherever that is.
fn calling(function: Py<PyAny>) -> impl FnOnce() + Send + 'static {
    move || {
        Python::attach(|py| {
            if let Err(error) = function.call0(py) {
                error.write_unraisable(py, Some(function.bind(py)));
            }
            drop(function);
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let imap = self.imap.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        Python::attach(|py| py.detach(|| drop(imap)));
    }
}
