//! Handing tasks to a pool, with options.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arguments::Many;
use super::batch::Gathered;
use super::gather::{Gather, OnProgress};
use super::options::Terms;
use super::{AsyncResult, Imap, Pool, StarFn, TaskOptions};
use crate::function::{FunctionId, name_of};
use crate::{Error, Result};

/// A pool, and options for the tasks that are handed in through this. Made by [`Pool::with`].
#[derive(Clone)]
#[must_use = "nothing is handed in before one of its methods is called"]
pub struct With<'pool> {
    pub(super) pool: &'pool Pool,
    pub(super) options: TaskOptions,
    pub(super) progress: Option<OnProgress>,
    pub(super) name: Option<&'static str>,
}

impl<'pool> With<'pool> {
    /// Calls `tell` with how many of the tasks that are handed in together are done, and how many there are: at most every 50 ms, and in the end. In
    /// the thread for callbacks. Not for iterators, which tell by themselves how far they are.
    pub fn on_progress(mut self, tell: impl Fn(usize, usize) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    /// How the function is called in events, traces and errors, where its own name says little.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// As [`Pool::map`], with these options.
    ///
    /// # Errors
    /// As [`Pool::map`], and [`Invalid`](Error::Invalid) for options that cannot be.
    pub fn map<F, A, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        let batch = self.submit(function, items, false)?;
        batch.wait(None);
        batch.take_all(std::any::type_name::<F>())
    }

    /// As [`Pool::starmap`], with these options.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn starmap<F, A, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: StarFn<A, Output = R>,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.map(move |arguments: A| function.call(arguments), items)
    }

    /// As [`Pool::try_map`], with these options.
    ///
    /// # Errors
    /// As [`map`](Self::map), but for the tasks' own.
    pub fn try_map<F, A, R, I>(&self, function: F, items: I) -> Result<Vec<Result<R>>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        let batch = self.submit(function, items, false)?;
        batch.wait(None);
        Ok(batch.get_each(std::any::type_name::<F>()))
    }

    /// As [`Pool::map_async`], with these options.
    ///
    /// # Errors
    /// As [`Pool::map_async`], and [`Invalid`](Error::Invalid) for options that cannot be.
    pub fn map_async<F, A, R, I>(&self, function: F, items: I) -> Result<AsyncResult<Vec<R>>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        Ok(AsyncResult::all(self.pool.shared.clone(), self.submit(function, items, false)?))
    }

    /// As [`Pool::imap`], with these options.
    ///
    /// # Errors
    /// As [`Pool::imap`], and [`Invalid`](Error::Invalid) for options that cannot be.
    pub fn imap<F, A, R, I>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.stream(function, items, true)
    }

    /// As [`Pool::imap_unordered`], with these options.
    ///
    /// # Errors
    /// As [`imap`](Self::imap).
    pub fn imap_unordered<F, A, R, I>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        self.stream(function, items, false)
    }

    /// As [`Pool::apply`], with these options.
    ///
    /// # Errors
    /// As [`Pool::apply`], and [`Invalid`](Error::Invalid) for options that cannot be.
    pub fn apply<F, A, R>(&self, function: F, argument: A) -> Result<R>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.hand_in(function, argument, true)?.get()
    }

    /// As [`Pool::apply_async`], with these options.
    ///
    /// # Errors
    /// As [`Pool::apply_async`], and [`Invalid`](Error::Invalid) for options that cannot be.
    pub fn apply_async<F, A, R>(&self, function: F, argument: A) -> Result<AsyncResult<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.hand_in(function, argument, false)
    }

    fn hand_in<F, A, R>(&self, function: F, argument: A, awaited: bool) -> Result<AsyncResult<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        Ok(AsyncResult::one(self.pool.shared.clone(), self.submit(function, [argument], awaited)?))
    }

    fn stream<F, A, R, I>(&self, function: F, items: I, ordered: bool) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.pool.check_owner()?;
        let name = self.name.unwrap_or(std::any::type_name::<F>());
        let call = (FunctionId::of::<F, A, R>(), name, self.terms()?);
        Imap::new(self.pool, call, items.into_iter(), ordered)
    }

    fn submit<F, A, R, I>(&self, function: F, items: I, awaited: bool) -> Result<Gathered>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.pool.check_owner()?;
        let terms = self.terms()?;
        let mut arguments = Many::default();
        for item in items {
            arguments.push(&item).map_err(|reason| Error::Encode {
                what: "the argument",
                function: name_of::<F>(),
                reason,
            })?;
        }
        let tasks = arguments.len();
        let gather = Gather::new(tasks);
        self.progress.iter().for_each(|tell| gather.follow(tell.clone()));
        let mut schedule = self.pool.shared.await_room()?;
        let task = schedule.admit(tasks, false)?;
        let name = self.name.unwrap_or(std::any::type_name::<F>());
        let kind = schedule.kinds.of(FunctionId::of::<F, A, R>(), name, terms);
        let batch = Gathered::new(kind, arguments.into(), gather, task);
        if tasks > 0 {
            schedule.submit(batch.batch().clone(), awaited);
            self.pool.shared.nudge_if_needed(&mut schedule);
        }
        Ok(batch)
    }

    /// The options, with what the pool says beside them.
    fn terms(&self) -> Result<Arc<Terms>> {
        if self.options.say_nothing() {
            return Ok(self.pool.terms.clone());
        }
        self.options.clone().or(&self.pool.options).settle().map(Arc::new)
    }
}
