//! What the handles on one process share: how far it has come.
//!
//! Any thread may ask at any time. Whoever asks reads what has arrived on the channel, under a lock, and keeps it; an end, once
//! seen, never changes. A child of the supervisor has ended when the supervisor says so. A forked child is this process's own:
//! whoever sees its pidfd readable first reaps it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use broody_os::memory::SealedBytes;
use broody_os::pidfd::PidFd;
use broody_os::wait::{self, ExitStatus, Reaped, Usage};
use broody_os::{Pid, events, fork, interrupt};

use super::StartMethod;
use crate::context::{Context, lock};
use crate::function::Outcome;
use crate::supervisor::link::{Kind, Link};
use crate::supervisor::protocol::{self, Arrived, Message, Notice, Request};
use crate::{Error, Result};

/// How long the supervisor may take to report an end that the pidfd shows.
pub(crate) const REPORT: Duration = Duration::from_secs(5);

/// One process that this process started.
#[derive(Debug)]
pub(crate) struct Shared {
    number: u64,
    name: String,
    pid: Pid,
    pidfd: PidFd,
    method: StartMethod,
    daemon: bool,
    /// A forked child that the kernel kills with the thread that forked it.
    tied: bool,
    /// The process that started it, whose handles these are.
    owner: Pid,
    started_at: SystemTime,
    channel: OwnedFd,
    link: Arc<Link>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    outcome: Option<Arc<Delivered>>,
    failure: Option<String>,
    end: Option<End>,
    detached: bool,
    /// When the process was first seen to have ended without a report of it.
    ended_unreported: Option<Instant>,
    channel_closed: bool,
}

/// How a process's life ended, as far as its starter can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(ExitStatus, Option<Usage>),
    SupervisorLost,
}

/// What a child sent of its function.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) outcome: Outcome,
    result: ResultBytes,
}

#[derive(Debug)]
enum ResultBytes {
    Inline(Vec<u8>),
    Apart(SealedBytes),
}

impl Delivered {
    /// The encoded result; empty unless the function returned.
    pub(crate) fn result(&self) -> &[u8] {
        match &self.result {
            ResultBytes::Inline(bytes) => bytes,
            ResultBytes::Apart(bytes) => bytes,
        }
    }
}

/// What a [`Shared`] is made of.
pub(crate) struct Birth {
    pub(crate) name: String,
    pub(crate) pid: Pid,
    pub(crate) pidfd: PidFd,
    pub(crate) method: StartMethod,
    pub(crate) daemon: bool,
    pub(crate) tied: bool,
    pub(crate) channel: OwnedFd,
    pub(crate) link: Arc<Link>,
    /// What came on the channel before the process was known to have started.
    pub(crate) early: Vec<Message<Notice>>,
}

impl Shared {
    /// Enters a new child into this process's books.
    pub(crate) fn register(birth: Birth, number: u64) -> Arc<Self> {
        let context = Context::current();
        let Birth { name, pid, pidfd, method, daemon, tied, channel, link, early } = birth;
        let mut progress = Progress::default();
        early.into_iter().for_each(|message| progress.note(message));
        let shared = Arc::new(Self {
            number,
            name,
            pid,
            pidfd,
            method,
            daemon,
            tied,
            owner: context.pid,
            started_at: SystemTime::now(),
            channel,
            link,
            progress: Mutex::new(progress),
        });
        lock(&context.children).insert(shared.number, shared.clone());
        if method == StartMethod::Fork
            && let Some(reaper) = context.reaper()
        {
            reaper.watch(&shared);
        }
        shared
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    pub(crate) fn method(&self) -> StartMethod {
        self.method
    }

    pub(crate) fn daemon(&self) -> bool {
        self.daemon
    }

    pub(crate) fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// What becomes readable when there is something to [`settle`](Self::settle).
    pub(crate) fn wake_descriptor(&self) -> BorrowedFd<'_> {
        if self.method == StartMethod::Fork { self.pidfd.as_fd() } else { self.channel.as_fd() }
    }

    /// Refuses a handle that a fork has copied into another process.
    pub(crate) fn check_owner(&self) -> Result<()> {
        let here = fork::pid();
        if here == self.owner {
            return Ok(());
        }
        Err(Error::WrongProcess { what: "process handle", owner: self.owner, here })
    }

    pub(crate) fn is_owned_here(&self) -> bool {
        self.check_owner().is_ok()
    }

