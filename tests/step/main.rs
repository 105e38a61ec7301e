//! Processes killed between any two of their instructions.
//!
//! Each operation on shared memory is run in a process that is traced, and killed at each of its steps in turn. What it leaves is repaired,
//! and whoever lives must go on as if nothing had happened: nothing torn, lost, doubled or stuck.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod counters;
mod handles;
mod links;
mod locks;
mod mailbox;
mod meetings;
mod messages;
mod operation;
mod other;
mod pools;
mod queues;
mod repairs;
mod tasks;
mod trace;
mod watch;

use std::time::Duration;

use broody_shm::sync::Deadline;

/// Long enough that only a hang reaches it.
fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// How many operations a survivor does after each death.
const MANY: u32 = 1000;
