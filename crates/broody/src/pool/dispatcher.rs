//! The thread of a pool: takes answers, hands out tasks, replaces workers.
//!
//! It sleeps in epoll. Workers wake it through one eventfd, and only while it says that it sleeps; the end of a worker wakes it
//! through the worker's pidfd. A thread that waits for one task sleeps at its worker's doorbell instead, and takes that worker's
//! answers itself. Nothing here runs anybody's code: arguments are encoded and results decoded by the threads that call.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use broody_os::events::{Epoll, EventFd, Trigger};
use broody_os::{Pid, clock, interrupt};
use broody_shm::arena::Held;
use broody_shm::pace::Pace;

use super::batch::Gathered;
use super::completion::{Callback, Callbacks, Locked};
use super::plan::Recipe;
use super::room::Bound;
use super::schedule::{Schedule, Standing};
use super::slot::{self, Newcomer, Slot};
use crate::context::Context;
use crate::{Error, Result, helper, memory};

/// How soon the host looks for answers that no worker rang for. Doubles as long as there are none.
const LOOK: Duration = Duration::from_millis(4);

/// The longest time without such a look.
const LOOK_AT_LAST: Duration = Duration::from_millis(256);

/// The shortest wait for something that is due.
const MOMENT: Duration = Duration::from_millis(1);

/// Without any reason to look the host still does: a bound on whatever was not thought of.
const BOUND: Duration = Duration::from_secs(1);

const DOORBELL: u64 = 0;

/// What the thread and the handles of a pool share.
pub(super) struct Shared {
    schedule: Mutex<Schedule>,
    callbacks: Callbacks,
    /// Fewer tasks wait than before, or the pool takes none any more; for whoever waits for room.
    room: Condvar,
    bound: Option<Bound>,
    /// The pool's thread has nothing more to do.
    has_ended: AtomicBool,
    end: Condvar,
    /// A worker was started, or could not be.
    staffed: Condvar,
    doorbell: EventFd,
    epoll: Epoll,
    name: String,
    recipe: Recipe,
    /// Long messages that come and go need no new pages meanwhile.
    _keeper: Arc<Held>,
    owner: Pid,
    /// How it goes with waiting for single tasks.
    pace: Pace,
}

impl Shared {
    /// A pool whose workers run already, so that the first to fail is the caller's error.
    pub(super) fn new(
        schedule: Schedule,
        name: String,
        recipe: Recipe,
        bound: Option<Bound>,
    ) -> Result<Arc<Self>> {
        let (doorbell, epoll) = (EventFd::new()?, Epoll::new()?);
        epoll.add(&doorbell, DOORBELL, Trigger::Edge)?;
        let callbacks = Callbacks::default();
        let (schedule, room) = (Mutex::new(schedule), Condvar::new());
        let shared = Self {
            schedule,
            callbacks,
            room,
            bound,
            has_ended: AtomicBool::new(false),
            end: Condvar::new(),
            staffed: Condvar::new(),
            doorbell,
            epoll,
            name,
            recipe,
            _keeper: memory::keep_pages()?,
            owner: Context::current().pid,
            pace: Pace::default(),
        };
        let mut schedule = shared.schedule();
        let starts = schedule.claim_starts();
        // All are begun before the first one is waited for.
        let begun: Vec<_> =
            starts.into_iter().map(|(number, seat)| (number, shared.begin(number, seat))).collect();
        let mut failed = None;
        for (number, begun) in begun {
            match (begun, &failed) {
                (Ok(begun), Some(_)) => begun.give_up(),
                (Ok(begun), None) => match shared.running(number, begun) {
                    Ok(slot) => schedule.settle(number, Ok(slot)),
                    Err(error) => failed = Some(error),
                },
                (Err(error), _) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            schedule.terminate();
            return Err(error);
        }
        drop(schedule);
        Ok(Arc::new(shared))
    }

    /// The schedule, locked.
    pub(super) fn schedule(&self) -> Locked<'_> {
        Locked::new(&self.schedule, &self.callbacks, self.bound.map(|_| &self.room))
    }

