//! Handles on processes: [`Process`] for any, [`Child`] for one whose function's result is wanted.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use broody_os::proc::State;
use broody_os::wait::{ExitStatus, Usage};
use broody_os::{Pid, proc, signals};
use serde::de::DeserializeOwned;

use super::StartMethod;
use super::builder::Builder;
use super::shared::{Delivered, End, Shared};
use crate::function::Outcome;
use crate::{Error, Result, codec};

/// A handle on a process that this process started. Clones are handles on the same process.
///
/// Dropping the handles neither ends nor orphans it: it runs on, is reaped when it ends, and ends with the program.
#[derive(Debug, Clone)]
pub struct Process(Arc<Held>);

/// Lets go of the process when the last handle is dropped.
#[derive(Debug)]
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abandoned();
    }
}

impl Process {
    /// Says how a process is to be started: its name, whether it is a daemon, the start method.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Held(shared)))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.shared().name()
    }

    /// Its process id. After its end the kernel may give the number to another process; this handle never mistakes that
    /// one for it.
    pub fn pid(&self) -> Pid {
        self.shared().pid()
    }

    /// How it came into being.
    pub fn start_method(&self) -> StartMethod {
        self.shared().method()
    }

    /// Whether it is a daemon.
    pub fn is_daemon(&self) -> bool {
        self.shared().daemon()
    }

    /// When it was started.
    pub fn started_at(&self) -> SystemTime {
        self.shared().started_at()
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        !self.shared().has_ended()
    }

    /// Waits until it has ended, without asking for its function's result. From any thread, any number of times.
    ///
    /// # Errors
    /// [`SupervisorLost`](Error::SupervisorLost) if nobody is left who could tell; [`WrongProcess`](Error::WrongProcess) in a
    /// fork of the process that started it.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.shared().wait(None)?;
        self.ending()
    }

    /// As [`wait`](Self::wait), for at most `limit`. `None` when it has not ended by then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        if !self.shared().wait(deadline(limit))? {
            return Ok(None);
        }
        self.ending().map(Some)
    }

    /// Waits for the end, at most until `deadline`. Whether it has come.
    pub(crate) fn wait_until(&self, deadline: Instant) -> Result<bool> {
        self.shared().wait(Some(deadline))
    }

    /// What its function gave, if that has arrived.
    pub(crate) fn delivered(&self) -> Option<Arc<Delivered>> {
        self.shared().delivered()
    }

    /// Why it never came to its function.
    pub(crate) fn failure(&self) -> Option<String> {
        self.shared().failure()
    }

    fn ending(&self) -> Result<ExitStatus> {
        match self.shared().end() {
            Some(End::Exited(status, _)) => Ok(status),
            Some(End::SupervisorLost) | None => Err(self.shared().supervisor_lost()),
        }
    }

    /// How it ended; `None` while it runs. Children of a supervisor that was killed were ended by SIGKILL with it.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match self.shared().end()? {
            End::Exited(status, _) => Some(status),
            End::SupervisorLost => Some(ExitStatus::Signal(signals::SIGKILL)),
        }
    }

    /// What it has used, known after its end. `None` before that, and when somebody else reaped it.
    pub fn resource_usage(&self) -> Option<Usage> {
        match self.shared().end()? {
            End::Exited(_, usage) => usage,
            End::SupervisorLost => None,
        }
    }

    /// Asks it to end: SIGTERM. No error when it has ended.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) gives, such as EPERM for a process that has changed its user.
    pub fn terminate(&self) -> Result<()> {
        self.shared().signal(signals::SIGTERM)
    }

    /// Ends it: SIGKILL. What it had started ends with it.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> Result<()> {
        self.shared().signal(signals::SIGKILL)
    }

    /// Interrupts it as Ctrl-C does: SIGINT.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn interrupt(&self) -> Result<()> {
        self.shared().signal(signals::SIGINT)
    }

    /// Sends it a signal. No error when it has ended.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate); EINVAL for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.shared().signal(signal)
    }

    /// A descriptor that becomes readable when it has ended, for poll, epoll and event loops. It is a pidfd.
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.shared().pidfd().as_fd()
    }

    /// What it is doing now; `None` when it has ended and was reaped.
    ///
    /// To tell running from ready takes up to 10 ms of looking, the other states none.
    pub fn state(&self) -> Option<State> {
        let state = proc::state(self.pid());
        let shared = self.shared();
        // The number may be another process's by now, unless this one is still there: as one that has not ended, or as a zombie.
        match (shared.settle(), shared.has_ended()) {
            (true, _) => None,
            (false, true) => state.filter(|state| *state == State::Zombie),
            (false, false) => state,
        }
    }

    /// Lets it live on when the program ends, and forgets it: it will not be joined at exit, and nothing ends it any more.
    ///
    /// It is still reaped: the supervisor stays for that until it has ended.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a fork that a child's main thread has made: the kernel ends it with that child.
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the process that started it.
    pub fn detach(self) -> Result<()> {
        self.shared().detach()
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sentinel()
    }
}

