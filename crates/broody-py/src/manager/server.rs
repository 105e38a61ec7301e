//! The loop of a manager's server.
//!
//! No connection has a thread. All threads of the server wait for all connections at once, in epoll(7), one event each; who gets a request carries it out,
//! for as long as that takes, and there is always another one that waits. Nobody waits for the rest of a message, or for room for one: what a
//! client has begun lies with its connection until there is more. An idle client costs a descriptor.
//!
//! (One exception: who calls an object of a type that is not one of the manager's own has a thread to itself from then on, as such objects may belong to
//! threads, like a `threading.RLock`.)

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broody_os::events::{Epoll, EventFd, Trigger};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyTuple};

use super::client::{self, Client, Session};
use super::objects::{Entry, New, Objects};
use super::{exchange, packed, request};
use crate::errors::os_error;
use crate::lock;

/// So many threads wait for requests at most; others end after theirs.
const MOST_IDLE: usize = 8;
/// How often clients that do not prove their keys are looked for.
const ROUND: Duration = Duration::from_secs(1);

/// How long the end of the server waits for its threads, and how often it looks.
const LAST: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(1);

/// Memory for answers that is longer is not kept.
const KEPT: usize = 16 << 10;

pub(super) const LISTENER: u64 = 0;
const STOP: u64 = 1;
const FIRST_CLIENT: u64 = 2;

type Serializer = Option<(Py<PyAny>, Py<PyAny>)>;

/// The objects of a manager, and those who use them.
#[pyclass(frozen, subclass, name = "_Server", module = "broody._broody")]
pub(crate) struct Server {
    pub(super) objects: Objects,
    sessions: Mutex<HashMap<String, Py<Session>>>,
    pub(super) clients: Mutex<HashMap<u64, Py<Client>>>,
    pub(super) last_token: AtomicU64,
    pub(super) crew: Mutex<Crew>,
    is_stopping: AtomicBool,
    listening: Mutex<Option<Arc<Listening>>>,
}

/// The threads, and those who are not let in yet.
#[derive(Default)]
pub(super) struct Crew {
    pub(super) waiting: usize,
    pub(super) threads: usize,
    pub(super) strangers: usize,
}

pub(super) struct Listening {
    pub(super) epoll: Epoll,
    stop: EventFd,
    /// Of a socket that Python has.
    listener: RawFd,
    pub(super) key: Py<PyBytes>,
    serializer: Serializer,
    pub(super) patience: Duration,
}

impl Listening {
    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        // SAFETY: not -1; if it was closed, the kernel says so.
        unsafe { BorrowedFd::borrow_raw(self.listener) }
    }
}

