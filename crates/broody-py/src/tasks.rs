//! What a pool's tasks and answers are made of, on both sides.
//!
//! A task is a chunk of Python's: a call, or a function and the items that it is called with one after the other. The function comes first, pickled by
//! itself, so that a worker that has seen the same bytes before need not look it up again; only functions that pickle as a mere name are kept so.
//!
//! ```text
//! CALL             the message of (function, arguments, keywords)
//! EACH, ONE        length of the function's pickle (4, little endian), the function's pickle, the message of a list of items, or of one
//! ```
//!
//! What pickle refuses is pickled by value, where cloudpickle is installed ([`by_value`]).
//!
//! What a task raises is an answer like others, unless it is to be tried again then: the engine does that with what panics, so that the exception goes as
//! a panic's text.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use broody::embed::Encoded;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCFunction, PyDict, PyFunction, PyIterator, PyList, PyTuple, PyType};
use serde::{Deserialize, Serialize};

use crate::errors::raised;
use crate::{by_value, lock, pickling};

const CALL: u8 = 0;
const EACH: u8 = 1;
const ONE: u8 = 2;
/// Those, without what is beside them.
const KINDS: u8 = 0x07;
/// Beside each: what raises an exception is tried again.
const RETRY: u8 = 0x08;
/// Beside EACH or ONE: an item is a tuple of arguments.
const STAR: u8 = 0x10;
/// Beside EACH or ONE: the function is a name.
const NAMED: u8 = 0x20;

/// Beside each: as the standard's executors tell it. What a task raises is raised, be it SystemExit; what cannot be unpickled is told by an error of its own.
const BARE: u8 = 0x40;
/// Beside each: it was pickled by value, and what comes of it may be.
const BY_VALUE: u8 = 0x80;

/// The longest name of a function that is kept, in bytes.
const LONGEST_NAME: usize = 512;

/// What tasks of a pool have in common.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// They are an executor's.
    pub(crate) bare: bool,
    /// The workers do not import the program's main module.
    pub(crate) without_main: bool,
    /// Those that raise are tried again.
    pub(crate) retry: bool,
}

impl Kind {
    /// What is beside the kind of a task.
    fn flags(self) -> u8 {
        (if self.bare { BARE } else { 0 }) | (if self.retry { RETRY } else { 0 })
    }
}

/// A task that is one call.
pub(crate) fn call(
    function: &Bound<'_, PyAny>,
    arguments: &Bound<'_, PyAny>,
    keywords: &Bound<'_, PyAny>,
    kind: Kind,
) -> PyResult<Encoded> {
    let call = PyTuple::new(function.py(), [function, arguments, keywords])?;
    encode(call.as_any(), &[CALL | kind.flags()], kind.without_main)
}

/// What tasks of `function` begin with, of so many items each.
pub(crate) fn head(function: &Bound<'_, PyAny>, star: bool, size: usize, common: Kind) -> PyResult<Encoded> {
    let (head, mut shared) = Encoded::collect(|| head_bytes(function, star, size, common));
    shared.bytes = head?;
    Ok(shared)
}

fn head_bytes(function: &Bound<'_, PyAny>, star: bool, size: usize, common: Kind) -> PyResult<Vec<u8>> {
    // By itself, and without buffers: it is unpickled again and again.
    let (pickled, valued) = match pickling::dumps(function) {
        Ok(pickled) if !by_value::needs_main(&pickled, common.without_main) => (pickled, 0),
        plain => match by_value::pickle(function, plain.as_ref().err())? {
            Some(pickled) => (pickled, BY_VALUE),
            None => (plain?, 0),
        },
    };
    let kind = if size == 1 { ONE } else { EACH } | if star { STAR } else { 0 } | common.flags();
    let kind = if is_name(function, &pickled) { kind | NAMED } else { kind };
    let mut head = vec![kind | valued];
    head.extend((pickled.len() as u32).to_le_bytes());
    head.extend(pickled);
    Ok(head)
}

/// The message of `object` behind `prefix`, which begins with the kind of a task.
fn encode(object: &Bound<'_, PyAny>, prefix: &[u8], without_main: bool) -> PyResult<Encoded> {
    let plain = pickling::encode(object, prefix);
    match plain {
        Ok(encoded) if !by_value::needs_main(&encoded.bytes[prefix.len()..], without_main) => Ok(encoded),
        plain => {
            let mut prefix = prefix.to_vec();
            prefix[0] |= BY_VALUE;
            by_value::message(object, plain.as_ref().err(), &prefix)?.map_or(plain, Ok)
        }
    }
}

