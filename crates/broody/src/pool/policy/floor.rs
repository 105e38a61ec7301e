//! Who runs, who is paused, and what to do next: the same rules for every policy, for a pool and for the simulation.
//!
//! There are `workers` places to run, and some more processes than that. A task that was begun keeps its process until it ends, running
//! or paused. Hence the one rule: **no more tasks are begun than there are processes**. While there are fewer, whoever the policy
//! names gets a free place. When there are as many, a place goes only to one that was begun: tasks that run and tasks that are
//! paused take turns, and what is new waits until one of them has ended. So there are never more paused tasks than processes beyond
//! the workers, and a place is empty only if nothing can use it.
//!
//! Whoever's quantum is over stands in line again, together with all others of whom that is true at this moment, before places
//! are given out; it then may well keep its own. While nobody waits, a quantum follows upon the other and nothing has to be done.
//!
//! What [`turn`](Floor::turn) gives are wishes. A process that cannot be stopped right now may be stopped a little later; if its task
//! ends before that, it has ended, paused or not: [`ended`](Floor::ended) takes either. The policy may then still name it, and is not
//! heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Among, Job, Policy};

/// What a pool is to do. Pauses come first.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Stop the process of this task.
    Pause(u64),
    /// Start this task in a process that has none.
    Start(Job),
    /// Continue the process of this task.
    Resume(u64),
}

/// The tasks that were begun and have not ended.
#[derive(Debug)]
pub(crate) struct Floor {
    workers: usize,
    processes: usize,
    running: BTreeMap<u64, Runner>,
    paused: BTreeMap<u64, Job>,
}

#[derive(Debug, Clone, Copy)]
struct Runner {
    job: Job,
    /// Since when the job's `ran` has not been brought up to date.
    since: Duration,
    /// When its quantum is over.
    ends: Option<Duration>,
}

impl Runner {
    fn job_at(&self, now: Duration) -> Job {
        Job { ran: self.job.ran + now.saturating_sub(self.since), ..self.job }
    }

    fn is_due(&self, now: Duration) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

/// What one [`Floor::turn`] has changed so far.
#[derive(Default)]
struct Changes {
    /// Who has lost its place, and may get it back.
    off: BTreeMap<u64, Runner>,
    /// Who was given a place.
    on: BTreeSet<u64>,
    actions: Vec<Action>,
}

impl Floor {
    /// A place for each of `workers`, and `processes` that can hold a task each.
    pub(crate) fn new(workers: usize, processes: usize) -> Self {
        Self { workers, processes, running: BTreeMap::new(), paused: BTreeMap::new() }
    }

    /// How many processes there are now: they come and go.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the pool"))]
    pub(crate) fn set_processes(&mut self, processes: usize) {
        self.processes = processes;
    }

    /// Tasks were handed in.
    pub(crate) fn add(&mut self, policy: &mut dyn Policy, job: Job, now: Duration) {
        if policy.is_empty() {
            self.renew(policy, now);
        }
        policy.add(job, now);
    }

    /// A task has come to its end. `None` if it was not on the floor.
    pub(crate) fn ended(&mut self, policy: &mut dyn Policy, id: u64, now: Duration) -> Option<Job> {
        let job = self.lost(id, now)?;
        policy.ended(&job);
        Some(job)
    }

    /// A process goes on with this task, since the one that it had has ended. Whether there is a place for it; else it is paused.
    pub(crate) fn follow(&mut self, policy: &mut dyn Policy, job: Job, now: Duration) -> bool {
        let job = Job { begun: true, ..job };
        let has_place = self.has_room();
        if has_place {
            self.run(policy, job, now);
        } else {
            self.paused.insert(job.id, job);
            policy.give_back(job, now);
        }
        has_place
    }

    fn run(&mut self, policy: &dyn Policy, job: Job, now: Duration) {
        let ends = quantum(policy, &job, now).map(|quantum| now.saturating_add(quantum));
        self.running.insert(job.id, Runner { job, since: now, ends });
    }

    /// Whether a place is free.
    pub(crate) fn has_room(&self) -> bool {
        self.running.len() < self.workers
    }

    /// Whether the task runs.
    pub(crate) fn is_running(&self, id: u64) -> bool {
        self.running.contains_key(&id)
    }

