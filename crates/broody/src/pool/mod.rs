//! Pools: many small tasks on a few processes.
//!
//! Each worker has an inbox and an outbox in shared memory that only it and the host use, so that a dying worker hurts only its own. The
//! host knows exactly which task is where. See [`schedule`] for who gets what and what a death leaves, [`worker`] for the other
//! side, and the crate `broody-shm` for the rings and leases between them.

mod asynchronous;
mod batch;
mod dispatcher;
mod failure;
mod gather;
mod imap;
mod pace;
pub mod policy;
mod schedule;
mod slot;
mod stream;
mod wire;
mod worker;

pub use asynchronous::AsyncResult;
pub use imap::Imap;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use broody_os::{Pid, fork};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::batch::{Arguments, Batch};
use self::gather::Gather;
use self::schedule::{Schedule, Standing};
use crate::context::lock;
use crate::function::{FunctionId, name_of};
use crate::{Error, ExitFunction, Result, at_exit_with_priority, cpu_count};

/// When a program's exit ends pools that are still there: before its own exit functions of priority 0.
const EXIT_PRIORITY: i32 = 15;

/// The most workers of a pool.
const MOST_WORKERS: usize = 4096;

/// Says what a pool is to be like. Made by [`Pool::builder`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder starts nothing until `build` is called"]
pub struct PoolBuilder {
    workers: Option<usize>,
    retries: u32,
    name: Option<String>,
}

impl PoolBuilder {
    /// How many workers; [`cpu_count`] if it is not said.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How often a task is run again whose worker died while it ran it; 0 if it is not said. Only for tasks that may run twice: the
    /// first run may have come far.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Names the pool; its workers are called by that name and a number, also in ps and top (which show 15 bytes).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for no workers or more than 4096; what [`spawn`](crate::spawn) gives if one cannot be started.
    pub fn build(self) -> Result<Pool> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let workers = self.workers.unwrap_or_else(cpu_count);
        if workers == 0 || workers > MOST_WORKERS {
            return Err(Error::Invalid {
                what: format!("a pool has 1 to {MOST_WORKERS} workers, not {workers}"),
            });
        }
        let name = self.name.unwrap_or_else(|| format!("pool-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        if name.is_empty() || name.len() > 200 || name.contains('\0') {
            return Err(Error::Invalid {
                what: "a pool's name has 1 to 200 bytes and no zero byte".to_owned(),
            });
        }
        let shared = dispatcher::Shared::new(Schedule::new(workers, self.retries), name)?;
        let thread = shared.start().map_err(|error| {
            lock(&shared.schedule).terminate();
            broody_os::Error::new("clone", error)
        })?;
        let weak = Arc::downgrade(&shared);
        let at_exit = at_exit_with_priority(EXIT_PRIORITY, move || {
            if let Some(shared) = weak.upgrade() {
                lock(&shared.schedule).terminate();
                shared.nudge();
            }
        });
        Ok(Pool { shared, thread: Mutex::new(Some(thread)), at_exit, owner: fork::pid() })
    }
}

/// Some processes that run tasks.
///
/// A worker that dies fails only the task that it ran, and is replaced. Dropping the pool ends its workers.
///
/// ```
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// fn main() -> broody::Result<()> {
///     broody::init();
///     let pool = broody::Pool::builder().workers(2).build()?;
///     assert_eq!(pool.map(square, 1..=4)?, [1, 4, 9, 16]);
///     let sum: u64 = pool.imap_unordered(square, 1..=1000)?.sum::<broody::Result<u64>>()?;
///     assert_eq!(sum, 333_833_500);
///     assert_eq!(pool.apply(square, 12)?, 144);
///     Ok(())
/// }
/// ```
pub struct Pool {
    shared: Arc<dispatcher::Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    at_exit: ExitFunction,
    owner: Pid,
}

