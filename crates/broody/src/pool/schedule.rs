//! Which task goes to which worker.
//!
//! Tasks wait in the order of a [policy](super::policy). A worker is given frames of them: always one more than it works on, so that it need
//! not wait. What was given is only lent: when the queue is empty and a worker has nothing, half of what another one has not begun
//! is taken back for it. A short task thus never waits behind a long one while a worker is idle.
//!
//! # What a death leaves
//!
//! A worker that ends has answered some of its tasks (the answers are taken first), has begun at most one more, and has not begun
//! the others. The one is tried again as often as the pool's `retries` allow, and then fails; the others go back to the front of the
//! queue. Every task therefore has exactly one answer.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use broody_os::wait::ExitStatus;
use broody_os::{Pid, clock};
use broody_shm::duplex::Duplex;

use super::Undone;
use super::batch::{Answer, Batch, Run};
use super::events::{Event, Events, Listeners, Stats, What};
use super::failure::Failure;
use super::kind::Kinds;
use super::pace::Paces;
use super::policy::{Job, Policy};
use super::slot::{Offer, Slot};
use super::staff::{Deaths, Staff};
use super::turns::Turns;
use super::waiting::Waiting;
use super::watch::{AtHand, Verdict};
use crate::function::FunctionId;
use crate::{Error, Result};

/// How many workers in a row may end before they are ready, or fail to start.
const ATTEMPTS: u32 = 8;

/// How often the size of workers is looked at, where there is a limit.
const SIZE_LOOK: Duration = Duration::from_millis(50);

/// How a pool stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    /// No new tasks; those that there are will be done.
    Closed,
    /// Nothing will be done any more.
    Terminated,
    /// Nothing can be done any more.
    Broken {
        reason: String,
    },
}

/// What workers have told.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) paces: Paces,
    /// Tasks that failed, and may be tried again.
    pub(super) failed: Vec<(Run, Failure)>,
    /// How long tasks of a function have taken, for the policy.
    pub(super) took: Vec<(FunctionId, Duration)>,
    /// Tasks that have ended, for those who listen.
    pub(super) ended: Vec<Event>,
    pub(super) counts: Stats,
}

impl Ledger {
    /// A task has its answer.
    pub(super) fn count(&mut self, is_failure: bool) {
        self.counts.done += 1;
        self.counts.failed += u64::from(is_failure);
    }
}

/// A task that waits until it is tried again.
struct Delayed {
    until: Duration,
    run: Run,
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Delayed {}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The earliest is the greatest: it comes out of a heap first.
        other.until.cmp(&self.until)
    }
}

/// The queue and the workers of a pool.
pub(super) struct Schedule {
    pub(super) standing: Standing,
    pub(super) waiting: Waiting,
    pub(super) kinds: Kinds,
    /// Where tasks take turns; else each runs to its end.
    pub(super) turns: Option<Turns>,
    /// How long a turn is at first.
    pub(super) quantum: Duration,
    /// By the number of the worker, which no other ever has.
    pub(super) slots: BTreeMap<u64, Slot>,
    pub(super) staff: Staff,
    deaths: Deaths,
    next_worker: u64,
    /// Workers that somebody is starting: their numbers and seats.
    starting: BTreeMap<u64, usize>,
    pub(super) ledger: Ledger,
    pub(super) listeners: Listeners,
    /// How often tasks that failed have been tried, by number; forgotten when there is nothing left to do.
    tries: BTreeMap<u64, u32>,
    delayed: BinaryHeap<Delayed>,
    /// When the first limit may be over of the tasks that were handed out since the pool's thread was last told.
    soonest_limit: Option<Duration>,
    /// Until when the pool's thread sleeps, at most, and whether it will look at workers by itself then.
    pub(super) sleeps_until: Duration,
    pub(super) looks: bool,
    next_task: u64,
    /// The batch that is being handed in by a thread that will wait for it.
    awaited: Option<Arc<Batch>>,
    /// Streams that may still hand in tasks, although the pool is closed.
    streams: usize,
    /// When those workers are killed that were asked to end.
    kill_at: Option<Duration>,
    /// How many starts in a row have failed.
    failed_starts: u32,
    /// Workers with smaller numbers were started before the last failure that counted: if they fail too, it is the same failure.
    next_counted: u64,
}

