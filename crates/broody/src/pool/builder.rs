//! What a pool is to be like.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broody_os::limits;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dispatcher::Shared;
use super::plan::{Call, EnvironmentOf, Plan, Recipe};
use super::policy::Scheduling;
use super::room::{Bound, WhenFull};
use super::schedule::Schedule;
use super::staff::Staff;
use super::{Pool, TaskOptions};
use crate::function::{FunctionId, name_of};
use crate::process::{Objects, StartMethod};
use crate::{Error, Result, at_exit_with_priority, codec, cpu_count};

/// When a program's exit ends pools that are still there: before its own exit functions of priority 0.
const EXIT_PRIORITY: i32 = 15;

/// The most workers of a pool.
const MOST_WORKERS: usize = 4096;

/// How many tasks more than there are workers may be paused: a few long ones among short ones, on a small pool too.
const MORE_SPARES: usize = 8;

/// How long a worker has nothing to do before it ends, in a pool that shrinks.
const IDLE: Duration = Duration::from_secs(10);

/// How long a worker may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says what a pool is to be like. Made by [`Pool::builder`].
#[derive(Clone, Default)]
#[must_use = "a builder starts nothing until `build` is called"]
pub struct PoolBuilder {
    workers: Option<(usize, usize)>,
    idle_timeout: Option<Duration>,
    tasks: TaskOptions,
    name: Option<String>,
    method: StartMethod,
    initializer: Option<Result<Prepared, String>>,
    finalizer: Option<Result<Prepared, String>>,
    environment: Vec<(String, String)>,
    environment_of: Option<EnvironmentOf>,
    nice: i32,
    pinned: bool,
    tasks_per_worker: Option<u64>,
    memory_per_worker: Option<u64>,
    start_timeout: Option<Duration>,
    deaths: Option<(u32, Duration)>,
    bound: Option<Bound>,
    scheduling: Scheduling,
    spares: Option<usize>,
}

/// A function with its argument, to be called in each worker.
#[derive(Clone)]
struct Prepared {
    call: Call,
    objects: Arc<Objects>,
}

impl Prepared {
    fn new<F, A: Serialize>(function: FunctionId, argument: &A) -> Result<Self, String> {
        let (argument, outgoing) = codec::encode_with_handles(argument)
            .map_err(|reason| format!("the argument of {} cannot be encoded: {reason}", name_of::<F>()))?;
        Ok(Self { call: Call { function, argument }, objects: Arc::new(Objects::new(outgoing)) })
    }
}

