//! The first steps of a child, from the fork to its function, and its last.
//!
//! A child of `forkserver` goes from [`begin`] straight to [`run`]. A child of `spawn` execs the program in between, which
//! comes back through [`resume`] with what it needs in a memfd. A child of `fork` enters at [`finish`] with its outcome.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use broody_os::memory::{self, SealedBytes};
use broody_os::signals::SignalSet;
use broody_os::{Pid, environment, fork, image};
use serde::{Deserialize, Serialize};

use super::link::{Kind, Link};
use super::protocol::{self, Arrived, Identity, Message, Notice, Program, Request, Start, Stream};
use super::server::{ARENA, Inherited, REQUESTS};
use crate::context::Context;
use crate::function::{FunctionId, Outcome};
use crate::output::Output;
use crate::{boot, embed};

/// The exit code of a process whose function panicked, as of a Rust program whose main panicked.
const PANICKED: u8 = 101;

/// The longest message of a panic, and the longest stack, that fit into a notice, in bytes.
const LONGEST_TEXT: usize = protocol::INLINE / 2 - 64;

/// The exit code of a child that could not get to its function; its starter gets the reason.
pub(crate) const NOT_STARTED: u8 = 127;

/// Where the channel is in a child of `forkserver` or `spawn`; the function's own descriptors follow.
const CHANNEL: RawFd = ARENA + 1;

/// What a child that execs hands to itself, in a memfd at the first descriptor behind the channel.
#[derive(Serialize, Deserialize)]
struct Baton {
    identity: Identity,
    function: FunctionId,
    supervisor: Pid,
    build_id: Vec<u8>,
    /// The supervisor is a runtime's template.
    is_template: bool,
    own: u8,
    argument: usize,
}

/// In the supervisor, once: makes what each child would have to make for itself. What is there before the fork needs no memory, and
/// no page of it, in the child.
pub(crate) fn warm_up() {
    crate::function::prepare_recording();
    crate::function::record_panics();
    let _ = std::thread::current().id();
    let _ = std::io::stdout();
}

/// In the forked child: never returns to the supervisor's loop.
pub(crate) fn begin(
    inherited: &Inherited,
    start: Start,
    argument: Vec<u8>,
    channel: OwnedFd,
    descriptors: Vec<OwnedFd>,
) -> ! {
    if let Err(error) = settle_in(inherited) {
        give_up(&channel, error.to_string());
    }
    go_on(inherited, start, argument, channel, descriptors)
}

/// In a child that was forked before it was asked for: waits to be told what it is.
pub(crate) fn wait(inherited: &Inherited, socket: OwnedFd) -> ! {
    fork::set_thread_name("broody-spare");
    // SAFETY: this process uses only what is kept, and standard streams.
    #[allow(unsafe_code)]
    let kept = settle_in(inherited).and_then(|()| unsafe { keep_only(inherited, vec![socket], false) });
    let asked = kept.and_then(|kept| match kept.first() {
        Some(socket) => protocol::receive::<Request>(socket, true),
        None => Ok(Arrived::Closed),
    });
    let Ok(Arrived::Message(Message { header: Request::Start(start), raw, mut descriptors, .. })) = asked
    else {
        // It is not needed after all.
        fork::exit_now(0)
    };
    if descriptors.is_empty() {
        fork::exit_now(NOT_STARTED);
    }
    let channel = descriptors.remove(0);
    go_on(inherited, start, raw, channel, descriptors)
}

/// What every child of the supervisor does first.
fn settle_in(inherited: &Inherited) -> broody_os::Result<()> {
    fork::die_with_parent_thread()?;
    if fork::parent_pid() != inherited.supervisor {
        fork::exit_now(NOT_STARTED);
    }
    // A signal that was sent to this process before comes now: the supervisor forks with every signal blocked.
    SignalSet::empty().block_exactly();
    Ok(())
}

fn go_on(
    inherited: &Inherited,
    start: Start,
    argument: Vec<u8>,
    channel: OwnedFd,
    descriptors: Vec<OwnedFd>,
) -> ! {
    inherited.restore_name();
    let spare = fork::duplicate(&channel);
    match become_child(inherited, start, argument, channel, descriptors) {
        Ok((start, argument, channel, own)) => {
            let supervisor = (inherited.supervisor, embed::runtime().is_some());
            let code = run(start.identity, start.function, &argument, channel, own, supervisor);
            fork::exit_now(code)
        }
        Err(error) => match spare {
            Ok(channel) => give_up(&channel, error.to_string()),
            Err(_) => fork::exit_now(NOT_STARTED),
        },
    }
}