impl Schedule {
    pub(super) fn new(mut staff: Staff, policy: Box<dyn Policy>) -> Self {
        let quantum = policy.quantum(&Job::new(0, 0, 1), Duration::ZERO);
        if quantum.is_none() {
            // Nobody is ever paused.
            staff.spares = 0;
        }
        Self {
            standing: Standing::Open,
            waiting: Waiting::new(policy),
            kinds: Kinds::default(),
            turns: quantum.map(|_| Turns::new(staff.most)),
            quantum: quantum.unwrap_or(Duration::MAX),
            slots: BTreeMap::new(),
            staff,
            deaths: Deaths::default(),
            next_worker: 1,
            starting: BTreeMap::new(),
            ledger: Ledger::default(),
            listeners: Listeners::default(),
            tries: BTreeMap::new(),
            delayed: BinaryHeap::new(),
            soonest_limit: None,
            sleeps_until: Duration::ZERO,
            looks: false,
            next_task: 0,
            awaited: None,
            streams: 0,
            kill_at: None,
            failed_starts: 0,
            next_counted: 0,
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (u64, &Slot)> {
        self.slots.iter().map(|(number, slot)| (*number, slot))
    }

    /// How many tasks of `function` a stream should have under way.
    pub(super) fn window(&self, function: crate::function::FunctionId) -> usize {
        self.staff.most * (4 * self.ledger.paces.frame(function)).max(16)
    }

    /// Numbers for `count` new tasks, or why there are none.
    pub(super) fn admit(&mut self, count: usize, from_stream: bool) -> Result<u64> {
        match &self.standing {
            Standing::Open => {}
            Standing::Closed if from_stream => {}
            Standing::Closed => return Err(Error::PoolClosed),
            Standing::Terminated => return Err(Error::PoolTerminated { task: self.next_task }),
            Standing::Broken { reason } => return Err(Error::PoolBroken { reason: reason.clone() }),
        }
        let first = self.next_task;
        self.next_task += count as u64;
        Ok(first)
    }

    /// A stream begins: it may hand in tasks until it ends.
    pub(super) fn open_stream(&mut self) -> Result<()> {
        self.admit(0, false)?;
        self.streams += 1;
        Ok(())
    }

    /// A stream ends; what it has handed in and nobody has begun is passed over.
    pub(super) fn close_stream(&mut self) {
        self.streams -= 1;
        self.hand_out();
    }

    /// Puts tasks at the end of the queue and hands out what can be handed out.
    ///
    /// If the calling thread is going to wait for it (`awaited`), [`begin_sleep`](Self::begin_sleep) must follow.
    pub(super) fn submit(&mut self, batch: Arc<Batch>, awaited: bool) {
        let run = Run::whole(batch.clone());
        let (task, tasks) = (batch.task(0), run.len());
        self.listeners.tell(|| What::Queued { task, tasks, function: batch.name });
        self.add(run);
        self.awaited = awaited.then_some(batch);
        self.hand_out();
        self.awaited = None;
    }

    /// These are new, or to be tried again.
    fn add(&mut self, run: Run) {
        let now = clock::monotonic();
        match &mut self.turns {
            Some(turns) => self.waiting.add_by(&mut turns.floor, run, now),
            None => self.waiting.add(run, now),
        }
    }

    /// These were given out and not begun.
    pub(super) fn put_back(&mut self, runs: Vec<Run>) {
        let now = clock::monotonic();
        for run in runs.into_iter().rev() {
            self.waiting.put_back(run, now);
        }
    }

    /// Takes what workers have published. Whether there was anything.
    pub(super) fn collect(&mut self) -> bool {
        let mut answered = 0;
        for slot in self.slots.values_mut() {
            answered += slot.drain(&mut self.ledger);
        }
        if answered > 0 {
            self.failed_starts = 0;
        }
        self.try_again();
        answered > 0
    }

    /// Tasks that failed are tried again, or have failed for good; the policy learns what there is to be learned.
    pub(super) fn try_again(&mut self) {
        for event in self.ledger.ended.drain(..) {
            self.listeners.pass_on(&event);
        }
        for (function, took) in self.ledger.took.drain(..) {
            self.waiting.learn(function, took);
        }
        for (run, failure) in std::mem::take(&mut self.ledger.failed) {
            self.failed(run, failure);
        }
    }

    /// A place for the calling thread to sleep until the worker that has a task of `batch` has published something; the worker's
    /// number, for [`end_sleep`](Self::end_sleep). `None` if no worker has one, or another thread sleeps there.
    pub(super) fn begin_sleep(&mut self, batch: &Arc<Batch>) -> Option<(u64, Duplex)> {
        // The task may have moved on from the worker that it was given to first, or be done.
        for slot in self.slots.values_mut().filter(|slot| !slot.can_be_waited_for(batch)) {
            if slot.end_reservation() {
                slot.drain(&mut self.ledger);
            }
        }
        self.try_again();
        let (number, slot) = self.slots.iter_mut().find(|(_, slot)| slot.can_be_waited_for(batch))?;
        match slot.begin_sleep() {
            Some(place) => Some((*number, place)),
            None => {
                // It was faster.
                slot.drain(&mut self.ledger);
                self.try_again();
                self.hand_out();
                None
            }
        }
    }

    /// The thread that slept there takes what there is.
    pub(super) fn end_sleep(&mut self, number: u64) {
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.end_sleep();
            slot.drain(&mut self.ledger);
            self.try_again();
            self.hand_out();
        }
    }

    /// Gives tasks to workers that want some.
    pub(super) fn hand_out(&mut self) {
        if !self.tries.is_empty() && self.is_done() {
            // Whatever was tried again has been answered.
            self.tries.clear();
        }
        if self.turns.is_some() {
            return self.take_turns(clock::monotonic());
        }
        loop {
            self.hand_out_waiting();
            if !self.waiting.is_empty() || !self.take_back_for_idle() {
                return;
            }
        }
    }

    fn hand_out_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let now = clock::monotonic();
        // Workers whose rings have no room now.
        let mut full = Vec::new();
        loop {
            let fair = self.waiting.len().div_ceil(2 * self.staff.most);
            let paces = &self.ledger.paces;
            let eager = self
                .slots
                .iter_mut()
                .filter(|(number, slot)| slot.wants_more(paces) && !full.contains(*number))
                .filter(|(_, slot)| slot.allowance(self.staff.tasks) > 0);
            let Some((number, slot)) = eager.min_by_key(|(_, slot)| slot.load()) else { return };
            let Some(run) = self.waiting.next(now) else { return };
            if run.batch.is_cancelled() {
                continue;
            }
            let pace = || paces.frame(run.batch.function).min(fair).max(1);
            let most = run.batch.terms.chunk_size.unwrap_or_else(pace);
            let most = most.min(slot.allowance(self.staff.tasks));
            let reserve = self.awaited.as_ref().is_some_and(|awaited| Arc::ptr_eq(awaited, &run.batch));
            slot.observed = self.listeners.are_there();
            match slot.offer(&run, most, reserve) {
                Offer::Taken(count) => {
                    let (worker, task) = (slot.process.pid(), run.batch.task(run.range.start));
                    self.listeners.tell(|| What::Leased { worker, task, tasks: count });
                    self.note_limit(run.batch.terms.first_look());
                    self.waiting.put_back(run.after(count), now);
                }
                Offer::Full => {
                    full.push(*number);
                    self.waiting.put_back(run, now);
                }
                Offer::Unsendable(reason) => {
                    run.fail_first(reason);
                    self.waiting.put_back(run.after(1), now);
                }
            }
        }
    }

