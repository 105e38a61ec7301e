//! The objects of a server, and who refers to them.
//!
//! An object is *kept* as long as clients refer to it. It *lives* longer where a proxy within the server has its entry, and can be kept again by whoever
//! gets that proxy. The same object that is given out twice has one entry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::{PyAttributeError, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyString, PyWeakrefMethods, PyWeakrefReference};

use crate::lock;

/// An object of the server.
#[pyclass(frozen, weakref, module = "broody._broody")]
pub(crate) struct Entry {
    #[pyo3(get)]
    pub(super) obj: Py<PyAny>,
    #[pyo3(get)]
    typeid: String,
    pub(super) ident: u64,
    /// The names of the methods that may be called.
    #[pyo3(get)]
    exposed: Py<PyFrozenSet>,
    /// Of methods whose results stay in the server: as what.
    pub(super) stays: Option<Py<PyDict>>,
    /// By method: what gives the function that puts back what a call has taken.
    pub(super) undo: Option<Py<PyDict>>,
    /// It does not matter which thread calls it.
    pub(super) is_free: bool,
    tables: Arc<Mutex<Tables>>,
}

#[pymethods]
impl Entry {
    /// What clients call it.
    #[getter]
    pub(super) fn ident(&self) -> String {
        format!("{:x}", self.ident)
    }

    /// The type of what the method `name` gives, if that stays in the server.
    pub(super) fn stays_as<'py>(&self, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.stays.as_ref().map_or(Ok(None), |stays| stays.bind(name.py()).get_item(name))
    }

    /// Calls a method.
    ///
    /// AttributeError if it may not be called.
    #[pyo3(signature = (name, args, kwds))]
    pub(super) fn call<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyString>,
        args: &Bound<'py, PyAny>,
        kwds: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.function(py, name)? {
            Function::Method(method) => call(&method, args, kwds),
            Function::Fallback(fallback) => fallback(self.obj.bind(py)),
        }
    }
}

/// Calls `function` with arguments that have come from outside.
pub(super) fn call<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyAny>,
    kwds: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    match args.cast_exact::<pyo3::types::PyTuple>() {
        Ok(args) => function.call(args, kwds),
        Err(_) => {
            let args = args.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            function.call(pyo3::types::PyTuple::new(function.py(), args)?, kwds)
        }
    }
}

pub(super) enum Function<'py> {
    Method(Bound<'py, PyAny>),
    /// What every object can be asked for.
    Fallback(fn(&Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>),
}

impl Entry {
    pub(super) fn function<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Function<'py>> {
        let exposed = self.exposed.bind(py);
        if exposed.contains(name)? {
            return Ok(Function::Method(self.obj.bind(py).getattr(name)?));
        }
        Ok(Function::Fallback(match name.to_str()? {
            "__str__" => |obj| Ok(obj.str()?.into_any()),
            "__repr__" => |obj| Ok(obj.repr()?.into_any()),
            "#GETVALUE" => |obj| Ok(obj.clone()),
            _ => {
                let mut names =
                    exposed.iter().map(|name| name.extract()).collect::<PyResult<Vec<String>>>()?;
                names.sort_unstable();
                return Err(PyAttributeError::new_err(format!(
                    "method {:?} of {} object is not in exposed={names:?}",
                    name.to_str()?,
                    self.obj.bind(py).get_type().repr()?,
                )));
            }
        }))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut tables = lock(&self.tables);
        let weak = tables.living.remove(&self.ident);
        let key = (self.obj.as_ptr() as usize, std::mem::take(&mut self.typeid));
        if tables.by_object.get(&key) == Some(&self.ident) {
            tables.by_object.remove(&key);
        }
        drop(tables);
        drop(weak);
    }
}

struct Tables {
    last: u64,
    kept: HashMap<u64, (Py<Entry>, i64)>,
    living: HashMap<u64, Py<PyWeakrefReference>>,
    /// By the address of the object, and as what it was given out.
    by_object: HashMap<(usize, String), u64>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            last: first_number(),
            kept: HashMap::default(),
            living: HashMap::default(),
            by_object: HashMap::default(),
        }
    }
}

