//! Anonymous memory that processes share, and its mappings.
//!
//! Only memfds: they have no name that could be left behind. Pages are allocated when the memory is made, so that a full
//! machine is an error then and not a SIGBUS later; the size is sealed, so that no peer can shrink it under a reader. See
//! memfd_create(2), fallocate(2), mmap(2), fcntl(2) on seals.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::{Error, Result};

/// The size of a page, in bytes.
pub fn page_size() -> usize {
    // SAFETY: sysconf only asks; every Linux knows its page size.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// Makes shared memory of `length` bytes, all zero, allocated and of sealed size.
pub fn create(name: &str, length: usize) -> Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|error| Error::new("memfd_create", error))?;
    if length > 0 {
        loop {
            match rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, length as u64) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::new("fallocate", error)),
            }
        }
    }
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)
        .map_err(|error| Error::new("fcntl(F_ADD_SEALS)", error))?;
    Ok(fd)
}

/// Makes shared memory that holds `bytes` and that nobody can change any more: [`SealedBytes`] reads it.
pub fn create_with(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let fd = create(name, bytes.len())?;
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::pwrite(&fd, &bytes[written..], written as u64) {
            Ok(count) => written += count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(Error::new("pwrite", error)),
        }
    }
    rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE)
        .map_err(|error| Error::new("fcntl(F_ADD_SEALS)", error))?;
    Ok(fd)
}

/// The size of the memory behind `fd`, in bytes; refused where its size could still shrink.
pub fn sealed_length(fd: BorrowedFd<'_>) -> Result<usize> {
    if !seals(fd)?.contains(SealFlags::SHRINK) {
        return Err(Error::new("fcntl(F_GET_SEALS)", rustix::io::Errno::INVAL));
    }
    let stat = rustix::fs::fstat(fd).map_err(|error| Error::new("fstat", error))?;
    Ok(stat.st_size as usize)
}

fn seals(fd: BorrowedFd<'_>) -> Result<SealFlags> {
    rustix::fs::fcntl_get_seals(fd).map_err(|error| Error::new("fcntl(F_GET_SEALS)", error))
}

/// Memory mapped into this process, unmapped on drop.
///
/// It is shared with other processes, which may write to it at any time: it is handed out as a pointer and never as a slice.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: a mapping is an address range of the whole process; whoever dereferences the pointer answers for the races.
unsafe impl Send for Mapping {}
// SAFETY: as above: the type itself gives out only the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the whole of the sealed memory behind `fd` for reading and writing.
    pub fn new(fd: &OwnedFd) -> Result<Self> {
        Self::with(fd, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn with(fd: &OwnedFd, access: ProtFlags) -> Result<Self> {
        Self::window(fd, 0, sealed_length(fd.as_fd())?, access)
    }

    /// Maps the first `plain` bytes of the sealed memory behind `fd` once, and behind them each of `rings`, which follow in the
    /// memory in this order, twice in a row: a record that wraps around the end of a ring is contiguous in the mapping.
    ///
    /// Every length must be a multiple of the [page size](page_size) and not 0, and together they must be the memory's length.
    pub fn mirrored(fd: &OwnedFd, plain: usize, rings: &[usize]) -> Result<Self> {
        let whole = rings.iter().try_fold(plain, |sum, ring| sum.checked_add(*ring));
        if whole != Some(sealed_length(fd.as_fd())?) {
            return Err(Error::new("mmap", rustix::io::Errno::INVAL));
        }
        let mut pieces = vec![(0, plain)];
        let mut offset = plain as u64;
        for ring in rings {
            pieces.extend([(offset, *ring); 2]);
            offset += *ring as u64;
        }
        Self::pieces(fd, &pieces)
    }

    /// Maps `length` bytes from `offset` on. The caller knows that the memory does not shrink below their end.
    pub(crate) fn window(fd: &OwnedFd, offset: u64, length: usize, access: ProtFlags) -> Result<Self> {
        Self::map(fd, offset, length, access, MapFlags::SHARED | MapFlags::NORESERVE)
    }

    fn map(fd: &OwnedFd, offset: u64, length: usize, access: ProtFlags, flags: MapFlags) -> Result<Self> {
        let length = NonZeroUsize::new(length).ok_or_else(|| Error::new("mmap", rustix::io::Errno::INVAL))?;
        let hint = std::ptr::null_mut();
        // SAFETY: the kernel chooses a fresh range, which nothing else refers to.
        let start = unsafe { rustix::mm::mmap(hint, length.get(), access, flags, fd, offset) };
        let start = start.map_err(|error| Error::new("mmap", error))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| Error::new("mmap", rustix::io::Errno::NOMEM))?;
        Ok(Self { start, length })
    }

    /// Maps `length` bytes from `offset` on as they are now; what is written to them is this process's alone, and each fork's from there on. What others
    /// write meanwhile may or may not be seen.
    pub(crate) fn private_window(fd: &OwnedFd, offset: u64, length: usize) -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        Self::map(fd, offset, length, access, MapFlags::PRIVATE | MapFlags::NORESERVE)
    }

    /// Maps pieces, each an offset and a length in whole pages and not empty, one behind the other.
    pub(crate) fn pieces(fd: &OwnedFd, pieces: &[(u64, usize)]) -> Result<Self> {
        let refused = || Error::new("mmap", rustix::io::Errno::INVAL);
        let total = pieces.iter().try_fold(0usize, |sum, (_, length)| sum.checked_add(*length));
        let length = total.and_then(NonZeroUsize::new).ok_or_else(refused)?;
        if pieces.iter().any(|(_, length)| *length == 0 || length % page_size() != 0) {
            return Err(refused());
        }
        // SAFETY: the kernel chooses a fresh range, which nothing else refers to. It is only reserved: no access.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length.get(),
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let start = NonNull::new(start.map_err(|error| Error::new("mmap", error))?.cast::<u8>())
            .ok_or_else(refused)?;
        let mapping = Self { start, length };
        let mut place = start.as_ptr();
        for (offset, length) in pieces {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: `place..place + length` lies in the range reserved above, whose size is the sum of all lengths.
            let mapped = unsafe { rustix::mm::mmap(place.cast(), *length, access, flags, fd, *offset) };
            mapped.map_err(|error| Error::new("mmap", error))?;
            place = place.wrapping_add(*length);
        }
        Ok(mapping)
    }

    /// The first byte. Valid for [`len`](Self::len) bytes as long as the mapping lives.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// The length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.length.get()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is unmapped only here; borrowers of the address promised to be gone.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length.get()) };
    }
}