    /// A task was handed out that has to be looked at after so long.
    pub(super) fn note_limit(&mut self, after: Option<Duration>) {
        if let Some(after) = after {
            let limit = clock::monotonic().saturating_add(after);
            self.soonest_limit = Some(self.soonest_limit.map_or(limit, |other| other.min(limit)));
        }
    }

    /// If a worker has nothing to do: takes back half of what the worker with the most has not begun. Whether it took something.
    fn take_back_for_idle(&mut self) -> bool {
        if !self.slots.values().any(|slot| slot.load() == 0 && slot.wants_more(&self.ledger.paces)) {
            return false;
        }
        let unclaimed = self.slots.iter_mut().map(|(_, slot)| (slot.unclaimed(), slot));
        let Some((most, slot)) = unclaimed.max_by_key(|(count, _)| *count) else { return false };
        // One that has a single task has only not come round to it yet.
        if most == 0 || slot.outstanding() < 2 {
            return false;
        }
        let back = slot.take_back(most.div_ceil(2));
        let took = !back.is_empty();
        self.put_back(back);
        took
    }

    /// Whether a worker may have published an answer without ringing: the host has to look by itself.
    pub(super) fn must_look(&self) -> bool {
        self.slots.values().any(|slot| slot.outstanding() > 1)
    }