/// A task of the next `size` items, if there are any.
pub(crate) fn chunk(
    head: &Encoded,
    items: &mut Bound<'_, PyIterator>,
    size: usize,
    common: Kind,
) -> PyResult<Option<Encoded>> {
    let task = next_task(head, items, size, common)?;
    if let Some(task) = &task {
        task.share_objects(head).map_err(raised)?;
    }
    Ok(task)
}

fn next_task(
    head: &Encoded,
    items: &mut Bound<'_, PyIterator>,
    size: usize,
    common: Kind,
) -> PyResult<Option<Encoded>> {
    if size == 1 {
        let item = items.next().transpose()?;
        return item.map(|item| encode(&item, &head.bytes, common.without_main)).transpose();
    }
    static SLICE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = items.py();
    let slice = SLICE.import(py, "itertools", "islice")?.call1((&*items, size))?;
    let chunk = py.get_type::<PyList>().call1((slice,))?;
    if chunk.is_truthy()? { encode(&chunk, &head.bytes, common.without_main).map(Some) } else { Ok(None) }
}

/// Whether a function's pickle says only where it is to be found.
fn is_name(function: &Bound<'_, PyAny>, pickled: &[u8]) -> bool {
    let is_plain = function.is_exact_instance_of::<PyFunction>()
        || function.is_exact_instance_of::<PyCFunction>()
        || function.is_exact_instance_of::<PyType>();
    // STACK_GLOBAL, MEMOIZE, STOP.
    is_plain && pickled.len() <= LONGEST_NAME && pickled.ends_with(&[0x93, 0x94, b'.'])
}

fn spoiled(why: &str) -> PyErr {
    PyRuntimeError::new_err(format!("a pool's message is spoiled: {why}"))
}

/// How a task ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct Answer {
    returned: bool,
    value: Encoded,
}

impl Answer {
    /// What the task returned; what it raised, raised here.
    pub(crate) fn open(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        if self.returned {
            return pickling::object(py, self.value.into());
        }
        Err(unpickled(py, &self.value.bytes))
    }
}

impl Answer {
    /// The same, for executors.
    pub(crate) fn open_bare(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let failed = |error: PyErr| {
            let wrap = || py.import("broody.futures")?.call_method1("_untransferred", (error.value(py),));
            wrap().map_or_else(|other| other, PyErr::from_value)
        };
        if self.returned {
            return pickling::object(py, self.value.into()).map_err(failed);
        }
        let raised = py.import("broody.pool")?.getattr("_raised")?;
        let raised = raised.call1((PyBytes::new(py, &self.value.bytes),)).map_err(failed)?;
        Err(PyErr::from_value(raised))
    }
}

/// What a task raised, of its pickle.
fn unpickled(py: Python<'_>, bytes: &[u8]) -> PyErr {
    let raised = || py.import("broody.pool")?.getattr("_raised")?.call1((PyBytes::new(py, bytes),));
    raised().map_or_else(|error| error, PyErr::from_value)
}

/// What the text of a panic begins with that is an exception's pickle: each of its characters is a byte of that then.
const RAISED: &str = "broody raised: ";
const END: char = '\u{2029}';

/// How many bytes of a pickle fit into the text of a panic, whatever they are. An exception that is longer is told at once.
const LONGEST_RAISED: usize = 12 << 10;

/// What a task that was tried again raised at last; `None` if it is a panic of another kind.
pub(crate) fn raised_at_last(py: Python<'_>, message: &str) -> Option<PyErr> {
    let (text, _) = message.strip_prefix(RAISED)?.split_once(END)?;
    let bytes: Option<Vec<u8>> = text.chars().map(|byte| u8::try_from(byte).ok()).collect();
    Some(unpickled(py, &bytes?))
}

// The worker's side.

/// The first function of a worker.
pub(crate) fn begin(payload: Encoded) {
    let begun = Python::attach(|py| -> PyResult<Option<String>> {
        let begin = py.import("broody._worker")?.getattr("begin")?;
        let name = broody::current_process().name().to_owned();
        begin.call1((PyBytes::new(py, &payload.bytes), name))?.extract()
    });
    let failure = match begun {
        Ok(None) => return,
        Ok(Some(failure)) => failure,
        Err(error) => error.to_string(),
    };
    // The engine's word for a function that fails. Not a panic of this program: nothing is printed.
    std::panic::resume_unwind(Box::new(failure));
}

