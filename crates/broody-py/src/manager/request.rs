//! From a message to its answer.
//!
//! A request is `(ident, method, args, kwds)`, pickled as the standard module does it, or [`packed`]; without an ident it is to the server
//! itself. An answer is `(kind, result)`, or packed where the request was.

use broody_shm::mailbox::Mailbox;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::caller;
use super::client::{Client, Line};
use super::objects::{self, Entry, Function};
use super::packed;
use super::server::Server;
use super::stream::Message;

/// What follows from a request.
pub(super) struct Answer {
    /// None for what is only told.
    pub(super) is_some: bool,
    /// Puts back what was taken for it, if it does not arrive.
    pub(super) undo: Option<Py<PyAny>>,
    /// It is the last one of the server.
    pub(super) is_last: bool,
}

const NOTHING: Answer = Answer { is_some: false, undo: None, is_last: false };
const SOMETHING: Answer = Answer { is_some: true, ..NOTHING };

/// What a call has come to.
enum Outcome<'py> {
    Result(Bound<'py, PyAny>, Option<Py<PyAny>>),
    /// An answer of another kind.
    Other(Bound<'py, PyAny>),
}

/// Methods that may wait for another client, of objects that do not mind which thread calls them.
const WAITING: [&str; 9] = ["acquire", "wait", "get", "put", "join", "apply", "map", "starmap", "__next__"];

/// Carries out a request; the answer goes to the end of `bytes`. `is_alone`: no other thread waits for clients, so that this one must not wait for them.
pub(super) fn carry_out(
    server: &Bound<'_, Server>,
    client: &Bound<'_, Client>,
    message: &mut Message,
    is_alone: bool,
    bytes: &mut Vec<u8>,
) -> PyResult<Answer> {
    match packed::unpack_call(server.py(), message) {
        Some(call) => packed_call(server, client, call, is_alone, bytes),
        None => pickled(server, client, message, is_alone, bytes),
    }
}

/// The answer to a request that cannot be carried out.
pub(super) fn refuse(server: &Bound<'_, Server>, error: PyErr, bytes: &mut Vec<u8>) -> PyResult<()> {
    let failed = server.call_method1(intern!(server.py(), "_failed"), (error.into_value(server.py()),))?;
    write(server, Ok(Outcome::Other(failed)), bytes).map(|_| ())
}

/// A mailbox for the client, which has asked for one.
pub(super) fn give_mailbox(line: &mut Line) -> broody_os::Result<()> {
    use std::os::fd::AsFd;
    match Mailbox::create() {
        Ok((mailbox, descriptor)) => {
            line.stream.send_with(&[packed::MAILBOX], descriptor.as_fd())?;
            line.mailbox = Some(mailbox);
        }
        Err(_) => {
            line.stream.send(&[packed::NO_MAILBOX])?;
        }
    }
    Ok(())
}

fn packed_call(
    server: &Bound<'_, Server>,
    client: &Bound<'_, Client>,
    call: PyResult<packed::Call<'_, '_>>,
    is_alone: bool,
    bytes: &mut Vec<u8>,
) -> PyResult<Answer> {
    let py = server.py();
    let outcome = call.and_then(|call| {
        let entry = server.get().objects.entry(
            py,
            Some(call.ident),
            &format_args!("{:x}", call.ident).to_string(),
        )?;
        let name = PyString::intern(py, call.name);
        check_may_wait(&entry, &name, is_alone)?;
        carry_out_call(server, client, &entry, &name, call.args.as_any(), None)
    });
    if let Ok(Outcome::Result(result, undo)) = &outcome
        && packed::pack_return(result, bytes)
    {
        return Ok(Answer { undo: undo.as_ref().map(|undo| undo.clone_ref(py)), ..SOMETHING });
    }
    bytes.clear();
    write(server, outcome, bytes)
}

fn pickled(
    server: &Bound<'_, Server>,
    client: &Bound<'_, Client>,
    message: &mut Message,
    is_alone: bool,
    bytes: &mut Vec<u8>,
) -> PyResult<Answer> {
    let py = server.py();
    let serializer = server.get().serializer(py);
    let request = caller::decode(py, message, serializer.as_ref());
    let [ident, name, args, kwds] = match request.and_then(|request| caller::parts(&request)) {
        Ok(parts) => parts,
        Err(error) => return write(server, Err(error), bytes),
    };
    if ident.is_none() {
        let answer = server.call_method1(intern!(py, "_do"), (client, &name, args, kwds))?;
        if answer.is_none() {
            return Ok(NOTHING);
        }
        let is_last = name.eq(intern!(py, "shutdown"))?;
        let answer = write(server, Ok(Outcome::Other(answer)), bytes)?;
        return Ok(Answer { is_last, ..answer });
    }
    let outcome = (|| {
        let shown = ident.str()?;
        let number = ident.extract::<&str>().ok().and_then(|ident| u64::from_str_radix(ident, 16).ok());
        let entry = server.get().objects.entry(py, number, shown.to_str()?)?;
        let name = name.cast_into::<PyString>()?;
        let kwds = kwds.cast_into::<PyDict>()?;
        check_may_wait(&entry, &name, is_alone)?;
        carry_out_call(server, client, &entry, &name, &args, Some(&kwds))
    })();
    write(server, outcome, bytes)
}

/// Writes an answer, or the traceback of what went wrong with it.
fn write(
    server: &Bound<'_, Server>,
    outcome: PyResult<Outcome<'_>>,
    bytes: &mut Vec<u8>,
) -> PyResult<Answer> {
    let py = server.py();
    let serializer = server.get().serializer(py);
    let traceback = |kind: &str, error: PyErr, bytes: &mut Vec<u8>| {
        let text = server.call_method1(intern!(py, "_traceback"), (error.into_value(py),))?;
        bytes.clear();
        caller::encode((kind, text).into_pyobject(py)?.as_any(), serializer.as_ref(), bytes)
    };
    let (answer, undo) = match outcome {
        Ok(Outcome::Result(result, undo)) => (("#RETURN", result).into_pyobject(py)?.into_any(), undo),
        Ok(Outcome::Other(answer)) => (answer, None),
        Err(error) => {
            traceback("#TRACEBACK", error, bytes)?;
            return Ok(SOMETHING);
        }
    };
    if let Err(error) = caller::encode(&answer, serializer.as_ref(), bytes) {
        if let Some(undo) = undo {
            undo.call0(py)?;
        }
        traceback("#UNSERIALIZABLE", error, bytes)?;
        return Ok(SOMETHING);
    }
    Ok(Answer { undo, ..SOMETHING })
}

/// An error for a call that may wait, in the last thread that could serve whom it waits for.
fn check_may_wait(entry: &Bound<'_, Entry>, name: &Bound<'_, PyString>, is_alone: bool) -> PyResult<()> {
    if is_alone && (!entry.get().is_free || WAITING.contains(&name.to_str()?)) {
        return Err(PyRuntimeError::new_err(
            "the manager's server cannot start another thread for this call: its memory or the number of its processes is limited. \
             Raise the limit, or call again when fewer calls wait",
        ));
    }
    Ok(())
}

fn carry_out_call<'py>(
    server: &Bound<'py, Server>,
    client: &Bound<'py, Client>,
    entry: &Bound<'py, Entry>,
    name: &Bound<'py, PyString>,
    args: &Bound<'py, PyAny>,
    kwds: Option<&Bound<'py, PyDict>>,
) -> PyResult<Outcome<'py>> {
    let (py, object) = (server.py(), entry.get());
    let function = object.function(py, name)?;
    if !object.is_free {
        client.get().keep_thread();
    }
    let result = match function {
        Function::Method(method) => {
            // Who dies in the middle of it is looked for by this.
            let _calling = Calling::begin(client, entry, name);
            objects::call(&method, args, kwds)
        }
        Function::Fallback(fallback) => fallback(object.obj.bind(py)),
    };
    let result = match result {
        Ok(result) => result,
        Err(error) if error.is_instance_of::<PyException>(py) => {
            let failed = server.call_method1(intern!(py, "_failed"), (error.into_value(py),))?;
            return Ok(Outcome::Other(failed));
        }
        Err(error) => return Err(error),
    };
    if let Some(typeid) = object.stays_as(name)? {
        let made = server.call_method1(intern!(py, "_give_proxy"), (client, typeid, result))?;
        return Ok(Outcome::Other(made));
    }
    let undo = match &object.undo {
        Some(undo) => undo.bind(py).get_item(name)?,
        None => None,
    };
    let undo = undo.map(|undo| undo.call1((&object.obj, &result))).transpose()?;
    Ok(Outcome::Result(result, undo.filter(|undo| !undo.is_none()).map(Bound::unbind)))
}

/// What a client's call is, while it runs.
struct Calling<'a, 'py>(&'a Bound<'py, Client>);

impl<'a, 'py> Calling<'a, 'py> {
    fn begin(client: &'a Bound<'py, Client>, entry: &Bound<'py, Entry>, name: &Bound<'py, PyString>) -> Self {
        client.get().set_call(Some((entry.clone().unbind(), name.clone().unbind())));
        Self(client)
    }
}

impl Drop for Calling<'_, '_> {
    fn drop(&mut self) {
        self.0.get().set_call(None);
    }
}
