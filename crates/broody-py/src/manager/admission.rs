//! Clients that have not proved their keys yet: let in one step after the other, by no thread of their own, and not for long.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use broody_os::events::Trigger;
use broody_os::stream;
use pyo3::prelude::*;

use super::client::Client;
use super::handshake::{self, Next};
use super::server::{LISTENER, Listening, Server};
use super::stream::Stream;
use crate::lock;

/// So many clients prove their keys at the same time at most; for one more the oldest has to go. It takes no longer than a few messages, so that
/// strangers who say nothing keep nobody out.
const MOST: usize = 256;

/// How long nobody is accepted after that has failed: there may be descriptors again.
const PAUSE: Duration = Duration::from_millis(100);

impl Server {
    pub(super) fn admit(slf: &Bound<'_, Self>, listening: &Listening) -> PyResult<()> {
        let result = Self::let_in(slf, listening);
        // Whatever has become of this one. (The listener may have been closed.)
        let _ = listening.epoll.rearm(listening.listener(), LISTENER, false);
        result
    }

    fn let_in(slf: &Bound<'_, Self>, listening: &Listening) -> PyResult<()> {
        let (py, server) = (slf.py(), slf.get());
        let accepted = match stream::accept_now(listening.listener()) {
            Ok(accepted) => accepted,
            Err(_) => {
                py.detach(|| std::thread::sleep(PAUSE));
                None
            }
        };
        if let Some(socket) = accepted {
            let (challenge, step) = handshake::begin(py)?;
            let mut stream = Stream::new(socket);
            if stream.send(&challenge).is_ok_and(|is_sent| is_sent) {
                let token = server.last_token.fetch_add(1, Ordering::Relaxed);
                let client = Client::new(token, stream, step, Instant::now() + listening.patience);
                let client = Bound::new(py, client)?;
                lock(&server.clients).insert(token, client.clone().unbind());
                lock(&server.crew).strangers += 1;
                if listening.epoll.add(&*client.get().socket, token, Trigger::Once).is_err() {
                    Self::leaves(slf, &client)?;
                }
            }
        }
        if lock(&server.crew).strangers > MOST {
            let oldest = server.oldest_stranger(py);
            oldest.map_or(Ok(()), |oldest| Self::leaves(slf, oldest.bind(py)))?;
        }
        Ok(())
    }

    fn oldest_stranger(&self, py: Python<'_>) -> Option<Py<Client>> {
        let clients = lock(&self.clients);
        let strangers = clients.iter().filter(|(_, client)| client.get().is_stranger());
        strangers.min_by_key(|(token, _)| **token).map(|(_, client)| client.clone_ref(py))
    }

    /// One stranger less.
    pub(super) fn is_known(&self) {
        lock(&self.crew).strangers -= 1;
    }

    /// Those who have not proved their keys in time see the end, and so does who waits for them.
    pub(super) fn send_away(&self, now: Instant) {
        for client in lock(&self.clients).values() {
            if client.get().is_overdue(now) {
                client.get().socket.hang_up();
            }
        }
    }

    /// A message of a client that has not proved its key. Whether it may stay.
    pub(super) fn meet(&self, client: &Bound<'_, Client>, message: &[u8]) -> PyResult<bool> {
        let py = client.py();
        let key = self.listening()?.key.clone_ref(py);
        let Some(step) = client.get().take_step() else { return Ok(false) };
        match step.go_on(message, key.bind(py))? {
            Next::Admitted => {
                client.get().admit();
                self.is_known();
                Ok(true)
            }
            Next::Answer(answer, step) => {
                client.get().set_step(step);
                Ok(client.get().line().stream.send(&answer).is_ok_and(|is_sent| is_sent))
            }
            Next::Refused(answer) => {
                let _ = client.get().line().stream.send(&answer);
                Ok(false)
            }
        }
    }
}