    /// Waits until more tasks may wait. The pool must be asked then whether it takes any.
    pub(super) fn await_room(&self) -> Result<Locked<'_>> {
        let mut schedule = self.schedule();
        let Some(bound) = self.bound else { return Ok(schedule) };
        let deadline = bound.patience();
        loop {
            let waiting = schedule.waiting.len();
            if waiting < bound.most || schedule.standing != Standing::Open {
                return Ok(schedule);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(Error::PoolFull { waiting });
            }
            schedule = schedule.wait(&self.room, deadline);
        }
    }

    /// Waits until all workers have ended, at most until `deadline`. Whether they have.
    pub(super) fn await_end(&self, deadline: Option<Instant>) -> bool {
        let mut schedule = self.schedule();
        while !self.has_ended.load(Ordering::Acquire) {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return false;
            }
            schedule = schedule.wait(&self.end, deadline);
        }
        true
    }

    /// Waits until workers have been started that are missing, at most until `deadline`.
    pub(super) fn await_staff(&self, deadline: Option<Instant>) -> Locked<'_> {
        let mut schedule = self.schedule();
        while !schedule.is_staffed() && deadline.is_none_or(|deadline| deadline > Instant::now()) {
            schedule = schedule.wait(&self.staffed, deadline);
        }
        schedule
    }

    /// Waits until callbacks have run that are due by now, at most until `deadline`. Whether they have.
    pub(super) fn await_callbacks(&self, deadline: Option<Instant>) -> bool {
        // Whoever has just delivered something has given its callback to the thread then.
        drop(self.schedule());
        self.callbacks.wait(deadline)
    }

    /// Has a callback run by the thread for callbacks.
    pub(super) fn call_back(&self, callback: Callback) {
        self.callbacks.run(callback);
    }

    /// Whether this is the process that made the pool; `what` is what somebody wants to use.
    pub(super) fn check_owner(&self, what: &'static str) -> Result<()> {
        // Not asked from the kernel: a fork takes the context away.
        let here = Context::current().pid;
        if here == self.owner {
            return Ok(());
        }
        Err(Error::WrongProcess { what, owner: self.owner, here })
    }

    /// Starts the thread.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<std::thread::JoinHandle<()>> {
        let theirs = self.clone();
        helper::start("broody-pool", move || {
            theirs.work();
            memory::give_kept_back();
            let mut schedule = theirs.schedule();
            schedule.listeners.end();
            theirs.has_ended.store(true, Ordering::Release);
            drop(schedule);
            theirs.end.notify_all();
        })
    }

    /// Lets the thread look at the schedule again.
    pub(super) fn nudge(&self) {
        self.doorbell.signal();
    }

    /// As [`nudge`](Self::nudge), if the thread would not look soon enough at workers or at the clock, or is to start workers.
    pub(super) fn nudge_if_needed(&self, schedule: &mut Schedule) {
        if schedule.must_begin_to_look() | schedule.must_watch() | schedule.must_grow() {
            self.nudge();
        }
    }

    /// Waits for the answers of `batch`, at most until `deadline`. Whether they have come.
    ///
    /// The calling thread sleeps at the doorbell of the worker that has the task, and takes the answer itself: the way over the
    /// pool's thread would be one more wake. Where that is not to be had, it waits for the pool's thread.
    pub(super) fn wait(&self, batch: &Gathered, deadline: Option<Instant>) -> bool {
        loop {
            // Also for one that is done: its worker's doorbell may have been reserved.
            let place = self.schedule().begin_sleep(batch.batch());
            if let Some((number, worker)) = place {
                let limit =
                    deadline.map_or(BOUND, |deadline| deadline.saturating_duration_since(Instant::now()));
                worker.doorbell().sleep(limit, self.recipe.plan.spins.then_some(&self.pace));
                let mut schedule = self.schedule();
                schedule.end_sleep(number);
                if schedule.must_begin_to_look() | schedule.must_watch() {
                    self.nudge();
                }
            } else if !batch.is_complete() {
                return batch.wait(deadline);
            }
            if batch.is_complete() {
                return true;
            }
            if interrupt::is_raised() || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return false;
            }
        }
    }

    fn begin(&self, number: u64, seat: usize) -> Result<Newcomer> {
        let name = format!("{}-{number}", self.name);
        Slot::begin(&self.recipe, &name, seat, &self.doorbell)
    }

    fn running(&self, number: u64, begun: Newcomer) -> Result<Slot> {
        let slot = begun.running()?;
        self.epoll.add(slot.process.sentinel(), number, Trigger::Level)?;
        Ok(slot)
    }

    fn work(&self) {
        let mut ready = Vec::with_capacity(64);
        let mut look = LOOK;
        let mut start_at = Instant::now();
        // How many answers there were, and since when.
        let mut answered = (0, start_at);
        loop {
            let starting = {
                let mut schedule = self.schedule();
                schedule.slots().for_each(|(_, slot)| slot.stop_listening());
                if schedule.collect() {
                    look = LOOK;
                }
                schedule.release_delayed(clock::monotonic());
                schedule.hand_out();
                let answers = schedule.ledger.counts.done;
                if answers != answered.0 {
                    answered = (answers, Instant::now());
                }
                if start_at <= Instant::now() { schedule.claim_starts() } else { Vec::new() }
            };
            if answered.1.elapsed() >= BOUND {
                memory::give_kept_back();
            }
            for (number, seat) in starting {
                let started = self.begin(number, seat).and_then(|begun| self.running(number, begun));
                let started = started.map_err(|error| error.to_string());
                let mut schedule = self.schedule();
                schedule.settle(number, started);
                start_at = Instant::now() + schedule.start_delay();
                drop(schedule);
                self.staffed.notify_all();
            }
            let Some(limit) = self.before_sleep(look, start_at) else { return };
            if self.epoll.wait(&mut ready, Some(limit)).is_err() {
                // Only for a descriptor that somebody has closed under us.
                _ = self.schedule().terminate();
                return;
            }
            if ready.is_empty() && !limit.is_zero() {
                look = (look * 2).min(LOOK_AT_LAST);
            }
            for number in ready.drain(..).filter(|token| *token != DOORBELL) {
                self.bury(number);
                start_at = Instant::now() + self.schedule().start_delay();
            }
        }
    }

    /// Makes the workers ring from now on. How long to sleep: not at all if there is something to do; `None` when everything is
    /// over.
    fn before_sleep(&self, look: Duration, start_at: Instant) -> Option<Duration> {
        let mut schedule = self.schedule();
        let over = schedule.is_over() || schedule.wind_down();
        if over && schedule.is_empty() {
            return None;
        }
        schedule.slots().for_each(|(_, slot)| slot.listen());
        if schedule.slots().any(|(_, slot)| !slot.is_silent()) {
            return Some(Duration::ZERO);
        }
        let now = clock::monotonic();
        let again = schedule.watch(now);
        schedule.looks = schedule.must_look();
        let limit = if schedule.looks { look } else { BOUND };
        // What is due has just been done: what is due still can wait for a moment.
        let limit = again.map_or(limit, |again| limit.min(again.saturating_sub(now).max(MOMENT)));
        schedule.sleeps_until = now + limit;
        let until_start = || start_at.saturating_duration_since(Instant::now());
        Some(if schedule.missing() > 0 { limit.min(until_start()) } else { limit })
    }

    /// A worker has ended.
    fn bury(&self, number: u64) {
        // Its end is reported within microseconds; the lock is free meanwhile.
        let process =
            self.schedule().slots().find(|(other, _)| *other == number).map(|(_, slot)| slot.process.clone());
        let Some(process) = process else { return };
        self.epoll.remove(process.as_fd());
        let status = slot::ending(&process);
        let dead = self.schedule().bury(number, status);
        // Not under the pool's lock: it may take its time.
        dead.iter().for_each(Slot::end_objects);
        drop(dead);
    }
}
