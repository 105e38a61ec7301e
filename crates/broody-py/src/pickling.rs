//! Objects as messages, and back.
//!
//! A message begins with a byte that says what follows: a few kinds of objects as they are, and Python's pickle for the rest. Picklers are kept, since to
//! make one costs more than to use it. Long buffers go beside the pickle (PEP 574), in memory of their own that whoever gets the message maps.

use std::sync::Mutex;

use broody::embed::{self, Buffer, Encoded, OwnBuffer, Received};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyType,
};
use pyo3::{IntoPyObjectExt, ffi};

use crate::errors::raised;

const PICKLE: u8 = 0;
const BYTES: u8 = 1;
const STR: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const NONE: u8 = 5;
const BOOL: u8 = 6;
/// Followed by a handle on a buffer.
const LONG_BYTES: u8 = 7;
const LONG_BYTEARRAY: u8 = 8;
/// Followed by a number of handles on buffers, each after its length, and the pickle, in which there may be handles, too.
const PICKLE_AND_BUFFERS: u8 = 9;

/// A list of numbers of one kind, eight bytes each.
const INTS: u8 = 10;
const FLOATS: u8 = 11;

/// A pickle in which there are handles.
const PICKLE_OF_SHARED: u8 = 12;

/// From so many items on a list is looked at for whether it is one of numbers.
const MANY: usize = 16;

/// From so many bytes on a buffer goes beside its message.
const LONG: usize = 48 * 1024;

/// Messages of so few bytes are made on the stack.
const SHORT: usize = 2048;

/// A pickler's memory that has grown larger than this is not kept.
const KEPT: usize = 256 * 1024;

/// An object as a message.
pub(crate) enum Message<'a> {
    /// All of it.
    Plain(&'a [u8]),
    /// With objects in shared memory.
    Encoded(&'a Encoded),
}

/// Calls `put` with the message that `object` is.
pub(crate) fn with_message<R>(
    object: &Bound<'_, PyAny>,
    put: impl FnOnce(Message<'_>) -> PyResult<R>,
) -> Result<PyResult<R>, PyErr> {
    if let Ok(bytes) = object.cast_exact::<PyBytes>() {
        let bytes = bytes.as_bytes();
        if bytes.len() >= LONG {
            return long(object.py(), LONG_BYTES, bytes).map(|message| put(Message::Encoded(&message)));
        }
        return Ok(tagged(BYTES, bytes, put));
    }
    if let Ok(number) = object.cast_exact::<PyInt>() {
        if let Ok(number) = number.extract::<i64>() {
            return Ok(tagged(INT, &number.to_ne_bytes(), put));
        }
    } else if let Ok(string) = object.cast_exact::<PyString>() {
        if let Ok(string) = string.to_str()
            && string.len() < LONG
        {
            return Ok(tagged(STR, string.as_bytes(), put));
        }
    } else if object.is_none() {
        return Ok(put(Message::Plain(&[NONE])));
    } else if let Ok(number) = object.cast_exact::<PyFloat>() {
        return Ok(tagged(FLOAT, &number.value().to_ne_bytes(), put));
    } else if let Ok(truth) = object.cast_exact::<PyBool>() {
        return Ok(put(Message::Plain(&[BOOL, truth.is_true().into()])));
    } else if let Ok(bytes) = object.cast_exact::<PyByteArray>()
        && bytes.len() >= LONG
    {
        // SAFETY: copied before anything else of Python runs.
        let made = Encoded::new(|| long_message(LONG_BYTEARRAY, unsafe { bytes.as_bytes() }));
        return made.map(|message| put(Message::Encoded(&message)));
    }
    if let Ok(list) = object.cast_exact::<PyList>()
        && list.len() >= MANY
        && let Some(message) = numbers(list)
    {
        return Ok(put(Message::Plain(&message)));
    }
    pickled(object, put)
}

/// The message of a list of ints or of floats.
fn numbers(list: &Bound<'_, PyList>) -> Option<Vec<u8>> {
    let first = list.get_item(0).ok()?;
    let mut message = Vec::with_capacity(1 + 8 * list.len());
    if first.is_exact_instance_of::<PyInt>() {
        message.push(INTS);
        for item in list {
            if !item.is_exact_instance_of::<PyInt>() {
                return None;
            }
            // SAFETY: it is an int, and this thread has the GIL.
            let number = unsafe { ffi::PyLong_AsLongLong(item.as_ptr()) };
            if number == -1 && PyErr::take(list.py()).is_some() {
                return None;
            }
            message.extend_from_slice(&number.to_ne_bytes());
        }
    } else if first.is_exact_instance_of::<PyFloat>() {
        message.push(FLOATS);
        for item in list {
            message.extend_from_slice(&item.cast_exact::<PyFloat>().ok()?.value().to_ne_bytes());
        }
    } else {
        return None;
    }
    Some(message)
}

/// The list of such a message.
fn listed<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    bytes: &[u8],
    number: impl Fn([u8; 8]) -> T,
) -> PyResult<Bound<'py, PyAny>> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(damaged("it is cut"));
    }
    Ok(PyList::new(py, numbers.iter().map(|bytes| number(*bytes)))?.into_any())
}

