//! Waits that a signal ends.
//!
//! A wait goes on after a signal as if nothing had happened. A runtime of another language, whose handlers run only when the wait is over, lets
//! signals end it: inside [`watching`], in this thread, every limit of a wait is over once a system call was interrupted.
//!
//! A signal that comes just before the system call does not interrupt it; sleeps are bounded, so that the caller looks again.

use std::cell::Cell;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unwatched,
    Watched,
    Raised,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Unwatched) };
}

/// Runs `wait`; says whether a signal has interrupted it.
pub fn watching<T>(wait: impl FnOnce() -> T) -> (T, bool) {
    let before = STATE.replace(State::Watched);
    let value = wait();
    (value, STATE.replace(before) == State::Raised)
}

/// Whether signals end waits of this thread.
pub fn is_watched() -> bool {
    STATE.get() != State::Unwatched
}

/// Whether a signal has come.
pub fn is_raised() -> bool {
    STATE.get() == State::Raised
}

/// A system call was interrupted. Whether that ends the wait.
pub(crate) fn interrupted() -> bool {
    if is_watched() {
        STATE.set(State::Raised);
    }
    is_raised()
}
