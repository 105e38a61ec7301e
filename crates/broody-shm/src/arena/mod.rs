//! An arena: the shared memory of one program.
//!
//! All processes of a program map the same anonymous file. Objects (locks, queues, bytes) are allocated in it by any of them, and known
//! by number and name; a process keeps an object alive by a [hold](holds). There is one descriptor for all of them.
//!
//! | module | what it gives |
//! |---|---|
//! | [`layout`] | where everything lies |
//! | [`slots`] | who uses the arena: a slot for each process |
//! | [`objects`] | allocation |
//! | [`pages`] | the memory of large objects |
//! | [`holds`] | who keeps what alive |
//! | [`local`] | what a process knows of its own, and what its forks inherit |
//! | [`mappings`] | pages that a process has mapped and lets others use again |
//! | [`held`] | a process's own handle on an object |
//! | [`names`] | files with names that go with the program |
//! | [`transit`] | handles on their way to another process |
//! | [`waiters`] | who sleeps where, and the broadcast after a death |
//! | [`recovery`] | what is put right when a process has died |
//!
//! # The arena's lock
//!
//! Objects and holds come and go under one robust lock, and recoveries are made under it. Its holder may be killed at any instruction: then
//! what is derived is made anew from what is true at every instant. He waits for nobody there, and what the kernel does for him under it is
//! short: some pages for tables and small bodies, the name of a file removed, the tables given back with the last object. The pages of
//! large objects are reserved and given back [outside of it](pages).
//!
//! He may be stopped there all the same. Who can tell of an error waits for [`PATIENCE`], then.

mod held;
mod holds;
mod layout;
mod local;
mod mappings;
mod names;
mod objects;
mod pages;
mod recovery;
mod slots;
mod transit;
mod waiters;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicPtr;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use broody_os::memory::Mapping;
use broody_os::sparse::SparseFile;
use broody_os::{fork, limits};

pub use held::{Body, Held, Name, Words};
pub use holds::HoldId;
pub(crate) use holds::TOOK_PART;
use layout::{
    CHUNK, HOLD_TABLE, Header, LAYOUT, LEAST, MAGIC, OBJECT_TABLE, PAGES, SMALL, TABLES, Table, VERSION,
    WINDOW, WINDOWS,
};
pub use local::Frozen;
pub(crate) use objects::Request;
pub use objects::{Kind, named};
use pages::Freed;
pub use transit::Transit;

/// How long the arena's lock is waited for by who can tell of an error. Who has it needs some microseconds of CPU time, or is stopped.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(10) };

/// The most holds of an arena.
pub(crate) const MOST_HOLDS: u32 = HOLD_TABLE.most;

use crate::ArenaError;
use crate::owner::Owner;
use crate::pace::Pace;
use crate::robust::lock::Acquired;
use crate::sync::{AtomicU32, AtomicU64, BOUND, Deadline, Ordering, Parking};

/// The shared memory of a program, as this process has it mapped.
#[derive(Debug)]
pub struct Arena {
    file: SparseFile,
    tables: Mapping,
    windows: [AtomicPtr<u8>; WINDOWS],
    mapping_windows: Mutex<()>,
    /// What of the arena is this process's own; another one after a fork.
    local: AtomicPtr<local::Local>,
    /// The owner in it, and its number of forks above: what every operation looks at.
    me: AtomicU64,
    /// Others may run while this process waits: there is more than one CPU.
    many_cpus: bool,
    /// How it goes with this process's waiting for notifications.
    pub(crate) pace: Pace,
}

/// Counts the forks on the way from the first process to this one: who finds another number is in a new process.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn after_fork_in_child() {
    // Relaxed, as the child has one thread.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How many forks this process is away from the first one.
#[inline]
pub fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

fn watch_forks() -> broody_os::Result<()> {
    static WATCHING: OnceLock<bool> = OnceLock::new();
    match WATCHING.get_or_init(|| fork::on_fork_in_child(after_fork_in_child).is_ok()) {
        true => Ok(()),
        false => Err(broody_os::Error::new("pthread_atfork", std::io::ErrorKind::OutOfMemory)),
    }
}

