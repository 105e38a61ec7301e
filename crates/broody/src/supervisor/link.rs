//! A process's connection to the supervisor of its program.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use broody_os::environment::{self, FileIdentity};
use broody_os::pidfd::PidFd;
use broody_os::{Pid, events, fork, image, socket, wait};
use serde::Serialize;

use super::protocol::{self, Arrived, Message, Request, Start, Stream, Welcome};
use crate::boot::{self, Role};
use crate::{Error, Result, embed, memory};

/// How long an answer of the supervisor is waited for. Far more than it takes on a loaded machine: only a stopped
/// supervisor is silent for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Which supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The program itself, or a runtime's native one.
    Native,
    /// The template of a [runtime](crate::embed).
    Template,
}

/// A connection to the supervisor. All processes of a program send on one socket; answers come on the channel of each start.
#[derive(Debug)]
pub(crate) struct Link {
    requests: OwnedFd,
    pid: Pid,
    pidfd: OnceLock<PidFd>,
    /// What the supervisor, and so its children, took over when it started; unknown in a child that was exec'ed.
    baseline: Option<Baseline>,
    /// The process that started the supervisor, whose child it is; 0 in processes below the supervisor.
    owner: Pid,
    lost: AtomicBool,
}

/// What a child has without being told.
#[derive(Debug)]
struct Baseline {
    variables: Vec<u8>,
    directory: Option<FileIdentity>,
    streams: [Option<FileIdentity>; 2],
}

impl Baseline {
    fn now() -> Self {
        Self {
            variables: environment::variables(),
            directory: environment::directory_identity(),
            streams: [1, 2].map(environment::descriptor_identity),
        }
    }
}

/// What a child has to be given, since it differs from what the supervisor has. In the order of [`Start`]'s fields.
pub(crate) struct Differences {
    variables: Option<OwnedFd>,
    directory: Option<OwnedFd>,
    streams: [(Stream, Option<OwnedFd>); 2],
}

impl Differences {
    /// Writes into `start` what there is.
    pub(crate) fn describe(&self, start: &mut Start) {
        start.environment = self.variables.is_some();
        start.directory = self.directory.is_some();
        start.streams = [self.streams[0].0, self.streams[1].0];
    }

    /// The descriptors, in their order.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let [out, err] = &self.streams;
        [&self.variables, &self.directory, &out.1, &err.1].into_iter().flatten().map(AsFd::as_fd)
    }
}

