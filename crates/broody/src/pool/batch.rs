//! Tasks that were handed in together: their encoded arguments, and where their answers go.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard};

use broody_shm::ring::Record;

use super::arguments::Arguments;
use super::completion::{Completion, put_aside};
use super::failure::Failure;
use super::gather::Gather;
use super::kind::Kind;
use super::objects::WithObjects;
use super::stream::Stream;
use crate::context::lock;

/// How a task ended.
pub(super) enum Answer<'a> {
    /// With this encoded result, which has to be copied.
    Returned(Record<'a>),
    /// With this encoded result, in which there are shared objects.
    WithObjects(WithObjects),
    /// Without.
    Failed(Failure),
}

/// Where the answers of a batch go. Called with the pool's lock held: it only stores.
enum Sink {
    Gather(Gather),
    /// With the index in the stream of the batch's first task.
    Stream(Arc<Stream>, u64),
}

/// Some tasks of one kind.
///
/// All that there is of a single task is here, in one allocation: many of them may wait.
pub(super) struct Batch {
    kind: Arc<Kind>,
    /// Gone when all are answered.
    arguments: Mutex<Arguments>,
    sink: Sink,
    /// The number of the first in the pool.
    task: u64,
}

impl Deref for Batch {
    type Target = Kind;

    fn deref(&self) -> &Kind {
        &self.kind
    }
}

impl Batch {
    /// Whose answers go into a stream, the first one as number `first`.
    pub(super) fn streamed(
        kind: Arc<Kind>,
        arguments: Arguments,
        (stream, first): (Arc<Stream>, u64),
        task: u64,
    ) -> Self {
        Self { kind, arguments: Mutex::new(arguments), sink: Sink::Stream(stream, first), task }
    }

    pub(super) fn arguments(&self) -> MutexGuard<'_, Arguments> {
        lock(&self.arguments)
    }

    /// Whether it was handed in as a task by itself.
    pub(super) fn is_single(&self) -> bool {
        matches!(&self.sink, Sink::Gather(gather) if gather.is_single())
    }

    /// Whether its answers go into this stream.
    pub(super) fn is_of(&self, stream: &Arc<Stream>) -> bool {
        matches!(&self.sink, Sink::Stream(other, _) if Arc::ptr_eq(other, stream))
    }

    /// The number in the pool of the task at `index`.
    pub(super) fn task(&self, index: usize) -> u64 {
        self.task + index as u64
    }

    /// The answer of the task at `index`. Comes exactly once for each.
    pub(super) fn deliver(&self, index: usize, answer: Answer<'_>) {
        let is_last = match &self.sink {
            Sink::Stream(stream, first) => {
                stream.deliver(first + index as u64, answer);
                false
            }
            Sink::Gather(gather) => gather.deliver(index, answer),
        };
        let mut arguments = self.arguments();
        // To give many pages back takes its time.
        if let Some(kept) = arguments.release(index) {
            put_aside(Completion::Drop(Box::new(kept)));
        }
        if is_last {
            // The results may be kept for long.
            arguments.clear();
        }
    }

    /// Gives every task an answer that has none yet, except those of `running`. Whether there was one, or is one running.
    pub(super) fn cancel(&self, running: &[usize]) -> bool {
        let Sink::Gather(gather) = &self.sink else { return false };
        let missing = gather.cancel(running);
        for index in &missing {
            self.deliver(*index, Answer::Failed(Failure::Cancelled { task: self.task(*index) }));
        }
        !missing.is_empty() || !running.is_empty()
    }

    /// Whether nobody wants the answers of tasks that have not begun: they have been given one.
    pub(super) fn is_cancelled(&self) -> bool {
        match &self.sink {
            Sink::Gather(gather) => gather.is_cancelled(),
            Sink::Stream(stream, _) => stream.is_abandoned(),
        }
    }
}

/// A batch whose answers are waited for together.
#[derive(Clone)]
pub(super) struct Gathered(Arc<Batch>);

impl Gathered {
    pub(super) fn new(kind: Arc<Kind>, arguments: Arguments, gather: Gather, task: u64) -> Self {
        let arguments = Mutex::new(arguments);
        Self(Arc::new(Batch { kind, arguments, sink: Sink::Gather(gather), task }))
    }

    pub(super) fn batch(&self) -> &Arc<Batch> {
        &self.0
    }
}

impl Deref for Gathered {
    type Target = Gather;

    fn deref(&self) -> &Gather {
        match &self.0.sink {
            Sink::Gather(gather) => gather,
            Sink::Stream(..) => unreachable!("it was made with a gather"),
        }
    }
}

/// A part of a batch that has not begun.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) batch: Arc<Batch>,
    pub(super) range: Range<usize>,
}

impl Run {
    pub(super) fn whole(batch: Arc<Batch>) -> Self {
        let range = 0..batch.arguments().len();
        Self { batch, range }
    }

    /// The task at `index` alone.
    pub(super) fn one(batch: Arc<Batch>, index: usize) -> Self {
        Self { batch, range: index..index + 1 }
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// The number in the pool of its first task.
    pub(super) fn first(&self) -> u64 {
        self.batch.task(self.range.start)
    }

    /// Without its first `count` tasks.
    pub(super) fn after(&self, count: usize) -> Self {
        Self { batch: self.batch.clone(), range: self.range.start + count..self.range.end }
    }

    /// The first one cannot be handed to a worker.
    pub(super) fn fail_first(&self, reason: String) {
        self.batch.deliver(self.range.start, Answer::Failed(Failure::NotSent { task: self.first(), reason }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_task_is_small() {
        // With the counts of its Arc; `waiting` says what more there is of a task that waits.
        assert!(size_of::<Batch>() + 16 <= 104, "{}", size_of::<Batch>());
    }
}