    /// A task is no more: its process has died, or it was cancelled. The policy learns nothing from it.
    pub(crate) fn lost(&mut self, id: u64, now: Duration) -> Option<Job> {
        self.running.remove(&id).map(|runner| runner.job_at(now)).or_else(|| self.paused.remove(&id))
    }

    /// When the next [`turn`](Self::turn) is due even if nothing happens.
    pub(crate) fn next_turn(&self, policy: &dyn Policy) -> Option<Duration> {
        if policy.is_empty() {
            return None;
        }
        self.running.values().filter_map(|runner| runner.ends).min()
    }

    /// What to do now. To be called after something was added, after something has ended, and at [`next_turn`](Self::next_turn).
    pub(crate) fn turn(&mut self, policy: &mut dyn Policy, now: Duration) -> Vec<Action> {
        let mut changes = Changes::default();
        if !policy.is_empty() {
            self.line_up(policy, &mut changes, now);
        }
        while self.has_room() && self.seat_next(policy, &mut changes, now).is_some() {}
        self.displace(policy, &mut changes, now);
        let mut actions: Vec<Action> = changes.off.keys().map(|id| Action::Pause(*id)).collect();
        self.paused.extend(changes.off.into_iter().map(|(id, runner)| (id, runner.job)));
        actions.append(&mut changes.actions);
        actions
    }

    /// Those whose quantum is over wait with the others.
    fn line_up(&mut self, policy: &mut dyn Policy, changes: &mut Changes, now: Duration) {
        let due: Vec<u64> =
            self.running.iter().filter(|(_, runner)| runner.is_due(now)).map(|(id, _)| *id).collect();
        for id in due {
            self.take_off(id, changes, now, |job| policy.add(job, now));
        }
    }

    /// Whoever the policy wants away makes room, each at most once.
    fn displace(&mut self, policy: &mut dyn Policy, changes: &mut Changes, now: Duration) {
        while !policy.is_empty() {
            let mut running = self
                .running
                .iter()
                .filter(|(id, _)| !changes.on.contains(*id))
                .map(|(_, runner)| runner.job_at(now));
            let Some(id) = policy.displaces(&mut running, now) else { return };
            drop(running);
            let Some(ends) = self.running.get(&id).map(|runner| runner.ends) else { return };
            if changes.on.contains(&id) {
                return;
            }
            self.take_off(id, changes, now, |job| policy.give_back(job, now));
            if self.seat_next(policy, changes, now) == Some(id) {
                // Whoever should have had its place cannot have it. Its quantum goes on.
                if let Some(runner) = self.running.get_mut(&id) {
                    runner.ends = ends;
                }
                return;
            }
        }
    }

    fn take_off(&mut self, id: u64, changes: &mut Changes, now: Duration, line_up: impl FnOnce(Job)) {
        if let Some(mut runner) = self.running.remove(&id) {
            runner.job = runner.job_at(now);
            changes.off.insert(id, runner);
            line_up(runner.job);
        }
    }

    /// Gives a place to the next in line: its id.
    fn seat_next(&mut self, policy: &mut dyn Policy, changes: &mut Changes, now: Duration) -> Option<u64> {
        loop {
            let begun = self.running.len() + self.paused.len() + changes.off.len();
            let among = if begun < self.processes { Among::All } else { Among::Begun };
            let mut job = match policy.next(among, now) {
                Some(job) if job.begun || among == Among::All => job,
                answer => {
                    // No process for it: the policy does not heed what it was asked.
                    answer.into_iter().for_each(|job| policy.give_back(job, now));
                    self.forgotten(changes)?
                }
            };
            if !job.begun {
                let (first, others) = job.take_first();
                if let Some(others) = others {
                    policy.give_back(others, now);
                }
                job = Job { begun: true, ..first };
                changes.actions.push(Action::Start(first));
            } else if changes.off.remove(&job.id).is_some() {
                // It stays where it is.
            } else if let Some(paused) = self.paused.remove(&job.id) {
                job.ran = paused.ran;
                changes.actions.push(Action::Resume(job.id));
            } else {
                // It has ended while it was paused.
                continue;
            }
            self.run(policy, job, now);
            changes.on.insert(job.id);
            return Some(job.id);
        }
    }

