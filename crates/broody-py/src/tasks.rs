//! What a pool's tasks and answers are made of, on both sides.
//!
//! A task is a chunk of Python's: a call, or a function and the items that it is called with one after the other. The function comes first, pickled by
//! itself, so that a worker that has seen the same bytes before need not look it up again; only functions that pickle as a mere name are kept so.
//!
//! ```text
//! CALL             the pickle of (function, arguments, keywords)
//! EACH, ONE        length of the function's bytes (4, little endian), the function's bytes, the pickle of a list of items, or one value
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use broody::embed::Encoded;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyBytes, PyCFunction, PyFloat, PyFunction, PyInt, PyIterator, PyList, PyString, PyTuple, PyType,
};
use serde::{Deserialize, Serialize};

const CALL: u8 = 0;
const EACH: u8 = 1;
const ONE: u8 = 2;
/// Beside EACH or ONE: an item is a tuple of arguments.
const STAR: u8 = 0x10;
/// Beside EACH or ONE: the function is a name.
const NAMED: u8 = 0x20;

/// The longest name of a function that is kept, in bytes.
const LONGEST_NAME: usize = 512;

/// Makes tasks of Python objects.
pub(crate) struct Maker<'py> {
    py: Python<'py>,
    dumps: Bound<'py, PyAny>,
}

impl<'py> Maker<'py> {
    pub(crate) fn new(py: Python<'py>) -> PyResult<Self> {
        // Asked for each time: programs put their own pickler in its place.
        let reduction = py.import("broody.context")?.getattr("reduction")?;
        Ok(Self { py, dumps: reduction.getattr("ForkingPickler")?.getattr("dumps")? })
    }

    /// A task that is one call.
    pub(crate) fn call(
        &self,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyAny>,
        keywords: &Bound<'py, PyAny>,
    ) -> PyResult<Encoded> {
        Encoded::new(|| {
            let mut bytes = vec![CALL];
            self.dump(PyTuple::new(self.py, [function, arguments, keywords])?.as_any(), &mut bytes)?;
            Ok(bytes)
        })
    }

    /// What tasks of `function` begin with, of so many items each.
    pub(crate) fn head(&self, function: &Bound<'py, PyAny>, star: bool, size: usize) -> PyResult<Vec<u8>> {
        let mut pickled = Vec::new();
        self.dump(function, &mut pickled)?;
        let kind = if size == 1 { ONE } else { EACH } | if star { STAR } else { 0 };
        let kind = if is_name(function, &pickled) { kind | NAMED } else { kind };
        let mut head = vec![kind];
        head.extend((pickled.len() as u32).to_le_bytes());
        head.extend(pickled);
        Ok(head)
    }

    /// A task of the next `size` items, if there are any.
    pub(crate) fn chunk(
        &self,
        head: &[u8],
        items: &mut Bound<'py, PyIterator>,
        size: usize,
    ) -> PyResult<Option<Encoded>> {
        let Some(first) = items.next().transpose()? else { return Ok(None) };
        let task = Encoded::new(|| {
            let mut bytes = Vec::with_capacity(head.len() + 16);
            bytes.extend_from_slice(head);
            if size == 1 {
                self.value(&first, &mut bytes)?;
            } else {
                let chunk = PyList::new(self.py, [&first])?;
                for item in items.take(size - 1) {
                    chunk.append(item?)?;
                }
                self.dump(&chunk, &mut bytes)?;
            }
            Ok::<_, PyErr>(bytes)
        })?;
        Ok(Some(task))
    }

    /// Appends the pickle of `object`.
    fn dump(&self, object: &Bound<'py, PyAny>, bytes: &mut Vec<u8>) -> PyResult<()> {
        let pickled = self.dumps.call1((object,))?;
        append(&pickled, bytes)
    }

    /// Appends one value: in a short form if it is simple.
    fn value(&self, value: &Bound<'py, PyAny>, bytes: &mut Vec<u8>) -> PyResult<()> {
        if simple(value, bytes) { Ok(()) } else { self.dump(value, bytes) }
    }
}

