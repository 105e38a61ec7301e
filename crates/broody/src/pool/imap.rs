//! `imap` and `imap_unordered`: answers while tasks are still handed in.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use super::arguments::Many;
use super::batch::{Answer, Batch};
use super::completion::Callback;
use super::dispatcher::Shared;
use super::failure::Failure;
use super::options::Terms;
use super::stream::{Kept, Stream};
use crate::function::FunctionId;
use crate::{Error, Result, codec};

/// The most bytes of arguments that are handed in at once, those in shared memory included, unless workers would have to wait.
const MOST_BYTES: usize = 1024 * 1024;

/// How many tasks are handed in at once at first, where all are; then twice as many each time.
const AT_ONCE: usize = 256;

/// The results of [`Pool::imap`] and [`Pool::imap_unordered`], each as it comes.
///
/// Tasks are taken from the caller's iterator only as far ahead as the workers need: it may be endless. Dropping this forgets the
/// tasks that have not begun.
#[must_use = "tasks are handed in as results are asked for"]
pub struct Imap<I: Iterator, R> {
    pool: Arc<Shared>,
    function: FunctionId,
    function_name: &'static str,
    terms: Arc<Terms>,
    items: Option<I>,
    stream: Arc<Stream>,
    handed_in: u64,
    /// How many may be under way at most.
    most: usize,
    /// A closed pool waits for what is still to be handed in.
    is_open: bool,
    /// What was handed in is done even if nobody asks for it any more.
    keeps_going: bool,
    /// Why no more is handed in, to be told when everything before it has been.
    error: Option<Error>,
    result: PhantomData<fn() -> R>,
}

impl<I, R> Imap<I, R>
where
    I: Iterator,
    I::Item: Serialize + DeserializeOwned,
{
    pub(super) fn new(
        pool: &Pool,
        (function, function_name, terms): (FunctionId, &'static str, Arc<Terms>),
        items: I,
        ordered: bool,
    ) -> Result<Self> {
        pool.shared.schedule().open_stream()?;
        let stream = Arc::new(Stream::new(ordered));
        Ok(Self {
            pool: pool.shared.clone(),
            function,
            function_name,
            terms,
            items: Some(items),
            stream,
            handed_in: 0,
            most: usize::MAX,
            is_open: true,
            keeps_going: false,
            error: None,
            result: PhantomData,
        })
    }

    /// Lets at most so many tasks be under way, be it fewer than the workers need: their results take memory until they are asked for. At least 1.
    pub fn at_most(mut self, tasks: usize) -> Self {
        self.most = tasks.max(1);
        self
    }

    /// Takes all that the caller's iterator still gives, and hands it in: the pool can be closed and joined then, whatever becomes of this.
    pub fn hand_in_all(&mut self) {
        while self.items.is_some() {
            // Workers begin with the first ones while the others are encoded.
            let under_way = (self.handed_in - self.stream.given()) as usize;
            if let Err(error) = self.hand_in_up_to(under_way + AT_ONCE.max(under_way)) {
                self.error = Some(error);
                return;
            }
        }
    }

    /// Hands in the first tasks, before a result is asked for.
    pub fn begin(&mut self) {
        if let Err(error) = self.hand_in() {
            self.error = Some(error);
        }
    }

    /// Whether tasks that were handed in are done also when this is dropped. They are not, as a rule.
    pub fn keep_going(&mut self, keep: bool) {
        self.keeps_going = keep;
    }

    /// Takes nothing more from the caller's iterator: after what is under way this ends, with [`PoolClosed`](Error::PoolClosed) if more might have come.
    pub fn stop(&mut self) {
        if self.items.take().is_some() {
            self.error.get_or_insert(Error::PoolClosed);
        }
        self.close();
    }

    /// Gives everything up: tasks that have not begun never will, workers that run one are ended and replaced. There are no more results then.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn cancel(&mut self) -> Result<()> {
        self.pool.check_owner("iterator of a pool")?;
        self.items = None;
        let mut schedule = self.pool.schedule();
        self.stream.abandon();
        schedule.end_stream(&self.stream);
        schedule.hand_out();
        drop(schedule);
        self.close();
        self.pool.nudge();
        Ok(())
    }

    /// Has `callback` run as soon as the next result is there, or the end, in the thread for callbacks. Once; a later one goes before an earlier one.
    ///
    /// # Errors
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn on_ready(&mut self, callback: impl FnOnce() + Send + 'static) -> Result<()> {
        self.pool.check_owner("iterator of a pool")?;
        self.begin();
        let callback: Callback = Box::new(callback);
        let callback = match self.is_at_end() {
            true => Some(callback),
            false => self.stream.call_when_due(callback),
        };
        callback.into_iter().for_each(|callback| self.pool.call_back(callback));
        Ok(())
    }

    /// Whether there is no answer to come.
    fn is_at_end(&self) -> bool {
        self.stream.is_abandoned() || self.stream.given() == self.handed_in
    }

    /// Hands in tasks until enough are under way.
    fn hand_in(&mut self) -> Result<()> {
        let window = self.pool.schedule().window(self.function).min(self.most);
        self.hand_in_up_to(window)
    }

    fn hand_in_up_to(&mut self, window: usize) -> Result<()> {
        let handed_in = self.hand_in_some(window);
        if self.items.is_none() {
            self.close();
        }
        handed_in
    }

    /// Nothing more will be handed in.
    fn close(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.pool.schedule().close_stream();
            // It may have been what a closed pool was waiting for.
            self.pool.nudge();
        }
    }

    fn hand_in_some(&mut self, window: usize) -> Result<()> {
        let under_way = (self.handed_in - self.stream.given()) as usize;
        // Many at a time: a quarter of the window.
        if under_way > window - window / 4 {
            return Ok(());
        }
        let Some(items) = &mut self.items else { return Ok(()) };
        let mut arguments = Many::default();
        let mut refused = None;
        let mut ended = false;
        let mut bytes = 0;
        loop {
            let count = under_way + arguments.len();
            if count >= window || (count >= window / 8 && bytes >= MOST_BYTES) {
                break;
            }
            let Some(item) = items.next() else {
                ended = true;
                break;
            };
            match arguments.push(&item) {
                Ok(length) => bytes += length,
                Err(reason) => {
                    refused = Some(reason);
                    break;
                }
            }
        }
        if ended {
            self.items = None;
        }
        let (first, count) = (self.handed_in, arguments.len());
        let mut schedule = self.pool.schedule();
        // Refused only when the pool is over: then the iterator is as well.
        let task = schedule
            .admit(count + usize::from(refused.is_some()), true)
            .inspect_err(|_| self.items = None)?;
        if count > 0 {
            let kind = schedule.kinds.of(self.function, self.function_name, self.terms.clone());
            let batch = Batch::streamed(kind, arguments.into(), (self.stream.clone(), first), task);
            schedule.submit(Arc::new(batch), false);
            self.pool.nudge_if_needed(&mut schedule);
        }
        drop(schedule);
        self.handed_in += count as u64;
        if let Some(reason) = refused {
            self.stream.deliver(self.handed_in, Answer::Failed(Failure::NotEncoded { reason }));
            self.handed_in += 1;
        }
        Ok(())
    }
}