impl Pool {
    /// Says what a pool is to be like: how many workers, how many retries.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Runs `function` on each item, and gives the results in the items' order.
    ///
    /// All items are encoded first; for very many use [`imap`](Self::imap).
    ///
    /// # Errors
    /// The error of the first item (in order) that has one, after all have been run; [`Encode`](Error::Encode) for an item that
    /// cannot be encoded, before any is run; [`PoolClosed`](Error::PoolClosed), [`PoolTerminated`](Error::PoolTerminated) and
    /// [`PoolBroken`](Error::PoolBroken) for a pool that takes no tasks.
    pub fn map<F, A, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        let gather = self.submit(function, items, false)?;
        gather.wait(None);
        gather.get_all(std::any::type_name::<F>())
    }

    /// Runs `function` on each item, and gives each result, in the items' order, as soon as it is there.
    ///
    /// Items are taken only as far ahead as the workers need: there may be any number of them. An item that fails is an error in
    /// its place; the others go on.
    ///
    /// # Errors
    /// For a pool that takes no tasks, as [`map`](Self::map).
    pub fn imap<F, A, R, I>(&self, function: F, items: I) -> Result<Imap<'_, I::IntoIter, R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.stream(function, items, true)
    }

    /// As [`imap`](Self::imap), each result as soon as it is there, in whatever order.
    ///
    /// # Errors
    /// As [`imap`](Self::imap).
    pub fn imap_unordered<F, A, R, I>(&self, function: F, items: I) -> Result<Imap<'_, I::IntoIter, R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.stream(function, items, false)
    }

    /// Runs `function(argument)` and waits for its result.
    ///
    /// # Errors
    /// As [`AsyncResult::get`], and for a pool that takes no tasks, as [`map`](Self::map).
    pub fn apply<F, A, R>(&self, function: F, argument: A) -> Result<R>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.hand_in(function, argument, true)?.get()
    }

    /// Hands in `function(argument)`; its result is asked for later.
    ///
    /// # Errors
    /// [`Encode`](Error::Encode) for an argument that cannot be encoded, and for a pool that takes no tasks, as
    /// [`map`](Self::map).
    pub fn apply_async<F, A, R>(&self, function: F, argument: A) -> Result<AsyncResult<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.hand_in(function, argument, false)
    }

    /// Takes no more tasks. Those that there are will be done, then the workers end. Iterators of [`imap`](Self::imap) that have
    /// begun go on.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn close(&self) -> Result<()> {
        self.check_owner()?;
        let mut schedule = lock(&self.shared.schedule);
        if schedule.standing == Standing::Open {
            schedule.standing = Standing::Closed;
        }
        drop(schedule);
        self.shared.nudge();
        Ok(())
    }

    /// Ends the workers at once. Tasks that have no answer yet get [`PoolTerminated`](Error::PoolTerminated).
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn terminate(&self) -> Result<()> {
        self.check_owner()?;
        lock(&self.shared.schedule).terminate();
        self.shared.nudge();
        Ok(())
    }

    /// Waits until the workers have ended, after [`close`](Self::close) or [`terminate`](Self::terminate).
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) if neither was called: it would wait for ever. [`WrongProcess`](Error::WrongProcess) in a fork
    /// of the pool's process.
    pub fn join(&self) -> Result<()> {
        self.check_owner()?;
        if lock(&self.shared.schedule).standing == Standing::Open {
            return Err(Error::Invalid {
                what: "an open pool cannot be joined, since it never ends: call close() or terminate() first"
                    .to_owned(),
            });
        }
        // Held while waiting, so that whoever comes later waits as well.
        let mut thread = lock(&self.thread);
        if let Some(thread) = thread.take() {
            // It runs nobody's code, and so does not panic.
            let _ = thread.join();
        }
        Ok(())
    }

    /// The workers' pids, for tests and monitoring: a worker may be gone, and another in its place, at any time.
    pub fn worker_pids(&self) -> Vec<Pid> {
        match self.check_owner() {
            Ok(()) => lock(&self.shared.schedule).slots().map(|(_, slot)| slot.process.pid()).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn hand_in<F, A, R>(&self, function: F, argument: A, awaited: bool) -> Result<AsyncResult<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let gather = self.submit(function, [argument], awaited)?;
        Ok(AsyncResult::new(self.shared.clone(), gather, std::any::type_name::<F>()))
    }

    fn stream<F, A, R, I>(&self, function: F, items: I, ordered: bool) -> Result<Imap<'_, I::IntoIter, R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.check_owner()?;
        Imap::new(self, FunctionId::of::<F, A, R>(), std::any::type_name::<F>(), items.into_iter(), ordered)
    }

    fn submit<F, A, R, I>(&self, function: F, items: I, awaited: bool) -> Result<Arc<Gather>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.check_owner()?;
        let mut arguments = Arguments::default();
        for item in items {
            arguments.push(&item).map_err(|reason| Error::Encode {
                what: "the argument",
                function: name_of::<F>(),
                reason,
            })?;
        }
        let gather = Arc::new(Gather::new(arguments.len()));
        let mut schedule = lock(&self.shared.schedule);
        let task = schedule.admit(arguments.len(), false)?;
        if arguments.len() > 0 {
            let batch = Batch::new(FunctionId::of::<F, A, R>(), arguments, gather.clone(), 0, task);
            schedule.submit(batch, awaited);
            self.shared.nudge_if_needed(&schedule);
        }
        Ok(gather)
    }

    fn check_owner(&self) -> Result<()> {
        let here = fork::pid();
        if here == self.owner {
            return Ok(());
        }
        Err(Error::WrongProcess { what: "pool", owner: self.owner, here })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // In a fork of its process it has no workers, and its locks may be held by threads that are not there.
        if self.terminate().is_ok() {
            let _ = self.join();
            self.at_exit.cancel();
        }
    }
}