    /// Sends a signal. A process that has ended gets none, and that is no error.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        self.pidfd.send_signal(signal)?;
        Ok(())
    }

    /// Whether a supervisor has to know of it that did not start it.
    pub(crate) fn needs_adoption(&self) -> bool {
        self.method == StartMethod::Fork && !lock(&self.progress).detached
    }

    /// Makes a forked child known to a supervisor that began after it.
    pub(crate) fn adopt(&self, link: &Link) {
        if self.needs_adoption() {
            // A supervisor that is gone again will be missed, and replaced, at the next start.
            let request = Request::Adopt { pid: self.pid, parent: self.owner };
            let _ = link.request(&request, &[], [self.pidfd.as_fd()]);
        }
    }

    /// Reads what has arrived. Whether the process has ended.
    pub(crate) fn settle(&self) -> bool {
        if !self.is_owned_here() {
            return false;
        }
        let mut progress = lock(&self.progress);
        if progress.end.is_some() {
            return true;
        }
        progress.drain(&self.channel);
        if progress.end.is_none() {
            progress.end = match self.method {
                StartMethod::Fork => self.reap(),
                StartMethod::Forkserver | StartMethod::Spawn => self.ended_with_supervisor(&mut progress),
            };
            if progress.end.is_some() {
                // What was sent just before the end.
                progress.drain(&self.channel);
            }
        }
        let ended = progress.end.is_some();
        drop(progress);
        if ended {
            lock(&Context::current().children).remove(&self.number);
        }
        ended
    }

    /// Reaps a forked child, if it has ended.
    fn reap(&self) -> Option<End> {
        match wait::reap_pidfd(self.pidfd.as_fd()) {
            Ok(Reaped::Running) => None,
            Ok(Reaped::Ended(status, usage)) => Some(End::Exited(status, Some(usage))),
            // The host's own code waits for every child, or ignores SIGCHLD.
            Ok(Reaped::Stolen) => {
                Some(End::Exited(self.pidfd.reaped_status().unwrap_or(ExitStatus::Unknown), None))
            }
            Err(_) => Some(End::Exited(ExitStatus::Unknown, None)),
        }
    }

    /// A child of the supervisor, of whose end nothing has come: is there still someone who could tell?
    fn ended_with_supervisor(&self, progress: &mut Progress) -> Option<End> {
        if self.link.is_lost() || (progress.channel_closed && self.link.check()) {
            return Some(End::SupervisorLost);
        }
        // Rare: asked only where no report comes though the process is seen to be dead.
        let seen = progress.ended_unreported?;
        (seen.elapsed() > REPORT).then_some(End::Exited(ExitStatus::Unknown, None))
    }

    /// Waits for the end and the report of it, at most until `deadline`. Whether it has come.
    pub(crate) fn wait(self: &Arc<Self>, deadline: Option<Instant>) -> Result<bool> {
        self.wait_until(deadline, |_| Ok(false))
    }

    /// Waits for the end, at most until `deadline`. Whether it has come. Where the result of its function is there, the report of the
    /// end is not waited for: that takes the supervisor's turn.
    pub(crate) fn wait_for_result(self: &Arc<Self>, deadline: Option<Instant>) -> Result<bool> {
        self.wait_until(deadline, |shared| {
            let delivered = lock(&shared.progress).outcome.is_some();
            Ok(delivered && shared.method != StartMethod::Fork && shared.pidfd.has_ended()?)
        })
    }

    fn wait_until(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        enough: impl Fn(&Self) -> Result<bool>,
    ) -> Result<bool> {
        self.check_owner()?;
        let mut left_by = None;
        let waited = loop {
            if self.settle() {
                return Ok(true);
            }
            match enough(self) {
                Ok(false) => {}
                decided => break decided,
            }
            if interrupt::is_raised() || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break Ok(false);
            }
            if self.method == StartMethod::Fork && left_by.is_none() {
                // Both would be woken by its end, and one of them for nothing.
                left_by = Context::current().reaper();
                left_by.inspect(|reaper| reaper.leave(self));
            }
            if let Err(error) = self.sleep(deadline) {
                break Err(error);
            }
        };
        left_by.inspect(|reaper| reaper.watch(self));
        waited
    }

    /// Sleeps until there may be something new.
    fn sleep(&self, deadline: Option<Instant>) -> Result<()> {
        if self.method == StartMethod::Fork {
            events::poll(&[self.pidfd.as_fd()], deadline)?;
            return Ok(());
        }
        // Bounded: a supervisor that is stopped reports nothing, and another thread may have read what woke this one.
        let bound = Instant::now() + Duration::from_secs(1);
        let until = Some(deadline.map_or(bound, |deadline| deadline.min(bound)));
        let supervisor = self.link.pidfd()?.as_fd();
        if lock(&self.progress).channel_closed {
            // The supervisor is ending, or the report was read by another thread just now.
            let soon = until.map(|until| until.min(Instant::now() + Duration::from_millis(20)));
            events::poll(&[supervisor], soon)?;
            self.link.check();
            return Ok(());
        }
        // First for its end; then for the report of it, which the supervisor sends after.
        let has_ended = lock(&self.progress).ended_unreported.is_some();
        let awaited = if has_ended { self.channel.as_fd() } else { self.pidfd.as_fd() };
        let [news, lost] = events::poll(&[awaited, supervisor], until)?;
        if lost {
            self.link.check();
        } else if news && !has_ended {
            lock(&self.progress).ended_unreported = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether the process has ended, reported or not.
    pub(crate) fn has_ended(&self) -> bool {
        self.settle() || (self.is_owned_here() && self.pidfd.has_ended().unwrap_or(false))
    }

    /// How it ended, if it has.
    pub(crate) fn end(self: &Arc<Self>) -> Option<End> {
        if self.has_ended() {
            // The report is on its way, if it is not here.
            let _ = self.wait(Some(Instant::now() + 2 * REPORT));
        }
        lock(&self.progress).end
    }

    /// What its function gave, if that has arrived.
    pub(crate) fn delivered(&self) -> Option<Arc<Delivered>> {
        lock(&self.progress).outcome.clone()
    }

    /// Why it never came to its function.
    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.progress).failure.clone()
    }

    pub(crate) fn supervisor_lost(&self) -> Error {
        Error::SupervisorLost { pid: self.link.pid() }
    }

    /// Lets it survive this program.
    pub(crate) fn detach(&self) -> Result<()> {
        self.check_owner()?;
        if self.tied {
            return Err(Error::Invalid {
                what: "a fork that a child's main thread has made ends with it, by the kernel's doing, and cannot be detached: \
                       start it by forkserver or spawn, or fork it from another thread"
                    .to_owned(),
            });
        }
        if !self.settle() {
            // A forked child belongs to whichever supervisor this process has now.
            let link = if self.method == StartMethod::Fork {
                &Context::current().link(Kind::Native)?
            } else {
                &self.link
            };
            link.request(&Request::Detach { pid: self.pid }, &[], [])?;
            lock(&self.progress).detached = true;
            lock(&Context::current().children).remove(&self.number);
        }
        Ok(())
    }

    /// The last handle is gone: nobody will ask any more.
    pub(crate) fn abandoned(self: &Arc<Self>) {
        if !self.is_owned_here() || self.settle() || lock(&self.progress).detached {
            return;
        }
        // Its entry goes when its end is reported, and with it the descriptors.
        if let Some(reaper) = Context::current().reaper() {
            let only_unreported = self.method != StartMethod::Fork && self.has_ended();
            if only_unreported { reaper.await_report(self) } else { reaper.watch(self) }
        }
    }
}

