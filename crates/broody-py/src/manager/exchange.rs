//! One message of a client, and one answer to it, without waiting for the client.
//!
//! After an answer the thread looks into the client's mailbox for a moment, where that has paid, before it waits for all clients again: see
//! `broody_shm::pace`.

use std::os::fd::AsFd;

use broody_os::stream;
use broody_shm::mailbox::Way;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::caller;
use super::client::Client;
use super::handshake;
use super::stream::{Found, LONG, Message};
use crate::errors::os_error;

/// The next message of a client. `Some(false)`: it has not come yet; `None`: it will never come. An error: there is no memory for it; another one may come.
pub(super) fn receive(py: Python<'_>, client: &Client, message: &mut Message) -> PyResult<Option<bool>> {
    loop {
        match receive_now(py, client, message)? {
            Some(false) if client.has_thread() => {
                let is_full = client.line().stream.is_full();
                py.detach(|| match is_full {
                    true => stream::wait_writable(client.socket.as_fd(), None),
                    false => stream::wait_readable(client.socket.as_fd(), None),
                })
                .map_err(os_error)?;
            }
            found => return Ok(found),
        }
    }
}

fn receive_now(py: Python<'_>, client: &Client, message: &mut Message) -> PyResult<Option<bool>> {
    let line = &mut *client.line();
    if line.stream.is_full() {
        match py.detach(|| line.stream.flush()) {
            Ok(true) => line.undo = None,
            Ok(false) => return Ok(Some(false)),
            // The client has gone: `leaves` puts back.
            Err(_) => return Ok(None),
        }
    }
    let most = if client.is_stranger() { handshake::LONGEST } else { u64::MAX };
    let stream = &mut line.stream;
    let mut found = stream.receive_a_little(most, message);
    if stream.expects(LONG) && matches!(found, Ok(Found::Nothing)) {
        found = py.detach(|| stream.receive_steadily(most, message));
    }
    Ok(match found {
        Ok(Found::TooLong(length)) => return Err(caller::too_long(length)),
        Ok(Found::Message) => {
            if let Some(wait) = line.wait.take() {
                line.pace.learn(wait);
            }
            Some(true)
        }
        Ok(Found::Nothing) => Some(false),
        _ => None,
    })
}

/// Gives an answer. Whether the client is still there; otherwise `undo` was called.
pub(super) fn reply(
    py: Python<'_>,
    client: &Client,
    bytes: &[u8],
    undo: Option<Py<PyAny>>,
) -> PyResult<bool> {
    let sent = {
        let line = &mut *client.line();
        let wait = line.pace.begin();
        if undo.is_some() && stream::has_hung_up(client.socket.as_fd()).map_err(os_error)? {
            None
        } else {
            if let Some(mailbox) = line.mailbox.as_ref().filter(|_| wait.looks()) {
                // Before the client can send the next request.
                mailbox.watch(Way::Request);
            }
            line.wait = Some(wait);
            match line.mailbox.as_ref().is_some_and(|mailbox| mailbox.put(Way::Answer, bytes)) {
                true => Some(true),
                false if bytes.len() >= LONG => py.detach(|| line.stream.send(bytes)).ok(),
                false => line.stream.send(bytes).ok(),
            }
        }
    };
    match (sent, undo) {
        (None, Some(undo)) => {
            undo.call0(py)?;
            Ok(false)
        }
        (None, None) => Ok(false),
        (Some(is_sent), undo) => {
            client.line().undo = undo.filter(|_| !is_sent);
            Ok(true)
        }
    }
}

/// Looks for the next request for a moment, where that pays. Whether it is there.
pub(super) fn look(py: Python<'_>, client: &Client, message: &mut Message) -> PyResult<bool> {
    let line = &mut *client.line();
    let (Some(mailbox), Some(mut wait)) = (&line.mailbox, line.wait.take()) else { return Ok(false) };
    if wait.looks() {
        let mut attempt = || mailbox.is_full(Way::Request).then_some(());
        py.detach(|| match mailbox.is_apart(Way::Request) {
            true => wait.look(&mut attempt),
            false => wait.look_by_turns(&mut attempt),
        });
        if mailbox.unwatch(Way::Request) {
            line.pace.learn(wait);
            let taken = mailbox.take(Way::Request, message.reset());
            return taken.map_err(|corrupt| PyOSError::new_err(corrupt.to_string()));
        }
    }
    line.wait = Some(wait);
    Ok(false)
}