impl<I, R> Imap<I, R>
where
    I: Iterator,
    I::Item: Serialize + DeserializeOwned,
    R: DeserializeOwned,
{
    /// The next result, if it comes within `limit`; `None` if it does not. Inside, `None` when there are no more.
    ///
    /// The caller's iterator may take longer.
    pub fn next_timeout(&mut self, limit: Duration) -> Option<Option<Result<R>>> {
        self.next_until(Instant::now().checked_add(limit))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Option<Result<R>>> {
        if let Err(error) = self.pool.check_owner("iterator of a pool") {
            return Some(self.items.take().map(|_| Err(error)));
        }
        if let Err(error) = self.hand_in() {
            // The answers of tasks that are under way come first.
            self.error = Some(error);
        }
        if self.is_at_end() {
            return Some(self.error.take().map(Err));
        }
        let undecodable =
            |reason| Error::Decode { what: "the result", function: self.function_name.to_owned(), reason };
        let decoded = |bytes: &[u8]| codec::decode(bytes).map_err(undecodable);
        let kept = self.stream.next(deadline)?;
        Some(Some(match kept {
            Kept::Bytes(bytes) => decoded(&bytes),
            Kept::WithObjects(result) => result.open().map_err(undecodable).and_then(decoded),
            Kept::Failed(failure) => Err(failure.to_error(self.function_name)),
        }))
    }
}

impl<I, R> Iterator for Imap<I, R>
where
    I: Iterator,
    I::Item: Serialize + DeserializeOwned,
    R: DeserializeOwned,
{
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        self.next_until(None).flatten()
    }
}

impl<I: Iterator, R> Drop for Imap<I, R> {
    fn drop(&mut self) {
        if self.pool.check_owner("iterator of a pool").is_ok() {
            let mut schedule = self.pool.schedule();
            if !self.keeps_going {
                self.stream.abandon();
            }
            if std::mem::take(&mut self.is_open) {
                schedule.close_stream();
            } else {
                // What nobody has begun is passed over.
                schedule.hand_out();
            }
            drop(schedule);
            self.pool.nudge();
        }
    }
}