impl Link {
    /// Starts a supervisor for this process.
    pub(crate) fn start(kind: Kind) -> Result<Arc<Self>> {
        boot::check()?;
        // Without pidfds nothing here can work: this is the place to say so.
        let ours = PidFd::myself()?;
        ours.check_signalling()?;
        let (requests, theirs) = socket::pair()?;
        socket::pass_credentials(theirs.as_fd())?;
        socket::limit_sending(requests.as_fd(), PATIENCE)?;
        // A program that has no room for shared memory can start processes all the same.
        let arena = memory::arena().map_or(requests.as_fd(), |arena| arena.descriptor());
        let descriptors = [ours.as_fd(), requests.as_fd(), arena];
        let hello = Request::Hello { is_first: memory::is_maker() };
        protocol::send(&requests, &hello, program_name().as_bytes(), &descriptors, true)?;

        let (executable, arguments, token) = program(kind);
        let failed = |reason: String| Error::SupervisorStart { executable: executable.clone(), reason };
        let mut arguments = arguments.into_iter();
        let mut command = Command::new(&executable);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.args(arguments).env(boot::VARIABLE, token).stdin(Stdio::from(theirs));
        let baseline = Baseline::now();
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        // The command holds a copy of their end; without it, the end of the supervisor is an end of file.
        drop(command);

        match Self::welcome(kind, &requests, &executable) {
            Ok((pid, pidfd)) => Ok(Arc::new(Self {
                requests,
                pid,
                pidfd: OnceLock::from(pidfd),
                baseline: Some(baseline),
                owner: fork::pid(),
                lost: AtomicBool::new(false),
            })),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn welcome(kind: Kind, requests: &OwnedFd, executable: &Path) -> Result<(Pid, PidFd)> {
        let failed = |reason: &str| Error::SupervisorStart {
            executable: executable.to_owned(),
            reason: format!("{reason}. Its main must begin with broody::init(), like this program's"),
        };
        let [arrived] = events::poll(&[requests.as_fd()], Some(Instant::now() + PATIENCE))?;
        if !arrived {
            return Err(failed(&format!("it gave no answer for {} s", PATIENCE.as_secs())));
        }
        let Arrived::Message(Message { header, descriptors, .. }) =
            protocol::receive::<Welcome>(requests, false)?
        else {
            return Err(failed("it ended without an answer"));
        };
        match (embed::runtime(), kind) {
            // A program of its own, which is told of no functions.
            (Some(_), Kind::Native) => {
                if header.version != env!("CARGO_PKG_VERSION") {
                    return Err(failed(&format!("it is of broody {}", header.version)));
                }
            }
            (runtime, _) => {
                let ours = image::build_id();
                if header.build_id != ours.0 {
                    let theirs = image::BuildId(header.build_id).to_string();
                    return Err(Error::OtherBuild { ours: ours.to_string(), theirs });
                }
                if runtime.is_none() && header.threads != 1 {
                    return Err(Error::InitTooLate { threads: header.threads });
                }
            }
        }
        let pidfd = descriptors.into_iter().next().ok_or_else(|| failed("it sent no pidfd"))?;
        Ok((header.pid, pidfd.into()))
    }

    /// The connection of a child of the supervisor.
    pub(crate) fn inherited(requests: OwnedFd, supervisor: Pid) -> Arc<Self> {
        Arc::new(Self {
            requests,
            pid: supervisor,
            pidfd: OnceLock::new(),
            baseline: None,
            owner: 0,
            lost: AtomicBool::new(false),
        })
    }

    /// Whether this process is below the supervisor: its child, or a fork of that.
    pub(crate) fn is_inherited(&self) -> bool {
        self.owner == 0
    }

    /// The supervisor's pid.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// A handle on the supervisor.
    pub(crate) fn pidfd(&self) -> Result<&PidFd> {
        if self.pidfd.get().is_none() {
            // In a child: the supervisor is the parent for as long as the child lives, so its pid is its own.
            let opened = PidFd::open(self.pid)?;
            let _ = self.pidfd.set(opened);
        }
        self.pidfd.get().ok_or(Error::SupervisorLost { pid: self.pid })
    }

    /// Whether the supervisor is known to have ended.
    pub(crate) fn is_lost(&self) -> bool {
        // Relaxed: a hint that saves a system call; the pidfd is the truth.
        self.lost.load(Ordering::Relaxed)
    }

    /// Looks whether the supervisor has ended.
    pub(crate) fn check(&self) -> bool {
        if !self.is_lost() && self.pidfd().is_ok_and(|pidfd| pidfd.has_ended().unwrap_or(false)) {
            self.lost.store(true, Ordering::Relaxed);
        }
        self.is_lost()
    }

    /// Reaps the supervisor, if it has ended and is this process's child.
    pub(crate) fn reap(&self) {
        if self.owner == fork::pid()
            && let Some(pidfd) = self.pidfd.get()
        {
            // Reaped before, by another thread or by the host's own code: as good.
            let _ = wait::reap_pidfd(pidfd.as_fd());
        }
    }

    /// What a child started now would lack.
    pub(crate) fn differences(&self) -> Result<Differences> {
        let variables = environment::variables();
        let variables = match &self.baseline {
            Some(baseline) if baseline.variables == variables => None,
            _ => Some(broody_os::memory::create_with("broody-environment", &variables)?),
        };
        let directory = match &self.baseline {
            Some(baseline) if baseline.directory == environment::directory_identity() => None,
            // A working directory that was deleted can still be handed over; one that cannot be opened stays as it is.
            _ => environment::directory().ok(),
        };
        let mut streams = [(Stream::Same, None), (Stream::Same, None)];
        for (index, stream) in streams.iter_mut().enumerate() {
            let number = index as i32 + 1;
            let identity = environment::descriptor_identity(number);
            *stream = match (&self.baseline, identity) {
                (Some(baseline), _) if baseline.streams[index] == identity => continue,
                (_, None) => (Stream::Closed, None),
                (_, Some(_)) => (Stream::Passed, Some(environment::duplicate_stream(number)?)),
            };
        }
        Ok(Differences { variables, directory, streams })
    }

    /// Sends a request.
    pub(crate) fn request<'fd>(
        &self,
        request: &impl Serialize,
        raw: &[u8],
        descriptors: impl IntoIterator<Item = BorrowedFd<'fd>>,
    ) -> Result<()> {
        let descriptors: Vec<_> = descriptors.into_iter().collect();
        match protocol::send(&self.requests, request, raw, &descriptors, true) {
            Ok(()) => Ok(()),
            Err(error) if socket::is_gone(&error) => {
                self.lost.store(true, Ordering::Relaxed);
                Err(Error::SupervisorLost { pid: self.pid })
            }
            Err(error) if error.source.kind() == std::io::ErrorKind::WouldBlock => Err(self.silent()),
            Err(error) => Err(error.into()),
        }
    }

    /// The error of a supervisor that does not answer.
    pub(crate) fn silent(&self) -> Error {
        Error::SupervisorSilent { pid: self.pid, seconds: PATIENCE.as_secs() }
    }

    /// Ends the supervisor and whatever is left of the program, and waits for that; for the program's own exit.
    pub(crate) fn quit(&self) {
        if self.owner != fork::pid() || self.check() {
            return;
        }
        let Ok((ours, theirs)) = socket::pair() else { return };
        if self.request(&Request::Quit, &[], [theirs.as_fd()]).is_err() {
            return;
        }
        drop(theirs);
        let Ok(pidfd) = self.pidfd() else { return };
        // It answers when everything is gone that shall go, and then ends, unless detached children keep it alive.
        let _ = events::poll(&[ours.as_fd(), pidfd.as_fd()], Some(Instant::now() + PATIENCE));
        let _ = events::poll(&[pidfd.as_fd()], Some(Instant::now() + Duration::from_millis(200)));
        self.check();
        self.reap();
    }
}

/// What to exec for a supervisor: the file, the arguments, and what it is to become.
fn program(kind: Kind) -> (PathBuf, Vec<OsString>, String) {
    match (embed::runtime(), kind) {
        (Some(runtime), Kind::Template) => {
            (runtime.program.clone(), runtime.template_arguments.clone(), boot::TEMPLATE.to_owned())
        }
        (Some(runtime), Kind::Native) => {
            let name = runtime.supervisor.clone().into_os_string();
            (runtime.supervisor.clone(), vec![name], Role::Supervisor.token_of_program())
        }
        (None, _) => (boot::executable(), std::env::args_os().collect(), Role::Supervisor.token()),
    }
}

/// What ps shows for this program.
fn program_name() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.trim_end().to_owned()
}
