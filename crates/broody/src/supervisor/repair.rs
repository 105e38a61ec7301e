//! Putting right what dead processes have left in shared memory.
//!
//! Each time a process has ended, before it is reaped: see [`recovery`](broody_shm::arena). The supervisor must not wait for
//! long there: the arena's lock may be held by a process that is stopped. What could not be done then is done later.

use std::time::{Duration, Instant};

use broody_os::Pid;
use broody_shm::arena::HoldId;
use broody_shm::sync::Deadline;

use crate::memory;

/// How long the supervisor waits for the arena's lock. Who has it needs some microseconds of CPU time.
const PATIENCE: Duration = Duration::from_millis(5);

/// The same, where there is nothing else to do any more.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// When what could not be done is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// What is still to be put right.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    again_at: Option<Instant>,
    /// What arguments of children that have ended were kept by.
    holds: Vec<HoldId>,
    /// What arguments of children are kept by that have not taken them yet, and still the starters answer for.
    arguments: Vec<HoldId>,
}

impl Repairs {
    /// Also looks after what a supervisor before this one has left undone.
    pub(super) fn new() -> Self {
        let again_at = memory::existing_arena().map(|_| Instant::now());
        Self { again_at, holds: Vec::new(), arguments: Vec::new() }
    }

    /// A child is being started, whose argument is kept by `holds`: from now on by this process, since the starter may end before the
    /// child, if that is detached, has taken them.
    pub(super) fn answer_for(&mut self, holds: &[HoldId]) {
        if holds.is_empty() {
            return;
        }
        // While the arena's lock cannot be had, not every start waits for it.
        let is_late = !self.arguments.is_empty();
        self.arguments.extend(holds);
        if !is_late {
            self.take_arguments();
        }
    }

    fn take_arguments(&mut self) {
        let Some(arena) = memory::existing_arena().filter(|_| !self.arguments.is_empty()) else { return };
        if arena.answer_for(&self.arguments, Deadline::after(PATIENCE)) {
            self.arguments.clear();
        } else {
            self.again_at = Some(Instant::now() + AGAIN);
        }
    }

    /// A child was not started after all.
    pub(super) fn not_started(&mut self, holds: Vec<HoldId>) {
        self.holds.extend(holds);
        self.end_holds();
    }

    /// The process `pid` has ended, whose argument was kept by `holds`.
    pub(super) fn after(&mut self, pid: Pid, holds: Vec<HoldId>) {
        let Some(arena) = memory::existing_arena() else { return };
        self.take_arguments();
        self.holds.extend(holds);
        if !arena.recover_process(pid, Deadline::after(PATIENCE)) {
            self.again_at = Some(Instant::now() + AGAIN);
        }
        self.end_holds();
    }

    fn end_holds(&mut self) {
        let Some(arena) = memory::existing_arena().filter(|_| !self.holds.is_empty()) else { return };
        if arena.end_transit(&self.holds, Deadline::after(PATIENCE)) {
            self.holds.clear();
        } else {
            self.again_at = Some(Instant::now() + AGAIN);
        }
    }

    /// Tries again what is due.
    pub(super) fn tend(&mut self) {
        if self.again_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.again_at = None;
        // First of all: a recovery ends what the dead answer for.
        self.take_arguments();
        if let Some(arena) = memory::existing_arena()
            && !arena.recover_all(Deadline::after(PATIENCE))
        {
            self.again_at = Some(Instant::now() + AGAIN);
        }
        self.end_holds();
    }

    /// Every process below the host has ended, but perhaps the host itself, which waits for this, and those that were detached. If that `is_all` of
    /// the program, what still has a name loses it.
    pub(super) fn last(&mut self, is_all: bool) {
        if let Some(arena) = memory::existing_arena() {
            arena.recover_all(Deadline::after(PATIENCE));
            if is_all {
                arena.remove_names(Deadline::after(LAST_PATIENCE));
            }
        }
    }

    /// How long until something is due.
    pub(super) fn until_due(&self) -> Option<Duration> {
        self.again_at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}