    /// Looks at the tasks that workers run and that have limits, at the time `now`. When to look again, at the latest.
    pub(super) fn watch(&mut self, now: Duration) -> Option<Duration> {
        let mut again = self.delayed.peek().map(|delayed| delayed.until);
        again = [again, self.next_turn()].into_iter().flatten().min();
        let mut verdicts = Vec::new();
        let mut too_large = Vec::new();
        for (number, slot) in &mut self.slots {
            let finding = slot.look(now);
            again = [again, finding.again].into_iter().flatten().min();
            verdicts.extend(finding.task.zip(finding.verdict).map(|found| (*number, found)));
            if let Some(limit) = self.staff.memory {
                too_large.extend(slot.check_size(limit).map(|verdict| (*number, verdict)));
            }
            let readiness = slot.check_readiness(self.staff.patience, now);
            again = [again, readiness].into_iter().flatten().min();
        }
        for (number, (looked_at, verdict)) in verdicts {
            self.end_task(number, verdict, |task, _| task == looked_at);
        }
        for (number, verdict) in too_large {
            self.end_task(number, verdict, |_, _| true);
        }
        if self.staff.memory.is_some() {
            again = Some(again.unwrap_or(Duration::MAX).min(now + SIZE_LOOK));
        }
        [again, self.retire(now), self.kill_late_ones(now)].into_iter().flatten().min()
    }

    /// Asks workers to end that have done their share, or that there are too many of. When to look again.
    fn retire(&mut self, now: Duration) -> Option<Duration> {
        let mut spare = self.at_work().saturating_sub(self.staff.least);
        let mut again = None;
        for slot in self.slots.values_mut().filter(|slot| !slot.is_leaving()) {
            if slot.load() == 0 && slot.allowance(self.staff.tasks) == 0 {
                slot.ask_to_quit();
            } else if spare > 0 {
                match slot.idles(self.staff.idle, now) {
                    Ok(()) => {
                        slot.ask_to_quit();
                        spare -= 1;
                    }
                    Err(end) => again = Some(again.map_or(end, |other: Duration| other.min(end))),
                }
            }
        }
        again
    }

    /// How many workers there are, without those that are about to leave.
    fn at_work(&self) -> usize {
        self.slots.values().filter(|slot| !slot.is_leaving()).count()
    }