/// The message that a pickle is, behind other bytes. `shared`: the objects in it.
pub(crate) fn of_pickle(prefix: &[u8], pickle: &[u8], mut shared: Encoded) -> Encoded {
    let kind = if shared.has_objects() { PICKLE_OF_SHARED } else { PICKLE };
    shared.bytes = [prefix, &[kind], pickle].concat();
    shared
}

/// `object` as a message, behind other bytes.
pub(crate) fn encode(object: &Bound<'_, PyAny>, prefix: &[u8]) -> PyResult<Encoded> {
    with_message(object, |message| {
        Ok(match message {
            Message::Plain(bytes) => Encoded::plain([prefix, bytes].concat()),
            Message::Encoded(encoded) => encoded.behind(prefix),
        })
    })
    .flatten()
}

#[inline]
fn tagged<R>(kind: u8, bytes: &[u8], put: impl FnOnce(Message<'_>) -> R) -> R {
    if bytes.len() < SHORT {
        let mut place = [const { std::mem::MaybeUninit::<u8>::uninit() }; SHORT];
        place[0].write(kind);
        place[1..=bytes.len()].write_copy_of_slice(bytes);
        // SAFETY: so many were written.
        put(Message::Plain(unsafe { place[..=bytes.len()].assume_init_ref() }))
    } else {
        let mut message = Vec::with_capacity(1 + bytes.len());
        message.push(kind);
        message.extend_from_slice(bytes);
        put(Message::Plain(&message))
    }
}

/// The message of one long buffer that does not change. Copied without the GIL.
fn long(py: Python<'_>, kind: u8, bytes: &[u8]) -> PyResult<Encoded> {
    py.detach(|| Encoded::new(|| long_message(kind, bytes)))
}

fn long_message(kind: u8, bytes: &[u8]) -> PyResult<Vec<u8>> {
    let mut message = vec![kind];
    let buffer = Buffer::new(bytes).map_err(raised)?;
    message.extend(embed::encode_handle(&buffer).map_err(raised)?);
    Ok(message)
}

/// What a pickler writes to, and what it puts beside the pickle.
#[pyclass(frozen)]
pub(crate) struct Sink(Mutex<Written>);

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    buffers: Vec<PyBuffer<u8>>,
    /// Nothing goes beside the pickle.
    in_band: bool,
}

impl Sink {
    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[pymethods]
impl Sink {
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            let kept = &mut self.written().bytes;
            kept.try_reserve(bytes.as_bytes().len()).map_err(|_| PyMemoryError::new_err(()))?;
            kept.extend_from_slice(bytes.as_bytes());
            return Ok(());
        }
        let data = PyBuffer::<u8>::get(data)?;
        let mut written = self.written();
        let start = written.bytes.len();
        written.bytes.try_reserve(data.len_bytes()).map_err(|_| PyMemoryError::new_err(()))?;
        written.bytes.resize(start + data.len_bytes(), 0);
        data.copy_to_slice(py, &mut written.bytes[start..])
    }

    /// Keeps a long buffer for beside the pickle. Whether the pickler shall write it into the pickle.
    fn beside(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        if self.written().in_band {
            return Ok(true);
        }
        // Contiguous, in whatever order, or an error that the pickler gives, too.
        let Ok(raw) = buffer.call_method0("raw") else { return Ok(true) };
        let raw = PyBuffer::<u8>::get(&raw)?;
        if raw.len_bytes() < LONG {
            return Ok(true);
        }
        self.written().buffers.push(raw);
        Ok(false)
    }
}

