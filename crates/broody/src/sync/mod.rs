//! Locks and their like, between processes, that survive whoever holds them.
//!
//! Each is a value: clone it, pass it to a new process as an argument, send it through a queue; all copies are the same lock. It is
//! freed with the last copy in any process.
//!
//! When a process is killed, what it held is free within milliseconds, and whoever gets a lock next is told that its last holder
//! died ([`LockError::OwnerDied`]).

mod barrier;
mod condition;
mod event;
mod lock;
mod recursive;
mod semaphore;

pub use barrier::Barrier;
pub use condition::Condition;
pub use event::Event;
pub use lock::{BareLock, Lock, LockError, LockGuard, LockResult, OwnerDied};
pub(crate) use lock::{deadline, not_here};
pub use recursive::{RLock, RLockGuard};
pub use semaphore::{BoundedSemaphore, Semaphore};