// Relaxed throughout: the GIL orders.
#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            objects: Objects::default(),
            sessions: Mutex::default(),
            clients: Mutex::default(),
            last_token: AtomicU64::new(FIRST_CLIENT),
            crew: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            listening: Mutex::default(),
        }
    }

    /// Makes everything ready for threads that [`_work`](Self::_work). `listener`: the descriptor of a listening socket; `patience`: how long a client may
    /// take to prove its key, in seconds.
    #[pyo3(signature = (listener, key, patience, serializer=None))]
    fn _listen(
        &self,
        listener: RawFd,
        key: Py<PyBytes>,
        patience: f64,
        serializer: Serializer,
    ) -> PyResult<()> {
        if listener < 0 {
            return Err(PyOSError::new_err("the listener is closed"));
        }
        let patience = Duration::try_from_secs_f64(patience).unwrap_or(Duration::ZERO);
        let epoll = Epoll::new().map_err(os_error)?;
        let stop = EventFd::new().map_err(os_error)?;
        epoll.add(&stop, STOP, Trigger::Level).map_err(os_error)?;
        let listening = Listening { epoll, stop, listener, key, serializer, patience };
        listening.epoll.add(listening.listener(), LISTENER, Trigger::Once).map_err(os_error)?;
        *lock(&self.listening) = Some(Arc::new(listening));
        self.is_stopping.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Serves clients until [`_stop`](Self::_stop), or until enough others do.
    fn _work(slf: &Bound<'_, Self>) -> PyResult<()> {
        let server = slf.get();
        lock(&server.crew).threads += 1;
        let result = Self::work(slf);
        let is_over = {
            let mut crew = lock(&server.crew);
            crew.threads -= 1;
            crew.threads == 0
        };
        if is_over && server.is_stopping.load(Ordering::Relaxed) {
            let clients: Vec<_> =
                lock(&server.clients).values().map(|client| client.clone_ref(slf.py())).collect();
            for client in clients {
                Self::leaves(slf, client.bind(slf.py()))?;
            }
            drop(lock(&server.listening).take());
        }
        result
    }

    /// Lets all threads end, and all clients see the end. Waits a little for threads: an interpreter that ends under one of them would end it in the middle of
    /// Rust. Those that wait in calls stay where they are.
    fn _stop(&self, py: Python<'_>) {
        self.is_stopping.store(true, Ordering::Relaxed);
        if let Some(listening) = &*lock(&self.listening) {
            listening.stop.signal();
        }
        for client in lock(&self.clients).values() {
            client.get().socket.hang_up();
        }
        py.detach(|| {
            let until = Instant::now() + LAST;
            while lock(&self.crew).threads > 0 && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
        });
    }

    /// In a fork: the connections are not its own.
    fn _forget(&self) {
        let clients = std::mem::take(&mut *lock(&self.clients));
        for client in clients.values() {
            client.get().socket.close();
        }
        drop(clients);
        drop(lock(&self.listening).take());
    }

    // Objects

    /// The entry of an object: `stays` are the types of those methods whose results stay here, `undo` what puts back what methods have taken.
    fn _enter<'py>(
        &self,
        obj: Bound<'py, PyAny>,
        typeid: String,
        exposed: Bound<'py, PyFrozenSet>,
        stays: Option<Bound<'py, PyDict>>,
        undo: Option<Bound<'py, PyDict>>,
        is_free: bool,
    ) -> PyResult<Bound<'py, Entry>> {
        self.objects.enter(obj.py(), New { exposed, typeid, stays, undo, is_free, obj })
    }

    /// The entry that clients call `ident`.
    fn _entry<'py>(&self, py: Python<'py>, ident: &str) -> PyResult<Bound<'py, Entry>> {
        self.objects.entry(py, u64::from_str_radix(ident, 16).ok(), ident)
    }

    /// One reference more, of a client's process if it has a session.
    fn _grant(&self, entry: &Bound<'_, Entry>, client: Option<&Bound<'_, Client>>) {
        if let Some(session) = client.and_then(|client| client.get().session(entry.py())) {
            let session = session.get();
            if !session.is_alive() {
                return;
            }
            *session.references().entry(entry.get().ident).or_default() += 1;
        }
        self.objects.keep(entry);
    }

    /// What clients refer to: entries, and how many references they have.
    fn _kept(&self, py: Python<'_>) -> Vec<(Py<Entry>, i64)> {
        self.objects.kept(py)
    }

    // Requests of clients

    /// Nothing: it answers.
    fn dummy(&self, _c: &Bound<'_, PyAny>) {}

    /// The client is a process that refers to objects as long as this connection lasts. Gives a name that its other connections are known by.
    fn hold(&self, c: &Bound<'_, Client>) -> PyResult<String> {
        let py = c.py();
        let random = py.import("os")?.call_method1("urandom", (16,))?;
        let id: String = random.call_method0("hex")?.extract()?;
        let session = Py::new(py, Session::new(py, id.clone())?)?;
        c.get().join(session.clone_ref(py), None, true);
        lock(&self.sessions).insert(id.clone(), session);
        Ok(id)
    }

    /// The process of the session refers to nothing any more.
    fn leave(slf: &Bound<'_, Self>, c: &Bound<'_, Client>) -> PyResult<()> {
        match c.get().session(slf.py()) {
            Some(session) => Self::end_session(slf, session.bind(slf.py()), false),
            None => Ok(()),
        }
    }

    /// The connection is one for calls, of a thread of the process of that session.
    #[pyo3(signature = (c, _name, session=None, thread=None))]
    fn accept_connection(
        &self,
        c: &Bound<'_, Client>,
        _name: &Bound<'_, PyAny>,
        session: Option<String>,
        thread: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = c.py();
        let Some(id) = session else { return Ok(()) };
        let known = lock(&self.sessions).get(&id).map(|session| session.clone_ref(py));
        if let Some(session) = known {
            let owner = (id, thread).into_pyobject(py)?.into_any().unbind();
            c.get().join(session, Some(owner), false);
        }
        Ok(())
    }

    /// One reference more.
    fn incref(&self, c: &Bound<'_, Client>, ident: &str) -> PyResult<()> {
        self._grant(&self._entry(c.py(), ident)?, Some(c));
        Ok(())
    }

    /// One reference less.
    fn decref(&self, c: &Bound<'_, Client>, ident: &str) {
        let Ok(ident) = u64::from_str_radix(ident, 16) else { return };
        if let Some(session) = c.get().session(c.py()) {
            let mut references = session.get().references();
            match references.get_mut(&ident) {
                None => return,
                Some(1) => {
                    references.remove(&ident);
                }
                Some(count) => *count -= 1,
            }
        }
        drop(self.objects.release(ident, 1));
    }

    /// How many objects clients refer to.
    fn number_of_objects(&self, _c: &Bound<'_, PyAny>) -> usize {
        self.objects.count()
    }
}