/// The pickler that the program has put in the place of `ForkingPickler`, if it has.
fn programs_own(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static OURS: PyOnceLock<[Py<PyAny>; 2]> = PyOnceLock::new();
    let [context, ours] = OURS.get_or_try_init(py, || -> PyResult<_> {
        let ours = py.import("broody.reduction")?.getattr("_ForkingPickler")?;
        Ok([py.import("broody.context")?.into_any().unbind(), ours.unbind()])
    })?;
    let current =
        context.bind(py).getattr(intern!(py, "reduction"))?.getattr(intern!(py, "ForkingPickler"))?;
    Ok((!current.is(ours)).then_some(current))
}

/// A pickler of C's that is used again and again.
struct Pickler {
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
    sink: Py<Sink>,
    /// Of which registered reducers it knows.
    known: (usize, usize, u64),
}

/// Those that nobody uses. Locked with the GIL held, and no code of Python's runs meanwhile.
static FREE: Mutex<Vec<Pickler>> = Mutex::new(Vec::new());

fn free_picklers() -> std::sync::MutexGuard<'static, Vec<Pickler>> {
    FREE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The reducers that are registered: with `copyreg`, with `ForkingPickler`, and how often with the latter.
struct Registered<'py> {
    everywhere: &'py Bound<'py, PyDict>,
    ours: &'py Bound<'py, PyDict>,
}

impl<'py> Registered<'py> {
    fn find(py: Python<'py>) -> PyResult<Self> {
        static EVERYWHERE: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
        static OURS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
        let everywhere = EVERYWHERE.get_or_try_init(py, || -> PyResult<_> {
            Ok(py.import("copyreg")?.getattr("dispatch_table")?.cast_into()?.unbind())
        })?;
        let ours = OURS.get_or_try_init(py, || -> PyResult<_> {
            let pickler = py.import("broody.reduction")?.getattr("ForkingPickler")?;
            Ok(pickler.getattr("_extra_reducers")?.cast_into()?.unbind())
        })?;
        Ok(Self { everywhere: everywhere.bind(py), ours: ours.bind(py) })
    }

    fn state(&self) -> (usize, usize, u64) {
        (self.everywhere.len(), self.ours.len(), REGISTRATIONS.load(std::sync::atomic::Ordering::Relaxed))
    }
}

static REGISTRATIONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// A reducer was registered with `ForkingPickler`: picklers that were made before do not know it.
#[pyfunction]
pub(crate) fn forget_picklers() {
    REGISTRATIONS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

/// Whether what is being pickled in this thread goes where objects in shared memory can go with it.
#[pyfunction]
pub(crate) fn takes_handles() -> bool {
    embed::takes_handles()
}

impl Pickler {
    /// One that nobody uses.
    fn take(py: Python<'_>) -> PyResult<Self> {
        let registered = Registered::find(py)?;
        let known = registered.state();
        let free = free_picklers().pop();
        match free {
            Some(pickler) if pickler.known == known => Ok(pickler),
            _ => Self::make(py, &registered),
        }
    }

    fn make(py: Python<'_>, registered: &Registered<'_>) -> PyResult<Self> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let sink = Bound::new(py, Sink(Mutex::default()))?;
        let options = PyDict::new(py);
        options.set_item("buffer_callback", sink.getattr("beside")?)?;
        let pickler = CLASS.import(py, "_pickle", "Pickler")?.call((&sink, 5), Some(&options))?;
        let known = registered.state();
        let table = registered.everywhere.copy()?;
        table.update(registered.ours.as_mapping())?;
        pickler.setattr("dispatch_table", table)?;
        Ok(Self {
            dump: pickler.getattr("dump")?.unbind(),
            clear_memo: pickler.getattr("clear_memo")?.unbind(),
            sink: sink.unbind(),
            known,
        })
    }

    /// Nobody uses it any more.
    fn put_back(self, py: Python<'_>) {
        {
            let mut written = self.sink.get().written();
            if written.bytes.capacity() > KEPT {
                written.bytes = Vec::new();
            }
        }
        if self.clear_memo.bind(py).call0().is_ok() {
            free_picklers().push(self);
        }
    }
}

