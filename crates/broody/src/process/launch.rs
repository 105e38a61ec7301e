//! Asking the supervisor for a process.
//!
//! It takes two steps, so that several may be asked for before the first is waited for: [`Launch::ask`] sends the request, [`Asked::running`] waits.
//!
//! The request names the starter's *channel*, on which the answer comes. Until the request is sent nothing has happened: a
//! supervisor that is found dead then is replaced, and the new one is asked. Once it is sent nothing is tried again, since the
//! function might run twice: a start whose answer does not come is cancelled, and is an error.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use broody_os::pidfd::PidFd;
use broody_os::{Pid, events, socket};

use super::StartMethod;
use super::shared::{Birth, Shared};
use crate::context::Context;
use crate::function::FunctionId;
use crate::handle::Outgoing;
use crate::supervisor::link::{Kind, Link, PATIENCE};
use crate::supervisor::protocol::{
    self, Arrived, Identity, Message, Notice, Parent, Program, Request, Start, Stream,
};
use crate::{Error, Result, embed};

/// What to start.
pub(crate) struct Launch<'a> {
    /// The name that the process was given; else it gets one.
    pub(crate) name: Option<&'a str>,
    pub(crate) daemon: bool,
    pub(crate) method: StartMethod,
    pub(crate) function: FunctionId,
    /// The encoded argument.
    pub(crate) argument: &'a [u8],
    /// Descriptors that the function takes by [`take_own_descriptors`](super::take_own_descriptors).
    pub(crate) own: &'a [BorrowedFd<'a>],
}

/// A process that was asked for.
pub(crate) struct Asked {
    identity: Identity,
    number: u64,
    method: StartMethod,
    channel: OwnedFd,
    link: Arc<Link>,
    /// The shared objects in its argument.
    outgoing: Outgoing,
}

impl Launch<'_> {
    /// Starts the process, which takes over `outgoing`, the shared objects in its argument.
    pub(crate) fn start(&self, outgoing: Outgoing) -> Result<Arc<Shared>> {
        self.ask(outgoing)?.running()
    }

    /// Asks for the process. It must be [waited for](Asked::running).
    pub(crate) fn ask(&self, outgoing: Outgoing) -> Result<Asked> {
        let context = Context::current();
        context.sweep();
        let number = context.next_number();
        let identity = identity(context, self.name, self.daemon, self.method, number);
        let argument = protocol::apart("broody-argument", self.argument)?;
        let holds = outgoing.holds().iter().map(|hold| (hold.index, hold.use_number)).collect();
        let exec = self.method == StartMethod::Spawn;
        let start = Start {
            identity: identity.clone(),
            number,
            function: self.function,
            exec,
            program: embed::runtime().filter(|_| exec).map(Program::of),
            argument_apart: argument.is_some(),
            environment: false,
            directory: false,
            streams: [Stream::Same; 2],
            own: self.own.len() as u8,
            holds,
        };
        let attempt = |link: &Arc<Link>| self.send(link, start.clone(), argument.as_ref());
        let kind = if exec { Kind::Native } else { Kind::Template };
        let link = context.link(kind)?;
        let (link, channel) = match attempt(&link) {
            Ok(channel) => (link, channel),
            // It died before it could take the request.
            Err(Error::SupervisorLost { .. }) => {
                let link = context.link(kind)?;
                let channel = attempt(&link)?;
                (link, channel)
            }
            Err(error) => return Err(error),
        };
        Ok(Asked { identity, number, method: self.method, channel, link, outgoing })
    }

    /// Sends the request. Gives the channel that the answer comes on.
    fn send(&self, link: &Link, mut start: Start, argument: Option<&OwnedFd>) -> Result<OwnedFd> {
        let (ours, theirs) = socket::pair()?;
        let differences = link.differences()?;
        differences.describe(&mut start);
        let descriptors = [theirs.as_fd()]
            .into_iter()
            .chain(argument.map(AsFd::as_fd))
            .chain(differences.descriptors())
            .chain(self.own.iter().copied());
        let raw = if argument.is_some() { &[] } else { self.argument };
        link.request(&Request::Start(start), raw, descriptors)?;
        Ok(ours)
    }
}

impl Asked {
    /// Waits until the process runs.
    pub(crate) fn running(self) -> Result<Arc<Shared>> {
        let mut early = Vec::new();
        let (pid, pidfd) = self.await_start(&mut early).inspect_err(|_| self.cancel())?;
        let Self { identity, number, method, channel, link, outgoing } = self;
        // From here on the supervisor ends what the child does not take.
        outgoing.hand_over();
        let Identity { name, daemon, .. } = identity;
        let birth = Birth { name, pid, pidfd, method, daemon, tied: false, channel, link, early };
        Ok(Shared::register(birth, number))
    }

    /// Ends it, if it runs.
    pub(crate) fn give_up(self) {
        self.cancel();
    }

    fn cancel(&self) {
        let _ = self.link.request(&Request::Cancel { number: self.number }, &[], []);
    }

    /// Waits for the word that it runs. What comes before it is put into `early`.
    fn await_start(&self, early: &mut Vec<Message<Notice>>) -> Result<(Pid, PidFd)> {
        let Self { channel, link, .. } = self;
        let failed = |reason: String| Error::Start { name: self.identity.name.clone(), reason };
        let deadline = Some(Instant::now() + PATIENCE);
        loop {
            match protocol::receive::<Notice>(channel, false)? {
                Arrived::Message(mut message) => match message.header {
                    Notice::Started { pid } => {
                        let pidfd = message.descriptors.pop();
                        let pidfd = pidfd.ok_or_else(|| failed("it came without a handle".into()))?;
                        return Ok((pid, pidfd.into()));
                    }
                    Notice::Failed(reason) => return Err(failed(reason)),
                    // The child was faster than the supervisor.
                    _ => early.push(message),
                },
                Arrived::Spoiled(reason) => return Err(failed(format!("the answer was lost: {reason}"))),
                Arrived::Closed if link.check() => return Err(Error::SupervisorLost { pid: link.pid() }),
                Arrived::Closed => return Err(failed("the supervisor refused it".into())),
                Arrived::Empty => {
                    let [news, lost] = events::poll(&[channel.as_fd(), link.pidfd()?.as_fd()], deadline)?;
                    if !news && lost && link.check() {
                        return Err(Error::SupervisorLost { pid: link.pid() });
                    }
                    if !news && !lost {
                        return Err(link.silent());
                    }
                }
            }
        }
    }
}

/// Who the child `number` of this process will be.
pub(super) fn identity(
    context: &Context,
    name: Option<&str>,
    daemon: bool,
    method: StartMethod,
    number: u64,
) -> Identity {
    let ours = &context.identity;
    let given = name.map(str::to_owned);
    // A runtime's processes keep its name in ps: it is what their users look for.
    let named = given.is_some() && embed::runtime().is_none();
    let name = given.unwrap_or_else(|| match ours.parent {
        None => format!("Process-{number}"),
        Some(_) => format!("{}:{number}", ours.name),
    });
    let parent = Parent { name: ours.name.clone(), pid: context.pid };
    Identity { name, named, daemon, method: Some(method), parent: Some(parent) }
}
