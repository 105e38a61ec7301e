//! What broody knows of the process that it runs in.
//!
//! There is one [`Context`] a process, found through one pointer. A fork gives the child a copy of the parent's memory, in which
//! locks may be held by threads that the child does not have: the child therefore never looks into the parent's context, except
//! at its immutable identity. A handler that libc runs in every forked child takes the pointer away; the next use makes a new
//! context. The old one is leaked on purpose: its descriptors and locks are the parent's business.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock};

use broody_os::{Pid, fork};
use broody_shm::duplex::Duplex;

use crate::embed;
use crate::exit::ExitFunctions;
use crate::process::Shared;
use crate::reaper::Reaper;
use crate::supervisor::link::{Kind, Link};
use crate::supervisor::protocol::Identity;
use crate::watcher::Watcher;

/// What broody knows of this process.
pub(crate) struct Context {
    pub(crate) pid: Pid,
    pub(crate) identity: Identity,
    pub(crate) children: Mutex<BTreeMap<u64, Arc<Shared>>>,
    pub(crate) exit_functions: Mutex<ExitFunctions>,
    /// Descriptors that came with the start of this process and that its function has not taken yet.
    pub(crate) own_descriptors: Mutex<Vec<OwnedFd>>,
    /// To the supervisor; programs of a [runtime](crate::embed) also have one to their template.
    link: Mutex<Option<Arc<Link>>>,
    template: Mutex<Option<Arc<Link>>>,
    reaper: OnceLock<Option<Reaper>>,
    watcher: Watcher,
    numbers: AtomicU64,
    pub(crate) worker: WorkerContext,
}

/// What belongs to this process as a worker of a pool.
#[derive(Default)]
pub(crate) struct WorkerContext {
    pub(crate) link: OnceLock<Duplex>,
    /// What its initializer has made.
    pub(crate) state: OnceLock<Box<dyn Any + Send + Sync>>,
}

static CURRENT: AtomicPtr<Context> = AtomicPtr::new(std::ptr::null_mut());
/// The context of the process that this one was forked from, for its identity.
static BEFORE: AtomicPtr<Context> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn after_fork_in_child() {
    // Only two atomic swaps: a fork may happen in any thread at any time. Relaxed, as the child has this one thread.
    let old = CURRENT.swap(std::ptr::null_mut(), Ordering::Relaxed);
    if !old.is_null() {
        BEFORE.store(old, Ordering::Relaxed);
    }
}

extern "C" fn at_program_exit() {
    crate::exit::at_program_exit();
}

/// Registers what must happen at forks and at exit. Once a program.
pub(crate) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Both fail only without memory for a few words; what is lost then is tidiness at the end.
        let _ = fork::on_fork_in_child(after_fork_in_child);
        let _ = fork::on_exit(at_program_exit);
    });
}