/// The last one, where a worker ends in an orderly way.
pub(crate) fn end((): ()) {
    Python::attach(|py| {
        let ended = py.import("broody._worker").and_then(|worker| worker.call_method0("end"));
        if let Err(error) = ended {
            error.print(py);
        }
    });
}

/// The function of every task.
pub(crate) fn run(task: Encoded) -> Answer {
    let manner = Manner::of(&task);
    let (answer, again) = Python::attach(|py| match perform(py, task, manner) {
        Ok(value) => (Answer { returned: true, value }, false),
        Err(error) => {
            // Ctrl-C and sys.exit are no errors.
            let again = manner.retry && error.is_instance_of::<PyException>(py);
            let value = failure(py, error, manner, again);
            let again = again && value.bytes.len() <= LONGEST_RAISED;
            (Answer { returned: false, value }, again)
        }
    });
    if again {
        let text: String = answer.value.bytes.iter().copied().map(char::from).collect();
        // Not a panic of this program: nothing is printed.
        std::panic::resume_unwind(Box::new(format!("{RAISED}{text}{END}")));
    }
    answer
}

/// How what comes of a task is told.
#[derive(Clone, Copy)]
struct Manner {
    bare: bool,
    by_value: bool,
    retry: bool,
}

impl Manner {
    fn of(task: &Encoded) -> Self {
        let kind = task.bytes.first().copied().unwrap_or(0);
        Self { bare: kind & BARE != 0, by_value: kind & BY_VALUE != 0, retry: kind & RETRY != 0 }
    }
}

/// What becomes of a task that raised: the work of Python's own, as it is rare.
fn failure(py: Python<'_>, error: PyErr, manner: Manner, short: bool) -> Encoded {
    let told = (|| -> PyResult<Encoded> {
        let failure = py.import("broody._worker")?.getattr("failure")?;
        let most = short.then_some(LONGEST_RAISED);
        let told = failure.call1((error.into_value(py), manner.bare, manner.by_value, most))?;
        Ok(Encoded::plain(told.cast_into::<PyBytes>()?.as_bytes().to_vec()))
    })();
    told.unwrap_or_else(|error| {
        error.print(py);
        Encoded::default()
    })
}

/// What a task says to be called, and with what.
enum Call<'py> {
    Once { function: Bound<'py, PyAny>, arguments: Bound<'py, PyTuple>, keywords: Option<Bound<'py, PyDict>> },
    Each { function: Bound<'py, PyAny>, star: bool, items: Bound<'py, PyAny> },
}

fn perform(py: Python<'_>, task: Encoded, manner: Manner) -> PyResult<Encoded> {
    let call = open(py, task).map_err(|error| if manner.bare { unopened(py, error) } else { error })?;
    let value = match call {
        Call::Once { function, arguments, keywords } => function.call(arguments, keywords.as_ref())?,
        // By the interpreter's own loop.
        Call::Each { function, star, items } => map(py, &function, star, &items)?.into_any(),
    };
    give(&value, manner)
}

fn open<'py>(py: Python<'py>, task: Encoded) -> PyResult<Call<'py>> {
    let (kind, rest) = task.bytes.split_first().ok_or_else(|| spoiled("it is empty"))?;
    let kind = *kind;
    let tuple = |items: Bound<'py, PyAny>| -> PyResult<_> {
        PyTuple::new(py, items.try_iter()?.collect::<PyResult<Vec<_>>>()?)
    };
    if kind & KINDS == CALL {
        let call = pickling::object_behind(py, task.into(), 1)?.cast_into::<PyTuple>()?;
        let (function, arguments, keywords) = (call.get_item(0)?, call.get_item(1)?, call.get_item(2)?);
        return Ok(Call::Once {
            function,
            arguments: tuple(arguments)?,
            keywords: Some(keywords.cast_into()?),
        });
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| spoiled("it is cut"))?;
    let length = u32::from_le_bytes(*length) as usize;
    let name = rest.get(..length).ok_or_else(|| spoiled("it is cut"))?;
    let function = if kind & NAMED != 0 { named(py, name)? } else { pickling::loads_bytes(py, name)? };
    let items = pickling::object_behind(py, task.into(), 5 + length)?;
    let star = kind & STAR != 0;
    if kind & KINDS == EACH {
        return Ok(Call::Each { function, star, items });
    }
    let arguments = if star { tuple(items)? } else { PyTuple::new(py, [items])? };
    Ok(Call::Once { function, arguments, keywords: None })
}