/// Tells the starter why there will be no function, and ends.
pub(crate) fn give_up(channel: &OwnedFd, reason: String) -> ! {
    // A starter that is gone does not want it.
    let _ = protocol::send(channel, &Notice::Failed(reason), &[], &[], true);
    fork::exit_now(NOT_STARTED)
}

type Ready = (Start, Bytes, OwnedFd, Vec<OwnedFd>);

/// An argument: it came in the message, or in memory of its own.
enum Bytes {
    Inline(Vec<u8>),
    Apart(SealedBytes),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Inline(bytes) => bytes,
            Bytes::Apart(bytes) => bytes,
        }
    }
}

fn become_child(
    inherited: &Inherited,
    start: Start,
    argument: Vec<u8>,
    channel: OwnedFd,
    descriptors: Vec<OwnedFd>,
) -> broody_os::Result<Ready> {
    let missing =
        || broody_os::Error::new("recvmsg", std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(missing);
    let argument = match start.argument_apart {
        true => Bytes::Apart(SealedBytes::new(&next()?)?),
        false => Bytes::Inline(argument),
    };
    let variables = if start.environment { Some(SealedBytes::new(&next()?)?) } else { None };
    if start.directory {
        environment::enter(&next()?)?;
    }
    for (number, stream) in (1..).zip(start.streams) {
        match stream {
            Stream::Same => {}
            Stream::Passed => environment::replace_stream(number, next()?)?,
            Stream::Closed => environment::silence_stream(number)?,
        }
    }
    if let Some(block) = &variables {
        // SAFETY: a child just forked has one thread.
        #[allow(unsafe_code)]
        unsafe {
            environment::set_variables(block);
        }
    }
    if start.identity.named {
        fork::set_thread_name(&start.identity.name);
    }
    let mut keep = vec![channel];
    if start.exec {
        keep.push(baton(inherited, &start, &argument)?);
    }
    keep.extend(descriptors);
    // SAFETY: this process does not go on as the supervisor; it uses only what is kept, and standard streams.
    #[allow(unsafe_code)]
    let mut kept = unsafe { keep_only(inherited, keep, start.exec)?.into_iter() };
    inherited.restore_limit();
    if start.exec {
        return Err(exec(start.program));
    }
    Ok((start, argument, kept.next().ok_or_else(missing)?, kept.collect()))
}

/// Closes every descriptor but these, the standard streams, and what children of a runtime's template have from it.
///
/// # Safety
/// As [`fork::keep_only`].
#[allow(unsafe_code)]
unsafe fn keep_only(
    inherited: &Inherited,
    keep: Vec<OwnedFd>,
    exec: bool,
) -> broody_os::Result<Vec<OwnedFd>> {
    let highest = inherited.foreign.iter().max().copied().filter(|_| !exec).unwrap_or(ARENA);
    // SAFETY: the caller's.
    unsafe {
        let kept = fork::keep_only(highest + 1, keep, exec)?;
        fork::close_between(CHANNEL..highest, &inherited.foreign);
        Ok(kept)
    }
}

fn baton(inherited: &Inherited, start: &Start, argument: &[u8]) -> broody_os::Result<OwnedFd> {
    let baton = Baton {
        identity: start.identity.clone(),
        function: start.function,
        supervisor: inherited.supervisor,
        build_id: start
            .program
            .as_ref()
            .map_or_else(|| image::build_id().0, |program| program.build_id.clone()),
        is_template: embed::runtime().is_some(),
        own: start.own,
        argument: argument.len(),
    };
    let mut bytes = argument.to_vec();
    bytes.extend(crate::codec::encode(&baton).unwrap_or_default());
    bytes.extend((argument.len() as u64).to_le_bytes());
    memory::create_with("broody-baton", &bytes)
}

/// Execs the program anew; returns only on failure. The request socket and the arena are put where exec leaves them open.
fn exec(program: Option<Program>) -> broody_os::Error {
    for number in [REQUESTS, ARENA] {
        // SAFETY: they are at their numbers in every child, and whoever owns them in this process is gone after exec.
        #[allow(unsafe_code)]
        let inherited = unsafe { fork::inherited(number) };
        let kept = inherited.and_then(|fd| fork::keep_over_exec(&fd).map(|()| std::mem::forget(fd)));
        if let Err(error) = kept {
            return error;
        }
    }
    let variables = environment::variables();
    match program {
        Some(Program { path, arguments, .. }) => {
            let token = (boot::VARIABLE, boot::EMBEDDED_CHILD);
            environment::exec(Path::new(&path), &arguments, &variables, token)
        }
        None => {
            let arguments: Vec<_> = std::env::args_os().collect();
            let token = boot::Role::Child.token();
            environment::exec(&image::executable(), &arguments, &variables, (boot::VARIABLE, &token))
        }
    }
}

/// In a program that was exec'ed as a child. Gives the exit code.
pub(crate) fn resume() -> u8 {
    let baton = || -> broody_os::Result<_> {
        // SAFETY: these are the descriptors that `become_child` kept; nothing here owns them yet.
        #[allow(unsafe_code)]
        unsafe {
            let channel = fork::inherited(CHANNEL)?;
            let bytes = SealedBytes::new(&fork::inherited(CHANNEL + 1)?)?;
            Ok((channel, bytes))
        }
    };
    let Ok((channel, bytes)) = baton() else { fork::exit_now(NOT_STARTED) };
    let parsed = || -> Option<(Baton, &[u8])> {
        let (rest, length) = bytes.split_last_chunk::<8>()?;
        let (argument, header) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        Some((crate::codec::decode(header).ok()?, argument))
    };
    let Some((baton, argument)) = parsed() else { fork::exit_now(NOT_STARTED) };
    if fork::parent_pid() != baton.supervisor {
        fork::exit_now(NOT_STARTED);
    }
    if image::build_id().0 != baton.build_id {
        let reason = "the program that was exec'ed is another build";
        // Where the starter has no place for it, the user has.
        eprintln!("broody: a process could not be started: {reason}");
        give_up(&channel, reason.to_owned());
    }
    let first = CHANNEL + 2;
    let own = (first..first + RawFd::from(baton.own)).filter_map(|raw| {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            fork::inherited(raw).ok()
        }
    });
    let own = own.collect();
    warm_up();
    crate::memory::expect_inherited();
    let Baton { identity, function, supervisor, is_template, .. } = baton;
    run(identity, function, argument, channel, own, (supervisor, is_template))
}