/// Where the numbers of a server's objects begin: not where those of another one did at the same address, whose clients may still have their proxies.
fn first_number() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // The random state alone is the same in all forks of a process.
    let made = RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now()));
    // Room for more objects than there will be.
    (made >> 1) & !u64::from(u32::MAX)
}

/// All of them. Locked with the GIL, and no code of Python's runs meanwhile.
#[derive(Default)]
pub(super) struct Objects(Arc<Mutex<Tables>>);

/// What is made an entry of.
pub(super) struct New<'py> {
    pub(super) obj: Bound<'py, PyAny>,
    pub(super) typeid: String,
    pub(super) exposed: Bound<'py, PyFrozenSet>,
    pub(super) stays: Option<Bound<'py, PyDict>>,
    pub(super) undo: Option<Bound<'py, PyDict>>,
    pub(super) is_free: bool,
}

impl Objects {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.0)
    }

    /// The entry of an object: the one that it has, or a new one.
    pub(super) fn enter<'py>(&self, py: Python<'py>, new: New<'py>) -> PyResult<Bound<'py, Entry>> {
        let key = (new.obj.as_ptr() as usize, new.typeid.clone());
        let known = self.tables().by_object.get(&key).copied();
        if let Some(entry) = known.and_then(|ident| self.find(py, ident)) {
            return Ok(entry);
        }
        let ident = {
            let mut tables = self.tables();
            tables.last += 1;
            tables.last
        };
        let entry = Entry {
            obj: new.obj.unbind(),
            typeid: new.typeid,
            ident,
            exposed: new.exposed.unbind(),
            stays: new.stays.filter(|stays| !stays.is_empty()).map(Bound::unbind),
            undo: new.undo.filter(|undo| !undo.is_empty()).map(Bound::unbind),
            is_free: new.is_free,
            tables: self.0.clone(),
        };
        let entry = Bound::new(py, entry)?;
        let weak = PyWeakrefReference::new(&entry)?.unbind();
        let mut tables = self.tables();
        tables.living.insert(ident, weak);
        tables.by_object.insert(key, ident);
        Ok(entry)
    }

    fn find<'py>(&self, py: Python<'py>, ident: u64) -> Option<Bound<'py, Entry>> {
        let tables = self.tables();
        if let Some((entry, _)) = tables.kept.get(&ident) {
            return Some(entry.bind(py).clone());
        }
        let weak = tables.living.get(&ident)?.clone_ref(py);
        drop(tables);
        weak.bind(py).upgrade()?.cast_into().ok()
    }

    /// An entry by its number.
    pub(super) fn entry<'py>(
        &self,
        py: Python<'py>,
        ident: Option<u64>,
        name: &str,
    ) -> PyResult<Bound<'py, Entry>> {
        ident.and_then(|ident| self.find(py, ident)).ok_or_else(|| {
            PyKeyError::new_err(format!(
                "the manager has no object {name:?} (any more): the last reference to it was gone before this one came. \
                 Who hands on a proxy has to keep it until it has arrived"
            ))
        })
    }

    /// One reference more.
    pub(super) fn keep(&self, entry: &Bound<'_, Entry>) {
        let mut tables = self.tables();
        tables.kept.entry(entry.get().ident).or_insert_with(|| (entry.clone().unbind(), 0)).1 += 1;
    }

    /// So many references less. An object that is not kept any more is given out, to be let go of.
    pub(super) fn release(&self, ident: u64, count: i64) -> Option<Py<Entry>> {
        let mut tables = self.tables();
        let (_, kept) = tables.kept.get_mut(&ident)?;
        *kept -= count;
        if *kept > 0 {
            return None;
        }
        tables.kept.remove(&ident).map(|(entry, _)| entry)
    }

    pub(super) fn count(&self) -> usize {
        self.tables().kept.len()
    }

    /// All that are kept, by number, with the number of references.
    pub(super) fn kept(&self, py: Python<'_>) -> Vec<(Py<Entry>, i64)> {
        let mut kept: Vec<_> =
            self.tables().kept.values().map(|(entry, count)| (entry.clone_ref(py), *count)).collect();
        kept.sort_by_key(|(entry, _)| entry.get().ident);
        kept
    }
}
