//! Taking turns: tasks are stopped when their quantum is over, and go on later.
//!
//! The [floor](super::policy::floor) says who starts, who pauses and who goes on; here it is done to workers. A task that is paused stays in
//! its process, which is stopped (SIGSTOP); meanwhile another process runs. Each place on the floor stands for a frame: several tasks, if
//! they are short. What of a frame was not begun when its turn is over is taken back.
//!
//! A worker that has something which others may be waiting for, a lock or a place in a queue, is not left stopped: it goes on at once, and is
//! stopped a little later.

use std::collections::BTreeMap;
use std::time::Duration;

use super::events::What;
use super::policy::floor::Floor;
use super::policy::{Action, Job};
use super::schedule::Schedule;
use super::slot::{Offer, Slot};

/// When to stop a worker again that could not be left stopped.
const LATER: Duration = Duration::from_millis(1);

/// Who is on which worker.
pub(super) struct Turns {
    pub(super) floor: Floor,
    /// The numbers of workers, by the number of the task that the floor knows.
    pub(super) workers: BTreeMap<u64, u64>,
    /// Workers that are to be stopped, and since when they are to be.
    late: BTreeMap<u64, Duration>,
    /// The tasks that workers are to go on with, by the workers' numbers: see [`ahead`](super::ahead).
    pub(super) ahead: BTreeMap<u64, Job>,
}

impl Turns {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            floor: Floor::new(workers, 0),
            workers: BTreeMap::new(),
            late: BTreeMap::new(),
            ahead: BTreeMap::new(),
        }
    }
}

/// What became of a task that was to be given to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    Taken,
    /// It waits again.
    Not,
    /// It is nobody's any more: cancelled, or it cannot be sent.
    Gone,
}

impl Schedule {
    /// Does what the floor says at the time `now`.
    pub(super) fn take_turns(&mut self, now: Duration) {
        self.stop_late_ones(now);
        loop {
            self.note_ends(now);
            let free = self.slots.values().filter(|slot| self.is_free(slot)).count();
            let Some(turns) = &mut self.turns else { return };
            turns.floor.set_processes(turns.workers.len() + free);
            let actions = turns.floor.turn(self.waiting.policy(), now);
            // All of it is done; and if something was, there may be more to do.
            let mut go_on = !actions.is_empty();
            for action in actions {
                match action {
                    Action::Start(job) => go_on &= self.start_turn(job.id, now),
                    Action::Pause(id) => self.pause(id, now),
                    Action::Resume(id) => self.resume(id, now),
                }
            }
            if !go_on && !self.recall_for_idle(now) {
                return self.hand_ahead(now);
            }
        }
    }

    /// When the next turn is due.
    pub(super) fn next_turn(&mut self) -> Option<Duration> {
        let turns = self.turns.as_ref()?;
        let late = turns.late.values().min().map(|since| *since + LATER);
        [turns.floor.next_turn(self.waiting.policy()), late].into_iter().flatten().min()
    }

    /// Frames that are done, or gone with their workers, leave the floor.
    fn note_ends(&mut self, now: Duration) {
        loop {
            let Some(turns) = &self.turns else { return };
            let is_over =
                |id: u64, number: &u64| self.slots.get(number).is_none_or(|slot| !slot.has_frame(id));
            let over: Vec<(u64, u64)> = turns
                .workers
                .iter()
                .filter(|(id, number)| is_over(**id, number))
                .map(|(id, number)| (*id, *number))
                .collect();
            if over.is_empty() {
                return;
            }
            for (id, number) in over {
                self.note_end(id, number, now);
            }
        }
    }

    fn note_end(&mut self, id: u64, number: u64, now: Duration) {
        let Some(turns) = &mut self.turns else { return };
        turns.workers.remove(&id);
        let next = turns.ahead.remove(&number);
        if !self.slots.contains_key(&number) {
            turns.floor.lost(id, now);
            return;
        }
        turns.floor.ended(self.waiting.policy(), id, now);
        if let Some(job) = next {
            turns.workers.insert(job.id, number);
            if !turns.floor.follow(self.waiting.policy(), job, now) {
                return;
            }
        }
        // If the task was done before its worker was stopped.
        self.go_on(number, now);
    }

    /// Whether a task can be started in it.
    fn is_free(&self, slot: &Slot) -> bool {
        slot.load() == 0 && slot.was_ready() && slot.takes_tasks() && slot.allowance(self.staff.tasks) > 0
    }

