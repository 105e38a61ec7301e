//! Waits that a signal ends.
//!
//! A wait goes on after a signal as if nothing had happened. A runtime of another language, whose handlers run only when it is asked, lets
//! signals end it: inside [`watching`], in this thread, every limit of a wait is over once a system call was interrupted.
//!
//! Some waits cannot be begun again where they were: who waits for a notification has his turn, and who has come to a barrier is counted. Inside
//! [`asking`] a signal calls a function in the middle of the wait, which runs the handlers and says whether the wait goes on.
//!
//! A signal that comes just before the system call does not interrupt it; sleeps are bounded, so that the caller, or the function, looks again.

use std::cell::Cell;
use std::ptr::NonNull;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unwatched,
    Watched,
    Raised,
}

type Ask<'a> = dyn FnMut() -> bool + 'a;

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Unwatched) };
    /// What is asked whether a wait goes on; taken out while it runs.
    static ASKED: Cell<Option<NonNull<Ask<'static>>>> = const { Cell::new(None) };
}

/// Runs `wait`; says whether a signal has interrupted it.
pub fn watching<T>(wait: impl FnOnce() -> T) -> (T, bool) {
    let asked = ASKED.replace(None);
    let before = STATE.replace(State::Watched);
    let value = wait();
    ASKED.set(asked);
    (value, STATE.replace(before) == State::Raised)
}

/// Runs `wait`. Whenever a signal has come, and after each sleep that was ended by its bound, `go_on` is called, perhaps in vain; the wait is over once
/// that is false.
pub fn asking<T>(go_on: &mut dyn FnMut() -> bool, wait: impl FnOnce() -> T) -> T {
    let asked = NonNull::from(go_on);
    // SAFETY: only the lifetime changes: it is called in this thread, inside this call, and forgotten at its end.
    let asked = unsafe { std::mem::transmute::<NonNull<Ask<'_>>, NonNull<Ask<'static>>>(asked) };
    let _before = Before(STATE.replace(State::Watched), ASKED.replace(Some(asked)));
    wait()
}

/// Runs `wait`, which signals do not end.
pub fn ignoring<T>(wait: impl FnOnce() -> T) -> T {
    let before = Before(STATE.replace(State::Unwatched), ASKED.replace(None));
    let value = wait();
    drop(before);
    value
}

/// What was there, put back also after a panic.
struct Before(State, Option<NonNull<Ask<'static>>>);

impl Drop for Before {
    fn drop(&mut self) {
        STATE.set(self.0);
        ASKED.set(self.1);
    }
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
    if is_watched() && !ask() {
        STATE.set(State::Raised);
    }
    is_raised()
}

/// A sleep has ended by its bound.
pub(crate) fn look() {
    if ASKED.get().is_some() && !ask() {
        STATE.set(State::Raised);
    }
}

/// Whether somebody is asked and says that the wait goes on.
fn ask() -> bool {
    let Some(mut asked) = ASKED.take() else { return false };
    // What is called may itself wait.
    let before = STATE.replace(State::Unwatched);
    // SAFETY: `asking` runs, and nobody else calls it: it was taken out.
    let go_on = unsafe { asked.as_mut() }();
    STATE.set(before);
    ASKED.set(Some(asked));
    go_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_goes_on_as_long_as_who_is_asked_says_so() {
        let mut left = 2;
        let mut go_on = || {
            left -= 1;
            left > 0
        };
        asking(&mut go_on, || {
            assert!(!interrupted());
            assert!(watching(interrupted).0, "an inner wait has its own rules");
            assert!(!is_raised());
            look();
            assert!(is_raised());
        });
        assert!(!is_watched());
    }
}