fn pickled<R>(
    object: &Bound<'_, PyAny>,
    put: impl FnOnce(Message<'_>) -> PyResult<R>,
) -> Result<PyResult<R>, PyErr> {
    let py = object.py();
    if let Some(theirs) = programs_own(py)? {
        let (pickle, shared) = Encoded::collect(|| theirs.call_method1("dumps", (object,)));
        let pickle = PyBuffer::<u8>::get(&pickle?)?.to_vec(py)?;
        let message = of_pickle(&[], &pickle, shared);
        return Ok(put(Message::Encoded(&message)));
    }
    let pickler = Pickler::take(py)?;
    {
        let mut written = pickler.sink.get().written();
        written.bytes.clear();
        written.bytes.push(PICKLE);
        written.in_band = false;
    }
    // One that fails is not used again.
    let (dumped, mut shared) = Encoded::collect(|| pickler.dump.bind(py).call1((object,)));
    dumped?;
    // Taken out: whoever puts may let others have the GIL.
    let Written { mut bytes, buffers, .. } = std::mem::take(&mut *pickler.sink.get().written());
    let result = if !buffers.is_empty() {
        with_buffers(py, &bytes, &buffers, &shared).map(|message| put(Message::Encoded(&message)))
    } else if shared.has_objects() {
        bytes[0] = PICKLE_OF_SHARED;
        shared.bytes = std::mem::take(&mut bytes);
        Ok(put(Message::Encoded(&shared)))
    } else {
        Ok(put(Message::Plain(&bytes)))
    };
    pickler.sink.get().written().bytes = bytes;
    drop(buffers);
    pickler.put_back(py);
    result
}

/// Appends the pickle of an object to `bytes`, with all that belongs to it: whoever gets it need not be of this program.
pub(crate) fn append_pickle(object: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> PyResult<()> {
    let py = object.py();
    if let Some(theirs) = programs_own(py)? {
        let pickle = theirs.call_method1("dumps", (object,))?;
        bytes.append(&mut PyBuffer::<u8>::get(&pickle)?.to_vec(py)?);
        return Ok(());
    }
    let pickler = Pickler::take(py)?;
    let sink = pickler.sink.get();
    *sink.written() = Written { bytes: std::mem::take(bytes), buffers: Vec::new(), in_band: true };
    let done = pickler.dump.bind(py).call1((object,));
    *bytes = std::mem::take(&mut sink.written().bytes);
    done?;
    pickler.put_back(py);
    Ok(())
}

/// The message of a pickle, with the objects in it, and buffers beside it.
fn with_buffers(
    py: Python<'_>,
    bytes: &[u8],
    buffers: &[PyBuffer<u8>],
    shared: &Encoded,
) -> PyResult<Encoded> {
    let copied = buffers.iter().map(|buffer| {
        // SAFETY: contiguous (it was asked for by PickleBuffer.raw), and kept as long as the PyBuffer is. Whoever changes it meanwhile gets a mixture, as
        // with any pickle of an object that changes.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) };
        py.detach(|| Buffer::new(bytes)).map_err(raised)
    });
    let copied: Vec<_> = copied.collect::<PyResult<_>>()?;
    Encoded::new(|| {
        shared.join_others().map_err(raised)?;
        let mut message = vec![PICKLE_AND_BUFFERS];
        message.extend((copied.len() as u32).to_ne_bytes());
        for buffer in &copied {
            let handle = embed::encode_handle(buffer).map_err(raised)?;
            message.extend((handle.len() as u32).to_ne_bytes());
            message.extend(handle);
        }
        message.extend_from_slice(&bytes[1..]);
        Ok(message)
    })
}

/// What can be made of a short message while it still is in the queue: nothing of Python's runs meanwhile.
pub(crate) enum Short<'py> {
    Made(Bound<'py, PyAny>),
    /// To be unpickled.
    Pickle(Bound<'py, PyBytes>),
    Failed(PyErr),
}

impl<'py> Short<'py> {
    /// The object.
    pub(crate) fn finish(self) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Short::Made(object) => Ok(object),
            Short::Pickle(bytes) => loads(bytes.py(), bytes.as_any()),
            Short::Failed(error) => Err(error),
        }
    }
}

/// A message as an object, as far as that is done without code of Python's. `None` for one that takes more.
#[inline]
pub(crate) fn short<'py>(py: Python<'py>, message: &[u8]) -> Option<Short<'py>> {
    let (kind, rest) = message.split_first()?;
    let made = match *kind {
        PICKLE => return Some(Short::Pickle(PyBytes::new(py, rest))),
        BYTES => Ok(PyBytes::new(py, rest).into_any()),
        STR => std::str::from_utf8(rest).map(|string| PyString::new(py, string).into_any()).map_err(damaged),
        INT => rest
            .try_into()
            .map_err(damaged)
            .and_then(|number| i64::from_ne_bytes(number).into_bound_py_any(py)),
        FLOAT => rest
            .try_into()
            .map_err(damaged)
            .and_then(|number| f64::from_ne_bytes(number).into_bound_py_any(py)),
        NONE => Ok(py.None().into_bound(py)),
        INTS => listed(py, rest, i64::from_ne_bytes),
        FLOATS => listed(py, rest, f64::from_ne_bytes),
        BOOL => (rest == [1]).into_bound_py_any(py),
        _ => return None,
    };
    Some(made.map_or_else(Short::Failed, Short::Made))
}

