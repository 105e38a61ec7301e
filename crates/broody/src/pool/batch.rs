//! Tasks that were handed in together: their encoded arguments, and where their answers go.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use broody_shm::ring::Record;
use serde::Serialize;

use super::apart::{Apart, Ticket};
use super::completion::{Completion, put_aside};
use super::failure::Failure;
use super::objects::WithObjects;
use super::options::Terms;
use super::wire::LONGEST;
use crate::codec;
use crate::context::lock;
use crate::function::FunctionId;
use crate::handle::{self, Outgoing};
use crate::output::{Encoded, Output};

/// Where the answers of some tasks go. Called with the pool's lock held: it only stores.
pub(super) trait Sink: Send + Sync {
    /// The answer of the task `index`, counted from the first task of this sink. Comes exactly once for each.
    fn deliver(&self, index: u64, answer: Answer<'_>);

    /// Whether nobody wants the answers of tasks that have not begun: they have been given one.
    fn is_cancelled(&self) -> bool;
}

/// How a task ended.
pub(super) enum Answer<'a> {
    /// With this encoded result, which has to be copied.
    Returned(Record<'a>),
    /// With this encoded result, which is in shared memory or in which there are shared objects.
    WithObjects(WithObjects),
    /// Without.
    Failed(Failure),
}

/// Encoded arguments, one behind the other.
#[derive(Default)]
pub(super) struct Arguments {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// What there is of them in shared memory, by their index.
    kept: Mutex<Vec<(usize, Kept)>>,
    keeps_any: bool,
}

/// What of an argument is in shared memory: kept until its task is answered, since it may be run once more.
struct Kept {
    apart: Option<Apart>,
    _objects: Outgoing,
}

/// An encoded argument.
#[derive(Clone, Copy)]
pub(super) enum Argument<'a> {
    Own(&'a [u8]),
    Apart(Ticket),
}

impl Argument<'_> {
    /// Its length, in bytes.
    pub(super) fn len(self) -> usize {
        match self {
            Argument::Own(bytes) => bytes.len(),
            Argument::Apart(ticket) => ticket.length(),
        }
    }
}

impl Arguments {
    /// Adds one. Gives the number of bytes that it takes, those in shared memory included.
    pub(super) fn push<A: Serialize>(&mut self, argument: &A) -> Result<usize, String> {
        let before = self.bytes.len();
        let mut output = Output::at_most(LONGEST, std::mem::take(&mut self.bytes));
        let (result, objects) = handle::collect(|| codec::encode_onto(argument, &mut output));
        if let Err(reason) = result {
            self.bytes = output.undo();
            return Err(reason);
        }
        let (bytes, encoded) = output.finish();
        self.bytes = bytes;
        let mut length = self.bytes.len() - before;
        let apart = match encoded {
            Encoded::Own => None,
            Encoded::Apart(draft) => Some(Apart::new(draft)),
        };
        if apart.is_some() || !objects.is_empty() {
            length += apart.as_ref().map_or(0, Apart::len) + objects.bytes();
            let kept = (self.ends.len(), Kept { apart, _objects: objects });
            self.kept.get_mut().unwrap_or_else(PoisonError::into_inner).push(kept);
            self.keeps_any = true;
        }
        self.ends.push(self.bytes.len());
        Ok(length)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, index: usize) -> Argument<'_> {
        if self.keeps_any {
            let kept = lock(&self.kept);
            let at = kept.binary_search_by_key(&index, |(index, _)| *index);
            if let Some(apart) = at.ok().and_then(|at| kept[at].1.apart.as_ref()) {
                return Argument::Apart(apart.ticket());
            }
        }
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Argument::Own(&self.bytes[start..self.ends[index]])
    }

    /// What is in shared memory of an argument that is not needed any more.
    fn release(&self, index: usize) -> Option<Kept> {
        if !self.keeps_any {
            return None;
        }
        let mut kept = lock(&self.kept);
        let at = kept.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(kept.remove(at).1)
    }
}

/// Some tasks of one function.
pub(super) struct Batch {
    pub(super) function: FunctionId,
    pub(super) name: &'static str,
    pub(super) terms: Arc<Terms>,
    arguments: Arguments,
    sink: Arc<dyn Sink>,
    /// The index of the first in the sink.
    first: u64,
    /// The number of the first in the pool.
    task: u64,
}

impl Batch {
    pub(super) fn new(
        (function, name): (FunctionId, &'static str),
        terms: Arc<Terms>,
        arguments: Arguments,
        sink: Arc<dyn Sink>,
        first: u64,
        task: u64,
    ) -> Self {
        Self { function, name, terms, arguments, sink, first, task }
    }

    pub(super) fn argument(&self, index: usize) -> Argument<'_> {
        self.arguments.get(index)
    }

    /// The number in the pool of the task at `index`.
    pub(super) fn task(&self, index: usize) -> u64 {
        self.task + index as u64
    }

    pub(super) fn deliver(&self, index: usize, answer: Answer<'_>) {
        self.sink.deliver(self.first + index as u64, answer);
        if let Some(kept) = self.arguments.release(index) {
            // To give many pages back takes its time.
            put_aside(Completion::Drop(Box::new(kept)));
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.sink.is_cancelled()
    }

    /// The index in the sink of the task at `index`.
    pub(super) fn index_in_sink(&self, index: usize) -> u64 {
        self.first + index as u64
    }

    pub(super) fn goes_to(&self, sink: &Arc<dyn Sink>) -> bool {
        Arc::ptr_eq(&self.sink, sink)
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
        let range = 0..batch.arguments.len();
        Self { batch, range }
    }

    /// The task at `index` alone.
    pub(super) fn one(batch: Arc<Batch>, index: usize) -> Self {
        Self { batch, range: index..index + 1 }
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// Without its first `count` tasks.
    pub(super) fn after(&self, count: usize) -> Self {
        Self { batch: self.batch.clone(), range: self.range.start + count..self.range.end }
    }

    /// The first one cannot be handed to a worker.
    pub(super) fn fail_first(&self, reason: String) {
        let (index, task) = (self.range.start, self.batch.task(self.range.start));
        self.batch.deliver(index, Answer::Failed(Failure::NotSent { task, reason }));
    }
}
