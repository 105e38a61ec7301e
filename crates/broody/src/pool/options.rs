//! What can be said about tasks: how long they may take, what happens when they fail, which go first.

use std::time::Duration;

use crate::{Error, Result};

/// What is to be done about tasks, beside running them. What is not said is as the pool says ([`PoolBuilder::tasks`](super::PoolBuilder::tasks)).
///
/// ```
/// # fn main() -> broody::Result<()> {
/// # broody::init();
/// use std::time::Duration;
/// use broody::{Pool, TaskOptions};
/// let pool = Pool::builder().workers(1).build()?;
/// let quick = TaskOptions::new().timeout(Duration::from_millis(50));
/// let napped = pool.with(quick).apply(|_: ()| std::thread::sleep(Duration::from_secs(60)), ());
/// assert!(matches!(napped, Err(broody::Error::TaskTimedOut { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "options do nothing until they are given to a pool"]
pub struct TaskOptions {
    timeout: Option<Duration>,
    soft_timeout: Option<Duration>,
    retries: Option<u32>,
    retry_errors: Option<bool>,
    backoff: Option<Duration>,
    memory_limit: Option<u64>,
    cost: Option<f64>,
    priority: Option<i32>,
    chunk_size: Option<usize>,
}

impl TaskOptions {
    /// Says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a task may run. Its worker is ended then and replaced, and the task fails with [`TaskTimedOut`](Error::TaskTimedOut). The time
    /// begins when a worker begins the task, not when it is handed in.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// After how long a task is asked to stop: [`should_stop`](crate::should_stop) is true in it from then on, and its process gets a signal
    /// that interrupts system calls. It is not ended by that.
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.soft_timeout = Some(limit);
        self
    }

    /// How often a task is run again whose worker died while it ran it; 0 if it is not said. Only for tasks that may run twice: the
    /// first run may have come far.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// Whether a task that panics, takes too long or too much memory is run again as well, as often as [`retries`](Self::retries) says.
    pub fn retry_errors(mut self, retry: bool) -> Self {
        self.retry_errors = Some(retry);
        self
    }

    /// How long to wait before the first retry; twice as long before each further one. Nothing if it is not said.
    pub fn backoff(mut self, first: Duration) -> Self {
        self.backoff = Some(first);
        self
    }

    /// By how many bytes a worker's resident memory may grow while it runs a task; shared memory is not counted. Beyond that the worker is ended and replaced, and
    /// the task fails with [`TaskMemory`](Error::TaskMemory). It is looked at every 10 ms: a task may go beyond it for so long.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// How long one task will take, as far as the caller can tell, in seconds: for the policy `sjf`.
    pub fn cost(mut self, seconds: f64) -> Self {
        self.cost = Some(seconds);
        self
    }

    /// Tasks of a higher priority are begun before those of a lower one. 0 if it is not said.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// How many tasks are given to a worker at once. If it is not said, as many as it does in about 0.4 ms, which the pool learns from how
    /// long the function's tasks take.
    pub fn chunk_size(mut self, tasks: usize) -> Self {
        self.chunk_size = Some(tasks);
        self
    }

    pub(super) fn say_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// These, and what they do not say from `others`.
    pub(super) fn or(self, others: &Self) -> Self {
        Self {
            timeout: self.timeout.or(others.timeout),
            soft_timeout: self.soft_timeout.or(others.soft_timeout),
            retries: self.retries.or(others.retries),
            retry_errors: self.retry_errors.or(others.retry_errors),
            backoff: self.backoff.or(others.backoff),
            memory_limit: self.memory_limit.or(others.memory_limit),
            cost: self.cost.or(others.cost),
            priority: self.priority.or(others.priority),
            chunk_size: self.chunk_size.or(others.chunk_size),
        }
    }

    /// The same, in the form in which the pool keeps it.
    pub(super) fn settle(&self) -> Result<Terms> {
        let refuse = |what: &str| Err(Error::Invalid { what: what.to_owned() });
        if self.chunk_size == Some(0) {
            return refuse("a chunk has at least one task: leave chunk_size out for a size that fits");
        }
        if self.timeout == Some(Duration::ZERO) || self.soft_timeout == Some(Duration::ZERO) {
            return refuse("a task cannot be done in no time: leave the timeout out for none");
        }
        if self.cost.is_some_and(|cost| !cost.is_finite() || cost < 0.0) {
            return refuse("a cost is a number of seconds, not negative and not infinite");
        }
        Ok(Terms {
            timeout: self.timeout,
            soft_timeout: self.soft_timeout,
            retries: self.retries.unwrap_or(0),
            retry_errors: self.retry_errors.unwrap_or(false),
            backoff: self.backoff.unwrap_or(Duration::ZERO),
            memory_limit: self.memory_limit,
            cost: self.cost,
            priority: self.priority.unwrap_or(0),
            chunk_size: self.chunk_size,
        })
    }
}

/// What holds for the tasks of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Terms {
    pub(super) timeout: Option<Duration>,
    pub(super) soft_timeout: Option<Duration>,
    pub(super) retries: u32,
    pub(super) retry_errors: bool,
    pub(super) backoff: Duration,
    pub(super) memory_limit: Option<u64>,
    pub(super) cost: Option<f64>,
    pub(super) priority: i32,
    pub(super) chunk_size: Option<usize>,
}

impl Terms {
    /// Whether the host has to know when each task begins.
    pub(super) fn are_watched(&self) -> bool {
        self.first_look().is_some()
    }

    /// After how long a task has to be looked at for the first time; `None` if it need not be watched.
    pub(super) fn first_look(&self) -> Option<Duration> {
        let memory = self.memory_limit.map(|_| super::watch::MEMORY_LOOK);
        [self.timeout, self.soft_timeout, memory].into_iter().flatten().min()
    }

    /// How long to wait before the try number `tries`, counted from 0.
    pub(super) fn pause_before(&self, tries: u32) -> Duration {
        match tries {
            0 => Duration::ZERO,
            tries => self.backoff.saturating_mul(1 << (tries - 1).min(20)),
        }
    }
}