fn damaged(error: impl std::fmt::Display) -> PyErr {
    PyRuntimeError::new_err(format!("a message was overwritten in shared memory: {error}"))
}

/// A message as an object.
pub(crate) fn object(py: Python<'_>, message: Received) -> PyResult<Bound<'_, PyAny>> {
    object_behind(py, message, 0)
}

/// As [`object`], of a message behind so many other bytes.
pub(crate) fn object_behind(py: Python<'_>, message: Received, start: usize) -> PyResult<Bound<'_, PyAny>> {
    let bytes = message.get(start..).ok_or_else(|| damaged("it is cut"))?;
    if bytes.len() < LONG
        && let Some(short) = short(py, bytes)
    {
        return short.finish();
    }
    let (kind, rest) = bytes.split_first().ok_or_else(|| damaged("it is empty"))?;
    match *kind {
        LONG_BYTES => {
            let buffer: Buffer = embed::decode_handle(rest).map_err(raised)?;
            Ok(PyBytes::new(py, &buffer).into_any())
        }
        LONG_BYTEARRAY => {
            let buffer: Buffer = embed::decode_handle(rest).map_err(raised)?;
            Ok(PyByteArray::new(py, &buffer).into_any())
        }
        PICKLE_AND_BUFFERS => {
            let (buffers, length) = buffers(py, bytes)?;
            let pickle = PyBytes::new(py, &bytes[length..]);
            static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let options = PyDict::new(py);
            options.set_item("buffers", buffers)?;
            LOADS.import(py, "_pickle", "loads")?.call((pickle,), Some(&options))
        }
        PICKLE | PICKLE_OF_SHARED => {
            let view = Bound::new(py, Bytes { message, start: start + 1 })?;
            loads(py, PyMemoryView::from(view.as_any())?.as_any())
        }
        _ => short(py, bytes).ok_or_else(|| damaged("it is of no kind"))?.finish(),
    }
}

/// The buffers of a message, and where the pickle begins.
fn buffers<'py>(py: Python<'py>, message: &[u8]) -> PyResult<(Bound<'py, PyList>, usize)> {
    let part = |start: usize, length: usize| {
        start
            .checked_add(length)
            .and_then(|end| message.get(start..end))
            .ok_or_else(|| damaged("it is too short"))
    };
    let number = |at| part(at, 4)?.try_into().map(u32::from_ne_bytes).map_err(damaged);
    let list = PyList::empty(py);
    let mut start = 5;
    for _ in 0..number(1)? {
        let length = number(start)? as usize;
        let handle = part(start + 4, length)?;
        start += 4 + length;
        let buffer: Buffer = embed::decode_handle(handle).map_err(raised)?;
        match buffer.own().map_err(raised)? {
            Some(own) => list.append(PyMemoryView::from(Bound::new(py, Own(own))?.as_any())?)?,
            None => list.append(PyByteArray::new(py, &buffer))?,
        }
    }
    Ok((list, start))
}

/// The pickle of an object, with all that belongs to it.
pub(crate) fn dumps(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let py = object.py();
    let reduction = py.import("broody.context")?.getattr(intern!(py, "reduction"))?;
    let pickle = reduction.getattr(intern!(py, "ForkingPickler"))?.call_method1("dumps", (object,))?;
    PyBuffer::<u8>::get(&pickle)?.to_vec(py)
}

/// The object of a pickle.
pub(crate) fn loads_bytes<'py>(py: Python<'py>, pickle: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    loads(py, PyBytes::new(py, pickle).as_any())
}