impl Arena {
    /// Makes an arena. It lives as long as the process, and its memory as long as any process has it mapped.
    ///
    /// # Errors
    /// [`ArenaError::Os`] without memory, descriptors or address space.
    pub fn create(id: u64) -> Result<&'static Self, ArenaError> {
        let file = SparseFile::create("broody-arena", LEAST)?;
        file.reserve(0, CHUNK as u64)?;
        let arena = Self::map(file)?;
        let header = arena.header();
        header.id.store(id, Ordering::Relaxed);
        header.most_kept.store(objects::KEPT, Ordering::Relaxed);
        header.pages_end.store(PAGES, Ordering::Relaxed);
        header.small_end.store(SMALL, Ordering::Relaxed);
        header.layout.store(LAYOUT, Ordering::Relaxed);
        header.version.store(VERSION, Ordering::Relaxed);
        // Release: the last thing, which makes it an arena.
        header.magic.store(MAGIC, Ordering::Release);
        Ok(arena)
    }

    /// Opens an arena that another process has made.
    ///
    /// # Errors
    /// [`ArenaError::Foreign`] for anything that is no arena of this build; [`ArenaError::Os`] as for [`create`](Self::create).
    pub fn open(descriptor: OwnedFd) -> Result<&'static Self, ArenaError> {
        let file = SparseFile::open(descriptor).map_err(|_| ArenaError::Foreign { what: "size" })?;
        if file.length() < LEAST {
            return Err(ArenaError::Foreign { what: "size" });
        }
        // What has no pages is no arena, and must not get any by being looked at.
        if file.allocated() == 0 {
            return Err(ArenaError::Foreign { what: "magic" });
        }
        let arena = Self::map(file)?;
        let header = arena.header();
        let checks = [
            ("magic", header.magic.load(Ordering::Acquire) == MAGIC),
            ("version", header.version.load(Ordering::Relaxed) == VERSION),
            ("layout", header.layout.load(Ordering::Relaxed) == LAYOUT),
        ];
        match checks.into_iter().find(|(_, is_right)| !is_right) {
            Some((what, _)) => Err(ArenaError::Foreign { what }),
            None => Ok(arena),
        }
    }

    fn map(file: SparseFile) -> Result<&'static Self, ArenaError> {
        watch_forks()?;
        let tables = file.map(0, TABLES)?;
        Ok(Box::leak(Box::new(Self {
            file,
            tables,
            windows: [const { AtomicPtr::new(std::ptr::null_mut()) }; WINDOWS],
            mapping_windows: Mutex::new(()),
            local: AtomicPtr::new(std::ptr::null_mut()),
            me: AtomicU64::new(0),
            many_cpus: limits::cpu_count() > 1,
            pace: Pace::default(),
        })))
    }

    /// The file, to be handed to other processes of the program.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Which arena this is.
    pub fn id(&self) -> u64 {
        self.header().id.load(Ordering::Relaxed)
    }

    /// How much memory all of it takes now, in bytes.
    pub fn allocated(&self) -> u64 {
        self.file.allocated()
    }

    /// How many objects there are.
    pub fn objects(&self) -> u32 {
        self.header().objects.load(Ordering::Relaxed)
    }

    /// How many sleepers got on only because their sleep was bounded: nobody had woken them. Without deaths it stays 0.
    pub fn rescues(&self) -> u32 {
        self.header().rescues.load(Ordering::Relaxed)
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping begins with it, its memory was reserved by `create` (and `open` looked that there is some), and its
        // fields are atomics, which all processes may touch.
        unsafe { self.tables.as_ptr().cast::<Header>().as_ref() }
    }

    /// How many items of a table may have been used.
    fn used<T>(&self, table: &Table<T>) -> u32 {
        // Acquire: pairs with the release in `ensure`, so that those items have memory. Bounded, since others can write there.
        self.header().tables[table.index].used.load(Ordering::Acquire).min(table.most)
    }

    /// Sees to it that an item has memory.
    fn ensure<T>(&self, table: &Table<T>, index: u32) -> Result<(), ArenaError> {
        let state = &self.header().tables[table.index];
        if index < state.used.load(Ordering::Acquire) {
            return Ok(());
        }
        if index >= table.most {
            return Err(ArenaError::TooMany { what: "objects or their users", most: table.most });
        }
        let reserved = state.reserved.load(Ordering::Acquire);
        if index >= reserved {
            let item = size_of::<T>();
            let chunk = (index as usize * item) / CHUNK * CHUNK;
            self.file.reserve((table.offset + chunk) as u64, CHUNK as u64)?;
            let end = ((chunk + CHUNK) / item).min(table.most as usize) as u32;
            state.reserved.fetch_max(end, Ordering::AcqRel);
        }
        state.used.fetch_max(index + 1, Ordering::AcqRel);
        Ok(())
    }

    /// Gives the memory of a table back, of which no item is in use.
    fn empty<T>(&self, table: &Table<T>) {
        let state = &self.header().tables[table.index];
        state.used.store(0, Ordering::Release);
        state.reserved.store(0, Ordering::Release);
        let length = (table.most as usize * size_of::<T>()).next_multiple_of(CHUNK);
        self.file.give_back(table.offset as u64, length as u64);
    }

    /// An item of a table.
    fn item<T>(&self, table: &Table<T>, index: u32) -> &T {
        assert!(index < table.most, "an item of a table is within it");
        let offset = table.offset + index as usize * size_of::<T>();
        // SAFETY: within the mapping by the assertion and the layout's; all tables' items are made of atomics and aligned to their
        // size, which divides a table's offset. Callers look only at items below `used`, or that they have ensured.
        unsafe { self.tables.as_ptr().add(offset).cast::<T>().as_ref() }
    }

    /// The address of a small body's place.
    fn small(&self, offset: u64) -> Result<NonNull<u8>, ArenaError> {
        let from_start = offset.wrapping_sub(SMALL);
        let window = (from_start / WINDOW) as usize;
        let slot = self.windows.get(window).ok_or(ArenaError::Foreign { what: "contents" })?;
        // Acquire: pairs with the release below.
        let mut start = slot.load(Ordering::Acquire);
        if start.is_null() {
            // A thread of the process that this one was forked from may hold the lock, for good: then both map it, which is harmless.
            let guard = self.mapping_windows.try_lock();
            start = slot.load(Ordering::Acquire);
            if start.is_null() {
                let mapping = self.file.map(SMALL + window as u64 * WINDOW, WINDOW as usize)?;
                start = mapping.as_ptr().as_ptr();
                std::mem::forget(mapping);
                slot.store(start, Ordering::Release);
            }
            drop(guard);
        }
        // SAFETY: the window is WINDOW long, and stays mapped for good.
        Ok(unsafe { NonNull::new_unchecked(start.add((from_start % WINDOW) as usize)) })
    }

    /// Where a word lies in the file: one of the tables', or one in a small body.
    fn offset_of(&self, word: &AtomicU32) -> u64 {
        let address = std::ptr::from_ref(word).addr();
        let within = |start: usize, length: usize| address.wrapping_sub(start) < length;
        let tables = self.tables.as_ptr().addr().get();
        if within(tables, TABLES) {
            return (address - tables) as u64;
        }
        for (index, window) in self.windows.iter().enumerate() {
            let start = window.load(Ordering::Relaxed).addr();
            if start != 0 && within(start, WINDOW as usize) {
                return SMALL + index as u64 * WINDOW + (address - start) as u64;
            }
        }
        0
    }

    /// The word at an offset that [`offset_of`](Self::offset_of) has given, in whatever process.
    fn word_at(&self, offset: u64) -> Option<&AtomicU32> {
        if offset == 0 || !offset.is_multiple_of(4) || offset >= PAGES {
            return None;
        }
        let address = match offset.checked_sub(SMALL) {
            // SAFETY: within the tables.
            None => unsafe { self.tables.as_ptr().add(offset as usize) },
            Some(_) => self.small(offset).ok()?,
        };
        // SAFETY: aligned and mapped for good. It is only the address that is used, for a wake.
        Some(unsafe { address.cast::<AtomicU32>().as_ref() })
    }

    /// The body of an object that is there and small.
    pub(crate) fn body_of(&self, index: u32, kind: Kind) -> Option<Body> {
        let object = (index < self.used(&OBJECT_TABLE)).then(|| self.object(index))?;
        let length = object.length.load(Ordering::Relaxed);
        if !object.is_there() || object.kind() != Some(kind) || length > layout::SMALL_BODY {
            return None;
        }
        Some(Body::new(self.small(object.offset.load(Ordering::Relaxed)).ok()?, length))
    }

    /// Maps the pages of an object twice in a row.
    pub(crate) fn map_twice(&self, index: u32, length: usize) -> Result<Mapping, ArenaError> {
        let foreign = ArenaError::Foreign { what: "contents" };
        let object = (index < self.used(&OBJECT_TABLE)).then(|| self.object(index)).ok_or(foreign)?;
        if object.length.load(Ordering::Relaxed) != length as u64 {
            return Err(ArenaError::Foreign { what: "contents" });
        }
        Ok(self.file.map_twice(object.offset.load(Ordering::Relaxed), length)?)
    }

    /// Takes the arena's lock, for who can tell of an error: its holder may be stopped.
    fn lock_soon(&self) -> Result<Locked<'_>, ArenaError> {
        let me = self.me()?;
        match self.header().lock.try_acquire(me) {
            Some(acquired) => Ok(self.locked(me, acquired)),
            None => self.lock(Deadline::after(PATIENCE)),
        }
    }

    /// Takes the arena's lock.
    fn lock(&self, deadline: Deadline) -> Result<Locked<'_>, ArenaError> {
        let me = self.me()?;
        self.lock_as(me, deadline)
    }

    fn lock_as(&self, me: Owner, deadline: Deadline) -> Result<Locked<'_>, ArenaError> {
        let lock = &self.header().lock;
        let acquired = loop {
            let bound = Deadline::after(deadline.left().map_or(BOUND, |left| left.min(BOUND)));
            match lock.acquire(me, &Plain(self), bound) {
                Ok(acquired) => break acquired,
                // Whoever holds it may be dead, and this process the first to see it.
                Err(_) => match lock.holder().filter(|holder| self.is_dead(*holder)) {
                    Some(dead) => _ = lock.repair(dead),
                    None if deadline.is_over() => return Err(ArenaError::Busy),
                    None => {}
                },
            }
        };
        Ok(self.locked(me, acquired))
    }

    fn locked(&self, me: Owner, acquired: Acquired) -> Locked<'_> {
        let locked = Locked { arena: self, me, freed: Freed::none(self) };
        if acquired.owner_died {
            locked.rebuild();
        }
        locked
    }
}

