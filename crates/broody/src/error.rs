//! Everything that can go wrong, each with what was tried, what failed and what to do.

use std::path::PathBuf;

use broody_os::Pid;
use broody_os::wait::ExitStatus;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
///
/// `Debug` shows what `Display` does, and a panic's stack in addition: it is what a main that returns an error prints.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A process was to be started, and main has not called [`init`](crate::init).
    #[error(
        "broody cannot start a process: call broody::init() as the first line of main, which is where a child of \
         the start methods forkserver and spawn begins"
    )]
    NotInitialized,

    /// [`init`](crate::init) was called while other threads were running, so that a child could inherit a lock that is held.
    #[error(
        "broody::init() found {threads} threads in a process that must have one: make it the first line of main, \
         before anything that starts a thread"
    )]
    InitTooLate {
        /// How many there were.
        threads: usize,
    },

    /// A process that broody started did not pass through [`init`](crate::init), and now wants to start more.
    #[error(
        "this process was started by broody but its main has not called broody::init(), or calls it only on some \
         paths: starting more would go on without end. Make broody::init() the unconditional first line of main"
    )]
    StartedWithoutInit,

    /// The supervisor's program could not be started, or is not a program that calls [`init`](crate::init).
    #[error("the supervisor did not start from {}: {reason}", .executable.display())]
    SupervisorStart {
        /// The program.
        executable: PathBuf,
        /// What happened.
        reason: String,
    },

    /// The supervisor runs another build of the program, in which functions have other addresses.
    #[error(
        "the supervisor runs another build of this program than the host (build id {theirs}, not {ours}): start the \
         program again, and let set_executable name the same binary"
    )]
    OtherBuild {
        /// The host's build id.
        ours: String,
        /// The supervisor's.
        theirs: String,
    },

    /// The supervisor was killed. Its children died with it; the next start makes a new supervisor.
    #[error(
        "the supervisor (pid {pid}) of this program was ended from outside, and its children with it; the next start \
         makes a new one"
    )]
    SupervisorLost {
        /// Its pid.
        pid: Pid,
    },

    /// The supervisor does not answer: it is stopped, or the machine is overloaded.
    #[error("the supervisor (pid {pid}) gave no answer for {seconds} s: is it stopped? (kill -CONT {pid})")]
    SupervisorSilent {
        /// Its pid.
        pid: Pid,
        /// How long it was waited for, in seconds.
        seconds: u64,
    },

    /// A process could not be started.
    #[error("process {name:?} could not be started: {reason}")]
    Start {
        /// Its name.
        name: String,
        /// The system call that failed, why, and what helps.
        reason: String,
    },

    /// An argument, a result or a message could not be encoded.
    #[error(
        "{what} of {function} cannot be encoded: {reason}. broody uses serde with postcard, which needs lengths known \
         beforehand (no #[serde(flatten)], no untagged enums)"
    )]
    Encode {
        /// What it was: the argument or the result.
        what: &'static str,
        /// The function's name.
        function: String,
        /// The codec's reason.
        reason: String,
    },

    /// An argument or a result could not be decoded on the other side.
    #[error(
        "{what} of {function} cannot be decoded: {reason}. Its Serialize and Deserialize must match, and postcard \
         cannot decode untagged enums"
    )]
    Decode {
        /// What it was: the argument or the result.
        what: &'static str,
        /// The function's name.
        function: String,
        /// The codec's reason.
        reason: String,
    },

    /// The function panicked.
    #[error("{function} panicked in process {pid}: {message}")]
    Panicked {
        /// The function's name.
        function: String,
        /// The process that ran it.
        pid: Pid,
        /// The panic's message and place.
        message: String,
        /// The stack of the panic.
        backtrace: String,
    },

    /// A process ended without its function's result: it exited, or was ended.
    #[error("process {name:?} (pid {pid}) ended with {status} before its function returned")]
    Ended {
        /// The process's name.
        name: String,
        /// Its pid.
        pid: Pid,
        /// How it ended.
        status: ExitStatus,
    },

    /// A worker died while it ran this task; the pool goes on.
    #[error(
        "worker {pid} was ended by {status} while it ran task {task}; the pool goes on (set `retries` to run such \
         tasks again)"
    )]
    WorkerLost {
        /// The worker's pid.
        pid: Pid,
        /// How it ended.
        status: ExitStatus,
        /// The task's number: tasks of a pool are counted from 0 as they are handed in.
        task: u64,
    },

    /// A task ran for longer than its limit; its worker was ended and replaced.
    #[error("task {task} took longer than its limit of {limit:?}: its worker {pid} was ended and replaced")]
    TaskTimedOut {
        /// The task's number.
        task: u64,
        /// The worker's pid.
        pid: Pid,
        /// The limit.
        limit: std::time::Duration,
    },

    /// A task took more memory than its limit; its worker was ended and replaced.
    #[error(
        "task {task} took {grown} bytes of memory, more than its limit of {limit}: its worker {pid} was ended and replaced"
    )]
    TaskMemory {
        /// The task's number.
        task: u64,
        /// The worker's pid.
        pid: Pid,
        /// The limit, in bytes.
        limit: u64,
        /// By how much the worker had grown when it was looked at, in bytes.
        grown: u64,
    },

    /// The task was cancelled.
    #[error("task {task} was cancelled")]
    Cancelled {
        /// The task's number.
        task: u64,
    },

    /// Workers die before they are ready, cannot be started, or die too often, so that the pool cannot work.
    #[error("the pool gave up: {reason}")]
    PoolBroken {
        /// How many failed, and what became of the last one.
        reason: String,
    },

    /// A task's argument could not be handed to a worker.
    #[error("task {task} could not be handed to a worker: {reason}")]
    TaskNotSent {
        /// The task's number.
        task: u64,
        /// The system call that failed, why, and what helps.
        reason: String,
    },

    /// The pool takes no more tasks.
    #[error("the pool was closed: it takes no more tasks")]
    PoolClosed,

    /// As many tasks wait in the pool as may.
    #[error(
        "the pool has {waiting} tasks waiting, which is as many as it may have: try again later, or raise max_queued"
    )]
    PoolFull {
        /// How many.
        waiting: usize,
    },

    /// The pool was terminated or dropped before this task was done.
    #[error("the pool was terminated before task {task} was done")]
    PoolTerminated {
        /// The task's number.
        task: u64,
    },

    /// A value that cannot work was asked for.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what would be right.
        what: String,
    },

    /// This handle belongs to another process: it was copied by a fork.
    #[error("this {what} belongs to process {owner}, and this is its fork {here}: make a new one here")]
    WrongProcess {
        /// What it is.
        what: &'static str,
        /// The process that made it.
        owner: Pid,
        /// The calling process.
        here: Pid,
    },

    /// The holder of a lock was ended while it held it. Whoever gets the lock next is told, once.
    #[error(
        "the process that held the lock was ended while it held it: what the lock guards may be half-changed \
         (match LockError::OwnerDied to go on with it)"
    )]
    OwnerDied,

    /// The time was over.
    #[error("{what} did not come about in the time that was given for it")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
    },

    /// The queue or pipe is closed: everything was taken that was put.
    #[error("the {what} is closed")]
    Closed {
        /// Which of them.
        what: &'static str,
    },

    /// A message is longer than the queue's bound.
    #[error(
        "a message of {length} bytes is longer than the queue's bound of {bound} bytes: raise the bound, or send a Blob"
    )]
    MessageTooLong {
        /// Its encoded length.
        length: u64,
        /// What the queue was made with.
        bound: u64,
    },

    /// Something was released that nobody, or somebody else, had acquired.
    #[error("the {what} is not held {by}, so that it cannot be released")]
    NotHeld {
        /// What it is.
        what: &'static str,
        /// By whom it should have been.
        by: &'static str,
    },

    /// The barrier is broken: a party died, gave up waiting or aborted it, or it was reset.
    #[error(
        "the barrier is broken: a party died, gave up, or aborted or reset it (reset() makes it whole again)"
    )]
    BrokenBarrier,

    /// Processes died that had taken tasks from the queue and not said that they are done.
    #[error("{count} tasks were lost: the processes that had taken them have died")]
    TasksLost {
        /// How many.
        count: u32,
    },

    /// The process of a manager has ended, and the values that it had are gone.
    #[error("the manager's process (pid {pid}) has ended, and the values that it had are gone")]
    ManagerLost {
        /// Its pid.
        pid: Pid,
    },

    /// A call of a hosted value has panicked before, and may have left it half-changed.
    #[error(
        "the hosted value may be half-changed: a call of it panicked: {message} (clear_poison() lets it be called again)"
    )]
    Poisoned {
        /// What the panic said.
        message: String,
    },

    /// A queue's memory was overwritten.
    #[error(transparent)]
    Corrupt(#[from] broody_shm::Corrupt),

    /// Shared memory cannot be had, or an object in it is no more.
    #[error(transparent)]
    Memory(#[from] broody_shm::ArenaError),

    /// The kernel refused something.
    #[error(transparent)]
    Os(#[from] broody_os::Error),
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")?;
        match self {
            Error::Panicked { backtrace, .. } => write!(f, "\n{backtrace}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_main_prints_says_what_to_do_and_shows_a_panics_stack() {
        assert!(format!("{:?}", Error::NotInitialized).contains("call broody::init()"));
        let panicked = Error::Panicked {
            function: "f".to_owned(),
            pid: 7,
            message: "no".to_owned(),
            backtrace: "0: f".to_owned(),
        };
        assert_eq!(format!("{panicked:?}"), "f panicked in process 7: no\n0: f");
        assert_eq!(panicked.to_string(), "f panicked in process 7: no");
    }
}
