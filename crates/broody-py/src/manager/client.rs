//! A connection, from the server's side, and the process that it belongs to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use broody_shm::mailbox::Mailbox;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::caller::LOOK;
use super::handshake::Step;
use super::objects::Entry;
use super::stream::{Message, Socket, Stream};
use crate::lock;
use broody_shm::pace::{Pace, Wait};

/// A process that has references. It ends with the connection that it was made by, or when the process says so.
#[pyclass(frozen, module = "broody._broody")]
pub(crate) struct Session {
    pub(super) id: String,
    alive: AtomicBool,
    /// How many references to which object. Locked with the GIL only, as everything here.
    pub(super) references: Mutex<HashMap<u64, i64>>,
    /// What is free again when the process has been killed, and how often it has that: a lock, permits of a semaphore.
    #[pyo3(get)]
    held: Py<PyDict>,
}

// Relaxed: the GIL orders.
#[pymethods]
impl Session {
    /// Whether the process may still have something.
    #[getter]
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }
}

impl Session {
    pub(super) fn new(py: Python<'_>, id: String) -> PyResult<Self> {
        let held = py.import("collections")?.call_method0("Counter")?.cast_into::<PyDict>()?;
        Ok(Self { id, alive: AtomicBool::new(true), references: Mutex::default(), held: held.unbind() })
    }

    pub(super) fn references(&self) -> MutexGuard<'_, HashMap<u64, i64>> {
        lock(&self.references)
    }

    /// Ends it: the references that it had. `None`: it has ended before.
    pub(super) fn end(&self) -> Option<HashMap<u64, i64>> {
        self.alive.swap(false, Ordering::Relaxed).then(|| std::mem::take(&mut *self.references()))
    }
}

/// A connection.
#[pyclass(frozen, module = "broody._broody")]
pub(crate) struct Client {
    pub(super) token: u64,
    pub(super) socket: Arc<Socket>,
    /// For the thread that serves it.
    pub(super) line: Mutex<Line>,
    state: Mutex<State>,
}

/// What is read and written.
pub(super) struct Line {
    pub(super) stream: Stream,
    pub(super) mailbox: Option<Mailbox>,
    pub(super) pace: Pace,
    /// Since the last answer.
    pub(super) wait: Option<Wait>,
    pub(super) message: Message,
    pub(super) answer: Vec<u8>,
    /// Of an answer that is not sent completely: how to put back what was taken for it.
    pub(super) undo: Option<Py<PyAny>>,
}

#[derive(Default)]
struct State {
    /// Until it has proved its key: the next step, and until when.
    stranger: Option<(Step, Instant)>,
    session: Option<Py<Session>>,
    owner: Option<Py<PyAny>>,
    is_holder: bool,
    has_thread: bool,
    /// The call that is being carried out.
    call: Option<(Py<Entry>, Py<PyString>)>,
}

#[pymethods]
impl Client {
    /// Its process.
    #[getter]
    pub(super) fn session(&self, py: Python<'_>) -> Option<Py<Session>> {
        self.state().session.as_ref().map(|session| session.clone_ref(py))
    }

    /// Whose its recursive locks are: a thread of its process.
    #[getter]
    fn owner(slf: &Bound<'_, Self>) -> Py<PyAny> {
        let owner = slf.get().state().owner.as_ref().map(|owner| owner.clone_ref(slf.py()));
        owner.unwrap_or_else(|| slf.clone().into_any().unbind())
    }
}

impl Client {
    pub(super) fn new(token: u64, stream: Stream, step: Step, until: Instant) -> Self {
        let line = Line {
            mailbox: None,
            pace: Pace::new(LOOK),
            wait: None,
            message: Message::default(),
            answer: Vec::new(),
            undo: None,
            stream,
        };
        let state = State { stranger: Some((step, until)), ..State::default() };
        Self { token, socket: line.stream.socket().clone(), line: Mutex::new(line), state: Mutex::new(state) }
    }

    pub(super) fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }

    /// Locked for an instant, with the GIL.
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The next step of one that has not proved its key.
    pub(super) fn take_step(&self) -> Option<Step> {
        let mut state = self.state();
        let (step, until) = state.stranger.take()?;
        // It stays a stranger until it is admitted.
        state.stranger = Some((Step::Welcome, until));
        Some(step)
    }

    pub(super) fn set_step(&self, step: Step) {
        if let Some((place, _)) = self.state().stranger.as_mut() {
            *place = step;
        }
    }

    pub(super) fn admit(&self) {
        self.state().stranger = None;
    }

    pub(super) fn is_stranger(&self) -> bool {
        self.state().stranger.is_some()
    }

    /// Whether it has had its time to prove its key.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.state().stranger.as_ref().is_some_and(|(_, until)| *until <= now)
    }

    pub(super) fn join(&self, session: Py<Session>, owner: Option<Py<PyAny>>, is_holder: bool) {
        let mut state = self.state();
        let before = (state.session.replace(session), std::mem::replace(&mut state.owner, owner));
        state.is_holder = is_holder;
        drop(state);
        drop(before);
    }

    /// The session that ends with it.
    pub(super) fn held_session(&self, py: Python<'_>) -> Option<Py<Session>> {
        let state = self.state();
        state.session.as_ref().filter(|_| state.is_holder).map(|session| session.clone_ref(py))
    }

    pub(super) fn is_of(&self, session: &Bound<'_, Session>) -> bool {
        self.state().session.as_ref().is_some_and(|own| own.is(session))
    }

    /// From now on the thread that serves it does nothing else.
    pub(super) fn keep_thread(&self) {
        self.state().has_thread = true;
    }

    pub(super) fn has_thread(&self) -> bool {
        self.state().has_thread
    }

    pub(super) fn set_call(&self, call: Option<(Py<Entry>, Py<PyString>)>) {
        let before = std::mem::replace(&mut self.state().call, call);
        drop(before);
    }

    pub(super) fn call(&self, py: Python<'_>) -> Option<(Py<Entry>, Py<PyString>)> {
        self.state().call.as_ref().map(|(entry, name)| (entry.clone_ref(py), name.clone_ref(py)))
    }
}

thread_local! {
    /// Whom this thread serves at the moment.
    static SERVED: RefCell<Option<Py<Client>>> = const { RefCell::new(None) };
}

/// The client whom the calling thread serves at the moment.
#[pyfunction]
pub(crate) fn served(py: Python<'_>) -> Option<Py<Client>> {
    SERVED.with_borrow(|client| client.as_ref().map(|client| client.clone_ref(py)))
}

/// Lets the calling thread serve another client, or none. Gives the one before.
#[pyfunction]
#[pyo3(signature = (client))]
pub(crate) fn serve(client: Option<Py<Client>>) -> Option<Py<Client>> {
    SERVED.replace(client)
}
