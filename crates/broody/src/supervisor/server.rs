//! The supervisor's own program: one loop, one thread. See the [module](super) for its place among the processes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use broody_os::events::{self, Epoll, Trigger};
use broody_os::fork::{self, Fork};
use broody_os::limits::DescriptorLimit;
use broody_os::pidfd::PidFd;
use broody_os::signals::{self, Disposition, SignalFd, SignalSet};
use broody_os::wait::{self, Reaped};
use broody_os::{Pid, environment, image, limits, proc, socket};
use broody_shm::arena::{Arena, HoldId};

use super::child;
use super::protocol::{self, Arrived, Message, Notice, Request, Start, Welcome};
use super::repair::Repairs;
use super::spare::Spares;
use crate::{embed, memory};

/// Where the supervisor keeps the sending end of the request socket, and where every child finds it.
pub(crate) const REQUESTS: i32 = 3;

/// Where the supervisor, and every child, has the program's shared memory.
pub(crate) const ARENA: i32 = REQUESTS + 1;

/// How long after a child's end what it left behind is looked for. Ends that come together are looked after together.
const ORPHAN_DELAY: Duration = Duration::from_millis(2);

/// How long processes are waited for that do not die by SIGKILL (in uninterruptible sleep).
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Runs the supervisor. The request socket is standard input.
pub(crate) fn run() -> ! {
    match Server::new() {
        Ok(mut server) => server.run(),
        Err(_) => fork::exit_now(FAILED),
    }
}

/// The exit code of a supervisor that could not go on. Whoever started it watches the socket: ending is the answer to every failure.
const FAILED: u8 = 1;

/// A child of the supervisor.
#[derive(Debug)]
struct Entry {
    /// Where its starter learns of its end.
    channel: OwnedFd,
    /// Who started it; it dies with that process.
    parent: Pid,
    /// Which of its starts it is.
    number: u64,
    /// It was detached: it lives on.
    kept: bool,
    /// What keeps the shared objects in its argument alive until it has taken them.
    holds: Vec<HoldId>,
}

/// A process that is not the supervisor's child and still ends with the program: forked by the host or by a child.
#[derive(Debug)]
struct Adopted {
    pidfd: PidFd,
    parent: Pid,
    /// It was detached: it lives on.
    kept: bool,
}

/// What a child has to put back as the host had it.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) supervisor: Pid,
    /// What a runtime's template has opened for itself, and so for its children.
    pub(crate) foreign: Vec<RawFd>,
    /// What ps shows for the program.
    name: String,
    descriptors: DescriptorLimit,
}

impl Inherited {
    /// What ps shows.
    pub(crate) fn restore_name(&self) {
        fork::set_thread_name(&self.name);
    }

    /// The host's limit of descriptors, once the child has only its own.
    pub(crate) fn restore_limit(&self) {
        if self.descriptors.current != self.descriptors.maximum {
            limits::set_descriptors(&self.descriptors);
        }
    }
}

const TOKEN_HOST: u64 = u64::MAX;
const TOKEN_REQUESTS: u64 = u64::MAX - 1;
const TOKEN_ENDS: u64 = u64::MAX - 2;

/// The supervisor's state.
#[derive(Debug)]
pub(crate) struct Server {
    requests: OwnedFd,
    host: Pid,
    host_pidfd: PidFd,
    host_gone: bool,
    /// Readable when a child may have ended.
    ends: SignalFd,
    epoll: Epoll,
    inherited: Inherited,
    children: BTreeMap<Pid, Entry>,
    /// By pid, which is also the epoll token.
    adopted: BTreeMap<Pid, Adopted>,
    spares: Spares,
    repairs: Repairs,
    /// When orphans are to be looked for.
    scan_at: Option<Instant>,
    /// Whoever waits for the end of everything.
    quitting: Option<OwnedFd>,
    /// The program is over with the host: its names go then.
    is_first: bool,
}

