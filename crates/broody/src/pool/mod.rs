//! Pools: many small tasks on a few processes.
//!
//! Each worker has an inbox and an outbox in shared memory that only it and the host use, so that a dying worker hurts only its own. The
//! host knows exactly which task is where. See [`schedule`] for who gets what and what a death leaves, [`worker`] for the other
//! side, and the crate `broody-shm` for the rings and leases between them.

mod ahead;
mod apart;
mod arguments;
mod asynchronous;
mod batch;
mod builder;
mod call;
mod completion;
mod dispatcher;
mod events;
mod failure;
mod gather;
mod held;
mod imap;
mod kind;
mod objects;
mod options;
mod pace;
mod plan;
pub mod policy;
mod revoke;
mod room;
mod schedule;
mod shared;
mod signal;
mod slot;
mod staff;
mod star;
mod stream;
mod trace;
mod turns;
mod waiting;
mod watch;
mod wire;
mod worker;

pub use asynchronous::AsyncResult;
pub use builder::PoolBuilder;
pub use call::With;
pub use events::{Event, Events, Stats, What};
pub use imap::Imap;
pub use options::TaskOptions;
pub(crate) use plan::set_worker_state;
pub use plan::worker_state;
pub use room::WhenFull;
pub use shared::Shared;
pub use star::StarFn;
pub use trace::Trace;
pub use worker::should_stop;

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use broody_os::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::options::Terms;
use self::schedule::Standing;
use crate::context::lock;
use crate::{Error, ExitFunction, Result};

