//! What can be said about a process before it starts.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use broody_shm::arena::Held;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::launch::Launch;
use super::{Child, StartMethod, Starting, fork};
use crate::context::lock;
use crate::function::{self, FunctionId};
use crate::handle::Outgoing;
use crate::{Error, Result, codec};

/// The longest name, in bytes.
const LONGEST_NAME: usize = 255;

/// Says how a process is to be started. Made by [`Process::builder`](super::Process::builder).
///
/// ```
/// # use broody::{Process, StartMethod};
/// # fn length(text: String) -> usize { text.len() }
/// # fn main() -> broody::Result<()> {
/// # broody::init();
/// let child = Process::builder().name("counter").start_method(StartMethod::Spawn).spawn(length, "abc".to_owned())?;
/// assert_eq!(child.name(), "counter");
/// assert_eq!(child.join()?, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder starts nothing until `spawn`, `fork` or `prepare` is called"]
pub struct Builder {
    name: Option<String>,
    daemon: bool,
    method: StartMethod,
}

impl Builder {
    /// Names the process: for [`name`](super::Process::name), error messages, ps and top (which show 15 bytes). Without a
    /// name it is called `Process-1`, `Process-2` and so on; a child of `Process-1` is `Process-1:1`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A daemon does not keep the program from exiting: it gets SIGTERM then, and SIGKILL a second later. Other children
    /// are joined at exit.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = daemon;
        self
    }

    /// Chooses how the process comes into being.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn method(&self) -> StartMethod {
        self.method
    }

    /// Starts `function(argument)`. See [`broody::spawn`](crate::spawn).
    ///
    /// # Errors
    /// As [`broody::spawn`](crate::spawn), and [`Invalid`](Error::Invalid) for a name that cannot be one.
    pub fn spawn<F, A, R>(self, function: F, argument: A) -> Result<Child<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        match self.method {
            StartMethod::Fork => fork::start(&self.checked()?, move || function(argument)),
            _ => self.prepare(function, argument)?.start(),
        }
    }

    /// Runs `function` in a fork of this process, whatever the start method was. See [`broody::fork`](crate::fork()).
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn fork<R>(self, function: impl FnOnce() -> R) -> Result<Child<R>>
    where
        R: Serialize + DeserializeOwned,
    {
        fork::start(&self.checked()?, function)
    }

    /// As [`fork`](Self::fork), without waiting for it.
    pub(crate) fn begin_fork<R>(self, function: impl FnOnce() -> R) -> Result<Starting>
    where
        R: Serialize + DeserializeOwned,
    {
        fork::begin(&self.checked()?, function).map(Starting::Forked)
    }

    /// Encodes the argument now, to start the process later, or several of its kind.
    ///
    /// # Errors
    /// [`Encode`](Error::Encode) if the argument has no encoding; [`Invalid`](Error::Invalid) for a name that cannot be one and
    /// for the start method `fork`, whose child takes the memory as it is when it starts.
    pub fn prepare<F, A, R>(self, function: F, argument: A) -> Result<Prepared<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let _ = function;
        if self.method == StartMethod::Fork {
            let what =
                "a fork cannot be prepared: it takes the memory as it is when it starts. Use `fork` then";
            return Err(Error::Invalid { what: what.to_owned() });
        }
        let encoded = codec::encode_with_handles(&argument);
        let (argument, outgoing) = encoded.map_err(|reason| Error::Encode {
            what: "the argument",
            function: function::name_of::<F>(),
            reason,
        })?;
        Ok(Prepared {
            how: self.checked()?,
            function: FunctionId::of::<F, A, R>(),
            function_name: function::name_of::<F>(),
            argument,
            objects: Arc::new(Objects::new(outgoing)),
            result: PhantomData,
        })
    }

    fn checked(self) -> Result<Self> {
        match &self.name {
            Some(name) if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') => {
                Err(Error::Invalid {
                    what: format!(
                        "a process's name has 1 to {LONGEST_NAME} bytes and no zero byte; this one has {}",
                        name.len()
                    ),
                })
            }
            _ => Ok(self),
        }
    }

    pub(super) fn given_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn is_daemon(&self) -> bool {
        self.daemon
    }
}

/// A function and its encoded argument, ready to be started, any number of times.
///
/// ```
/// # fn main() -> broody::Result<()> {
/// # broody::init();
/// let ready = broody::Process::builder().prepare(|x: i32| x + 1, 41)?;
/// let (first, second) = (ready.start()?, ready.start()?);
/// assert_eq!((first.join()?, second.join()?), (42, 42));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Prepared<R> {
    how: Builder,
    function: FunctionId,
    function_name: String,
    argument: Vec<u8>,
    objects: Arc<Objects>,
    result: PhantomData<fn() -> R>,
}

impl<R> Prepared<R> {
    /// Starts the process.
    ///
    /// # Errors
    /// As [`broody::spawn`](crate::spawn).
    pub fn start(&self) -> Result<Child<R>> {
        let launch = Launch {
            name: self.how.given_name(),
            daemon: self.how.daemon,
            method: self.how.method,
            function: self.function,
            argument: &self.argument,
            own: &[],
        };
        let started = launch.start(self.objects.take()?)?;
        Ok(Child::new(started, self.function_name.clone()))
    }
}

/// The shared objects in an argument that may be decoded any number of times.
#[derive(Debug)]
pub(crate) struct Objects {
    /// The holds that the argument names: for the first start.
    first: Mutex<Option<Outgoing>>,
    /// For the others.
    kept: Vec<Arc<Held>>,
}

impl Objects {
    pub(crate) fn new(outgoing: Outgoing) -> Self {
        Self { kept: outgoing.kept().to_vec(), first: Mutex::new(Some(outgoing)) }
    }

    pub(crate) fn take(&self) -> Result<Outgoing> {
        match lock(&self.first).take() {
            Some(first) => Ok(first),
            None => Outgoing::keeping(&self.kept),
        }
    }
}