impl Server {
    pub(crate) fn new() -> broody_os::Result<Self> {
        // First: the host may have few descriptors left, and this process keeps one or two for each child.
        let limit = limits::raise_descriptors();
        // What a terminal, a service manager or a user sends to the whole program would end or stop this process, which has to
        // end when the host does, and not before: every signal stays blocked for good. SIGCHLD, which may have been ignored, is read
        // from a descriptor.
        SignalSet::all().block_exactly();
        signals::set_disposition(signals::SIGCHLD, Disposition::Default);
        // Children inherit this: Rust programs ignore it, and get EPIPE. A program that begins before main has not come so far.
        signals::set_disposition(signals::SIGPIPE, Disposition::Ignore);
        fork::set_thread_name("broody-super");
        child::warm_up();
        fork::become_subreaper()?;

        let threads = proc::thread_count();
        let requests = fork::duplicate(std::io::stdin())?;
        environment::silence_stream(0)?;
        for stream in [1, 2] {
            if environment::descriptor_identity(stream).is_none() {
                environment::silence_stream(stream)?;
            }
        }
        let refused =
            || broody_os::Error::new("recvmsg", std::io::Error::from(std::io::ErrorKind::InvalidData));
        let Arrived::Message(Message {
            header: Request::Hello { is_first },
            raw: name,
            descriptors,
            sender: Some(host),
        }) = protocol::receive::<Request>(&requests, true)?
        else {
            return Err(refused());
        };
        let [host_pidfd, sending, arena] = <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| refused())?;
        // SAFETY: this process has one thread and holds nothing else that it will use.
        #[allow(unsafe_code)]
        let kept = unsafe { fork::keep_only(REQUESTS, vec![sending, arena, requests, host_pidfd], false)? };
        let [sending, arena, requests, host_pidfd] = <[OwnedFd; 4]>::try_from(kept).map_err(|_| refused())?;
        // It stays at its number for every child; nobody here sends on it. So does the arena.
        std::mem::forget(sending);
        memory::adopt(Arena::open(arena));