    /// Ends a worker because of the task that it runs, if `still` says that it is that task.
    pub(super) fn end_task(&mut self, number: u64, verdict: Verdict, still: impl Fn(AtHand, &Run) -> bool) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        // From here on it has nothing that it could begin.
        let back = slot.take_back(usize::MAX);
        // Before the answers are taken: after that, what is not there has been done.
        self.forget_ahead(number);
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.drain(&mut self.ledger);
        slot.sentence(verdict, still);
        self.put_back(back);
        self.try_again();
    }

    /// Ends the tasks of a batch that run, and takes back those that do not. Gives those that run: their answers come when their workers have
    /// ended. The others get none from here.
    pub(super) fn cancel(&mut self, batch: &Arc<Batch>) -> Vec<usize> {
        let theirs = |slot: &Slot| slot.has_any_of(batch);
        let numbers: Vec<u64> =
            self.slots().filter(|(_, slot)| theirs(slot)).map(|(number, _)| number).collect();
        for number in numbers {
            self.end_task(number, Verdict::Cancelled, |_, run| Arc::ptr_eq(&run.batch, batch));
        }
        self.slots.values().filter_map(|slot| slot.running_of(batch)).collect()
    }

    /// Tasks that wait until they are tried again, which they are not then.
    pub(super) fn take_delayed(&mut self) -> Vec<Run> {
        self.delayed.drain().map(|delayed| delayed.run).collect()
    }

    /// Puts tasks back that were to wait until `now`.
    pub(super) fn release_delayed(&mut self, now: Duration) {
        while self.delayed.peek().is_some_and(|delayed| delayed.until <= now) {
            self.delayed.pop().into_iter().for_each(|delayed| self.add(delayed.run));
        }
    }

    /// Whether there may be too few workers for the tasks.
    pub(super) fn must_grow(&mut self) -> bool {
        (self.staff.least < self.staff.most || self.staff.spares > 0) && self.missing() > 0
    }

    /// Whether a task was handed out whose limit, or whose turn, may be over before the pool's thread wakes. The caller nudges it then.
    pub(super) fn must_watch(&mut self) -> bool {
        let due = [self.next_turn(), self.soonest_limit.take()].into_iter().flatten().min();
        // It looks anew when it wakes: until then one nudge is enough.
        due.filter(|due| *due < self.sleeps_until).inspect(|due| self.sleeps_until = *due).is_some()
    }

    /// Whether the pool's thread does not look at workers by itself, and has to from now on. The caller nudges it then.
    pub(super) fn must_begin_to_look(&mut self) -> bool {
        !self.looks && self.must_look() && !std::mem::replace(&mut self.looks, true)
    }

    /// The worker `number` has ended with `status`. Gives the dead worker, which its owner drops without the lock.
    pub(super) fn bury(&mut self, number: u64, status: ExitStatus) -> Option<Slot> {
        let mut slot = self.slots.remove(&number)?;
        let worker = slot.process.pid();
        self.listeners.tell(|| What::WorkerEnded { worker, status });
        slot.drain(&mut self.ledger);
        self.try_again();
        let remains = slot.remains();
        self.put_back(remains.unstarted);
        for run in remains.lost {
            self.lost(run, slot.process.pid(), status, slot.verdict());
        }
        if slot.was_ready() {
            self.failed_starts = 0;
            let is_expected = slot.is_leaving() || slot.verdict().is_some() || self.is_over();
            if !is_expected && self.deaths.note(self.staff.deaths, clock::monotonic()) {
                let (most, period) = self.staff.deaths.unwrap_or_default();
                let pid = slot.process.pid();
                self.give_up(format!(
                    "more than {most} workers died within {period:?}, the last one ({pid}) by {status}"
                ));
            }
        } else if !self.is_over() {
            self.start_failed(number, slot.early_failure(status));
        }
        self.hand_out();
        Some(slot)
    }

    /// Tasks that were begun, and whose worker is gone.
    fn lost(&mut self, run: Run, pid: Pid, status: ExitStatus, verdict: Option<Verdict>) {
        for index in run.range.rev() {
            let (one, task) = (Run::one(run.batch.clone(), index), run.batch.task(index));
            self.listeners.tell(|| What::Lost { worker: pid, task, status });
            self.ledger.counts.lost += 1;
            match verdict {
                None => self.failed(one, Failure::WorkerLost { pid, status, task }),
                Some(verdict) => {
                    let failure = Failure::Ended { pid, task, verdict };
                    match verdict {
                        Verdict::Cancelled => self.fail(&one, failure),
                        _ if run.batch.terms.retry_errors => self.failed(one, failure),
                        _ => self.fail(&one, failure),
                    }
                }
            }
        }
    }

    /// The one task of `run` has failed.
    fn fail(&mut self, run: &Run, failure: Failure) {
        self.ledger.count(true);
        run.batch.deliver(run.range.start, Answer::Failed(failure));
    }

    /// A task failed that may be tried again, if it has not been tried too often.
    fn failed(&mut self, run: Run, failure: Failure) {
        let (index, terms) = (run.range.start, run.batch.terms.clone());
        let task = run.batch.task(index);
        let tries = self.tries.remove(&task).unwrap_or(0) + 1;
        if tries > terms.retries || self.is_over() || run.batch.is_cancelled() {
            return self.fail(&run, failure);
        }
        self.tries.insert(task, tries);
        self.listeners.tell(|| What::Retried { task, retry: tries });
        self.ledger.counts.retried += 1;
        match terms.pause_before(tries) {
            Duration::ZERO => self.add(run),
            pause => self.delayed.push(Delayed { until: clock::monotonic().saturating_add(pause), run }),
        }
    }

    /// A worker could not be started, or ended before it was ready.
    fn start_failed(&mut self, number: u64, reason: String) {
        if number < self.next_counted {
            return;
        }
        self.next_counted = self.next_worker;
        self.failed_starts += 1;
        if self.failed_starts >= ATTEMPTS && !self.is_over() {
            let attempts = self.failed_starts;
            let reason =
                format!("{attempts} workers in a row did not get ready, the last one because {reason}");
            self.give_up(reason);
        }
    }

    fn give_up(&mut self, reason: String) {
        self.standing = Standing::Broken { reason: reason.clone() };
        self.fail_everything(|_| Failure::Broken { reason: reason.clone() });
    }

    /// How long to wait before the next start: nothing at first, then ever longer.
    pub(super) fn start_delay(&self) -> Duration {
        match self.failed_starts {
            0 => Duration::ZERO,
            failures => Duration::from_millis(5 << failures.min(6)),
        }
    }

    /// Ends everything that was not answered.
    pub(super) fn terminate(&mut self) -> Undone {
        self.end_now(None)
    }

    /// The same; workers get SIGTERM, and those that are still there after `grace` SIGKILL.
    pub(super) fn terminate_within(&mut self, grace: Duration) -> Undone {
        self.end_now(Some(grace))
    }

    fn end_now(&mut self, grace: Option<Duration>) -> Undone {
        if self.is_over() {
            return Undone::default();
        }
        self.collect();
        self.standing = Standing::Terminated;
        self.kill_at = grace.map(|grace| clock::monotonic().saturating_add(grace));
        self.fail_everything(|task| Failure::Terminated { task })
    }

    /// Kills workers that were asked to end and have had their time, at the time `now`. When to look again.
    fn kill_late_ones(&mut self, now: Duration) -> Option<Duration> {
        let kill_at = self.kill_at?;
        if kill_at > now {
            return Some(kill_at);
        }
        self.kill_at = None;
        for slot in self.slots.values() {
            let _ = slot.process.kill();
        }
        None
    }

    /// Gives everything that has no answer this one, and ends the workers.
    fn fail_everything(&mut self, failure: impl Fn(u64) -> Failure) -> Undone {
        let delayed = self.take_delayed();
        let waiting = self.waiting.clear().into_iter().chain(delayed);
        // Those that were cancelled have their answers, unless they run.
        let mut runs: Vec<Run> = waiting.filter(|run| !run.batch.is_cancelled()).collect();
        let begun = self.slots.values().map(Slot::begun).sum();
        let all = runs.iter().map(Run::len).sum::<usize>()
            + self.slots.values().map(Slot::outstanding).sum::<usize>();
        runs.extend(self.slots.values_mut().flat_map(Slot::abandon));
        for run in runs {
            for index in run.range {
                run.batch.deliver(index, Answer::Failed(failure(run.batch.task(index))));
            }
        }
        for slot in self.slots.values() {
            let _ = if self.kill_at.is_some() { slot.process.terminate() } else { slot.process.kill() };
        }
        Undone { begun, waiting: all - begun }
    }

    /// Somebody listens from now on. He is told first of the workers that there are.
    pub(super) fn listen(&mut self) -> Events {
        let introduced = self.slots.values().map(|slot| (slot.process.pid(), slot.seat));
        self.listeners.add(introduced.map(|(worker, seat)| What::WorkerStarted { worker, seat }))
    }

    /// How it stands.
    pub(super) fn stats(&self) -> Stats {
        Stats {
            workers: self.slots.len(),
            paused: self.paused(),
            waiting: self.waiting.len(),
            leased: self.slots.values().map(Slot::outstanding).sum(),
            ..self.ledger.counts
        }
    }

    /// Whether no task will be run any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Terminated | Standing::Broken { .. })
    }

    /// Whether the pool is closed and has done everything; its workers are then asked to end.
    pub(super) fn wind_down(&mut self) -> bool {
        let done = self.standing == Standing::Closed && self.streams == 0 && self.is_done();
        if done {
            self.slots.values_mut().for_each(Slot::ask_to_quit);
        }
        done
    }

    /// Whether every task that was handed in has its answer.
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.delayed.is_empty() && self.slots.values().all(|slot| slot.load() == 0)
    }

    fn paused(&self) -> usize {
        self.slots.values().filter(|slot| slot.is_paused()).count()
    }

    /// How many workers there are too few.
    pub(super) fn missing(&mut self) -> usize {
        if self.is_over() || self.wind_down() {
            return 0;
        }
        let tasks = self.waiting.len() + self.slots.values().map(Slot::outstanding).sum::<usize>();
        self.staff.wanted(tasks, self.paused()).saturating_sub(self.at_work() + self.starting.len())
    }

    /// The numbers and seats of workers to start now. The caller starts them, and says so with [`settle`](Self::settle).
    pub(super) fn claim_starts(&mut self) -> Vec<(u64, usize)> {
        let mut claimed = Vec::new();
        for _ in 0..self.missing() {
            let taken: BTreeSet<usize> =
                self.slots.values().map(|slot| slot.seat).chain(self.starting.values().copied()).collect();
            let seat = (0..).find(|seat| !taken.contains(seat)).unwrap_or(0);
            self.starting.insert(self.next_worker, seat);
            claimed.push((self.next_worker, seat));
            self.next_worker += 1;
        }
        claimed
    }

    /// A start is over: with a worker or without.
    pub(super) fn settle(&mut self, number: u64, started: std::result::Result<Slot, String>) {
        self.starting.remove(&number);
        match started {
            Ok(slot) => {
                if self.is_over() {
                    let _ = slot.process.kill();
                }
                let (worker, seat) = (slot.process.pid(), slot.seat);
                self.listeners.tell(|| What::WorkerStarted { worker, seat });
                self.ledger.counts.started += 1;
                self.slots.insert(number, slot);
                self.hand_out();
            }
            Err(reason) => self.start_failed(number, reason),
        }
    }

    /// Whether as many workers are there as there should be.
    pub(super) fn is_staffed(&mut self) -> bool {
        self.starting.is_empty() && self.missing() == 0
    }

    /// Whether there is no worker any more.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.starting.is_empty()
    }
}
