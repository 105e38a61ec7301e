//! Tasks that are taken back before they have begun, and those that are ended with their iterator.
//!
//! A task that a worker has claimed has begun. Whether it has is decided by the lease between the two: what was taken back from it, no worker claims.

use std::sync::Arc;

use super::batch::{Answer, Batch, Run};
use super::failure::Failure;
use super::schedule::Schedule;
use super::stream::Stream;
use super::watch::Verdict;

impl Schedule {
    /// Gives up a batch of a single task, if that has not begun. Whether it is given up: it has its answer then.
    pub(super) fn revoke(&mut self, batch: &Arc<Batch>) -> bool {
        self.take_back_from(|run| Arc::ptr_eq(&run.batch, batch));
        !self.runs_any_of(batch) && batch.cancel(&[])
    }

    /// Whether a worker has begun a task of this batch, and has not answered it.
    pub(super) fn runs_any_of(&self, batch: &Arc<Batch>) -> bool {
        self.slots.values().any(|slot| slot.running_of(batch).is_some())
    }

    /// Gives up everything that has not begun. How many tasks those were.
    pub(super) fn revoke_all(&mut self) -> usize {
        self.take_back_from(|_| true);
        let delayed = self.take_delayed();
        let waiting = self.waiting.clear().into_iter().chain(delayed);
        let mut count = 0;
        // Those that were cancelled before have their answers.
        for run in waiting.filter(|run| !run.batch.is_cancelled()) {
            count += run.len();
            for index in run.range {
                self.ledger.count(true);
                let failure = Failure::Cancelled { task: run.batch.task(index) };
                run.batch.deliver(index, Answer::Failed(failure));
            }
        }
        count
    }

    /// Ends the tasks of a stream that run. Those that do not are passed over once it is abandoned.
    pub(super) fn end_stream(&mut self, stream: &Arc<Stream>) {
        let running = |run: &Run| run.batch.is_of(stream);
        let slots = self.slots.iter().filter(|(_, slot)| slot.has_any(running));
        let numbers: Vec<u64> = slots.map(|(number, _)| *number).collect();
        for number in numbers {
            self.end_task(number, Verdict::Cancelled, |_, run| running(run));
        }
    }

    /// Takes back what workers have not begun, from each that has something that `wanted` says.
    fn take_back_from(&mut self, wanted: impl Fn(&Run) -> bool) {
        let slots = self.slots.iter().filter(|(_, slot)| slot.has_any(&wanted));
        let numbers: Vec<u64> = slots.map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(slot) = self.slots.get_mut(&number) else { continue };
            let back = slot.take_back(usize::MAX);
            // Before the answers are taken: after that, what is not there has been done.
            self.forget_ahead(number);
            if let Some(slot) = self.slots.get_mut(&number) {
                slot.drain(&mut self.ledger);
            }
            self.put_back(back);
        }
        self.try_again();
    }
}