        let me = fork::pid();
        let epoll = Epoll::new()?;
        epoll.add(&host_pidfd, TOKEN_HOST, Trigger::Level)?;
        epoll.add(&requests, TOKEN_REQUESTS, Trigger::Level)?;
        let ends = SignalFd::new(signals::SIGCHLD)?;
        epoll.add(&ends, TOKEN_ENDS, Trigger::Level)?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let welcome = Welcome { build_id: image::build_id().0, version, pid: me, threads };
        protocol::send(&requests, &welcome, &[], &[PidFd::myself()?.as_fd()], true)?;
        Ok(Self {
            requests,
            host,
            host_pidfd: host_pidfd.into(),
            host_gone: false,
            ends,
            epoll,
            inherited: Inherited {
                supervisor: me,
                foreign: Vec::new(),
                name: String::from_utf8_lossy(&name).into_owned(),
                descriptors: limit,
            },
            children: BTreeMap::new(),
            adopted: BTreeMap::new(),
            spares: Spares::default(),
            repairs: Repairs::new(),
            scan_at: None,
            quitting: None,
            is_first,
        })
    }

    /// Whatever is open now beside its own: children keep it.
    pub(crate) fn note_foreign_descriptors(&mut self) {
        let own = [self.requests.as_fd(), self.host_pidfd.as_fd(), self.ends.as_fd(), self.epoll.as_fd()];
        let own = own.map(|fd| fd.as_raw_fd());
        let open = proc::descriptors(self.inherited.supervisor).unwrap_or_default();
        let is_open = |fd: &RawFd| environment::descriptor_identity(*fd).is_some();
        self.inherited.foreign =
            open.into_iter().filter(|fd| *fd > ARENA && !own.contains(fd) && is_open(fd)).collect();
    }

    /// Serves until the program ends.
    pub(crate) fn run(&mut self) -> ! {
        let code = if self.serve().is_ok() { 0 } else { FAILED };
        fork::exit_now(code)
    }

    fn serve(&mut self) -> broody_os::Result<()> {
        let mut ready = Vec::with_capacity(64);
        loop {
            let until_scan = self.scan_at.map(|at| at.saturating_duration_since(Instant::now()));
            let until_repair = self.repairs.until_due();
            let limit = until_scan.into_iter().chain(self.spares.until_release()).chain(until_repair).min();
            self.epoll.wait(&mut ready, limit)?;
            for token in ready.drain(..) {
                match token {
                    TOKEN_HOST => self.host_gone = true,
                    TOKEN_REQUESTS => self.answer()?,
                    TOKEN_ENDS => self.reap()?,
                    pid => self.adopted_ended(pid as Pid),
                }
            }
            if self.host_gone {
                self.end_program()?;
                if self.is_alone() {
                    return Ok(());
                }
                // Detached children are left; the supervisor stays their parent, and the host is no more to be watched.
                self.epoll.remove(&self.host_pidfd);
                self.host_gone = false;
                self.host = 0;
            } else if self.host == 0 && self.is_alone() {
                // What the last detached one has left.
                return self.end_program();
            }
            if self.scan_at.is_some_and(|at| at <= Instant::now()) {
                self.scan_at = None;
                self.kill_orphans();
            }
            self.repairs.tend();
            if self.host != 0 {
                self.spares.tend(&self.inherited);
            }
        }
    }

    /// Takes every request that is there.
    fn answer(&mut self) -> broody_os::Result<()> {
        loop {
            let message = match protocol::receive::<Request>(&self.requests, false)? {
                Arrived::Message(message) => message,
                // The starter sees its channel close, and reports that.
                Arrived::Spoiled(_) => continue,
                Arrived::Empty | Arrived::Closed => return Ok(()),
            };
            let Some(sender) = message.sender else { continue };
            match message.header {
                Request::Start(start) => self.start(sender, start, message.raw, message.descriptors),
                Request::Adopt { pid, parent } => self.adopt(sender, pid, parent, message.descriptors)?,
                Request::Cancel { number } => self.cancel(sender, number),
                Request::Detach { pid } => self.detach(sender, pid),
                Request::Quit if sender == self.host => {
                    self.quitting = message.descriptors.into_iter().next();
                    self.host_gone = true;
                    return Ok(());
                }
                Request::Quit | Request::Hello { .. } => {}
            }
        }
    }

    fn start(&mut self, sender: Pid, start: Start, argument: Vec<u8>, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        let Some(channel) = descriptors.next() else { return };
        let number = start.number;
        let holds =
            start.holds.iter().map(|(index, use_number)| HoldId { index: *index, use_number: *use_number });
        let holds: Vec<HoldId> = holds.collect();
        // Someone who is not of this program any more (its fork, say, after its end) has nobody to die with.
        let is_ours = self.children.contains_key(&sender) || self.adopted.contains_key(&sender);
        if self.host == 0 && !is_ours {
            return;
        }
        self.repairs.answer_for(&holds);
        self.spares.note_start();
        let all: Vec<_> =
            [channel.as_fd()].into_iter().chain(descriptors.as_slice().iter().map(AsFd::as_fd)).collect();
        let (pid, pidfd) = match self.spares.hand_over(&start, &argument, &all) {
            Some((pid, pidfd)) => (pid, Ok(pidfd)),
            None => {
                // SAFETY: the loop has no other thread. Those that a runtime's preloaded modules have made in a template hold nothing of the engine's; what
                // the runtime's handlers and libc do not put right is these modules' own, as in any fork of theirs.
                #[allow(unsafe_code)]
                let forked = unsafe { if start.exec { fork::fork() } else { embed::fork() } };
                match forked {
                    Ok(Fork::Child) => {
                        child::begin(&self.inherited, start, argument, channel, descriptors.collect())
                    }
                    // Its pid is its own until we reap it.
                    Ok(Fork::Parent(pid)) => (pid, PidFd::open(pid)),
                    Err(error) => {
                        self.repairs.not_started(holds);
                        return tell(&channel, &Notice::Failed(error.to_string()));
                    }
                }
            }
        };
        match pidfd {
            Ok(pidfd) => {
                let told = protocol::send(&channel, &Notice::Started { pid }, &[], &[pidfd.as_fd()], false);
                if told.is_err_and(|error| socket::is_gone(&error)) {
                    let _ = fork::kill_child(pid, signals::SIGKILL);
                }
            }
            Err(error) => {
                tell(&channel, &Notice::Failed(error.to_string()));
                let _ = fork::kill_child(pid, signals::SIGKILL);
            }
        }
        self.children.insert(pid, Entry { channel, parent: sender, number, kept: false, holds });
    }

    fn adopt(
        &mut self,
        sender: Pid,
        pid: Pid,
        parent: Pid,
        descriptors: Vec<OwnedFd>,
    ) -> broody_os::Result<()> {
        let may_ask = sender == pid || sender == parent;
        if let Some(pidfd) = descriptors.into_iter().next()
            && may_ask
            && !self.adopted.contains_key(&pid)
        {
            let pidfd = PidFd::from(pidfd);
            self.epoll.add(&pidfd, pid as u64, Trigger::Level)?;
            self.adopted.insert(pid, Adopted { pidfd, parent, kept: false });
        }
        Ok(())
    }

    fn adopted_ended(&mut self, pid: Pid) {
        if let Some(gone) = self.adopted.remove(&pid) {
            self.epoll.remove(&gone.pidfd);
            self.repairs.after(pid, Vec::new());
            self.kill_started_by(pid);
        }
    }

    fn cancel(&mut self, sender: Pid, number: u64) {
        let cancelled = |entry: &Entry| entry.parent == sender && entry.number == number;
        for (pid, _) in self.children.iter().filter(|(_, entry)| cancelled(entry)) {
            let _ = fork::kill_child(*pid, signals::SIGKILL);
        }
    }

    fn detach(&mut self, sender: Pid, pid: Pid) {
        if let Some(entry) = self.children.get_mut(&pid).filter(|entry| entry.parent == sender) {
            entry.kept = true;
        } else if let Some(adopted) = self.adopted.get_mut(&pid).filter(|adopted| adopted.parent == sender) {
            adopted.kept = true;
        }
    }

    /// Looks at each ended child, ends what it had started, then reaps it and tells its starter.
    fn reap(&mut self) -> broody_os::Result<()> {
        // First the signal, then the look: who ends in between makes it come again.
        self.ends.take();
        while let Some(pid) = wait::any_ended_child()? {
            self.kill_started_by(pid);
            if self.spares.is(pid) {
                self.spares.release();
            }
            let mut entry = self.children.remove(&pid);
            // What it owned is put right while nobody else can have its pid.
            let holds = entry.as_mut().map_or_else(Vec::new, |entry| std::mem::take(&mut entry.holds));
            self.repairs.after(pid, holds);
            if let (Reaped::Ended(status, usage), Some(entry)) = (wait::reap_pid(pid)?, entry) {
                tell(&entry.channel, &Notice::ended(status, usage));
            }
            self.scan_at.get_or_insert_with(|| Instant::now() + ORPHAN_DELAY);
        }
        Ok(())
    }

    /// Children die with the process that started them, unless they were detached.
    fn kill_started_by(&self, parent: Pid) {
        for (pid, _) in self.children.iter().filter(|(_, entry)| entry.parent == parent && !entry.kept) {
            let _ = fork::kill_child(*pid, signals::SIGKILL);
        }
        for adopted in self.adopted.values().filter(|adopted| adopted.parent == parent && !adopted.kept) {
            let _ = adopted.pidfd.send_signal(signals::SIGKILL);
        }
    }

    /// What a dead child had started by itself has fallen to this process, the subreaper: ends it. It is reaped like a child.
    fn kill_orphans(&mut self) {
        for pid in proc::children_of_thread(self.inherited.supervisor) {
            let is_known = self.children.contains_key(&pid) || self.adopted.contains_key(&pid);
            if !is_known && !self.spares.is(pid) {
                let _ = fork::kill_child(pid, signals::SIGKILL);
            }
        }
    }

    /// Whether there is nobody left to look after.
    fn is_alone(&self) -> bool {
        self.children.is_empty() && self.adopted.is_empty()
    }

    /// The detached processes, and what they have started.
    fn spared(&self) -> BTreeSet<Pid> {
        let children = self.children.iter().filter(|(_, entry)| entry.kept).map(|(pid, _)| *pid);
        let adopted = self.adopted.iter().filter(|(_, adopted)| adopted.kept).map(|(pid, _)| *pid);
        let kept: Vec<Pid> = children.chain(adopted).collect();
        kept.iter().flat_map(|pid| proc::descendants(*pid)).chain(kept.iter().copied()).collect()
    }

    /// Ends every process of the program that was not detached, and reaps those that are ours.
    fn end_program(&mut self) -> broody_os::Result<()> {
        // Forked children whose adoption is still on its way. Nobody is left to start anything for.
        while let Ok(Arrived::Message(message)) = protocol::receive::<Request>(&self.requests, false) {
            if let (Request::Adopt { pid, parent }, Some(sender)) = (message.header, message.sender) {
                self.adopt(sender, pid, parent, message.descriptors)?;
            }
        }
        let spared = self.spared();
        for (pid, adopted) in self.adopted.iter().filter(|(pid, _)| !spared.contains(pid)) {
            self.epoll.remove(&adopted.pidfd);
            kill_tree(*pid, &adopted.pidfd, &spared);
        }
        self.adopted.retain(|pid, _| spared.contains(pid));
        self.spares.release();
        let give_up = Instant::now() + LAST_WAIT;
        loop {
            let mut doomed = proc::descendants(self.inherited.supervisor);
            let spared = self.spared();
            doomed.retain(|pid| !spared.contains(pid));
            for pid in &doomed {
                // A descendant that is not our child may be reaped by its own parent, and its pid be given away, between the
                // look and the kill; its parent is dying by the same sweep, which leaves microseconds for a whole round of pids.
                let _ = fork::kill_child(*pid, signals::SIGKILL);
            }
            self.reap()?;
            if doomed.is_empty() || Instant::now() > give_up {
                break;
            }
            events::poll(&[self.ends.as_fd()], Some(Instant::now() + Duration::from_millis(2)))?;
        }
        self.scan_at = None;
        self.repairs.last(self.is_first && self.is_alone());
        if let Some(asker) = self.quitting.take() {
            tell(&asker, &Notice::Gone);
        }
        Ok(())
    }
}

/// Ends a process that is not our child, and its descendants, which would not fall to us, except those to be spared.
fn kill_tree(pid: Pid, pidfd: &PidFd, spared: &BTreeSet<Pid>) {
    // Stopped, it can neither start more nor reap, so that the pids below it stay what they are.
    if !pidfd.send_signal(signals::SIGSTOP).unwrap_or(false) {
        return;
    }
    let mut handles = Vec::new();
    let descendants = || proc::descendants(pid).into_iter().filter(|pid| !spared.contains(pid));
    for descendant in descendants() {
        if let Ok(handle) = PidFd::open(descendant) {
            let _ = handle.send_signal(signals::SIGSTOP);
            handles.push(handle);
        }
    }
    // A second look finds what was started between the first one and the stop.
    handles.extend(descendants().filter_map(|descendant| PidFd::open(descendant).ok()));
    for handle in handles.iter().chain([pidfd]) {
        let _ = handle.send_signal(signals::SIGKILL);
    }
}

/// Tells a starter, which may be gone.
fn tell(channel: &OwnedFd, notice: &Notice) {
    let _ = protocol::send(channel, notice, &[], &[], false);
}
