//! A task ahead for each worker that is soon done, in a pool whose tasks take turns.
//!
//! A worker that has done its task, and has to wait until the pool's thread wakes and gives it another one, loses some tenths of a
//! millisecond. So whatever is new and next in line is given to one that runs a task of a function that is known to be short: it goes on with
//! it by itself, and the floor [learns](super::policy::floor::Floor::follow) of that later. If the short one turns out to be long, what was
//! given ahead is taken back as soon as its quantum is over.

use std::time::Duration;

use super::policy::Among;
use super::schedule::Schedule;
use super::turns::Given;

impl Schedule {
    /// Gives each worker something to go on with, if it is soon done and what is next in line is new.
    pub(super) fn hand_ahead(&mut self, now: Duration) {
        let Some(turns) = &self.turns else { return };
        let is_soon_done = |id: &u64, number: &u64| {
            turns.floor.is_running(*id)
                && !turns.ahead.contains_key(number)
                && self.slots.get(number).is_some_and(|slot| {
                    slot.takes_tasks()
                        && slot.allowance(self.staff.tasks) > 0
                        && slot.is_soon_done(&self.ledger.paces, self.quantum)
                })
        };
        let numbers: Vec<u64> = turns
            .workers
            .iter()
            .filter(|(id, number)| is_soon_done(id, number))
            .map(|(_, number)| *number)
            .collect();
        for number in numbers {
            let Some(job) = self.waiting.policy().next(Among::All, now) else { return };
            if job.begun {
                return self.waiting.policy().give_back(job, now);
            }
            let (first, others) = job.take_first();
            if let Some(others) = others {
                self.waiting.policy().give_back(others, now);
            }
            if self.give(first.id, number, now) == Given::Taken
                && let Some(turns) = &mut self.turns
            {
                turns.ahead.insert(number, first);
            }
        }
    }

    /// If a place is free and nothing waits: what was given ahead waits again. Whether there was something.
    pub(super) fn recall_for_idle(&mut self, now: Duration) -> bool {
        let Some(turns) = &self.turns else { return false };
        if turns.ahead.is_empty() || !turns.floor.has_room() || !self.waiting.policy().is_empty() {
            return false;
        }
        let numbers: Vec<u64> = turns.ahead.keys().copied().collect();
        let mut any = false;
        for number in numbers {
            let Some(slot) = self.slots.get_mut(&number) else { continue };
            let back = slot.take_back(usize::MAX);
            any |= !back.is_empty();
            for run in back.into_iter().rev() {
                self.waiting.put_back(run, now);
            }
            self.forget_ahead(number);
        }
        any
    }

    /// What a worker had ahead may just have been taken back from it.
    pub(super) fn forget_ahead(&mut self, number: u64) {
        let Some(turns) = &mut self.turns else { return };
        let has_it = |id| self.slots.get(&number).is_some_and(|slot| slot.has_frame(id));
        if turns.ahead.get(&number).is_some_and(|job| !has_it(job.id)) {
            turns.ahead.remove(&number);
        }
    }
}