/// A process and the result of its function.
///
/// Everything that a [`Process`] can do, a `Child` can: it dereferences to one.
#[derive(Debug)]
pub struct Child<R> {
    process: Process,
    function: Arc<str>,
    result: PhantomData<fn() -> R>,
}

impl<R> Clone for Child<R> {
    fn clone(&self) -> Self {
        Self { process: self.process.clone(), function: self.function.clone(), result: PhantomData }
    }
}

impl<R> std::ops::Deref for Child<R> {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl<R> Child<R> {
    pub(super) fn new(shared: Arc<Shared>, function: String) -> Self {
        Self { process: Process::new(shared), function: function.into(), result: PhantomData }
    }

    /// The handle without the result.
    pub fn into_process(self) -> Process {
        self.process
    }

    /// Lets it live on when the program ends. See [`Process::detach`].
    ///
    /// # Errors
    /// As [`Process::detach`].
    pub fn detach(self) -> Result<()> {
        self.process.detach()
    }
}

impl<R: DeserializeOwned> Child<R> {
    /// Waits until the process has ended and gives its function's result. From any thread, any number of times: the answer is
    /// the same each time.
    ///
    /// # Errors
    /// [`Panicked`](Error::Panicked) with the panic's message and stack, [`Ended`](Error::Ended) if the process exited or was
    /// killed before the function returned, [`Start`](Error::Start) if it never came so far, [`Encode`](Error::Encode) and
    /// [`Decode`](Error::Decode) for values that do not cross, [`SupervisorLost`](Error::SupervisorLost) if the program's
    /// supervisor was killed, [`WrongProcess`](Error::WrongProcess) in a fork of the process that started it.
    pub fn join(&self) -> Result<R> {
        self.process.shared().wait_for_result(None)?;
        self.outcome()
    }

    /// As [`join`](Self::join), for at most `limit`. `None` when it has not ended by then.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<Option<R>> {
        if !self.process.shared().wait_for_result(deadline(limit))? {
            return Ok(None);
        }
        self.outcome().map(Some)
    }

    /// As [`join`](Self::join), without waiting. `None` when it has not ended yet.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn try_join(&self) -> Result<Option<R>> {
        self.join_timeout(Duration::ZERO)
    }

    fn outcome(&self) -> Result<R> {
        let shared = self.process.shared();
        let function = || self.function.to_string();
        if let Some(delivered) = shared.delivered() {
            return match &delivered.outcome {
                Outcome::Returned => codec::decode(delivered.result()).map_err(|reason| Error::Decode {
                    what: "the result",
                    function: function(),
                    reason,
                }),
                Outcome::Panicked { message, backtrace } => Err(Error::Panicked {
                    function: function(),
                    pid: shared.pid(),
                    message: message.clone(),
                    backtrace: backtrace.clone(),
                }),
                Outcome::BadArgument(reason) => {
                    Err(Error::Decode { what: "the argument", function: function(), reason: reason.clone() })
                }
                Outcome::BadResult(reason) => {
                    Err(Error::Encode { what: "the result", function: function(), reason: reason.clone() })
                }
            };
        }
        if let Some(reason) = shared.failure() {
            return Err(Error::Start { name: shared.name().to_owned(), reason });
        }
        let status = self.process.ending()?;
        Err(Error::Ended { name: shared.name().to_owned(), pid: shared.pid(), status })
    }
}

/// The instant when `limit` is over; `None` when that is further away than instants reach.
fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}
