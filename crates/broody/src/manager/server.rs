//! The process that has the values.
//!
//! No client has a thread. Whoever takes a request carries it out, for as long as that takes, and there is always another thread that waits for
//! the next one. So there are as many threads as values are being called, and a few.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use broody_os::signals::{self, Disposition};

use super::slot::{Job, Slot, answer};
use super::wire::{Answer, Request};
use crate::context::lock;
use crate::function::{Outcome, prepare_recording, record_panics};
use crate::queue::Received;
use crate::{Error, Receiver, Sender, codec, helper};

/// So many threads wait for requests at most; others end after theirs.
const MOST_IDLE: usize = 4;

/// How often values are looked for of which the last handle has died with its process.
const ROUND: Duration = Duration::from_secs(1);

struct Server {
    requests: Receiver<[u8]>,
    values: Mutex<HashMap<u64, Arc<Slot>>>,
    last: AtomicU64,
    waiting: Mutex<usize>,
    over: Mutex<bool>,
    end: Condvar,
}

/// The function of the process. `_staying` is seen closed by others when it is gone.
pub(super) fn serve((requests, _staying): (Receiver<[u8]>, Sender<()>)) {
    // Ctrl-C is for the program; the process ends when it ends.
    signals::set_disposition(signals::SIGINT, Disposition::Ignore);
    prepare_recording();
    let server = Arc::new(Server {
        requests,
        values: Mutex::default(),
        last: AtomicU64::new(0),
        waiting: Mutex::default(),
        over: Mutex::new(false),
        end: Condvar::new(),
    });
    if server.more().is_err() {
        return;
    }
    let mut over = lock(&server.over);
    while !*over {
        over = server.end.wait(over).unwrap_or_else(|poisoned| poisoned.into_inner());
    }
    drop(over);
    let values = std::mem::take(&mut *lock(&server.values));
    drop(values);
}

impl Server {
    fn more(self: &Arc<Self>) -> std::io::Result<()> {
        *lock(&self.waiting) += 1;
        let server = self.clone();
        let started = helper::start("broody-manager", move || server.work());
        if started.is_err() {
            *lock(&self.waiting) -= 1;
        }
        started.map(|_| ())
    }

    /// Serves. The thread is counted among those who wait.
    fn work(self: Arc<Self>) {
        record_panics();
        loop {
            let limit = (!lock(&self.values).is_empty()).then_some(ROUND);
            let message = match self.requests.take(limit) {
                Ok(message) => message,
                Err(Error::TimedOut { .. }) => {
                    self.sweep();
                    continue;
                }
                // Nobody has a handle any more, or the memory is gone.
                Err(_) => return self.stop(),
            };
            let is_last = {
                let mut waiting = lock(&self.waiting);
                *waiting -= 1;
                *waiting == 0
            };
            if is_last {
                // Without room for a thread this request is carried out before the next one is looked at.
                let _ = self.more();
            }
            self.answer(message);
            let mut waiting = lock(&self.waiting);
            if *waiting >= MOST_IDLE {
                return;
            }
            *waiting += 1;
        }
    }

    fn stop(&self) {
        *lock(&self.over) = true;
        self.end.notify_all();
    }

    fn answer(&self, message: Received) {
        let Ok((request, rest)) = postcard::take_from_bytes::<Request>(&message) else { return };
        let start = message.len() - rest.len();
        match request {
            Request::Host { maker, anchor, reply } => {
                // SAFETY: requests come from processes of this program, which are of the same build: shared objects and their handles are this program's.
                let maker = unsafe { maker.maker() };
                let made = maker(rest);
                let answered = match made {
                    Ok(value) => {
                        // Relaxed: only a number.
                        let ident = self.last.fetch_add(1, Ordering::Relaxed) + 1;
                        let number = codec::encode(&ident).unwrap_or_default();
                        lock(&self.values).insert(ident, Arc::new(Slot::new(ident, value, anchor)));
                        answer(Answer::Called(Outcome::Returned), &number)
                    }
                    Err(outcome) => answer(Answer::Called(outcome), &[]),
                };
                let _ = reply.send_encoded(&answered, None);
            }
            Request::Call { ident, method, reply } => {
                // SAFETY: as above.
                let method = unsafe { method.method() };
                self.hand_on(ident, reply, |reply| Job::Call { method, message, start, reply });
            }
            Request::Forgive { ident, reply } => self.hand_on(ident, reply, |reply| Job::Forgive { reply }),
            Request::Released { ident } => {
                let forgotten = {
                    let mut values = lock(&self.values);
                    let is_forgotten = values.get(&ident).is_some_and(|slot| slot.is_forgotten());
                    if is_forgotten { values.remove(&ident) } else { None }
                };
                // Its destructor may take long.
                drop(forgotten);
            }
            Request::Stop => self.stop(),
        }
    }

    fn hand_on(&self, ident: u64, reply: Sender<[u8]>, job: impl FnOnce(Sender<[u8]>) -> Job) {
        let slot = lock(&self.values).get(&ident).cloned();
        match slot {
            Some(slot) => slot.work(job(reply)),
            None => drop(reply.send_encoded(&answer(Answer::Unknown, &[]), None)),
        }
    }

    /// Lets go of what nobody has a handle on.
    fn sweep(&self) {
        let forgotten: Vec<_> = {
            let mut values = lock(&self.values);
            values.extract_if(|_, slot| slot.is_forgotten()).collect()
        };
        drop(forgotten);
    }
}
