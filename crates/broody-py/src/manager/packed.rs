//! Calls and answers of which all objects are plain: shorter than a pickle, and made without one.
//!
//! Between two processes of broody's only, on the same machine or not. A message of this kind begins with a byte with which no pickle begins
//! (from protocol 2 on) and no XML. Everything else is pickled, as the standard module does it: arguments whose identity counts, for example.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, ffi};

const CALL: u8 = 1;
const RETURN: u8 = 2;
/// A request for a mailbox, and the answer to it that has one with it.
pub(super) const MAILBOX: u8 = 3;
pub(super) const NO_MAILBOX: u8 = 4;

const NONE: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const STR: u8 = 5;
const BYTES: u8 = 6;

/// Longer strings are pickled.
const LONGEST: usize = 4096;

/// A call.
pub(super) struct Call<'a, 'py> {
    pub(super) ident: u64,
    pub(super) name: &'a str,
    pub(super) args: Bound<'py, PyTuple>,
}

/// Appends a call to `bytes`. Whether it can be packed.
pub(super) fn pack_call(ident: &str, name: &str, args: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> bool {
    let (Ok(ident), Ok(args)) = (u64::from_str_radix(ident, 16), args.cast_exact::<PyTuple>()) else {
        return false;
    };
    let (Ok(length), Ok(count)) = (u8::try_from(name.len()), u8::try_from(args.len())) else { return false };
    bytes.push(CALL);
    bytes.extend(ident.to_le_bytes());
    bytes.push(length);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(count);
    args.iter_borrowed().all(|object| pack(&object, bytes))
}

/// Appends what a call has given. Whether it can be packed.
pub(super) fn pack_return(object: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> bool {
    bytes.push(RETURN);
    pack(object, bytes)
}

fn pack(object: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> bool {
    if let Ok(string) = object.cast_exact::<PyString>() {
        return string.to_str().is_ok_and(|string| pack_bytes(STR, string.as_bytes(), bytes));
    }
    if object.is_exact_instance_of::<PyInt>() {
        let mut overflow = 0;
        // SAFETY: it is an int, and this thread has the GIL.
        let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(object.as_ptr(), &mut overflow) };
        bytes.push(INT);
        bytes.extend(number.to_le_bytes());
        return overflow == 0;
    }
    if object.is_none() {
        bytes.push(NONE);
    } else if let Ok(truth) = object.cast_exact::<PyBool>() {
        bytes.push(if truth.is_true() { TRUE } else { FALSE });
    } else if let Ok(number) = object.cast_exact::<PyFloat>() {
        bytes.push(FLOAT);
        bytes.extend(number.value().to_le_bytes());
    } else if let Ok(string) = object.cast_exact::<PyBytes>() {
        return pack_bytes(BYTES, string.as_bytes(), bytes);
    } else {
        return false;
    }
    true
}

fn pack_bytes(kind: u8, string: &[u8], bytes: &mut Vec<u8>) -> bool {
    if string.len() > LONGEST {
        return false;
    }
    bytes.push(kind);
    bytes.extend((string.len() as u32).to_le_bytes());
    bytes.extend_from_slice(string);
    true
}

/// The call that a message is; `None`: it is none of this kind.
pub(super) fn unpack_call<'a, 'py>(py: Python<'py>, message: &'a [u8]) -> Option<PyResult<Call<'a, 'py>>> {
    let (&CALL, rest) = message.split_first()? else { return None };
    Some(Reader(rest).call(py))
}

/// The object that a message gives; `None`: it is none of this kind.
pub(super) fn unpack_return<'py>(py: Python<'py>, message: &[u8]) -> Option<PyResult<Bound<'py, PyAny>>> {
    let (&RETURN, rest) = message.split_first()? else { return None };
    Some(Reader(rest).object(py))
}

/// The rest of a message, which may be anything.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn call<'py>(mut self, py: Python<'py>) -> PyResult<Call<'a, 'py>> {
        let ident = u64::from_le_bytes(self.array()?);
        let [length] = self.array()?;
        let name = text(self.bytes(length.into())?)?;
        let [count] = self.array()?;
        let args = (0..count).map(|_| self.object(py)).collect::<PyResult<Vec<_>>>()?;
        Ok(Call { ident, name, args: PyTuple::new(py, args)? })
    }

    fn object<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let [kind] = self.array()?;
        Ok(match kind {
            NONE => py.None().into_bound(py),
            FALSE | TRUE => (kind == TRUE).into_bound_py_any(py)?,
            INT => i64::from_le_bytes(self.array()?).into_bound_py_any(py)?,
            FLOAT => f64::from_le_bytes(self.array()?).into_bound_py_any(py)?,
            STR => PyString::new(py, text(self.string()?)?).into_any(),
            BYTES => PyBytes::new(py, self.string()?).into_any(),
            _ => return Err(damaged()),
        })
    }

    fn string(&mut self) -> PyResult<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?);
        self.bytes(length as usize)
    }

    fn bytes(&mut self, length: usize) -> PyResult<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> PyResult<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*bytes)
    }
}

fn text(bytes: &[u8]) -> PyResult<&str> {
    std::str::from_utf8(bytes).map_err(|_| damaged())
}

fn damaged() -> PyErr {
    PyValueError::new_err("a message between a manager and its client is damaged")
}