/// The arena while this process, this thread, has its lock.
struct Locked<'a> {
    arena: &'a Arena,
    me: Owner,
    /// Dropped after the lock is given back.
    freed: Freed<'a>,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.arena.header().lock.release(self.me, self.arena);
    }
}

/// An arena's way to sleep, without burying anybody: that needs the lock that is being waited for.
struct Plain<'a>(&'a Arena);

impl Parking for Plain<'_> {
    fn sleep(&self, word: &AtomicU32, value: u32, deadline: Deadline) -> crate::sync::Slept {
        self.0.sleep(word, value, deadline)
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        self.0.wake(word, count);
    }

    fn may_spin(&self) -> bool {
        self.0.may_spin()
    }

    fn bury(&self, _: Owner) -> bool {
        false
    }

    fn note_rescue(&self) {}
}

#[cfg(test)]
mod tests {
    use broody_os::fork::Fork;
    use broody_os::{signals, wait};

    use super::*;

    #[test]
    fn who_needs_the_lock_of_a_stopped_process_gets_an_error() {
        let arena = Arena::create(1).unwrap();
        let held = arena.allocate(Kind::Memory, 8, 0).unwrap();
        // SAFETY: the child uses only the arena, and is killed.
        let Fork::Parent(pid) = unsafe { fork::fork() }.unwrap() else {
            let _locked = arena.lock(Deadline::Never);
            loop {
                std::thread::park();
            }
        };
        while arena.header().lock.holder().is_none() {
            std::thread::yield_now();
        }
        fork::kill_child(pid, signals::SIGSTOP).unwrap();
        assert!(matches!(arena.allocate(Kind::Memory, 8, 0), Err(ArenaError::Busy)));
        assert!(matches!(held.send(), Err(ArenaError::Busy)));
        let elsewhere = Name { index: 5, name: 5 };
        let transit = HoldId { index: 0, use_number: 0 };
        assert!(matches!(arena.receive(elsewhere, transit), Err(ArenaError::Busy)));
        fork::kill_child(pid, signals::SIGKILL).unwrap();
        while matches!(wait::reap_pid(pid), Ok(wait::Reaped::Running)) {
            std::thread::yield_now();
        }
        assert!(arena.allocate(Kind::Memory, 8, 0).is_ok());
    }
}