/// The error of a task that could not be begun.
fn unopened(py: Python<'_>, error: PyErr) -> PyErr {
    let wrap = || py.import("broody._worker")?.call_method1("unopened", (error.value(py),));
    wrap().map_or_else(|other| other, PyErr::from_value)
}

/// The message of a result.
fn give(value: &Bound<'_, PyAny>, manner: Manner) -> PyResult<Encoded> {
    let plain = pickling::encode(value, &[]);
    let plain = match plain {
        // What is a part of `__main__` here was made of what came by value.
        Err(error) if manner.by_value => by_value::message(value, Some(&error), &[])?.ok_or(error),
        plain => plain,
    };
    plain.map_err(|error| {
        if manner.bare {
            return error;
        }
        let py = value.py();
        let wrap = || py.import("broody._worker")?.call_method1("unencodable", (error.value(py), value));
        wrap().map_or_else(|other| other, PyErr::from_value)
    })
}

/// `list(map(function, items))`, or with `itertools.starmap`.
fn map<'py>(
    py: Python<'py>,
    function: &Bound<'py, PyAny>,
    star: bool,
    items: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    static MAPS: PyOnceLock<[Py<PyAny>; 2]> = PyOnceLock::new();
    let maps = MAPS.get_or_try_init(py, || {
        let plain = py.import("builtins")?.getattr("map")?.unbind();
        Ok::<_, PyErr>([plain, py.import("itertools")?.getattr("starmap")?.unbind()])
    })?;
    let mapped = maps[usize::from(star)].bind(py).call1((function, items))?;
    // In C from here to the end.
    let results = py.get_type::<PyList>().call1((mapped,))?.cast_into::<PyList>()?;
    if results.len() < items.len()? {
        // For the loop a StopIteration was the end. The exception itself is gone.
        return Err(PyRuntimeError::new_err("a task raised StopIteration"));
    }
    Ok(results)
}

/// The function that pickles as these bytes, which say where it is to be found.
fn named<'py>(py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    static KNOWN: Mutex<Option<HashMap<Vec<u8>, Py<PyAny>>>> = Mutex::new(None);
    /// So many are kept.
    const MOST: usize = 64;
    let mut known = lock(&KNOWN);
    if let Some(function) = known.as_ref().and_then(|known| known.get(name)) {
        return Ok(function.bind(py).clone());
    }
    drop(known);
    let function = pickling::loads_bytes(py, name)?;
    known = lock(&KNOWN);
    let known = known.get_or_insert_default();
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(name.to_vec(), function.clone().unbind());
    Ok(function)
}

// The host's side of imap.

/// What the caller's iterator raised, told when everything before it has been.
#[derive(Clone, Default)]
pub(crate) struct FailureOf(Arc<Mutex<Option<PyErr>>>);

impl FailureOf {
    pub(crate) fn take(&self) -> Option<PyErr> {
        lock(&self.0).take()
    }

    /// The error, if it is one that ends the program, and not of the items.
    pub(crate) fn interrupt(&self, py: Python<'_>) -> PyResult<()> {
        let mut failure = lock(&self.0);
        match failure.take_if(|error| !error.is_instance_of::<PyException>(py)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn set(&self, error: PyErr) {
        *lock(&self.0) = Some(error);
    }
}

/// Tasks, made of the caller's items as they are asked for.
pub(crate) struct Source {
    head: Encoded,
    items: Py<PyIterator>,
    size: usize,
    common: Kind,
    failure: FailureOf,
}

impl Source {
    pub(crate) fn new(
        function: &Bound<'_, PyAny>,
        star: bool,
        items: &Bound<'_, PyAny>,
        size: usize,
        common: Kind,
    ) -> PyResult<Self> {
        let (head, items) = (head(function, star, size, common)?, items.try_iter()?.unbind());
        Ok(Self { head, items, size, common, failure: FailureOf::default() })
    }

    pub(crate) fn failure(&self) -> FailureOf {
        self.failure.clone()
    }

    fn make(&self, py: Python<'_>) -> PyResult<Option<Encoded>> {
        chunk(&self.head, &mut self.items.bind(py).clone(), self.size, self.common)
    }
}

impl Iterator for Source {
    type Item = Encoded;

    fn next(&mut self) -> Option<Encoded> {
        let made = Python::attach(|py| self.make(py));
        made.unwrap_or_else(|error| {
            self.failure.set(error);
            None
        })
    }
}