    /// Starts the task `id`, and perhaps some that follow it. Whether that could be done now.
    fn start_turn(&mut self, id: u64, now: Duration) -> bool {
        let free = self.slots.iter().find(|(_, slot)| self.is_free(slot)).map(|(number, _)| *number);
        let Some(number) = free else {
            if let Some(run) = self.waiting.start(id, 1, now) {
                self.waiting.put_back(run, now);
            }
            if let Some(turns) = &mut self.turns {
                turns.floor.lost(id, now);
            }
            return false;
        };
        match self.give(id, number, now) {
            Given::Taken => {
                if let Some(turns) = &mut self.turns {
                    turns.workers.insert(id, number);
                }
                true
            }
            given => {
                if let Some(turns) = &mut self.turns {
                    turns.floor.lost(id, now);
                }
                given == Given::Gone
            }
        }
    }

    /// Gives the task `id` to a worker, and perhaps some that follow it. The policy has given it already.
    pub(super) fn give(&mut self, id: u64, number: u64, now: Duration) -> Given {
        let most = self.ledger.paces.frame_within(self.waiting.function_of(id), self.quantum / 2);
        let Some(slot) = self.slots.get_mut(&number) else { return Given::Not };
        let Some(run) = self.waiting.start(id, most.min(slot.allowance(self.staff.tasks)), now) else {
            return Given::Gone;
        };
        if run.batch.is_cancelled() {
            return Given::Gone;
        }
        slot.observed = self.listeners.are_there();
        match slot.offer(&run, run.len(), false) {
            Offer::Taken(count) => {
                let worker = slot.process.pid();
                self.listeners.tell(|| What::Leased { worker, task: id, tasks: count });
                self.note_limit(run.batch.terms.first_look());
                self.waiting.put_back(run.after(count), now);
                Given::Taken
            }
            Offer::Full => {
                self.waiting.put_back(run, now);
                Given::Not
            }
            Offer::Unsendable(reason) => {
                run.fail_first(reason);
                self.waiting.put_back(run.after(1), now);
                Given::Gone
            }
        }
    }

    /// Stops the worker of a task, if that can be done now; else a little later.
    fn pause(&mut self, id: u64, now: Duration) {
        let Some(turns) = &mut self.turns else { return };
        let Some(number) = turns.workers.get(&id).copied() else { return };
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let back = slot.take_back(usize::MAX);
        let has_begun = slot.has_frame(id);
        for run in back.into_iter().rev() {
            self.waiting.put_back(run, now);
        }
        self.forget_ahead(number);
        if !has_begun {
            if let Some(turns) = &mut self.turns {
                turns.workers.remove(&id);
                turns.floor.lost(id, now);
            }
            return;
        }
        self.stop(number, now);
    }

    fn resume(&mut self, id: u64, now: Duration) {
        let number = self.turns.as_ref().and_then(|turns| turns.workers.get(&id).copied());
        number.into_iter().for_each(|number| self.go_on(number, now));
    }

    /// Tries again to stop those that were to be stopped.
    fn stop_late_ones(&mut self, now: Duration) {
        let Some(turns) = &mut self.turns else { return };
        let due: Vec<u64> = turns
            .late
            .iter()
            .filter(|(_, since)| **since + LATER <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.stop(number, now);
        }
    }

    /// Stops a worker, if that can be done now; else a little later.
    fn stop(&mut self, number: u64, now: Duration) {
        let Some(turns) = &mut self.turns else { return };
        let Some(slot) = self.slots.get_mut(&number) else {
            turns.late.remove(&number);
            return;
        };
        if !slot.pause(now) {
            turns.late.insert(number, now);
            return;
        }
        turns.late.remove(&number);
        self.ledger.counts.preempted += 1;
        let worker = slot.process.pid();
        self.listeners.tell(|| What::Preempted { worker });
        // It may have been done, and stopped before it could tell.
        slot.drain(&mut self.ledger);
    }

    /// Lets a worker go on.
    fn go_on(&mut self, number: u64, now: Duration) {
        if let Some(turns) = &mut self.turns {
            turns.late.remove(&number);
        }
        if let Some(slot) = self.slots.get_mut(&number)
            && slot.resume(now)
        {
            let worker = slot.process.pid();
            self.listeners.tell(|| What::Resumed { worker });
        }
    }
}
