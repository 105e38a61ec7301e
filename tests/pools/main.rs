//! Pools whose workers are killed, stopped and starved, and whose tasks do what no task should.
//!
//! `BROODY_POOL_TASKS` says how many tasks each pool of the chaos has (2,000 if it is not set), `BROODY_CHAOS_SEED` repeats the choices of
//! another run, as far as the machine lets it.

mod chaos;
mod hostile;

use std::time::Duration;

use broody::{Pid, StartMethod};
use broody_os::proc;
use broody_tests::within;

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

const METHODS: [StartMethod; 3] = [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork];

/// Waits until none of the processes is there any more, not even as a zombie.
fn are_gone(pids: &[Pid]) {
    within(PATIENCE, "the end of all workers", || {
        // A pid may have been given to another process since: that is no child of this program's.
        pids.iter().all(|pid| proc::stat(*pid).unwrap().is_none())
    });
}
