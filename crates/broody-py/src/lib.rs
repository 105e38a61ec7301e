//! The Python face of broody, as far as it is Rust: the module `broody._broody`.
//!
//! Waiting, framing, dispatch and state are the engine's. What is here turns its calls into Python's: arguments, exceptions, the GIL, and
//! signals, whose handlers run in Python only between waits. The modules of `python/broody` give all of it the names that users know.

mod by_value;
mod connection;
mod errors;
mod manager;
mod messages;
mod pickling;
mod pool;
mod process;
mod runtime;
mod shared;
mod shared_memory;
mod sharer;
mod sync;
mod tasks;
mod waiting;

use std::sync::{Mutex, MutexGuard};

use pyo3::prelude::*;

/// What is locked for an instant, and with the GIL where a fork may need it.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The engine of the package `broody`.
#[pymodule]
mod _broody {
    #[pymodule_export]
    use super::by_value::main_is_no_file;
    #[pymodule_export]
    use super::connection::{Connection, pipe, wait_for_any};
    #[pymodule_export]
    use super::manager::{Caller, Client, Entry, Server, Session, call, callers, serve, served};
    #[pymodule_export]
    use super::messages::{Queue, SimpleQueue};
    #[pymodule_export]
    use super::pickling::{forget_picklers, takes_handles};
    #[pymodule_export]
    use super::pool::{Pending, Pool, Stream, Trace, should_stop};
    #[pymodule_export]
    use super::process::{Child, fork, own_descriptors, start};
    #[pymodule_export]
    use super::runtime::{
        Template, exit_now, install, resume, role, run_apart, supervisor_pid, template_pid, variables,
    };
    #[pymodule_export]
    use super::shared::{Guarded, GuardedField, Memory};
    #[pymodule_export]
    use super::shared_memory::{NamedMemory, forget_name, keep_name, remove_name};
    #[pymodule_export]
    use super::sharer::{close_desk, leave_descriptor, take_descriptor};
    #[pymodule_export]
    use super::sync::{Barrier, Condition, Event, Lock, RLock, Semaphore};
}
