//! Threads of broody's own, in the host's process.

use std::io;
use std::thread::{Builder, JoinHandle};

use broody_os::signals;

/// They work with a few descriptors and short lists.
const STACK: usize = 512 * 1024;

/// Starts a thread with every signal blocked, so that the host's handlers never run on it.
pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    signals::with_all_blocked(|| Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work))
}
