//! What happens when a process ends in an orderly way.
//!
//! The order is that of Python's multiprocessing (`Finalize` and `_exit_function` in its documentation): first the exit functions
//! of priority 0 and more, highest first and the youngest first among equals; then daemons are terminated and all other children
//! joined; then the remaining exit functions, in the same order. Each process has its own: a child starts with none, also when
//! it is a fork of a process that has some.
//!
//! An orderly end is a return from main or from a child's function, a panic there, or `std::process::exit`. A process that is
//! killed runs nothing; its children end all the same, by the supervisor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::context::{Context, lock};
use crate::process::Shared;

/// How long a daemon may take to end after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

type Function = Box<dyn FnOnce() + Send>;

/// The exit functions of one process.
#[derive(Default)]
pub(crate) struct ExitFunctions {
    entries: Vec<Entry>,
    next: u64,
}

struct Entry {
    priority: i32,
    number: u64,
    function: Function,
}

impl ExitFunctions {
    fn add(&mut self, priority: i32, function: Function) -> u64 {
        let number = self.next;
        self.next += 1;
        self.entries.push(Entry { priority, number, function });
        number
    }

    fn take(&mut self, number: u64) -> Option<Function> {
        let at = self.entries.iter().position(|entry| entry.number == number)?;
        Some(self.entries.remove(at).function)
    }

    /// Takes the next one to run of those whose priority is at least `lowest`.
    fn take_next(&mut self, lowest: i32) -> Option<Function> {
        let candidates = self.entries.iter().filter(|entry| entry.priority >= lowest);
        let number = candidates.max_by_key(|entry| (entry.priority, entry.number))?.number;
        self.take(number)
    }
}

/// An exit function that can still be taken back. Dropping this leaves the function registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitFunction {
    process: broody_os::Pid,
    number: u64,
}

impl ExitFunction {
    /// Takes the function back: it will not run. `false` when it has run, is running or was taken back before.
    pub fn cancel(self) -> bool {
        self.take().is_some()
    }

    /// Runs the function now instead of at exit. `false` when there was nothing to run any more.
    pub fn run_now(self) -> bool {
        self.take().map(|function| function()).is_some()
    }

    fn take(self) -> Option<Function> {
        let context = Context::current();
        // In a fork of the process that registered it, this number is another function's, or nobody's.
        (context.pid == self.process).then(|| lock(&context.exit_functions).take(self.number)).flatten()
    }
}

/// Runs `function` when this process ends in an orderly way. The same as [`at_exit_with_priority`] with priority 0.
///
/// ```
/// broody::at_exit(|| println!("done"));
/// let other = broody::at_exit(|| unreachable!());
/// assert!(other.cancel());
/// ```
pub fn at_exit(function: impl FnOnce() + Send + 'static) -> ExitFunction {
    at_exit_with_priority(0, function)
}

/// Runs `function` when this process ends in an orderly way: before its children are ended and joined if `priority` is 0 or
/// more, after that if it is negative; higher priorities first, and the youngest first among equals.
///
/// A function that panics does not keep the others from running.
pub fn at_exit_with_priority(priority: i32, function: impl FnOnce() + Send + 'static) -> ExitFunction {
    let context = Context::current();
    let number = lock(&context.exit_functions).add(priority, Box::new(function));
    ExitFunction { process: context.pid, number }
}

/// libc's exit has been called, in whatever process this is.
pub(crate) fn at_program_exit() {
    // A process without a context (or a fork that never used broody) has nothing to end.
    let Some(context) = Context::existing() else { return };
    run_all();
    crate::memory::leave();
    for (_, link) in context.existing_links() {
        link.quit();
    }
}

/// Runs exit functions and ends the children of this process, in the documented order.
pub(crate) fn run_all() {
    let context = Context::current();
    run_functions(context, 0);
    end_children(context);
    run_functions(context, i32::MIN);
}

fn run_functions(context: &Context, lowest: i32) {
    // One at a time, since a function may register others; the lock is free while it runs.
    loop {
        let next = lock(&context.exit_functions).take_next(lowest);
        let Some(function) = next else { return };
        let _ = catch_unwind(AssertUnwindSafe(function));
    }
}

/// Terminates the daemons, joins the others.
fn end_children(context: &Context) {
    let children: Vec<Arc<Shared>> = lock(&context.children).values().cloned().collect();
    if children.is_empty() {
        return;
    }
    let (daemons, others): (Vec<_>, Vec<_>) = children.into_iter().partition(|child| child.daemon());
    for daemon in &daemons {
        let _ = daemon.signal(broody_os::signals::SIGTERM);
    }
    for child in others {
        let _ = child.wait(None);
    }
    let deadline = Instant::now() + GRACE;
    for daemon in daemons {
        if !daemon.wait(Some(deadline)).unwrap_or(false) {
            let _ = daemon.signal(broody_os::signals::SIGKILL);
            // Bounded: what SIGKILL does not end is in the kernel's hands (a disk that does not answer).
            let _ = daemon.wait(Some(Instant::now() + GRACE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn higher_priorities_run_first_and_the_youngest_first_among_equals() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut functions = ExitFunctions::default();
        for (priority, name) in [(0, "a"), (-1, "b"), (5, "c"), (0, "d"), (-1, "e"), (5, "f")] {
            let order = order.clone();
            functions.add(priority, Box::new(move || order.lock().unwrap().push(name)));
        }
        while let Some(function) = functions.take_next(0) {
            function();
        }
        assert_eq!(*order.lock().unwrap(), ["f", "c", "d", "a"]);
        while let Some(function) = functions.take_next(i32::MIN) {
            function();
        }
        assert_eq!(*order.lock().unwrap(), ["f", "c", "d", "a", "e", "b"]);
    }

    #[test]
    fn a_cancelled_function_is_gone() {
        let handle = at_exit(|| panic!("it was cancelled"));
        assert!(handle.cancel());
        assert!(!handle.cancel());
        assert!(!handle.run_now());
    }
}
