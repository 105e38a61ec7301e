//! Why a task has no result.

use broody_os::Pid;
use broody_os::wait::ExitStatus;

use super::watch::Verdict;
use crate::Error;
use crate::function::Outcome;

/// Why a task has no result. Kept as it is until someone asks, and then made an [`Error`] as often as someone asks.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The function did not return, or a value did not cross.
    Outcome {
        pid: Pid,
        outcome: Outcome,
    },
    WorkerLost {
        pid: Pid,
        status: ExitStatus,
        task: u64,
    },
    /// The worker was ended because of the task.
    Ended {
        pid: Pid,
        task: u64,
        verdict: Verdict,
    },
    Terminated {
        task: u64,
    },
    Cancelled {
        task: u64,
    },
    Broken {
        reason: String,
    },
    NotSent {
        task: u64,
        reason: String,
    },
    NotEncoded {
        reason: String,
    },
}

impl Failure {
    /// For the task of `function`.
    pub(super) fn to_error(&self, function: &str) -> Error {
        let function = || function.to_owned();
        match self.clone() {
            Failure::Outcome { pid, outcome: Outcome::Panicked { message, backtrace } } => {
                Error::Panicked { function: function(), pid, message, backtrace }
            }
            Failure::Outcome { outcome: Outcome::BadArgument(reason), .. } => {
                Error::Decode { what: "the argument", function: function(), reason }
            }
            Failure::Outcome { outcome: Outcome::BadResult(reason), .. } => {
                Error::Encode { what: "the result", function: function(), reason }
            }
            // Never stored: a result is no failure.
            Failure::Outcome { outcome: Outcome::Returned, .. } => {
                Error::Decode { what: "the result", function: function(), reason: "there is none".to_owned() }
            }
            Failure::WorkerLost { pid, status, task } => Error::WorkerLost { pid, status, task },
            Failure::Ended { pid, task, verdict } => match verdict {
                Verdict::TooLong { limit } => Error::TaskTimedOut { task, pid, limit },
                Verdict::TooLarge { limit, grown } => Error::TaskMemory { task, pid, limit, grown },
                Verdict::Cancelled => Error::Cancelled { task },
            },
            Failure::Cancelled { task } => Error::Cancelled { task },
            Failure::Terminated { task } => Error::PoolTerminated { task },
            Failure::Broken { reason } => Error::PoolBroken { reason },
            Failure::NotSent { task, reason } => Error::TaskNotSent { task, reason },
            Failure::NotEncoded { reason } => {
                Error::Encode { what: "the argument", function: function(), reason }
            }
        }
    }
}