impl PoolBuilder {
    /// How many workers; [`cpu_count`] if it is not said.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some((workers, workers));
        self
    }

    /// At least `least` workers, and up to `most` while there are tasks for them. See [`idle_timeout`](Self::idle_timeout).
    pub fn workers_between(mut self, least: usize, most: usize) -> Self {
        self.workers = Some((least, most));
        self
    }

    /// How long a worker has nothing to do before it ends, where there are more than the least number; 10 s if it is not said.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = Some(limit);
        self
    }

    /// What holds for tasks that do not say otherwise: how long they may take, how often they are tried.
    pub fn tasks(mut self, options: TaskOptions) -> Self {
        self.tasks = options;
        self
    }

    /// As [`tasks`](Self::tasks) with [`TaskOptions::retries`].
    pub fn retries(mut self, retries: u32) -> Self {
        self.tasks = self.tasks.retries(retries);
        self
    }

    /// Names the pool; its workers are called by that name and a number, also in ps and top (which show 15 bytes).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How workers come into being; [`StartMethod::Forkserver`] if it is not said. With [`StartMethod::Fork`] they are copies of this
    /// process, forked by whichever thread finds that one is missing, with all that this means for locks that other threads hold.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = method;
        self
    }

    /// Calls `function(argument)` in each worker before its first task. What it returns is at hand in tasks: [`worker_state`](crate::worker_state).
    ///
    /// A worker whose initializer panics, ends the process or takes longer than [`start_timeout`](Self::start_timeout) is replaced; after 8 in a row
    /// the pool gives up with the reason ([`PoolBroken`](Error::PoolBroken)).
    ///
    /// ```
    /// # fn main() -> broody::Result<()> {
    /// # broody::init();
    /// struct Model(Vec<u32>);
    /// fn load(size: u32) -> Model {
    ///     Model((0..size).collect())
    /// }
    /// fn look_up(index: usize) -> u32 {
    ///     broody::worker_state::<Model>().unwrap().0[index]
    /// }
    /// let pool = broody::Pool::builder().workers(2).initializer(load, 1000).build()?;
    /// assert_eq!(pool.map(look_up, [3, 999])?, [3, 999]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn initializer<F, A, T>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) -> T + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        T: Send + Sync + 'static,
    {
        let _ = function;
        self.initializer = Some(Prepared::new::<F, A>(FunctionId::of_initializer::<F, A, T>(), &argument));
        self
    }

    /// Calls `function(argument)` in each worker that ends in an orderly way: when the pool is closed, or the worker has done its share. Not in one
    /// that is ended.
    pub fn finalizer<F, A>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
    {
        let _ = function;
        self.finalizer = Some(Prepared::new::<F, A>(FunctionId::of::<F, A, ()>(), &argument));
        self
    }

    /// Sets an environment variable in all workers, before the initializer.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets environment variables in each worker: `variables` gets the worker's seat, the lowest number from 0 that no other worker has. One
    /// that replaces another may have its seat.
    pub fn env_per_worker(
        mut self,
        variables: impl Fn(usize) -> Vec<(String, String)> + Send + Sync + 'static,
    ) -> Self {
        self.environment_of = Some(Arc::new(variables));
        self
    }

    /// Lets workers run behind other processes: by so much more, 1 to 19. See nice(2).
    pub fn nice(mut self, more: i32) -> Self {
        self.nice = more;
        self
    }

    /// Gives each worker a CPU of its own, of those that this process may use, in turn.
    pub fn pin_cpus(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// After how many tasks a worker ends and is replaced.
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> Self {
        self.tasks_per_worker = Some(tasks);
        self
    }

    /// Beyond how many bytes of resident memory of its own (shared memory is the program's) a worker is replaced: between two tasks if it is found then, else together with the task that
    /// it runs, which fails with [`TaskMemory`](Error::TaskMemory). It is looked at every 50 ms.
    pub fn memory_per_worker(mut self, bytes: u64) -> Self {
        self.memory_per_worker = Some(bytes);
        self
    }

    /// How long a worker may take until its initializer has returned; 60 s if it is not said.
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.start_timeout = Some(limit);
        self
    }

    /// Gives up when more than `deaths` workers have died within `period` by themselves or by other people's hands.
    pub fn restart_limit(mut self, deaths: u32, period: Duration) -> Self {
        self.deaths = Some((deaths, period));
        self
    }

    /// How many tasks may wait, and what happens to who hands in one more. The tasks of one call are handed in together, and may be more. Iterators
    /// ([`Pool::imap`]) hand in no more than the workers need in any case.
    pub fn max_queued(mut self, tasks: usize, when_full: WhenFull) -> Self {
        self.bound = Some(Bound { most: tasks.max(1), when_full });
        self
    }

    /// In which order tasks run, and whether they take turns; first come, first served if it is not said.
    ///
    /// Under a policy that gives turns, a task whose turn is over is stopped (SIGSTOP) while others run, and goes on later. It is not stopped
    /// while it holds a lock of broody's or is in the middle of a queue, so that nobody waits for it; what it may hold of others, such as
    /// locks of files, is not known.
    pub fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.scheduling = scheduling;
        self
    }

    /// How many processes there may be beside the [`workers`](Self::workers), and so how many tasks may be stopped at a time because it is not
    /// their turn; 8 more than workers if it is not said.
    ///
    /// They are started when they are needed, and cost memory alone. Once as many long tasks as this have begun, what comes after
    /// them waits until one has ended.
    pub fn spares(mut self, spares: usize) -> Self {
        self.spares = Some(spares);
        self
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for what cannot be, such as no workers or more than 4096; what [`spawn`](crate::spawn) gives if one cannot
    /// be started.
    pub fn build(self) -> Result<Pool> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let policy = self.scheduling.build()?;
        let staff = self.staff()?;
        let terms = Arc::new(self.tasks.settle()?);
        let name = match &self.name {
            Some(name) => name.clone(),
            None => format!("pool-{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
        };
        if name.is_empty() || name.len() > 200 || name.contains('\0') {
            return Err(invalid("a pool's name has 1 to 200 bytes and no zero byte"));
        }
        let shared = Shared::new(Schedule::new(staff, policy), name, self.recipe()?, self.bound)?;
        let thread = shared.start().map_err(|error| {
            shared.schedule().terminate();
            broody_os::Error::new("clone", error)
        })?;
        let weak = Arc::downgrade(&shared);
        let at_exit = at_exit_with_priority(EXIT_PRIORITY, move || {
            if let Some(shared) = weak.upgrade() {
                shared.schedule().terminate();
                shared.nudge();
            }
        });
        let thread = Mutex::new(Some(thread));
        Ok(Pool { shared, options: self.tasks, terms, thread, at_exit })
    }

    /// The least and the greatest number of workers.
    fn numbers(&self) -> (usize, usize) {
        self.workers.unwrap_or_else(|| (cpu_count(), cpu_count()))
    }

    fn staff(&self) -> Result<Staff> {
        let (least, most) = self.numbers();
        if most == 0 || most > MOST_WORKERS {
            return Err(invalid(&format!("a pool has 1 to {MOST_WORKERS} workers, not {most}")));
        }
        if least > most {
            return Err(invalid(&format!("a pool cannot have at least {least} and at most {most} workers")));
        }
        if self.tasks_per_worker == Some(0) {
            return Err(invalid("a worker that is replaced before its first task does nothing"));
        }
        Ok(Staff {
            least,
            most,
            spares: self.spares.unwrap_or(most + MORE_SPARES),
            idle: self.idle_timeout.unwrap_or(IDLE),
            tasks: self.tasks_per_worker,
            memory: self.memory_per_worker,
            deaths: self.deaths,
            patience: self.start_timeout.unwrap_or(PATIENCE),
        })
    }

    fn recipe(&self) -> Result<Recipe> {
        let prepared = |call: &Option<Result<Prepared, String>>| {
            call.clone().transpose().map_err(|reason| invalid(&reason))
        };
        let (initializer, finalizer) = (prepared(&self.initializer)?, prepared(&self.finalizer)?);
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(invalid(&format!("{name:?} cannot be an environment variable")));
            }
        }
        let objects = [&initializer, &finalizer].into_iter().flatten().map(|call| call.objects.clone());
        Ok(Recipe {
            method: self.method,
            objects: objects.collect(),
            plan: Plan {
                initializer: initializer.map(|prepared| prepared.call),
                finalizer: finalizer.map(|prepared| prepared.call),
                environment: self.environment.clone(),
                nice: self.nice,
                cpu: None,
                spins: cpu_count() > 1 && self.numbers().1 <= cpu_count(),
                host: 0,
                mark: 0,
            },
            environment_of: self.environment_of.clone(),
            cpus: if self.pinned { limits::cpus() } else { Vec::new() },
        })
    }
}

fn invalid(what: &str) -> Error {
    Error::Invalid { what: what.to_owned() }
}
