//! What pickle cannot send by name: lambdas, closures, what was defined at a prompt or in a notebook. cloudpickle sends it by value, where it is installed.
//!
//! It is asked only where pickle has refused, or where a name in `__main__` would not be found in a worker because that module is no file.

use std::sync::atomic::{AtomicBool, Ordering};

use broody::embed::Encoded;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::pickling;

/// The main module of this program is no file.
static MAIN_IS_NO_FILE: AtomicBool = AtomicBool::new(false);

/// Says whether workers could not import this program's main module.
#[pyfunction]
pub(crate) fn main_is_no_file(is_none: bool) {
    MAIN_IS_NO_FILE.store(is_none, Ordering::Relaxed);
}

/// Whether these bytes name something of a main module that workers do not import; that they never do is said by `without_main`.
pub(crate) fn needs_main(pickle: &[u8], without_main: bool) -> bool {
    const MAIN: &[u8] = b"__main__";
    (without_main || MAIN_IS_NO_FILE.load(Ordering::Relaxed))
        && pickle.windows(MAIN.len()).any(|bytes| bytes == MAIN)
}

/// The pickle of `object` by value, in the place of one by name or of the error that there was; `None` where there is none.
pub(crate) fn pickle(object: &Bound<'_, PyAny>, error: Option<&PyErr>) -> PyResult<Option<Vec<u8>>> {
    let py = object.py();
    let error = error.map(|error| error.value(py));
    let pickled = py.import("broody._by_value")?.call_method1("dumps", (object, error))?;
    Ok(pickled.cast::<PyBytes>().ok().map(|pickled| pickled.as_bytes().to_vec()))
}

/// The message of a pickle by value, behind other bytes; `None` as for [`pickle`].
pub(crate) fn message(
    object: &Bound<'_, PyAny>,
    error: Option<&PyErr>,
    prefix: &[u8],
) -> PyResult<Option<Encoded>> {
    let (pickled, shared) = Encoded::collect(|| pickle(object, error));
    Ok(pickled?.map(|pickled| pickling::of_pickle(prefix, &pickled, shared)))
}