impl Server {
    pub(super) fn serializer(&self, py: Python<'_>) -> Serializer {
        let listening = lock(&self.listening);
        let (dumps, loads) = listening.as_ref()?.serializer.as_ref()?;
        Some((dumps.clone_ref(py), loads.clone_ref(py)))
    }

    pub(super) fn listening(&self) -> PyResult<Arc<Listening>> {
        lock(&self.listening).clone().ok_or_else(|| PyRuntimeError::new_err("the server does not listen"))
    }

    fn work(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, server) = (slf.py(), slf.get());
        let Ok(listening) = server.listening() else { return Ok(()) };
        loop {
            let limit = {
                let mut crew = lock(&server.crew);
                if crew.waiting >= MOST_IDLE || server.is_stopping.load(Ordering::Relaxed) {
                    return Ok(());
                }
                crew.waiting += 1;
                (crew.strangers > 0).then_some(ROUND)
            };
            let token = py.detach(|| listening.epoll.wait_for_one(limit));
            let is_last = {
                let mut crew = lock(&server.crew);
                crew.waiting -= 1;
                crew.waiting == 0
            };
            if server.is_stopping.load(Ordering::Relaxed) {
                return Ok(());
            }
            // There may be no memory for another thread, or no room in a limit.
            let is_alone = is_last && slf.call_method0(intern!(py, "_more")).is_err();
            let result = match token.map_err(os_error)? {
                None => {
                    server.send_away(Instant::now());
                    Ok(())
                }
                Some(STOP) => Ok(()),
                Some(LISTENER) => Self::admit(slf, &listening),
                Some(token) => {
                    let client = lock(&server.clients).get(&token).map(|client| client.clone_ref(py));
                    client.map_or(Ok(()), |client| Self::serve(slf, &listening, client.bind(py), is_alone))
                }
            };
            if let Err(error) = result {
                // Nothing that a client does may cost the server a thread.
                slf.call_method1(intern!(py, "_dropped"), (error.into_value(py),))?;
            }
        }
    }

    // Clients

    /// `is_alone`: there is no other thread that waits for clients.
    fn serve(
        slf: &Bound<'_, Self>,
        listening: &Listening,
        client: &Bound<'_, Client>,
        is_alone: bool,
    ) -> PyResult<()> {
        let before = client::serve(Some(client.clone().unbind()));
        let stays = Self::attend(slf, client, is_alone);
        drop(client::serve(before));
        let stays = match stays {
            Ok(stays) => stays,
            Err(error) => {
                slf.call_method1(intern!(slf.py(), "_dropped"), (error.into_value(slf.py()),))?;
                false
            }
        };
        let is_full = client.get().line().stream.is_full();
        let token = client.get().token;
        if !stays || listening.epoll.rearm(&*client.get().socket, token, is_full).is_err() {
            Self::leaves(slf, client)?;
        }
        Ok(())
    }

    /// Answers what a client has sent. Whether there may be more.
    fn attend(slf: &Bound<'_, Self>, client: &Bound<'_, Client>, is_alone: bool) -> PyResult<bool> {
        let (py, this) = (slf.py(), client.get());
        let mut message = std::mem::take(&mut this.line().message);
        let mut bytes = std::mem::take(&mut this.line().answer);
        let (mut is_there, mut has_answered) = (false, false);
        let stays = loop {
            if !is_there {
                if has_answered && !this.has_thread() && !this.line().stream.has_more() {
                    // It has been waited for, or is told.
                    break true;
                }
                match exchange::receive(py, this, &mut message) {
                    Ok(Some(true)) => {}
                    Ok(Some(false)) => break true,
                    Ok(None) => break false,
                    Err(error) => {
                        bytes.clear();
                        request::refuse(slf, error, &mut bytes)?;
                        match exchange::reply(py, this, &bytes, None)? {
                            true => continue,
                            false => break false,
                        }
                    }
                }
            }
            is_there = false;
            if this.is_stranger() {
                if slf.get().meet(client, &message)? {
                    continue;
                }
                break false;
            }
            if *message == [packed::MAILBOX] {
                request::give_mailbox(&mut this.line()).map_err(os_error)?;
                continue;
            }
            bytes.clear();
            let answer = request::carry_out(slf, client, &mut message, is_alone, &mut bytes)?;
            if answer.is_some {
                let is_last = answer.is_last;
                if !exchange::reply(py, this, &bytes, answer.undo)? {
                    break false;
                }
                if is_last {
                    slf.call_method0(intern!(py, "_end"))?;
                }
                has_answered = true;
                is_there = exchange::look(py, this, &mut message)?;
            }
        };
        bytes.shrink_to(KEPT);
        let line = &mut *this.line();
        (line.message, line.answer) = (message, bytes);
        Ok(stays)
    }

    pub(super) fn leaves(slf: &Bound<'_, Self>, client: &Bound<'_, Client>) -> PyResult<()> {
        let (py, server, this) = (slf.py(), slf.get(), client.get());
        let was_there = lock(&server.clients).remove(&this.token).is_some();
        if !was_there {
            return Ok(());
        }
        if let Ok(listening) = server.listening() {
            listening.epoll.remove(&*this.socket);
        }
        // Closed with the last who uses it.
        this.socket.hang_up();
        if this.is_stranger() {
            server.is_known();
        }
        let undo = this.line().undo.take();
        if let Some(undo) = undo {
            undo.call0(py)?;
        }
        match this.held_session(py) {
            Some(session) => Self::end_session(slf, session.bind(py), true),
            None => Ok(()),
        }
    }

    fn end_session(slf: &Bound<'_, Self>, session: &Bound<'_, Session>, was_killed: bool) -> PyResult<()> {
        let (py, server) = (slf.py(), slf.get());
        let Some(references) = session.get().end() else { return Ok(()) };
        lock(&server.sessions).remove(&session.get().id);
        let ended: Vec<_> =
            references.into_iter().map(|(ident, count)| server.objects.release(ident, count)).collect();
        drop(ended);
        let clients: Vec<_> = lock(&server.clients).values().map(|client| client.clone_ref(py)).collect();
        let calls: Vec<_> = clients
            .iter()
            .filter(|client| client.get().is_of(session))
            .filter_map(|client| client.get().call(py))
            .collect();
        slf.call_method1(intern!(py, "_lose"), (session, was_killed, calls)).map(|_| ())
    }
}