/// As [`loads_bytes`], of a pickle that begins somewhere in `bytes`, and is not copied. Gives the memory back, if the object does not use it.
pub(crate) fn loads_owned(
    py: Python<'_>,
    bytes: Vec<u8>,
    start: usize,
) -> PyResult<(Bound<'_, PyAny>, Vec<u8>)> {
    let lent = Bound::new(py, Lent { bytes: Mutex::new(bytes), start })?;
    let view = PyMemoryView::from(lent.as_any())?;
    let object = loads(py, view.as_any())?;
    // It fails as long as somebody looks at the bytes.
    let is_back = view.call_method0(intern!(py, "release")).is_ok();
    let bytes = if is_back { std::mem::take(&mut *lent.get().bytes()) } else { Vec::new() };
    Ok((object, bytes))
}

fn loads<'py>(py: Python<'py>, bytes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "_pickle", "loads")?.call1((bytes,))
}

/// Lends the bytes of a message.
#[pyclass(frozen)]
struct Bytes {
    message: Received,
    start: usize,
}

/// Lends bytes of this process.
#[pyclass(frozen)]
struct Lent {
    /// Changed by nobody but who has made it, when nobody has a view any more.
    bytes: Mutex<Vec<u8>>,
    start: usize,
}

impl Lent {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[pymethods]
impl Lent {
    /// # Safety
    /// `view` is as the interpreter gives it.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let (start, length) = {
            let bytes = slf.get().bytes();
            let bytes = bytes.get(slf.get().start..).unwrap_or_default();
            (bytes.as_ptr().cast_mut(), bytes.len())
        };
        // SAFETY: the bytes live as long as the object, which the view keeps; nobody writes to them.
        unsafe { lend(slf.as_any(), view, start, length, true, flags) }
    }
}

/// Lends bytes that whoever gets them may change.
#[pyclass(frozen)]
struct Own(OwnBuffer);

#[pymethods]
impl Bytes {
    /// # Safety
    /// `view` is as the interpreter gives it.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let bytes = &slf.get().message[slf.get().start..];
        let (start, length) = (bytes.as_ptr().cast_mut(), bytes.len());
        // SAFETY: the bytes live as long as the object, which the view keeps; nobody writes to them.
        unsafe { lend(slf.as_any(), view, start, length, true, flags) }
    }
}

#[pymethods]
impl Own {
    /// # Safety
    /// `view` is as the interpreter gives it.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let (start, length) = (slf.get().0.as_ptr().as_ptr(), slf.get().0.len());
        // SAFETY: the bytes live as long as the object, which the view keeps, and only it lends them.
        unsafe { lend(slf.as_any(), view, start, length, false, flags) }
    }
}

/// Fills in a view.
///
/// # Safety
/// `view` is the interpreter's; the bytes live as long as `owner`, and are only read where they are `read_only`.
pub(crate) unsafe fn lend(
    owner: &Bound<'_, PyAny>,
    view: *mut ffi::Py_buffer,
    start: *mut u8,
    length: usize,
    read_only: bool,
    flags: std::ffi::c_int,
) -> PyResult<()> {
    if view.is_null() {
        return Err(PyBufferError::new_err("there is no view to fill in"));
    }
    let length = length as ffi::Py_ssize_t;
    // SAFETY: the caller's.
    let filled = unsafe {
        ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start.cast(), length, read_only.into(), flags)
    };
    if filled == 0 { Ok(()) } else { Err(PyErr::fetch(owner.py())) }
}
