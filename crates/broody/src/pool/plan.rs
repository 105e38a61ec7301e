//! What a worker is to be like, and what it does before its first task and after its last.

use std::sync::Arc;

use broody_os::limits;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::function::FunctionId;
use crate::output::Output;
use crate::process::{Objects, StartMethod};

/// A function with its encoded argument, to be called in each worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) function: FunctionId,
    pub(super) argument: Vec<u8>,
}

impl Call {
    /// Calls it. Why it failed, if it did.
    fn run(&self) -> Result<(), String> {
        // SAFETY: the id comes from the host, which is a process of this build.
        #[allow(unsafe_code)]
        let trampoline = unsafe { self.function.trampoline() };
        trampoline(&self.argument, &mut Output::within(Vec::new())).reason().map_or(Ok(()), Err)
    }
}

/// What one worker is told when it starts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) initializer: Option<Call>,
    pub(super) finalizer: Option<Call>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) nice: i32,
    pub(super) cpu: Option<usize>,
    /// Whether to look for a while before going to sleep: there are CPUs for all.
    pub(super) spins: bool,
    /// What the pool's process is called in the arena, and the mark of holds that are given to it.
    pub(super) host: u32,
    pub(super) mark: u64,
}

impl Plan {
    /// In the worker, before its first task.
    pub(super) fn set_up(&self) -> Result<(), String> {
        for (name, value) in &self.environment {
            // SAFETY: the process has this one thread so far.
            #[allow(unsafe_code)]
            unsafe {
                std::env::set_var(name, value);
            }
        }
        if let Some(cpu) = self.cpu {
            limits::pin(cpu).map_err(|error| error.to_string())?;
        }
        if self.nice != 0 {
            limits::nice(self.nice).map_err(|error| error.to_string())?;
        }
        let failed = |reason| format!("its initializer failed: {reason}");
        self.initializer.as_ref().map_or(Ok(()), Call::run).map_err(failed)
    }

    /// In the worker, after its last task, if it ends in an orderly way.
    pub(super) fn tear_down(&self) -> Result<(), String> {
        self.finalizer.as_ref().map_or(Ok(()), Call::run)
    }
}

/// The environment of the worker in a seat.
pub(super) type EnvironmentOf = Arc<dyn Fn(usize) -> Vec<(String, String)> + Send + Sync>;

/// How all workers of a pool are started.
#[derive(Clone)]
pub(super) struct Recipe {
    pub(super) method: StartMethod,
    pub(super) plan: Plan,
    /// The shared objects in its arguments.
    pub(super) objects: Vec<Arc<Objects>>,
    /// Beside that of all.
    pub(super) environment_of: Option<EnvironmentOf>,
    /// The CPUs that the seats have in turn.
    pub(super) cpus: Vec<usize>,
}

impl Recipe {
    /// The plan of the worker in a seat.
    pub(super) fn plan_for(&self, seat: usize) -> Plan {
        let mut plan = self.plan.clone();
        plan.environment.extend(self.environment_of.iter().flat_map(|of| of(seat)));
        plan.cpu = (!self.cpus.is_empty()).then(|| self.cpus[seat % self.cpus.len()]);
        plan
    }
}

/// What the initializer of this worker has made: see [`PoolBuilder::initializer`](crate::PoolBuilder::initializer). `None` in a process
/// that is no worker, and for another type.
pub fn worker_state<T: 'static>() -> Option<&'static T> {
    Context::existing()?.worker.state.get()?.downcast_ref()
}

/// The initializer of this worker has made `state`.
pub(crate) fn set_worker_state<T: Send + Sync + 'static>(state: T) {
    let _ = Context::current().worker.state.set(Box::new(state));
}
