//! The start method `fork`: a child that is a copy of this process.
//!
//! It is a direct child, which this process reaps; the supervisor is told of it and ends it when the program dies. The child
//! tells it, and only then runs its function, so that there is no instant in which a running function is unknown. In between
//! the child is harmless: if its parent dies there, it finds another parent and exits; if the supervisor died, it cannot send,
//! and exits.
//!
//! In the host the kernel is *not* asked to kill the child with this process (PR_SET_PDEATHSIG): what the child has started by itself
//! would then fall to init before the supervisor has looked for it. The supervisor stops the child first, and ends the tree below it.
//!
//! Below the supervisor it is the other way round: what such a child has started falls to the supervisor, which ends it; but when the supervisor
//! is killed, and this process with it, nobody is left who knows of the child. There the kernel is asked, if the main thread forks (the
//! signal follows the thread), and such a child cannot be detached.

#![allow(unsafe_code)]

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use broody_os::fork::{self, Fork};
use broody_os::pidfd::PidFd;
use broody_os::signals::SignalSet;
use broody_os::{Pid, environment, events, socket, wait};
use broody_shm::arena::{Arena, Frozen};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::builder::Builder;
use super::launch::identity;
use super::shared::{Birth, Shared};
use super::{Child, Process, StartMethod};
use crate::context::Context;
use crate::function::{self, Outcome};
use crate::supervisor::child;
use crate::supervisor::link::{Kind, Link, PATIENCE};
use crate::supervisor::protocol::{self, Arrived, Identity, Notice, Request};
use crate::{Error, Result, codec, embed, memory};

/// Starts `function` in a fork of this process.
pub(super) fn start<R, F>(how: &Builder, function: F) -> Result<Child<R>>
where
    R: Serialize + DeserializeOwned,
    F: FnOnce() -> R,
{
    Ok(Child::new(begin(how, function)?.running()?, function::name_of::<F>()))
}

/// Begins with that: there is a fork, which must be [waited for](Forked::running).
pub(super) fn begin<R, F>(how: &Builder, function: F) -> Result<Forked>
where
    R: Serialize + DeserializeOwned,
    F: FnOnce() -> R,
{
    match divide(how.given_name(), how.is_daemon())? {
        Side::Parent(forked) => Ok(forked),
        Side::Child(channel) => {
            function::record_panics();
            let mut result = Vec::new();
            let outcome = function::catch_panic(|| {
                codec::encode_into(&function(), &mut result)
                    .map_or_else(Outcome::BadResult, |()| Outcome::Returned)
            });
            let outcome = outcome.unwrap_or_else(|panicked| panicked);
            fork::exit_now(child::finish(channel, outcome, &result))
        }
    }
}

/// Forks this process. `None` in the child.
pub(crate) fn fork_here(name: &str, daemon: bool) -> Result<Option<Process>> {
    match divide(Some(name), daemon)? {
        Side::Parent(forked) => Ok(Some(Process::new(forked.running()?))),
        Side::Child(_) => Ok(None),
    }
}

/// Which side of a fork this is.
enum Side {
    Parent(Forked),
    /// Settled in, with its channel.
    Child(OwnedFd),
}

fn divide(name: Option<&str>, daemon: bool) -> Result<Side> {
    let context = Context::current();
    let number = context.next_number();
    let identity = identity(context, name, daemon, StartMethod::Fork, number);
    let link = context.living_link()?;
    let links: Vec<_> = context.existing_links().collect();
    let (ours, theirs) = socket::pair()?;
    let parent = fork::pid();
    let tied = link.is_inherited() && fork::is_main_thread();
    function::prepare_recording();
    // What this process keeps in shared memory stays until the child keeps it, too.
    let frozen = memory::existing_arena().map(Arena::freeze).transpose()?;

    // Held over the fork, standard output is whole in the child, and what was buffered is not written twice.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.flush();
    fork::flush_c_streams();
    // SAFETY: what the closure may rely on after a fork is its writer's business, as the documentation of this start method
    // says. What this crate does in the child takes no lock of the parent's: its context is new.
    let forked = unsafe { embed::fork() }
        .map_err(|error| Error::Start { name: identity.name.clone(), reason: error.to_string() })?;
    drop(stdout);
    match forked {
        Fork::Child => {
            drop(ours);
            let newborn = Newborn { identity, links, channel: theirs, parent, tied, frozen };
            Ok(Side::Child(newborn.settle_in()))
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let name = identity.name;
            Ok(Side::Parent(Forked { name, number, pid, daemon, tied, channel: ours, link, _frozen: frozen }))
        }
    }
}

/// A fork of this process, which settles in.
pub(crate) struct Forked {
    name: String,
    number: u64,
    pid: Pid,
    daemon: bool,
    tied: bool,
    channel: OwnedFd,
    link: Arc<Link>,
    _frozen: Option<Frozen>,
}