/// Takes a lock whose data stays whole at every step, so that a panic elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Context {
    /// The calling process's context.
    pub(crate) fn current() -> &'static Context {
        // Acquire: pairs with the release in `install`.
        let current = CURRENT.load(Ordering::Acquire);
        match Self::borrow(current) {
            Some(context) => context,
            None => {
                prepare();
                // Acquire as above; stored by the thread that forked, or by none.
                let before = Self::borrow(BEFORE.load(Ordering::Acquire));
                let identity = before.map_or_else(Identity::main, |context| context.identity.clone());
                Self::install(Self::new(identity, Vec::new()))
            }
        }
    }

    /// The context, if this process has one.
    pub(crate) fn existing() -> Option<&'static Context> {
        Self::borrow(CURRENT.load(Ordering::Acquire))
    }

    /// Makes this process the child `identity`.
    pub(crate) fn become_child(
        identity: Identity,
        links: impl IntoIterator<Item = (Kind, Arc<Link>)>,
        own: Vec<OwnedFd>,
    ) {
        let context = Self::new(identity, own);
        links.into_iter().for_each(|(kind, link)| *lock(context.slot(kind)) = Some(link));
        let made = Box::into_raw(Box::new(context));
        // Release: pairs with the acquire in `current`.
        CURRENT.store(made, Ordering::Release);
    }

    fn new(identity: Identity, own: Vec<OwnedFd>) -> Self {
        Self {
            pid: fork::pid(),
            identity,
            children: Mutex::default(),
            exit_functions: Mutex::default(),
            own_descriptors: Mutex::new(own),
            link: Mutex::default(),
            template: Mutex::default(),
            reaper: OnceLock::new(),
            watcher: Watcher::default(),
            numbers: AtomicU64::new(1),
            worker: WorkerContext::default(),
        }
    }

    fn install(context: Self) -> &'static Context {
        let made = Box::into_raw(Box::new(context));
        // Two threads may come here at once; the first one's stays, and the other is dropped unseen. AcqRel: publishes ours,
        // or sees all of theirs.
        match CURRENT.compare_exchange(std::ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Self::borrow(made),
            Err(theirs) => {
                Self::discard(made);
                Self::borrow(theirs)
            }
        }
        .expect("neither pointer is null")
    }

    #[allow(unsafe_code)]
    fn borrow(pointer: *mut Context) -> Option<&'static Context> {
        // SAFETY: every pointer stored in CURRENT or BEFORE comes from Box::into_raw of a context that is never freed.
        unsafe { pointer.as_ref() }
    }

    #[allow(unsafe_code)]
    fn discard(unseen: *mut Context) {
        // SAFETY: made by Box::into_raw, and the exchange failed: nobody else has ever seen it.
        drop(unsafe { Box::from_raw(unseen) });
    }

    /// The next number for a child of this process, from 1.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The connection to the supervisor, which is started if there is none or the last one is lost.
    pub(crate) fn link(&self, kind: Kind) -> crate::Result<Arc<Link>> {
        let mut link = lock(self.slot(kind));
        if let Some(link) = link.as_ref().filter(|link| !link.is_lost()) {
            return Ok(link.clone());
        }
        let new = Link::start(kind)?;
        let before = link.replace(new.clone());
        drop(link);
        match self.reaper() {
            Some(reaper) => reaper.watch_supervisor(&new),
            // Nobody else does it.
            None => before.iter().for_each(|lost| lost.reap()),
        }
        self.adopt_again(&new);
        Ok(new)
    }

    /// As [`link`](Self::link), having looked that the supervisor lives.
    pub(crate) fn living_link(&self) -> crate::Result<Arc<Link>> {
        let link = self.link(Kind::Native)?;
        if link.check() { self.link(Kind::Native) } else { Ok(link) }
    }

    /// The connections to supervisors that this process has.
    pub(crate) fn existing_links(&self) -> impl Iterator<Item = (Kind, Arc<Link>)> {
        let existing = |kind| Some((kind, lock(self.slot(kind)).clone()?));
        [Kind::Template, Kind::Native].into_iter().filter_map(existing)
    }

    fn slot(&self, kind: Kind) -> &Mutex<Option<Arc<Link>>> {
        match kind {
            Kind::Template if embed::runtime().is_some() => &self.template,
            _ => &self.link,
        }
    }

    /// The supervisor was ended from outside: if there are children of `fork`, which live on, they get a new one, and so do names.
    pub(crate) fn supervisor_lost(&self) {
        if embed::needs_supervisor() || lock(&self.children).values().any(|child| child.needs_adoption()) {
            // If it cannot be had, the next start says so.
            let _ = self.living_link();
        }
    }

    /// Children of `fork` outlive a lost supervisor: the new one has to know them.
    fn adopt_again(&self, link: &Link) {
        let children: Vec<_> = lock(&self.children).values().cloned().collect();
        for child in children {
            child.adopt(link);
        }
    }

    /// Forgets children that have ended and that nobody holds, if their ends have been reported by now.
    pub(crate) fn sweep(&self) {
        if let Some(Some(reaper)) = self.reaper.get() {
            reaper.sweep();
        }
    }

    /// What makes queues and their like pollable.
    pub(crate) fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// The thread that reaps direct children; `None` if it cannot be had.
    pub(crate) fn reaper(&self) -> Option<&Reaper> {
        self.reaper.get_or_init(|| Reaper::start().ok()).as_ref()
    }
}

impl Identity {
    /// Of a process that broody did not start.
    fn main() -> Self {
        Self { name: "main".to_owned(), named: false, daemon: false, method: None, parent: None }
    }
}
