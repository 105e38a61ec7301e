//! Functions in processes that cannot be lost.
//!
//! ```
//! fn count(text: String) -> usize {
//!     text.split_whitespace().count()
//! }
//!
//! fn main() -> broody::Result<()> {
//!     broody::init(); // the first line: a child starts here and never returns
//!     let child = broody::spawn(count, "to be or not to be".to_owned())?;
//!     assert_eq!(child.join()?, 6);
//!     Ok(())
//! }
//! ```
//!
//! * No zombies: a child that ends is reaped within milliseconds, joined or not.
//! * No orphans: when the program dies, even by SIGKILL, every descendant is gone within 100 ms.
//! * No hangs: what a dead process ran is an error that names it; everything else goes on.
//!
//! # Where to begin
//!
//! [`spawn`] runs a function in a new process, [`Process::builder`] names it, makes it a daemon or chooses the
//! [`StartMethod`]. [`at_exit`] runs something when a process ends.
//!
//! # What a function in another process needs
//!
//! It is a `fn` item or a closure that captures nothing; its argument and result implement serde's `Serialize` and
//! `Deserialize` with a self-contained format (postcard): no `#[serde(flatten)]`, no untagged enums. [`fork()`] alone takes
//! closures that capture.

mod boot;
mod codec;
mod context;
mod data;
pub mod embed;
mod error;
mod exit;
mod function;
mod handle;
mod helper;
mod manager;
mod memory;
mod output;
mod plain;
mod pool;
mod process;
mod queue;
mod reaper;
mod supervisor;
mod sync;
mod wait;
mod watch;
mod watcher;

pub use boot::{init, set_executable};
pub use broody_os::Pid;
pub use broody_os::proc::State;
pub use broody_os::wait::{ExitStatus, Usage};
/// What `Lock`, `Value` and `Array` ask of the data that they hold.
pub use bytemuck;
pub use data::{Array, ArrayGuard, Atomic, Blob, SharedMemory, Slice, Value, ValueGuard};
pub use error::{Error, Result};
pub use exit::{ExitFunction, at_exit, at_exit_with_priority};
pub use manager::{Hosted, Manager};
pub use pool::policy;
pub use pool::{
    AsyncResult, Imap, Pool, PoolBuilder, Shared, StarFn, TaskOptions, Undone, WhenFull, With, should_stop,
    worker_state,
};
pub use process::{
    Builder, Child, CurrentProcess, ParentProcess, Prepared, Process, StartMethod, active_children,
    cpu_count, current_process, fork, parent_process, spawn,
};
pub use queue::{
    Bytes, BytesQueue, Connection, Iter, JoinableBytesQueue, JoinableQueue, Queue, QueueBuilder, Receiver,
    Sender, Takes, channel, channel_bytes, pipe, pipe_bytes,
};
pub use sync::{
    BareLock, Barrier, BoundedSemaphore, Condition, Event, Lock, LockError, LockGuard, LockResult, OwnerDied,
    RLock, RLockGuard, Semaphore,
};
pub use wait::{Source, Waitable, wait};

/// What happens in a pool: events, counts, and a run as a timeline.
pub mod observe {
    pub use crate::pool::{Event, Events, Stats, Trace, What};
}
