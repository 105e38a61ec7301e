//! One value, and those who call it: one after the other, and no thread waits for its turn.
//!
//! Who finds the value in use leaves the call with it. Whoever uses it carries out the calls that were left, before giving it back.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use broody_os::fork;

use super::method::{Method, Value};
use super::wire::Answer;
use crate::context::lock;
use crate::embed::Encoded;
use crate::function::{self, Outcome};
use crate::queue::Received;
use crate::{Error, Pid, Receiver, Sender, codec};

/// No text of an answer is longer, in bytes: a stack may have no end.
const LONGEST: usize = 64 << 10;

/// What is to be done with a value.
pub(super) enum Job {
    /// A call; its argument begins somewhere in the message.
    Call {
        method: Method,
        message: Received,
        start: usize,
        reply: Sender<[u8]>,
    },
    Forgive {
        reply: Sender<[u8]>,
    },
}

pub(super) struct Slot {
    ident: u64,
    anchor: Receiver<()>,
    state: Mutex<State>,
}

struct State {
    /// Not there while it is in use.
    value: Option<Value>,
    jobs: VecDeque<Job>,
    /// What the panic said.
    poison: Option<String>,
}

thread_local! {
    /// The process and the value that this thread calls just now.
    static CALLED: Cell<(Pid, u64)> = const { Cell::new((0, 0)) };
}

/// Whether the calling thread is in the middle of a call of this value.
pub(super) fn is_called_here(pid: Pid, ident: u64) -> bool {
    pid == fork::pid() && CALLED.get() == (pid, ident)
}

impl Slot {
    pub(super) fn new(ident: u64, value: Value, anchor: Receiver<()>) -> Self {
        let state = State { value: Some(value), jobs: VecDeque::new(), poison: None };
        Self { ident, anchor, state: Mutex::new(state) }
    }

    /// Whether nobody has a handle any more.
    pub(super) fn is_forgotten(&self) -> bool {
        self.anchor.is_ready()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Carries out a job, now or after those before it.
    pub(super) fn work(&self, job: Job) {
        let mut next = {
            let mut state = self.state();
            state.jobs.push_back(job);
            match state.value.take() {
                Some(value) => state.jobs.pop_front().map(|job| (value, job)),
                // Who has it will do it.
                None => None,
            }
        };
        while let Some((mut value, job)) = next {
            let (reply, answer) = self.carry_out(&mut value, job);
            // Nobody may be there to get it.
            let _ = reply.send_encoded(&answer, None);
            let mut state = self.state();
            next = match state.jobs.pop_front() {
                Some(job) => Some((value, job)),
                None => {
                    state.value = Some(value);
                    None
                }
            };
        }
    }

    fn carry_out(&self, value: &mut Value, job: Job) -> (Sender<[u8]>, Encoded) {
        let (method, message, start, reply) = match job {
            Job::Forgive { reply } => {
                self.state().poison = None;
                return (reply, answer(Answer::Called(Outcome::Returned), &[]));
            }
            Job::Call { method, message, start, reply } => (method, message, start, reply),
        };
        let poison = self.state().poison.clone();
        if let Some(message) = poison {
            return (reply, answer(Answer::Poisoned { message }, &[]));
        }
        let mut outcome = Outcome::Returned;
        let before = CALLED.replace((fork::pid(), self.ident));
        let result = Encoded::new(|| {
            let mut result = Vec::new();
            outcome = method(value, message.get(start..).unwrap_or_default(), &mut result).shortened(LONGEST);
            Ok::<_, Error>(result)
        });
        CALLED.set(before);
        if let Outcome::Panicked { message, .. } = &outcome {
            self.state().poison = Some(message.clone());
        }
        let answered = match result {
            Ok(result) if outcome == Outcome::Returned => {
                result.behind(&codec::encode(&Answer::Called(outcome)).unwrap_or_default())
            }
            _ => answer(Answer::Called(outcome), &[]),
        };
        (reply, answered)
    }
}

/// An answer and a result, in which there are no handles.
pub(super) fn answer(answer: Answer, result: &[u8]) -> Encoded {
    let mut bytes = codec::encode(&answer).unwrap_or_default();
    bytes.extend_from_slice(result);
    Encoded::plain(bytes)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let value = self.state().value.take();
        // What a destructor does is no reason for the process to end.
        let _ = function::catch_panic(|| drop(value));
    }
}
