//! Processes: starting them, and handles on them.
//!
//! [`spawn`] and [`Process::builder`] start a function in a new process and give a [`Child`], whose
//! [`join`](Child::join) gives the function's result, or why there is none.

mod builder;
mod current;
mod fork;
mod handle;
mod launch;
mod shared;

pub use builder::{Builder, Prepared};
pub use current::{
    CurrentProcess, ParentProcess, active_children, cpu_count, current_process, parent_process,
};
pub use handle::{Child, Process};

pub(crate) use builder::Objects;
pub(crate) use current::{take_all_own_descriptors, take_own_descriptors};
use fork::Forked;
pub(crate) use fork::fork_here as fork_this_process;
use launch::Asked;
pub(crate) use launch::Launch;
pub(crate) use shared::{REPORT, Shared};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;

/// A process that was begun: it must be waited for.
pub(crate) enum Starting {
    Forked(Forked),
    Asked(Asked),
}

impl Starting {
    /// Waits until it runs.
    pub(crate) fn running(self) -> Result<Process> {
        let shared = match self {
            Starting::Forked(forked) => forked.running(),
            Starting::Asked(asked) => asked.running(),
        };
        shared.map(Process::new)
    }

    /// Ends it.
    pub(crate) fn give_up(self) {
        match self {
            Starting::Forked(forked) => forked.give_up(),
            Starting::Asked(asked) => asked.give_up(),
        }
    }
}

/// How a process comes into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum StartMethod {
    /// Forked from the program's supervisor, which is small and has one thread: fast whatever the host's size, safe whatever
    /// its threads. The child begins with what the program had at [`init`](crate::init).
    #[default]
    Forkserver,
    /// As `Forkserver`, and then the program is exec'ed anew: a clean state, at the price of a program start.
    Spawn,
    /// Forked from the calling process: a copy of its memory, which closures may use. Only the calling thread exists in the
    /// child: a lock that another thread holds at that instant is never released there. Its cost grows with the memory of the
    /// process.
    Fork,
}

/// Starts `function(argument)` in a new process, by the default start method.
///
/// `function` is a fn item or a closure that captures nothing; anything else is refused by the compiler. The argument and the
/// result cross by serde. The child inherits standard output and error, the working directory and the environment; its
/// standard input is /dev/null, and it has no other descriptor of this process.
///
/// # Errors
/// [`NotInitialized`](crate::Error::NotInitialized) if main did not call [`init`](crate::init), [`Encode`](crate::Error::Encode)
/// if the argument has no encoding, [`Start`](crate::Error::Start) if the kernel has no room for another process.
///
/// ```
/// fn count(text: String) -> usize {
///     text.split_whitespace().count()
/// }
///
/// fn main() -> broody::Result<()> {
///     broody::init();
///     let child = broody::spawn(count, "to be or not to be".to_owned())?;
///     assert_eq!(child.join()?, 6);
///     Ok(())
/// }
/// ```
///
/// A closure that captures does not compile:
///
/// ```compile_fail
/// broody::init();
/// let captured = 7;
/// let child = broody::spawn(move |x: i32| x + captured, 1);
/// ```
pub fn spawn<F, A, R>(function: F, argument: A) -> Result<Child<R>>
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    Process::builder().spawn(function, argument)
}

/// Runs `function` in a fork of this process, where closures may use this process's memory as it is now.
///
/// See [`StartMethod::Fork`] for what that means when this process has other threads.
///
/// ```
/// # fn main() -> broody::Result<()> {
/// # broody::init();
/// let numbers = vec![1, 2, 3];
/// let child = broody::fork(|| numbers.iter().sum::<i32>())?;
/// assert_eq!(child.join()?, 6);
/// # Ok(())
/// # }
/// ```
pub fn fork<R>(function: impl FnOnce() -> R) -> Result<Child<R>>
where
    R: Serialize + DeserializeOwned,
{
    Process::builder().fork(function)
}
