//! A request and its answer, through a page each or through the stream beside it: one client, one server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};

use super::{ModelWord, for_every_death, live, mortal_alone};
use crate::mailbox::Words;

/// One way: the mailbox's, and the stream's.
#[derive(Default)]
struct Direction {
    words: Words<ModelWord>,
    /// Not atomic: loom fails where one side writes while the other side reads, so that nothing is torn.
    page: UnsafeCell<u32>,
    stream: Mutex<Stream>,
    changed: Condvar,
    /// How many messages were left or sent. Seen by nobody but this test.
    count: AtomicU32,
}

#[derive(Default)]
struct Stream {
    messages: VecDeque<u32>,
    is_closed: bool,
}

impl Direction {
    fn put(&self, message: u32) -> bool {
        // SAFETY: as it is WATCHED, says the protocol; loom looks.
        self.words.put(message, || self.page.with_mut(|page| unsafe { *page = message }))
    }

    /// Looks no more: the message that had come before.
    fn give_up(&self) -> Option<u32> {
        self.words.unwatch().then(|| {
            let mut message = 0;
            let taken = self.words.take(|length| {
                // SAFETY: as it is FULL, says the protocol; loom looks.
                message = self.page.with(|page| unsafe { *page });
                assert_eq!(message, length, "the length is the message's own");
                Ok::<(), ()>(())
            });
            assert_eq!(taken, Ok(true));
            message
        })
    }

    /// Leaves the message for a reader who looks, or else sends it.
    fn send(&self, message: u32) {
        if !self.put(message) {
            live();
            self.stream.lock().unwrap().messages.push_back(message);
            self.changed.notify_one();
        }
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Who has said that he looks does so, or gives up at once; and then waits at the stream. `None` is its end.
    fn receive(&self, looks: bool) -> Option<u32> {
        if looks {
            // A look that sees nothing: the next thing is the end of looking, as after many of them.
            self.words.is_full();
            let found = self.give_up();
            if found.is_some() {
                return found;
            }
        }
        live();
        let mut stream = self.stream.lock().unwrap();
        loop {
            match stream.messages.pop_front() {
                None if !stream.is_closed => stream = self.changed.wait(stream).unwrap(),
                found => return found,
            }
        }
    }

    /// What the kernel does when a side dies.
    fn close(&self) {
        self.stream.lock().unwrap().is_closed = true;
        self.changed.notify_one();
    }
}

#[derive(Default)]
struct Link {
    request: Direction,
    answer: Direction,
}

const CALLS: u32 = 2;

/// What an answer is to a request.
fn answer_to(request: u32) -> u32 {
    10 * request
}

impl Link {
    /// One call after the other. Gives how many were answered before the end of the stream.
    fn ask(&self, looks: impl Fn(u32) -> bool) -> u32 {
        for number in 1..=CALLS {
            if looks(number) {
                // Before the server can answer.
                self.answer.words.watch();
            }
            self.request.send(number);
            match self.answer.receive(looks(number)) {
                Some(answer) => assert_eq!(answer, answer_to(number), "each answer comes once"),
                None => return number - 1,
            }
        }
        CALLS
    }

    /// Answers until the end of the stream, or the last call. Gives how many requests there were.
    fn serve(&self, looks: impl Fn(u32) -> bool) -> u32 {
        let mut is_watched = false;
        for number in 1..=CALLS {
            match self.request.receive(is_watched) {
                Some(request) => assert_eq!(request, number, "each request comes once"),
                None => return number - 1,
            }
            is_watched = number < CALLS && looks(number);
            if is_watched {
                // Before the client can send the next request.
                self.request.words.watch();
            }
            self.answer.send(answer_to(number));
        }
        CALLS
    }

    fn close(&self) {
        self.request.close();
        self.answer.close();
    }
}

type Habit = fn(u32) -> bool;

/// In which rounds the client looks for an answer, and the server for the next request.
const HABITS: [(Habit, Habit); 4] =
    [(|_| true, |_| true), (|_| true, |_| false), (|_| false, |_| true), (|number| number == 1, |_| true)];

/// More operations than any side does.
const LIVES: u32 = 24;

#[test]
fn every_request_comes_once_and_a_client_that_dies_leaves_the_end_of_its_stream() {
    for (client_looks, server_looks) in HABITS {
        for_every_death(LIVES, move |life| {
            let link = Arc::new(Link::default());
            let (theirs, dead) = (link.clone(), link.clone());
            let ask = move || assert_eq!(theirs.ask(client_looks), CALLS);
            let client = mortal_alone(life, ask, move || dead.close());
            let served = link.serve(server_looks);
            assert!(!client.join().unwrap() || served == CALLS);
            assert_eq!(served, link.request.count.load(Ordering::SeqCst), "what was sent has come");
        });
    }
}

#[test]
fn every_answer_comes_once_and_a_server_that_dies_leaves_the_end_of_its_stream() {
    for (client_looks, server_looks) in HABITS {
        for_every_death(LIVES, move |life| {
            let link = Arc::new(Link::default());
            let (theirs, dead) = (link.clone(), link.clone());
            let serve = move || assert_eq!(theirs.serve(server_looks), CALLS);
            let server = mortal_alone(life, serve, move || dead.close());
            let answered = link.ask(client_looks);
            assert!(!server.join().unwrap() || answered == CALLS);
            assert_eq!(answered, link.answer.count.load(Ordering::SeqCst), "what was sent has come");
        });
    }
}

/// Without any turns, and without the stream: the one leaves messages whenever he can, the other looks whenever he likes.
#[test]
fn what_was_left_is_taken_once_and_what_was_refused_never() {
    for_every_death(12, |life| {
        let way = Arc::new(Direction::default());
        let left = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (theirs, noted) = (way.clone(), left.clone());
        let write = move || {
            for message in 1..=3 {
                if theirs.put(message) {
                    noted.lock().unwrap().push(message);
                }
            }
        };
        let writer = mortal_alone(life, write, || {});
        let mut taken = Vec::new();
        for _ in 0..2 {
            way.words.watch();
            taken.extend(way.give_up());
            assert_eq!(way.words.take(|_| Ok::<(), ()>(())), Ok(false), "it was taken");
        }
        writer.join().unwrap();
        assert_eq!(taken, *left.lock().unwrap());
    });
}
