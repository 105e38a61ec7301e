//! Policies in virtual time.
//!
//! What happens at the same moment happens in this order: tasks end, tasks arrive, quanta end, places are given out. So a newcomer
//! is in line before a task whose quantum ends at that moment, as in the textbooks. Switching costs nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::floor::Floor;
use super::{Action, Job, Policy};

/// A task of a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct SimulatedTask {
    /// When it is handed in.
    pub arrives: Duration,
    /// How long it runs.
    pub runs: Duration,
    /// Which function.
    pub function: u64,
    /// What its caller says that it costs.
    pub cost: Option<f64>,
    /// Its priority.
    pub priority: i32,
}

impl SimulatedTask {
    /// Arrives at `arrives` and takes `runs`; of function 0 and priority 0, with no cost.
    pub fn new(arrives: Duration, runs: Duration) -> Self {
        Self { arrives, runs, ..Self::default() }
    }
}

/// When a task began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// When it was handed in.
    pub arrived: Duration,
    /// How long it ran.
    pub ran: Duration,
    /// When it began. `Duration::MAX` if it never did: there are no workers, or the policy has lost it.
    pub started: Duration,
    /// When it ended. `Duration::MAX` if it never did.
    pub ended: Duration,
}

impl Times {
    /// How long it was there without running.
    pub fn waiting(&self) -> Duration {
        self.turnaround().saturating_sub(self.ran)
    }

    /// From its arrival to its end.
    pub fn turnaround(&self) -> Duration {
        self.ended.saturating_sub(self.arrived)
    }

    /// From its arrival to its beginning.
    pub fn response(&self) -> Duration {
        self.started.saturating_sub(self.arrived)
    }
}

/// The mean of a time; zero for no tasks.
///
/// ```
/// use std::time::Duration;
///
/// use broody::policy::{Fcfs, SimulatedTask, Times, mean, simulate};
///
/// let tasks = [24, 3, 3].map(|runs| SimulatedTask::new(Duration::ZERO, Duration::from_secs(runs)));
/// let times = simulate(&mut Fcfs::default(), 1, &tasks);
/// assert_eq!(mean(&times, Times::waiting), Duration::from_secs(17));
/// ```
pub fn mean(times: &[Times], which: impl Fn(&Times) -> Duration) -> Duration {
    let sum: Duration = times.iter().map(which).fold(Duration::ZERO, Duration::saturating_add);
    sum / u32::try_from(times.len()).unwrap_or(u32::MAX).max(1)
}

/// What `policy` makes of `tasks` on `workers`, any number of which may be paused. The times are in the order of `tasks`.
pub fn simulate(policy: &mut dyn Policy, workers: usize, tasks: &[SimulatedTask]) -> Vec<Times> {
    Simulation::new(workers).run(policy, tasks)
}

/// A pool to simulate.
#[derive(Debug, Clone, Copy)]
#[must_use = "nothing is simulated until `run` is called"]
pub struct Simulation {
    workers: usize,
    spares: usize,
}

impl Simulation {
    /// A pool of `workers` which may pause any number of tasks.
    pub fn new(workers: usize) -> Self {
        Self { workers, spares: usize::MAX }
    }

    /// How many processes there are beyond the workers, and so how many tasks may be paused at a time. With 0 every task runs to
    /// its end.
    pub fn spares(mut self, spares: usize) -> Self {
        self.spares = spares;
        self
    }

    /// Runs all `tasks` to their ends. The times are in the order of `tasks`.
    pub fn run(&self, policy: &mut dyn Policy, tasks: &[SimulatedTask]) -> Vec<Times> {
        self.run_seen(policy, tasks, &mut |_, _| {})
    }

    /// As [`run`](Self::run), showing each action and its time. Tasks are numbered in the order of their arrival.
    pub fn run_seen(
        &self,
        policy: &mut dyn Policy,
        tasks: &[SimulatedTask],
        see: &mut dyn FnMut(Duration, Action),
    ) -> Vec<Times> {
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        order.sort_by_key(|index| tasks[*index].arrives);
        let mut floor = Floor::new(self.workers, self.workers.saturating_add(self.spares));
        let mut course = Course::new(order.iter().map(|index| tasks[*index]).collect());
        while let Some(now) = course.next_event().into_iter().chain(floor.next_turn(policy)).min() {
            while let Some(id) = course.end_one(now) {
                floor.ended(policy, id, now);
            }
            while let Some(job) = course.arrive(now) {
                floor.add(policy, job, now);
            }
            for action in floor.turn(policy, now) {
                course.obey(action, now);
                see(now, action);
            }
        }
        let mut times: Vec<(usize, Times)> = order.into_iter().zip(course.times).collect();
        times.sort_by_key(|(index, _)| *index);
        times.into_iter().map(|(_, times)| times).collect()
    }
}

/// The tasks, in the order of their arrival, and how far they have come.
struct Course {
    tasks: Vec<SimulatedTask>,
    arrived: usize,
    times: Vec<Times>,
    /// How long each has still to run.
    left: Vec<Duration>,
    /// Since when each has been running.
    running: BTreeMap<u64, Duration>,
}

impl Course {
    fn new(tasks: Vec<SimulatedTask>) -> Self {
        let never = |task: &SimulatedTask| Times {
            arrived: task.arrives,
            ran: task.runs,
            started: Duration::MAX,
            ended: Duration::MAX,
        };
        Self {
            arrived: 0,
            times: tasks.iter().map(never).collect(),
            left: tasks.iter().map(|task| task.runs).collect(),
            running: BTreeMap::new(),
            tasks,
        }
    }

    fn end_of(&self, id: u64, since: Duration) -> Duration {
        since.saturating_add(self.left[id as usize])
    }

    /// When the next task arrives or ends.
    fn next_event(&self) -> Option<Duration> {
        let arrival = self.tasks.get(self.arrived).map(|task| task.arrives);
        let ends = self.running.iter().map(|(id, since)| self.end_of(*id, *since));
        ends.chain(arrival).min()
    }

    /// A task that ends now.
    fn end_one(&mut self, now: Duration) -> Option<u64> {
        let (id, _) = self.running.iter().find(|(id, since)| self.end_of(**id, **since) <= now)?;
        let id = *id;
        self.running.remove(&id);
        self.times[id as usize].ended = now;
        Some(id)
    }

    /// Tasks that arrive now; equal ones together, as a pool would be given them.
    fn arrive(&mut self, now: Duration) -> Option<Job> {
        let task = *self.tasks.get(self.arrived).filter(|task| task.arrives <= now)?;
        let equal = |other: &&SimulatedTask| SimulatedTask { runs: task.runs, ..**other } == task;
        let count = self.tasks[self.arrived..].iter().take_while(equal).count().max(1);
        let job = Job::new(self.arrived as u64, task.function, count);
        self.arrived += count;
        Some(Job { cost: task.cost, priority: task.priority, ..job })
    }

    fn obey(&mut self, action: Action, now: Duration) {
        match action {
            Action::Start(job) => {
                self.times[job.id as usize].started = now;
                self.running.insert(job.id, now);
            }
            Action::Resume(id) => {
                self.running.insert(id, now);
            }
            Action::Pause(id) => {
                if let Some(since) = self.running.remove(&id) {
                    self.left[id as usize] -= now - since;
                }
            }
        }
    }
}