/// Appends what is in a bytes-like object.
fn append(pickled: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> PyResult<()> {
    if let Ok(pickled) = pickled.cast::<PyBytes>() {
        bytes.extend_from_slice(pickled.as_bytes());
    } else {
        let buffer = pyo3::buffer::PyBuffer::<u8>::get(pickled)?;
        let start = bytes.len();
        bytes.resize(start + buffer.len_bytes(), 0);
        buffer.copy_to_slice(pickled.py(), &mut bytes[start..])?;
    }
    Ok(())
}

/// Whether a function's pickle says only where it is to be found.
fn is_name(function: &Bound<'_, PyAny>, pickled: &[u8]) -> bool {
    let is_plain = function.is_exact_instance_of::<PyFunction>()
        || function.is_exact_instance_of::<PyCFunction>()
        || function.is_exact_instance_of::<PyType>();
    // STACK_GLOBAL, MEMOIZE, STOP.
    is_plain && pickled.len() <= LONGEST_NAME && pickled.ends_with(&[0x93, 0x94, b'.'])
}

// Simple values. A pickle begins with 0x80.

const NONE: u8 = b'n';
const TRUE: u8 = b't';
const FALSE: u8 = b'f';
const INT: u8 = b'i';
const FLOAT: u8 = b'd';
const TEXT: u8 = b's';
const BYTES: u8 = b'b';

/// Appends the short form of `value`, if it has one.
fn simple(value: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> bool {
    if value.is_exact_instance_of::<PyInt>() {
        let Ok(number) = value.extract::<i64>() else { return false };
        bytes.push(INT);
        bytes.extend(number.to_le_bytes());
    } else if value.is_none() {
        bytes.push(NONE);
    } else if value.is_exact_instance_of::<PyFloat>() {
        let Ok(number) = value.extract::<f64>() else { return false };
        bytes.push(FLOAT);
        bytes.extend(number.to_le_bytes());
    } else if let Ok(text) = value.cast_exact::<PyString>() {
        // One with lone surrogates has no such form.
        let Ok(text) = text.to_cow() else { return false };
        bytes.push(TEXT);
        bytes.extend_from_slice(text.as_bytes());
    } else if let Ok(content) = value.cast_exact::<PyBytes>() {
        bytes.push(BYTES);
        bytes.extend_from_slice(content.as_bytes());
    } else if let Ok(truth) = value.cast_exact::<PyBool>() {
        bytes.push(if truth.is_true() { TRUE } else { FALSE });
    } else {
        return false;
    }
    true
}

/// The value that was encoded by [`Maker::value`].
fn load<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let (kind, rest) = bytes.split_first().ok_or_else(|| spoiled("it is empty"))?;
    let eight = || <[u8; 8]>::try_from(rest).map_err(|_| spoiled("a number has 8 bytes"));
    Ok(match *kind {
        NONE => py.None().into_bound(py),
        TRUE => true.into_pyobject(py)?.to_owned().into_any(),
        FALSE => false.into_pyobject(py)?.to_owned().into_any(),
        INT => i64::from_le_bytes(eight()?).into_pyobject(py)?.into_any(),
        FLOAT => f64::from_le_bytes(eight()?).into_pyobject(py)?.into_any(),
        TEXT => {
            PyString::new(py, std::str::from_utf8(rest).map_err(|_| spoiled("text is UTF-8"))?).into_any()
        }
        BYTES => PyBytes::new(py, rest).into_any(),
        _ => loads(py, bytes)?,
    })
}

/// Unpickles.
fn loads<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let loads = LOADS
        .get_or_try_init(py, || Ok::<_, PyErr>(py.import("pickle")?.getattr("loads")?.unbind()))?
        .bind(py);
    loads.call1((PyBytes::new(py, bytes),))
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
    pub(crate) fn open<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.returned {
            return load(py, &self.value.bytes);
        }
        let raised = py.import("broody.pool")?.getattr("_raised")?;
        let error = raised.call1((PyBytes::new(py, &self.value.bytes),))?;
        Err(PyErr::from_value(error))
    }
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
    Python::attach(|py| {
        let value = Encoded::new(|| perform(py, &task.bytes));
        match value {
            Ok(value) => Answer { returned: true, value },
            Err(error) => Answer { returned: false, value: failure(py, error) },
        }
    })
}