/// What was left undone when a pool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Undone {
    /// Tasks that had begun, and whose workers were ended.
    pub begun: usize,
    /// Tasks that had not.
    pub waiting: usize,
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
    /// What holds for tasks that say nothing else; `terms` are the same.
    options: TaskOptions,
    terms: Arc<Terms>,
    thread: Mutex<Option<JoinHandle<()>>>,
    at_exit: ExitFunction,
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
        self.with(TaskOptions::new()).map(function, items)
    }

    /// As [`map`](Self::map), with a result or an error for each item.
    ///
    /// # Errors
    /// As [`map`](Self::map), but for the tasks' own.
    pub fn try_map<F, A, R, I>(&self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.with(TaskOptions::new()).try_map(function, items)
    }

    /// As [`map`](Self::map); the results are asked for later, all together.
    ///
    /// # Errors
    /// As [`map`](Self::map), but for the tasks' own, which [`AsyncResult::get`] gives.
    pub fn map_async<F, A, R, I>(&self, function: F, items: I) -> Result<AsyncResult<Vec<R>>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.with(TaskOptions::new()).map_async(function, items)
    }

    /// Runs `function` on each item, and gives each result, in the items' order, as soon as it is there.
    ///
    /// Items are taken only as far ahead as the workers need: there may be any number of them. An item that fails is an error in
    /// its place; the others go on.
    ///
    /// # Errors
    /// For a pool that takes no tasks, as [`map`](Self::map).
    pub fn imap<F, A, R, I>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.with(TaskOptions::new()).imap(function, items)
    }

    /// As [`imap`](Self::imap), each result as soon as it is there, in whatever order.
    ///
    /// # Errors
    /// As [`imap`](Self::imap).
    pub fn imap_unordered<F, A, R, I>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.with(TaskOptions::new()).imap_unordered(function, items)
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
        self.with(TaskOptions::new()).apply(function, argument)
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
        self.with(TaskOptions::new()).apply_async(function, argument)
    }

    /// As [`map`](Self::map), for a function of several arguments: each item is a tuple of them.
    ///
    /// ```
    /// # fn main() -> broody::Result<()> {
    /// # broody::init();
    /// fn power(base: u64, exponent: u32) -> u64 {
    ///     base.pow(exponent)
    /// }
    /// let pool = broody::Pool::builder().workers(1).build()?;
    /// assert_eq!(pool.starmap(power, [(2, 3), (3, 2)])?, [8, 9]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn starmap<F, A, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: StarFn<A, Output = R>,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.with(TaskOptions::new()).starmap(function, items)
    }

    /// Keeps a value at hand for all workers: it is encoded once, here, and decoded once in each worker, however many tasks use it.
    ///
    /// # Errors
    /// As [`Shared::new`].
    pub fn share<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Shared<T>> {
        Shared::new(value)
    }

    /// What happens from now on, as it happens. As long as somebody listens each task is measured, which costs it some microseconds.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn events(&self) -> Result<Events> {
        self.check_owner()?;
        Ok(self.shared.schedule().listen())
    }

    /// Collects what happens from now on, to be looked at as a timeline.
    ///
    /// ```
    /// # fn main() -> broody::Result<()> {
    /// # broody::init();
    /// let pool = broody::Pool::builder().workers(2).build()?;
    /// let mut trace = pool.trace()?;
    /// pool.map(|milliseconds: u64| std::thread::sleep(std::time::Duration::from_millis(milliseconds)), [5, 10, 5])?;
    /// let path = std::env::temp_dir().join(format!("trace-{}.json", std::process::id()));
    /// trace.write(&path)?; // for https://ui.perfetto.dev
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub fn trace(&self) -> Result<Trace> {
        Ok(Trace::new(self.events()?))
    }

    /// Why the pool has given up; `None` if it has not.
    pub fn broken(&self) -> Option<String> {
        self.check_owner().ok()?;
        match &self.shared.schedule().standing {
            Standing::Broken { reason } => Some(reason.clone()),
            _ => None,
        }
    }

    /// How the pool stands, and what it has done.
    pub fn stats(&self) -> Stats {
        self.shared.schedule().stats()
    }

    /// The pool, with options for what is handed in through what this gives.
    pub fn with(&self, options: TaskOptions) -> With<'_> {
        With { pool: self, options, progress: None, name: None }
    }

    /// Takes no more tasks. Those that there are will be done, then the workers end. Iterators of [`imap`](Self::imap) that have
    /// begun go on.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn close(&self) -> Result<()> {
        self.check_owner()?;
        let mut schedule = self.shared.schedule();
        if schedule.standing == Standing::Open {
            schedule.standing = Standing::Closed;
        }
        drop(schedule);
        self.shared.nudge();
        Ok(())
    }

    /// Takes no more tasks, and waits until those that there are have been done, at most for `limit`; then it ends the workers. What was left
    /// undone by then.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn drain(&self, limit: Duration) -> Result<Undone> {
        self.close()?;
        let deadline = Instant::now().checked_add(limit);
        let mut undone = Undone::default();
        if !self.shared.await_end(deadline) {
            undone = self.shared.schedule().terminate();
            self.shared.nudge();
        }
        self.join()?;
        Ok(undone)
    }

    /// Ends the workers at once. Tasks that have no answer yet get [`PoolTerminated`](Error::PoolTerminated). How many
    /// those were.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn terminate(&self) -> Result<Undone> {
        self.check_owner()?;
        let undone = self.shared.schedule().terminate();
        self.shared.nudge();
        Ok(undone)
    }

    /// As [`terminate`](Self::terminate); workers get SIGTERM, and those that are still there after `grace` SIGKILL.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn terminate_within(&self, grace: Duration) -> Result<Undone> {
        self.check_owner()?;
        let undone = self.shared.schedule().terminate_within(grace);
        self.shared.nudge();
        Ok(undone)
    }

    /// Gives up every task that has not begun; they fail with [`Cancelled`](Error::Cancelled). How many those were.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn cancel_waiting(&self) -> Result<usize> {
        self.check_owner()?;
        let count = self.shared.schedule().revoke_all();
        // It may have been what a closed pool was waiting for.
        self.shared.nudge();
        Ok(count)
    }

    /// Waits until the callbacks have run of everything that is over by now, at most for `limit`. Whether they have; in a callback itself, at once.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn await_callbacks(&self, limit: Duration) -> Result<bool> {
        self.check_owner()?;
        Ok(self.shared.await_callbacks(Instant::now().checked_add(limit)))
    }

    /// Waits until the workers have ended, after [`close`](Self::close) or [`terminate`](Self::terminate).
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) if neither was called: it would wait for ever. [`WrongProcess`](Error::WrongProcess) in a fork
    /// of the pool's process.
    pub fn join(&self) -> Result<()> {
        self.check_owner()?;
        if self.shared.schedule().standing == Standing::Open {
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

    /// As [`join`](Self::join), for at most `limit`. Whether the workers have ended.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<bool> {
        self.check_owner()?;
        if self.shared.schedule().standing != Standing::Open
            && !self.shared.await_end(Instant::now().checked_add(limit))
        {
            return Ok(false);
        }
        self.join().map(|()| true)
    }

    /// The workers' pids, for tests and monitoring: a worker may be gone, and another in its place, at any time.
    pub fn worker_pids(&self) -> Vec<Pid> {
        match self.check_owner() {
            Ok(()) => self.shared.schedule().slots().map(|(_, slot)| slot.process.pid()).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Sends a signal (its number) to the worker with this pid, and to nobody else who may have got the pid since. `false` when there is no such worker, or it
    /// has ended.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) gives; [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn signal_worker(&self, pid: Pid, signal: i32) -> Result<bool> {
        self.check_owner()?;
        let schedule = self.shared.schedule();
        let worker = schedule.slots().find(|(_, slot)| slot.process.pid() == pid);
        worker.map_or(Ok(false), |(_, slot)| Ok(slot.process.shared().pidfd().send_signal(signal)?))
    }

    /// As [`worker_pids`](Self::worker_pids), of those that take tasks; waits until those are there that are being started, at most for `limit`.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn pids_at_work(&self, limit: Duration) -> Result<Vec<Pid>> {
        self.check_owner()?;
        let schedule = self.shared.await_staff(Instant::now().checked_add(limit));
        let at_work = schedule.slots().filter(|(_, slot)| !slot.is_leaving());
        Ok(at_work.map(|(_, slot)| slot.process.pid()).collect())
    }

    fn check_owner(&self) -> Result<()> {
        self.shared.check_owner("pool")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.terminate().is_ok() {
            let _ = self.join();
            self.at_exit.cancel();
            return;
        }
        // In a fork of its process it has no workers, its locks may be held by threads that are not there, and the memory of its thread may be
        // that of another one by now: nothing of it is touched.
        let thread = self.thread.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::forget(thread.take());
        std::mem::forget(self.shared.clone());
    }
}
