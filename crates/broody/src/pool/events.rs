//! What happens in a pool, for whoever wants to see it.
//!
//! Nobody listens, as a rule, and then nothing of this is made: a worker measures its tasks only if it is asked to with their frame.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use broody_os::wait::ExitStatus;
use broody_os::{Pid, clock};

use super::batch::Batch;
use super::wire::Span;

/// Something that happened in a pool.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// When, on the machine's monotonic clock (clock_gettime(2), CLOCK_MONOTONIC).
    pub at: Duration,
    /// What.
    pub what: What,
}

/// What happened. Tasks are named by their numbers, workers by their pids.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// Tasks were handed in.
    Queued {
        /// The first one's number; the others follow.
        task: u64,
        /// How many.
        tasks: usize,
        /// The function's name.
        function: &'static str,
    },
    /// Tasks were given to a worker, which has not begun them yet.
    Leased {
        /// To which.
        worker: Pid,
        /// The first one's number; the others follow.
        task: u64,
        /// How many.
        tasks: usize,
    },
    /// A task has ended, with a result or without. It began `took` before.
    Ended {
        /// Where.
        worker: Pid,
        /// Its number.
        task: u64,
        /// The function's name.
        function: &'static str,
        /// How long it ran.
        took: Duration,
        /// How much CPU time its process used meanwhile.
        cpu: Duration,
        /// The most memory that its process ever had so far, in bytes.
        peak: u64,
        /// The length of its encoded argument, in bytes.
        argument: usize,
        /// The length of its encoded result, in bytes.
        result: usize,
        /// It panicked, or a value did not cross.
        failed: bool,
    },
    /// A worker ended while it ran a task.
    Lost {
        /// Which.
        worker: Pid,
        /// The task's number.
        task: u64,
        /// How it ended.
        status: ExitStatus,
    },
    /// A task failed and is run again.
    Retried {
        /// Its number.
        task: u64,
        /// Which retry it is, from 1.
        retry: u32,
    },
    /// A worker was stopped because its task's turn was over.
    Preempted {
        /// Which.
        worker: Pid,
    },
    /// It goes on.
    Resumed {
        /// Which.
        worker: Pid,
    },
    /// A worker was started.
    WorkerStarted {
        /// Which.
        worker: Pid,
        /// Its seat: the lowest number that was free.
        seat: usize,
    },
    /// A worker has ended.
    WorkerEnded {
        /// Which.
        worker: Pid,
        /// How.
        status: ExitStatus,
    },
}

/// The events of a pool as they come, until it has ended. Made by [`Pool::events`](crate::Pool::events).
#[derive(Debug)]
pub struct Events(Receiver<Event>);

impl Events {
    /// Those that are there already.
    pub fn so_far(&self) -> impl Iterator<Item = Event> + '_ {
        self.0.try_iter()
    }
}

impl Iterator for Events {
    type Item = Event;

    /// Waits for the next one.
    fn next(&mut self) -> Option<Event> {
        self.0.recv().ok()
    }
}

/// Those who listen.
#[derive(Debug, Default)]
pub(super) struct Listeners(Vec<Sender<Event>>);

impl Listeners {
    /// Another one, who is told of this first.
    pub(super) fn add(&mut self, first: impl Iterator<Item = What>) -> Events {
        let (sender, receiver) = mpsc::channel();
        let at = clock::monotonic();
        // The other end is here still.
        first.for_each(|what| _ = sender.send(Event { at, what }));
        self.0.push(sender);
        Events(receiver)
    }

    /// There is nothing more to tell.
    pub(super) fn end(&mut self) {
        self.0.clear();
    }

    pub(super) fn are_there(&self) -> bool {
        !self.0.is_empty()
    }

    /// Tells what has happened just now, if anybody listens.
    pub(super) fn tell(&mut self, what: impl FnOnce() -> What) {
        if self.are_there() {
            self.pass_on(&Event { at: clock::monotonic(), what: what() });
        }
    }

    /// Tells of an event.
    pub(super) fn pass_on(&mut self, event: &Event) {
        self.0.retain(|listener| listener.send(event.clone()).is_ok());
    }
}

impl Span {
    /// The event of the task at `index` of a batch, which took this.
    pub(super) fn event(
        self,
        worker: Pid,
        batch: &Batch,
        index: usize,
        result: usize,
        failed: bool,
    ) -> Event {
        let time = Duration::from_nanos;
        let what = What::Ended {
            worker,
            task: batch.task(index),
            function: batch.name,
            took: time(self.took),
            cpu: time(self.cpu),
            peak: self.peak,
            argument: batch.arguments().get(index).len(),
            result,
            failed,
        };
        Event { at: time(self.ended), what }
    }
}

/// Counts, since the pool was made, and how it stands now. Made by [`Pool::stats`](crate::Pool::stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Workers that there are now.
    pub workers: usize,
    /// Of those, stopped because it is not their task's turn.
    pub paused: usize,
    /// Tasks that wait to be given to a worker.
    pub waiting: usize,
    /// Tasks that were given to a worker and have no answer yet.
    pub leased: usize,
    /// Tasks that have an answer, a result or an error.
    pub done: u64,
    /// Of those, errors.
    pub failed: u64,
    /// How often a worker ended while it ran a task.
    pub lost: u64,
    /// How often a task was run again.
    pub retried: u64,
    /// How often a worker was stopped because its task's turn was over.
    pub preempted: u64,
    /// Workers that were started.
    pub started: u64,
}