/// Bytes in shared memory that nobody can change: a read-only mapping of what [`create_with`] made.
#[derive(Debug)]
pub struct SealedBytes(Option<Mapping>);

impl SealedBytes {
    /// Maps the memory behind `fd`; refused where it could still be written to or shrunk.
    pub fn new(fd: &OwnedFd) -> Result<Self> {
        if !seals(fd.as_fd())?.contains(SealFlags::WRITE) {
            return Err(Error::new("fcntl(F_GET_SEALS)", rustix::io::Errno::INVAL));
        }
        match sealed_length(fd.as_fd())? {
            0 => Ok(Self(None)),
            _ => Mapping::with(fd, ProtFlags::READ).map(|mapping| Self(Some(mapping))),
        }
    }
}

impl std::ops::Deref for SealedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let Some(mapping) = &self.0 else { return &[] };
        // SAFETY: mapped and readable for `len` bytes while `self` lives, and F_SEAL_WRITE keeps every process, this one
        // included, from changing them.
        unsafe { std::slice::from_raw_parts(mapping.start.as_ptr(), mapping.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_read_back_and_refuse_writers() {
        let bytes = vec![7u8; 3 * page_size() + 1];
        let fd = create_with("test", &bytes).unwrap();
        assert_eq!(&*SealedBytes::new(&fd).unwrap(), &bytes[..]);
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
        assert!(Mapping::new(&fd).is_err());
        assert_eq!(&*SealedBytes::new(&create_with("empty", b"").unwrap()).unwrap(), b"");
    }

    #[test]
    fn a_mirrored_ring_continues_at_its_beginning() {
        let page = page_size();
        let fd = create("test", 4 * page).unwrap();
        let mapping = Mapping::mirrored(&fd, page, &[page, 2 * page]).unwrap();
        assert_eq!(mapping.len(), 7 * page);
        let at = |offset: usize| mapping.as_ptr().as_ptr().wrapping_add(offset);
        // SAFETY: both rings' copies are mapped, and only this test touches them.
        unsafe {
            at(page).write(1);
            at(3 * page).write(2);
            assert_eq!((at(2 * page).read(), at(5 * page).read()), (1, 2));
            at(5 * page - 1).write(3);
            assert_eq!(at(7 * page - 1).read(), 3);
        }
        assert!(Mapping::mirrored(&fd, page, &[page]).is_err());
        assert!(Mapping::mirrored(&fd, page, &[3 * page / 2, 3 * page / 2]).is_err());
    }

    #[test]
    fn memory_that_could_change_is_not_read_as_constant() {
        let fd = create("test", 16).unwrap();
        assert!(SealedBytes::new(&fd).is_err());
        let loose =
            rustix::fs::memfd_create("loose", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(Mapping::new(&loose).is_err());
    }
}