/// What becomes of a task that raised: the work of Python's own, as it is rare.
fn failure(py: Python<'_>, error: PyErr) -> Encoded {
    let told = (|| -> PyResult<Encoded> {
        let failure = py.import("broody._worker")?.getattr("failure")?;
        Encoded::new(|| {
            Ok(failure.call1((error.into_value(py),))?.cast_into::<PyBytes>()?.as_bytes().to_vec())
        })
    })();
    told.unwrap_or_else(|error| {
        error.print(py);
        Encoded::default()
    })
}

fn perform<'py>(py: Python<'py>, task: &[u8]) -> PyResult<Vec<u8>> {
    let (kind, rest) = task.split_first().ok_or_else(|| spoiled("it is empty"))?;
    let maker = Maker::new(py)?;
    if *kind == CALL {
        let call = loads(py, rest)?.cast_into::<PyTuple>()?;
        let (function, arguments, keywords) = (call.get_item(0)?, call.get_item(1)?, call.get_item(2)?);
        let arguments = arguments.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        let arguments = PyTuple::new(py, arguments)?;
        let value = function.call(arguments, Some(keywords.cast()?))?;
        drop((call, function, keywords));
        return give(&maker, &value, false);
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| spoiled("it is cut"))?;
    let (name, items) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(|| spoiled("it is cut"))?;
    let function = if kind & NAMED != 0 { named(py, name)? } else { loads(py, name)? };
    if kind & ONE == 0 {
        // By the interpreter's own loop.
        let results = map(py, &function, kind & STAR != 0, &loads(py, items)?)?;
        return give(&maker, results.as_any(), false);
    }
    let call = |item: Bound<'py, PyAny>| -> PyResult<Bound<'py, PyAny>> {
        if kind & STAR == 0 {
            return function.call1((item,));
        }
        let arguments = item.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        function.call1(PyTuple::new(py, arguments)?)
    };
    give(&maker, &call(load(py, items)?)?, true)
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
    Ok(py.get_type::<PyList>().call1((mapped,))?.cast_into()?)
}

/// The bytes of a result, in which nothing is kept of the task.
fn give(maker: &Maker<'_>, value: &Bound<'_, PyAny>, may_be_simple: bool) -> PyResult<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoded = if may_be_simple || !value.is_exact_instance_of::<PyList>() {
        maker.value(value, &mut bytes)
    } else {
        maker.dump(value, &mut bytes)
    };
    match encoded {
        Ok(()) => Ok(bytes),
        Err(error) => {
            let py = maker.py;
            let wrap = py.import("broody._worker")?.getattr("unencodable")?;
            Err(PyErr::from_value(wrap.call1((error.value(py), value))?))
        }
    }
}

/// The function that pickles as these bytes, which say where it is to be found.
fn named<'py>(py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    static KNOWN: Mutex<Option<HashMap<Vec<u8>, Py<PyAny>>>> = Mutex::new(None);
    /// So many are kept.
    const MOST: usize = 64;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(function) = known.as_ref().and_then(|known| known.get(name)) {
        return Ok(function.bind(py).clone());
    }
    drop(known);
    let function = loads(py, name)?;
    known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, error: PyErr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Tasks, made of the caller's items as they are asked for.
pub(crate) struct Source {
    dumps: Py<PyAny>,
    head: Vec<u8>,
    items: Py<PyIterator>,
    size: usize,
    failure: FailureOf,
}

impl Source {
    pub(crate) fn new(
        function: &Bound<'_, PyAny>,
        star: bool,
        items: &Bound<'_, PyAny>,
        size: usize,
    ) -> PyResult<Self> {
        let maker = Maker::new(items.py())?;
        let head = maker.head(function, star, size)?;
        let (dumps, items) = (maker.dumps.unbind(), items.try_iter()?.unbind());
        Ok(Self { dumps, head, items, size, failure: FailureOf::default() })
    }

    pub(crate) fn failure(&self) -> FailureOf {
        self.failure.clone()
    }

    fn make(&self, py: Python<'_>) -> PyResult<Option<Encoded>> {
        let maker = Maker { py, dumps: self.dumps.bind(py).clone() };
        maker.chunk(&self.head, &mut self.items.bind(py).clone(), self.size)
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