    /// One that the policy should have named: it has lost it, and whoever waits for it must not suffer from that.
    fn forgotten(&self, changes: &Changes) -> Option<Job> {
        let off = changes.off.values().map(|runner| runner.job);
        off.chain(self.paused.values().copied()).next()
    }

    /// Gives those new quanta whose old ones ended while nobody waited.
    fn renew(&mut self, policy: &dyn Policy, now: Duration) {
        // A quantum that ends just now is over: somebody is about to come.
        let before = now.saturating_sub(Duration::from_nanos(1));
        for runner in self.running.values_mut().filter(|runner| runner.is_due(before)) {
            let left = quantum(policy, &runner.job_at(before), before);
            runner.ends = left.map(|left| before.saturating_add(left));
        }
    }
}

/// The policy's word, but not zero.
fn quantum(policy: &dyn Policy, job: &Job, now: Duration) -> Option<Duration> {
    policy.quantum(job, now).map(|quantum| quantum.max(Duration::from_nanos(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Fcfs, Mlfq, RoundRobin};

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn fresh(id: u64) -> Job {
        Job::new(id, 0, 1)
    }

    #[test]
    fn begun_tasks_take_turns_while_new_ones_have_no_process() {
        let mut policy = RoundRobin::new(ms(10)).unwrap();
        let mut floor = Floor::new(1, 2);
        floor.add(&mut policy, Job::new(0, 0, 3), ms(0));
        assert_eq!(floor.turn(&mut policy, ms(0)), [Action::Start(fresh(0))]);
        assert_eq!(floor.next_turn(&policy), Some(ms(10)));
        assert_eq!(floor.turn(&mut policy, ms(10)), [Action::Pause(0), Action::Start(fresh(1))]);
        // It is the third one's turn, but both processes are taken.
        assert_eq!(floor.turn(&mut policy, ms(20)), [Action::Pause(1), Action::Resume(0)]);
        assert_eq!(floor.turn(&mut policy, ms(30)), [Action::Pause(0), Action::Resume(1)]);
        assert_eq!(floor.ended(&mut policy, 1, ms(32)).map(|job| job.ran), Some(ms(12)));
        assert_eq!(floor.turn(&mut policy, ms(32)), [Action::Start(fresh(2))]);
    }

    #[test]
    fn a_task_that_ends_although_it_was_to_pause_has_ended() {
        let mut policy = RoundRobin::new(ms(10)).unwrap();
        let mut floor = Floor::new(1, 2);
        floor.add(&mut policy, Job::new(0, 0, 2), ms(0));
        floor.turn(&mut policy, ms(0));
        assert_eq!(floor.turn(&mut policy, ms(10)), [Action::Pause(0), Action::Start(fresh(1))]);
        assert_eq!(floor.ended(&mut policy, 0, ms(11)).map(|job| job.ran), Some(ms(10)));
        assert_eq!(floor.ended(&mut policy, 0, ms(11)), None);
        // The policy still names it.
        assert_eq!(floor.turn(&mut policy, ms(20)), []);
        assert!(policy.is_empty() && floor.ended(&mut policy, 1, ms(25)).is_some());
        assert_eq!(floor.turn(&mut policy, ms(25)), []);
    }

    #[test]
    fn a_task_that_was_lost_may_come_again() {
        let mut policy = RoundRobin::new(ms(10)).unwrap();
        let mut floor = Floor::new(1, 3);
        floor.add(&mut policy, Job::new(0, 0, 2), ms(0));
        floor.turn(&mut policy, ms(0));
        floor.turn(&mut policy, ms(10));
        assert!(floor.lost(0, ms(15)).is_some(), "its process died while it was paused");
        floor.add(&mut policy, fresh(0), ms(15));
        assert_eq!(floor.turn(&mut policy, ms(20)), [Action::Pause(1), Action::Start(fresh(0))]);
        assert!(floor.ended(&mut policy, 0, ms(22)).is_some());
        assert_eq!(floor.turn(&mut policy, ms(22)), [Action::Resume(1)]);
    }

    #[test]
    fn processes_may_be_fewer_than_workers_for_a_while() {
        let mut policy = Fcfs::default();
        let mut floor = Floor::new(3, 1);
        floor.add(&mut policy, Job::new(0, 0, 3), ms(0));
        assert_eq!(floor.turn(&mut policy, ms(0)), [Action::Start(Job { tasks: 1, ..fresh(0) })]);
        assert_eq!(floor.next_turn(&policy), None);
        floor.set_processes(3);
        assert_eq!(floor.turn(&mut policy, ms(1)), [Action::Start(fresh(1)), Action::Start(fresh(2))]);
    }

    #[test]
    fn quanta_follow_one_upon_the_other_while_nobody_waits() {
        let mut policy = RoundRobin::new(ms(10)).unwrap();
        let mut floor = Floor::new(1, 2);
        floor.add(&mut policy, fresh(0), ms(0));
        floor.turn(&mut policy, ms(0));
        floor.add(&mut policy, fresh(1), ms(57));
        assert_eq!(floor.turn(&mut policy, ms(57)), []);
        assert_eq!(floor.next_turn(&policy), Some(ms(60)));
    }

    #[test]
    fn who_cannot_be_displaced_keeps_its_quantum() {
        let mut policy = Mlfq::new(3, ms(10), ms(10_000)).unwrap();
        let mut floor = Floor::new(1, 1);
        floor.add(&mut policy, fresh(0), ms(0));
        floor.turn(&mut policy, ms(0));
        floor.add(&mut policy, fresh(1), ms(15));
        assert_eq!(floor.turn(&mut policy, ms(15)), [], "there is no process for the newcomer");
        assert_eq!(floor.next_turn(&policy), Some(ms(30)));
        floor.set_processes(2);
        assert_eq!(floor.turn(&mut policy, ms(16)), [Action::Pause(0), Action::Start(fresh(1))]);
    }

    #[test]
    fn a_process_goes_on_with_the_next_task_if_there_is_a_place() {
        let mut policy = RoundRobin::new(ms(10)).unwrap();
        let mut floor = Floor::new(1, 2);
        floor.add(&mut policy, fresh(0), ms(0));
        floor.turn(&mut policy, ms(0));
        assert!(floor.ended(&mut policy, 0, ms(4)).is_some());
        assert!(floor.follow(&mut policy, fresh(1), ms(4)));
        floor.add(&mut policy, fresh(2), ms(5));
        assert_eq!(floor.next_turn(&policy), Some(ms(14)));
        assert_eq!(floor.turn(&mut policy, ms(14)), [Action::Pause(1), Action::Start(fresh(2))]);
        // The other one has just ended all the same, and its process has gone on.
        assert!(floor.ended(&mut policy, 1, ms(15)).is_some());
        assert!(!floor.follow(&mut policy, fresh(3), ms(15)));
        assert!(floor.ended(&mut policy, 2, ms(16)).is_some());
        assert_eq!(floor.turn(&mut policy, ms(16)), [Action::Resume(3)]);
    }

    /// Forgets what was begun, and offers what is new whatever it is asked.
    #[derive(Debug, Default)]
    struct Careless(Vec<Job>);

    impl Policy for Careless {
        fn add(&mut self, job: Job, _now: Duration) {
            self.0.extend((!job.begun).then_some(job));
        }
        fn next(&mut self, _among: Among, _now: Duration) -> Option<Job> {
            self.0.pop()
        }
        fn give_back(&mut self, job: Job, now: Duration) {
            self.add(job, now);
        }
        fn quantum(&self, _job: &Job, _now: Duration) -> Option<Duration> {
            Some(Duration::ZERO)
        }
        fn retain(&mut self, _keep: &mut dyn FnMut(&mut Job) -> bool) {}
        fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[test]
    fn a_careless_policy_loses_nobody() {
        let mut policy = Careless::default();
        let mut floor = Floor::new(1, 2);
        floor.add(&mut policy, Job::new(0, 0, 3), ms(0));
        let mut ended = 0;
        for now in 0..20 {
            let running: Vec<u64> = floor.running.keys().copied().collect();
            assert!(running.len() + floor.paused.len() <= 2);
            if now % 3 == 2 {
                ended += running.iter().filter_map(|id| floor.ended(&mut policy, *id, ms(now))).count();
            }
            floor.turn(&mut policy, ms(now));
        }
        assert_eq!(ended, 3);
    }
}