impl Forked {
    /// Ends it.
    pub(crate) fn give_up(self) {
        // Ours and unreaped, or not to be found.
        if let Ok(child) = PidFd::open(self.pid) {
            end(&child);
        }
    }

    /// Waits until it has settled in.
    pub(crate) fn running(self) -> Result<Arc<Shared>> {
        let pidfd = await_start(self.pid, &self.name, &self.channel, &self.link)?;
        let Self { name, number, pid, daemon, tied, channel, link, _frozen } = self;
        let birth = Birth {
            name,
            pid,
            pidfd,
            method: StartMethod::Fork,
            daemon,
            tied,
            channel,
            link,
            early: Vec::new(),
        };
        Ok(Shared::register(birth, number))
    }
}

/// The child, before its function.
struct Newborn {
    identity: Identity,
    /// Each supervisor that it may ask for children has to know it.
    links: Vec<(Kind, Arc<Link>)>,
    channel: OwnedFd,
    parent: Pid,
    /// It dies with the thread that forks it.
    tied: bool,
    /// What its parent keeps in shared memory.
    frozen: Option<Frozen>,
}

impl Newborn {
    fn settle_in(self) -> OwnedFd {
        let Newborn { identity, links, channel, parent, tied, frozen } = self;
        if let Err(error) = settle_in(&links, &channel, parent, tied, frozen) {
            child::give_up(&channel, error.to_string());
        }
        if identity.named {
            fork::set_thread_name(&identity.name);
        }
        Context::become_child(identity, links, Vec::new());
        channel
    }
}

fn settle_in(
    links: &[(Kind, Arc<Link>)],
    channel: &OwnedFd,
    parent: Pid,
    tied: bool,
    frozen: Option<Frozen>,
) -> Result<()> {
    if tied {
        fork::die_with_parent_thread()?;
    }
    SignalSet::empty().block_exactly();
    environment::silence_stream(0)?;
    let (pid, pidfd) = (fork::pid(), PidFd::myself()?);
    for (kind, link) in links {
        let told = link.request(&Request::Adopt { pid, parent }, &[], [pidfd.as_fd()]);
        // A template that is gone has nothing to look after.
        if *kind == Kind::Native {
            told?;
        }
    }
    // It may have died before the supervisor knew.
    if fork::parent_pid() != parent {
        fork::exit_now(child::NOT_STARTED);
    }
    if let Some(frozen) = frozen {
        frozen.adopt()?;
    }
    Ok(protocol::send(channel, &Notice::Started { pid }, &[], &[pidfd.as_fd()], true)?)
}

/// Waits for the child's word that it runs, which brings its pidfd.
fn await_start(pid: Pid, name: &str, channel: &OwnedFd, link: &Link) -> Result<PidFd> {
    let failed = |reason: String| Error::Start { name: name.to_owned(), reason };
    // Only to see it die early. Were it reaped by the host's own code before this line, the pid could be another process's by
    // now, which would cost patience and nothing else: the child's own word brings the handle that is kept.
    let watch = PidFd::open(pid).ok();
    let deadline = Some(Instant::now() + PATIENCE);
    let outcome = loop {
        match protocol::receive::<Notice>(channel, false)? {
            Arrived::Message(mut message) => match message.header {
                Notice::Started { .. } => {
                    break message.descriptors.pop().ok_or_else(|| failed("it came without a handle".into()));
                }
                Notice::Failed(reason) => break Err(failed(reason)),
                _ => break Err(failed("it sent something else first".into())),
            },
            Arrived::Spoiled(reason) => break Err(failed(format!("its word was lost: {reason}"))),
            Arrived::Closed => break Err(failed("it ended at once".into())),
            Arrived::Empty => {
                let watched = watch.as_ref().map_or(channel.as_fd(), AsFd::as_fd);
                let [news, ended] = events::poll(&[channel.as_fd(), watched], deadline)?;
                if !news && ended {
                    // What it sent before it died comes first.
                    if let Ok(Arrived::Empty) = protocol::receive::<Notice>(channel, false) {
                        break Err(failed("it ended at once".into()));
                    }
                } else if !news {
                    break Err(failed(format!("it gave no sign for {} s", PATIENCE.as_secs())));
                }
            }
        }
    };
    match outcome {
        Ok(pidfd) => Ok(pidfd.into()),
        Err(error) => {
            link.check();
            // Ours and unreaped, or reaped by the host's code and then not to be found.
            if let Some(watch) = watch {
                end(&watch);
            }
            Err(error)
        }
    }
}

fn end(child: &PidFd) {
    let _ = child.send_signal(broody_os::signals::SIGKILL);
    let _ = events::poll(&[child.as_fd()], Some(Instant::now() + PATIENCE));
    let _ = wait::reap_pidfd(child.as_fd());
}
