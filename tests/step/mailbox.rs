//! A manager's client and its server, which look for each other's messages in a mailbox beside their stream.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use broody_shm::arena::Arena;
use broody_shm::mailbox::{Mailbox, ROOM, Way};

use crate::operation::{Operation, Outcome, done_if};

const REQUEST: [u8; ROOM] = [3; ROOM];
const ANSWER: [u8; ROOM] = [5; ROOM];

/// How often is looked before the stream is waited for.
const LOOKS: usize = 3;

struct Stage {
    file: OwnedFd,
    mailbox: Mailbox,
    client: UnixStream,
    server: UnixStream,
    /// How many messages have come to the survivor.
    come: Cell<u32>,
}

impl Stage {
    fn new(_: &'static Arena) -> Self {
        let (mailbox, file) = Mailbox::create().unwrap();
        let (client, server) = UnixStream::pair().unwrap();
        Self { file, mailbox, client, server, come: Cell::new(0) }
    }

    /// What the survivor finds in the page, where it has looked, and in the stream: one message, whole, or nothing.
    fn come(&self, way: Way, mut stream: &UnixStream, expected: &[u8; ROOM]) -> bool {
        let mut message = Vec::new();
        if self.mailbox.unwatch(way) {
            assert!(self.mailbox.take(way, &mut message).unwrap());
            assert_eq!(message, expected, "the message is torn");
            self.come.update(|come| come + 1);
        }
        let mut bytes = [0; ROOM];
        stream.set_nonblocking(true).unwrap();
        match stream.read(&mut bytes) {
            Ok(0) => {}
            Ok(count) => {
                // The kernel takes so few bytes at once.
                assert_eq!((count, &bytes), (ROOM, expected));
                self.come.update(|come| come + 1);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(self.come.get() <= 1, "a message came twice");
        self.come.get() == 1
    }

    fn request_has_come(&self) -> bool {
        self.come(Way::Request, &self.server, &REQUEST)
    }
}

/// Leaves a message, or sends it.
fn send(mailbox: &Mailbox, way: Way, mut stream: &UnixStream, message: &[u8]) {
    if !mailbox.put(way, message) {
        stream.write_all(message).unwrap();
    }
}

/// The client's part, for a victim.
fn call(stage: &Stage) {
    let mailbox = &stage.mailbox;
    mailbox.watch(Way::Answer);
    send(mailbox, Way::Request, &stage.client, &REQUEST);
    for _ in 0..LOOKS {
        if mailbox.is_full(Way::Answer) {
            break;
        }
    }
    let mut answer = Vec::new();
    if mailbox.unwatch(Way::Answer) {
        assert!(mailbox.take(Way::Answer, &mut answer).unwrap());
    } else {
        answer = vec![0; ROOM];
        (&stage.client).read_exact(&mut answer).unwrap();
    }
    assert_eq!(answer, ANSWER);
}

/// The server's part, for a survivor: whether the request was there.
fn answer(stage: &mut Stage) -> bool {
    if stage.come.get() == 0 && !is_there(stage) {
        return false;
    }
    assert!(stage.request_has_come());
    send(&stage.mailbox, Way::Answer, &stage.server, &ANSWER);
    true
}

fn is_there(stage: &Stage) -> bool {
    let limit = Some(std::time::Instant::now());
    stage.mailbox.is_full(Way::Request)
        || broody_os::stream::wait_readable(stage.server.as_fd(), limit).unwrap()
}

/// A call of a client that looks, of a server that does or does not.
fn calls(name: &'static str, stage: fn(&'static Arena) -> Stage) -> Operation<Stage> {
    Operation::new(name, stage, call, |stage| done_if(stage.request_has_come()))
        .changes(|stage| stage.file.as_fd())
        .waits_for(answer)
}

fn watched(arena: &'static Arena) -> Stage {
    let stage = Stage::new(arena);
    stage.mailbox.watch(Way::Request);
    stage
}

#[test]
fn a_request_of_a_dead_client_is_whole_or_never_was() {
    calls("call a server that looks", watched).kill_everywhere();
    calls("call a server that does not look", Stage::new).kill_everywhere();
}

#[test]
fn a_client_that_is_about_to_look_no_more_gets_its_answer_all_the_same() {
    calls("call a server that looks, which answers at once", watched).stop_everywhere();
    calls("call a server that does not look, which answers at once", Stage::new).stop_everywhere();
}

#[test]
fn an_answer_of_a_dead_server_is_whole_or_never_was() {
    Operation::new(
        "answer a client that looks, and look for its next request",
        |arena| {
            let stage = watched(arena);
            stage.mailbox.watch(Way::Answer);
            assert!(stage.mailbox.put(Way::Request, &REQUEST));
            stage
        },
        |stage| {
            assert!(stage.request_has_come());
            // Before the client can send the next one.
            stage.mailbox.watch(Way::Request);
            send(&stage.mailbox, Way::Answer, &stage.server, &ANSWER);
            for _ in 0..LOOKS {
                assert!(!stage.mailbox.is_full(Way::Request));
            }
            assert!(!stage.mailbox.unwatch(Way::Request));
        },
        |stage| {
            let done = stage.come(Way::Answer, &stage.client, &ANSWER);
            // A dead server may seem to look: then the next request is lost, which the end of the stream tells.
            send(&stage.mailbox, Way::Request, &stage.client, &REQUEST);
            done_if(done)
        },
    )
    .changes(|stage| stage.file.as_fd())
    .kill_everywhere();
}

#[test]
fn a_client_that_dies_over_an_answer_harms_nobody() {
    Operation::new(
        "take an answer",
        |arena| {
            let stage = Stage::new(arena);
            stage.mailbox.watch(Way::Answer);
            assert!(stage.mailbox.put(Way::Answer, &ANSWER));
            stage
        },
        |stage| assert!(stage.come(Way::Answer, &stage.client, &ANSWER)),
        |stage| {
            assert!(!stage.mailbox.put(Way::Answer, &ANSWER), "nobody looks for a second answer");
            Outcome::Done
        },
    )
    .changes(|stage| stage.file.as_fd())
    .in_any_order()
    .kill_everywhere();
}