impl Progress {
    /// Takes every message that is there.
    fn drain(&mut self, channel: &OwnedFd) {
        while !self.channel_closed {
            match protocol::receive::<Notice>(channel, false) {
                Ok(Arrived::Message(message)) => self.note(message),
                Ok(Arrived::Empty) => return,
                Ok(Arrived::Closed) | Err(_) => self.channel_closed = true,
                Ok(Arrived::Spoiled(reason)) => self.deliver(Outcome::BadResult(reason.to_owned()), None),
            }
        }
    }

    fn note(&mut self, message: Message<Notice>) {
        match message.header {
            Notice::Started { .. } | Notice::Gone => {}
            Notice::Failed(reason) => self.failure = Some(reason),
            Notice::Outcome { outcome, apart: false } => {
                self.deliver(outcome, Some(ResultBytes::Inline(message.raw)));
            }
            Notice::Outcome { outcome, apart: true } => {
                let memory = message.descriptors.first().map(SealedBytes::new);
                match memory {
                    Some(Ok(bytes)) => self.deliver(outcome, Some(ResultBytes::Apart(bytes))),
                    Some(Err(error)) => self.deliver(Outcome::BadResult(error.to_string()), None),
                    None => self.deliver(Outcome::BadResult("its memory did not arrive".to_owned()), None),
                }
            }
            Notice::Ended { code, usage } => {
                self.end = Some(End::Exited(ExitStatus::from_exit_code(code), Some(usage.into())));
            }
        }
    }

    fn deliver(&mut self, outcome: Outcome, result: Option<ResultBytes>) {
        let result = result.unwrap_or(ResultBytes::Inline(Vec::new()));
        self.outcome = Some(Arc::new(Delivered { outcome, result }));
    }
}
