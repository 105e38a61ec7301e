//! Bytes that processes share and change as they like.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use broody_os::memory::Mapping;
use broody_os::named::{self, NamedFile};
use broody_shm::arena::{self, Held, Kind};

use super::atomic::Words;
use crate::handle::sent_as_handle;
use crate::{Error, Result, memory};

/// Bytes in shared memory that every process which has them may change at any time.
///
/// Nothing keeps two of them from writing to the same place at once: agree on who does, by a [`Lock`](crate::Lock) for example. The bytes are
/// therefore copied in and out, atomically by words of 8 bytes at most: who reads what another one writes gets some mixture. Where that costs
/// too much, [`as_ptr`](Self::as_ptr) gives their address.
///
/// Without a name the memory is anonymous, and goes with its last handle. With a [name](Self::create), other programs can open it, too; the
/// name is removed when the last user is gone, in whatever program and by whatever death.
///
/// ```
/// # broody::init();
/// use broody::SharedMemory;
/// let memory = SharedMemory::new(4096)?;
/// broody::spawn(|memory: SharedMemory| memory.write(10, b"hello").unwrap(), memory.clone())?.join()?;
/// let mut bytes = [0; 5];
/// memory.read(10, &mut bytes)?;
/// assert_eq!(&bytes, b"hello");
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SharedMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Where it has a name. Before the handle: who goes is no user any more by the time when the name may be removed.
    named: Option<Named>,
    held: Arc<Held>,
}

#[derive(Debug)]
struct Named {
    name: String,
    mapping: Option<Mapping>,
    file: NamedFile,
}

const PLAIN: u64 = 0;

impl SharedMemory {
    /// Makes `length` bytes that are all zero.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for them.
    pub fn new(length: usize) -> Result<Self> {
        let held = memory::arena()?.allocate(Kind::Memory, length as u64, PLAIN)?;
        Ok(Self(Arc::new(Inner { named: None, held })))
    }

    /// Makes `length` zero bytes that other programs can open by `name`, as a file in /dev/shm (see shm_overview(7)).
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a name with a slash, an empty one or one of more than 200 bytes; [`Os`](Error::Os) with EEXIST when
    /// there is memory of this name, with ENOSPC when /dev/shm is full.
    pub fn create(name: &str, length: usize) -> Result<Self> {
        check_name(name)?;
        let file = NamedFile::create(length as u64)?;
        // In this order: whoever dies from here on leaves what is cleaned up by the number.
        let held = memory::arena()?.allocate_named(file.number(), name)?;
        file.publish(name)?;
        Self::with_file(name, file, held)
    }

    /// Opens memory by its name, whatever program has made it.
    ///
    /// # Errors
    /// [`Os`](Error::Os) with ENOENT when there is none of this name; [`Invalid`](Error::Invalid) for what cannot be a name.
    pub fn open(name: &str) -> Result<Self> {
        check_name(name)?;
        let file = NamedFile::open(name)?;
        let held = memory::arena()?.allocate_named(file.number(), name)?;
        Self::with_file(name, file, held)
    }

    fn with_file(name: &str, file: NamedFile, held: Arc<Held>) -> Result<Self> {
        let named = Named { name: name.to_owned(), mapping: file.map()?, file };
        let memory = Arc::new(Inner { named: Some(named), held });
        at_exit::remember(&memory);
        Ok(Self(memory))
    }

    fn from_held(held: Arc<Held>) -> Option<Self> {
        match held.kind() {
            Kind::Memory if held.tag() == PLAIN => Some(Self(Arc::new(Inner { named: None, held }))),
            Kind::Named => {
                let (number, name) = arena::named(held.body())?;
                let file = NamedFile::open(&name).ok().filter(|file| file.number() == number)?;
                Self::with_file(&name, file, held).ok()
            }
            _ => None,
        }
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.0.named.as_ref().map(|named| named.name.as_str())
    }

    /// Removes the name: nobody can open it any more, and those who have it keep it. Without this it is removed with the last user.
    ///
    /// # Errors
    /// [`Os`](Error::Os) with ENOENT when it was removed before.
    pub fn remove_name(&self) -> Result<()> {
        Ok(self.name().map_or(Ok(()), named::remove)?)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        match &self.0.named {
            Some(named) => named.file.length() as usize,
            None => self.0.held.body().length() as usize,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn start(&self) -> NonNull<u8> {
        match &self.0.named {
            Some(named) => named.mapping.as_ref().map_or(NonNull::dangling(), Mapping::as_ptr),
            None => self.0.held.body().as_ptr(),
        }
    }

    /// The first byte. Valid for reads and writes of [`len`](Self::len) bytes as long as this, or a clone of it, lives; whoever uses it
    /// answers for what other processes and threads do at the same time, also by [`read`](Self::read) and [`write`](Self::write): these use all
    /// of each word of 8 bytes that they touch, atomically.
    ///
    /// # Panics
    /// In a fork, when the memory was gone before it was used there.
    pub fn as_ptr(&self) -> *mut u8 {
        if self.0.named.is_none() {
            self.0.held.must_keep();
        }
        self.start().as_ptr()
    }

    /// Copies bytes from `offset` on into `bytes`.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) where that would be behind the end; [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.check(offset, bytes.len())?;
        self.words().read(offset, bytes);
        Ok(())
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) where that would be behind the end; [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len())?;
        self.words().write(offset, bytes);
        Ok(())
    }

    /// The memory as words.
    fn words(&self) -> Words {
        // SAFETY: a mapping, or a place of at least 64 bytes in one: aligned, and longer than its bytes up to the end of the last word.
        // Others in this process use it this way, too, or by its address, and then they answer for that.
        unsafe { Words::new(self.start()) }
    }

    fn check(&self, offset: usize, length: usize) -> Result<()> {
        if offset.checked_add(length).is_none_or(|end| end > self.len()) {
            let what = format!(
                "{length} bytes from {offset} on do not lie within shared memory of {} bytes",
                self.len()
            );
            return Err(Error::Invalid { what });
        }
        // A file is there as long as it is mapped; what is in the arena may be gone in a fork, and its place another's.
        if self.0.named.is_none() {
            self.0.held.keep()?;
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    if named::is_valid(name) {
        return Ok(());
    }
    let most = named::LONGEST;
    Err(Error::Invalid {
        what: format!("{name:?} cannot name shared memory: a name has 1 to {most} bytes and no slash"),
    })
}

pub(crate) use at_exit::leave_names;

/// Named memory that is still there when the process exits is let go of then, so that its name can go.
mod at_exit {
    use std::sync::{Arc, Mutex, Weak};

    use super::Inner;
    use broody_os::{fork, named};

    type Entry = (broody_os::Pid, Weak<Inner>);

    static THERE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

    pub(super) fn remember(memory: &Arc<Inner>) {
        // A forked child may find the lock held by a thread that it does not have: then its names go when it is dead.
        if let Ok(mut there) = THERE.try_lock() {
            there.retain(|(_, memory)| memory.strong_count() > 0);
            there.push((fork::pid(), Arc::downgrade(memory)));
        }
    }

    /// This process exits: it uses no name any more.
    pub(crate) fn leave_names() {
        let Ok(mut there) = THERE.try_lock() else { return };
        let pid = fork::pid();
        for (_, memory) in there.drain(..).filter(|(owner, _)| *owner == pid) {
            if let Some(named) = memory.upgrade().as_ref().and_then(|memory| memory.named.as_ref()) {
                named.file.leave();
                named::remove_if_unused(&named.name, named.file.number());
            }
        }
    }
}

sent_as_handle!(SharedMemory; |memory| &memory.0.held, SharedMemory::from_held);