/// Runs the function and all that comes after it; gives the exit code. The supervisor's pid comes with whether it is a runtime's template.
fn run(
    identity: Identity,
    function: FunctionId,
    argument: &[u8],
    channel: OwnedFd,
    own: Vec<OwnedFd>,
    (supervisor, is_template): (Pid, bool),
) -> u8 {
    // SAFETY: the request socket is at its number in every child, and nothing here owns it yet.
    #[allow(unsafe_code)]
    let requests = unsafe { fork::inherited(REQUESTS) };
    let link = requests.ok().map(|requests| Link::inherited(requests, supervisor));
    let links = link.into_iter().flat_map(|link| {
        // A template does everything that a native supervisor does.
        let also = is_template.then(|| (Kind::Template, link.clone()));
        also.into_iter().chain([(Kind::Native, link)])
    });
    Context::become_child(identity, links, own);
    let mut result = Output::within(Vec::new());
    // SAFETY: the id was made in a process of this build: the supervisor's build id was compared with the host's, and a child
    // that has exec'ed has compared its own with the supervisor's.
    #[allow(unsafe_code)]
    let trampoline = unsafe { function.trampoline() };
    let outcome = trampoline(argument, &mut result);
    finish(channel, outcome, &result.finish().0)
}

/// Sends the outcome and runs this process's exit functions; gives the exit code.
pub(crate) fn finish(channel: OwnedFd, outcome: Outcome, result: &[u8]) -> u8 {
    let panicked = matches!(outcome, Outcome::Panicked { .. });
    send_outcome(&channel, outcome, result);
    // An exit function that panics has printed its message; the others still run.
    let _ = catch_unwind(AssertUnwindSafe(crate::exit::run_all));
    crate::memory::leave();
    flush();
    if panicked { PANICKED } else { embed::exit_code() }
}

fn send_outcome(channel: &OwnedFd, outcome: Outcome, result: &[u8]) {
    let apart = match protocol::apart("broody-result", result) {
        Ok(apart) => apart,
        Err(error) => return send_notice(channel, Outcome::BadResult(error.to_string()), &[], None),
    };
    match apart {
        Some(memory) => send_notice(channel, outcome, &[], Some(memory.as_fd())),
        None => send_notice(channel, outcome, result, None),
    }
}

fn send_notice(channel: &OwnedFd, outcome: Outcome, raw: &[u8], memory: Option<BorrowedFd<'_>>) {
    let outcome = outcome.shortened(LONGEST_TEXT);
    let notice = Notice::Outcome { outcome, apart: memory.is_some() };
    // A starter that is gone does not want it.
    let _ = protocol::send(channel, &notice, raw, memory.as_slice(), true);
}

/// Writes out what is buffered for the standard streams, which _exit does not.
fn flush() {
    use std::io::Write;
    let _ = std::io::stdout().flush();
    fork::flush_c_streams();
}
