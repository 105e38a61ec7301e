//! One anonymous file, mostly holes: pieces of it are reserved, mapped and given back.
//!
//! Its size is far beyond the machine's memory and sealed; a hole costs nothing. A piece is *reserved* before it is touched, so that
//! memory that is not there is an error and not a SIGBUS; giving it back punches a hole. See memfd_create(2), fallocate(2),
//! mmap(2), pwrite(2), getrlimit(2) on RLIMIT_FSIZE.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::ProtFlags;
use rustix::process::Resource;

use crate::memory::{Mapping, sealed_length};
use crate::{Error, Result, limits};

/// A file that is larger than any memory, by default.
const LENGTH: u64 = 1 << 44;

/// Reserved at a time: a signal that interrupts the kernel's work undoes no more than this, and others who need pages wait no longer.
const STEP: u64 = 32 << 20;

/// Given back at a time: the kernel does one thing to a file at once, and others need pages of it, too.
const HOLE: u64 = 128 << 20;

/// The file.
#[derive(Debug)]
pub struct SparseFile {
    descriptor: OwnedFd,
    length: u64,
}

impl SparseFile {
    /// Makes the file. It is as long as RLIMIT_FSIZE lets it be, at most 16 TiB.
    ///
    /// # Errors
    /// Of memfd_create(2); EFBIG where RLIMIT_FSIZE is below `least`.
    pub fn create(name: &str, least: u64) -> Result<Self> {
        // A file that grows past the limit is not an error but SIGXFSZ.
        let limit = rustix::process::getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        let length = LENGTH.min(limit);
        if length < least {
            return Err(Error::new("ftruncate", rustix::io::Errno::FBIG));
        }
        let descriptor = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|error| Error::new("memfd_create", error))?;
        rustix::fs::ftruncate(&descriptor, length).map_err(|error| Error::new("ftruncate", error))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&descriptor, seals)
            .map_err(|error| Error::new("fcntl(F_ADD_SEALS)", error))?;
        Ok(Self { descriptor, length })
    }

    /// Takes over what another process has made; EINVAL for a descriptor whose size could still shrink.
    pub fn open(descriptor: OwnedFd) -> Result<Self> {
        let length = sealed_length(descriptor.as_fd())? as u64;
        Ok(Self { descriptor, length })
    }

    /// Its size in bytes, holes included.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Makes `length` bytes from `offset` on real, as zeros where they were a hole.
    ///
    /// # Errors
    /// ENOSPC or ENOMEM when there is no memory: nothing more than before is taken then, as far as this call took it.
    pub fn reserve(&self, offset: u64, length: u64) -> Result<()> {
        limits::check_memory(length)?;
        let end = offset.checked_add(length).filter(|end| *end <= self.length);
        let end = end.ok_or_else(|| Error::new("fallocate", rustix::io::Errno::NOSPC))?;
        let mut at = offset;
        while at < end {
            let step = (end - at).min(STEP);
            match rustix::fs::fallocate(&self.descriptor, FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    // What was had before is given back; the failed step has undone itself.
                    self.give_back(offset, at - offset);
                    return Err(Error::new("fallocate", error));
                }
            }
        }
        Ok(())
    }

    /// Gives `length` bytes from `offset` on back to the machine. They read as zeros afterwards.
    pub fn give_back(&self, offset: u64, length: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let step = (end - at).min(HOLE);
            // A hole cannot fail to be made for another reason that the caller could do something about.
            if rustix::fs::fallocate(&self.descriptor, flags, at, step) != Err(rustix::io::Errno::INTR) {
                at += step;
            }
        }
    }

    /// Writes bytes without mapping them: for pages that are new it takes half the time, since they need not be zero first, and no fault each.
    /// Whether it could; if not, a part may be written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        // A limit that was lowered since the file was made: past it, a write is not an error but SIGXFSZ.
        let limit = rustix::process::getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.length.min(limit)) {
            return false;
        }
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::pwrite(&self.descriptor, &bytes[written..], offset + written as u64) {
                Ok(0) => return false,
                Ok(count) => written += count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return false,
            }
        }
        true
    }

    /// Maps `length` bytes from `offset` on (both in whole pages) for reading and writing.
    ///
    /// # Errors
    /// Of mmap(2): ENOMEM where RLIMIT_AS or the number of mappings is reached.
    pub fn map(&self, offset: u64, length: usize) -> Result<Mapping> {
        Mapping::window(&self.descriptor, offset, length, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// As [`map`](Self::map), for reading only.
    pub fn map_readable(&self, offset: u64, length: usize) -> Result<Mapping> {
        Mapping::window(&self.descriptor, offset, length, ProtFlags::READ)
    }

    /// Maps `length` bytes from `offset` on twice in a row: what wraps around the end of a ring is contiguous in the mapping.
    pub fn map_twice(&self, offset: u64, length: usize) -> Result<Mapping> {
        Mapping::pieces(&self.descriptor, &[(offset, length), (offset, length)])
    }

    /// How much memory the file takes now, in bytes.
    pub fn allocated(&self) -> u64 {
        rustix::fs::fstat(&self.descriptor).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }
}

impl AsFd for SparseFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::page_size;

    #[test]
    fn memory_is_taken_when_it_is_reserved_and_comes_back_when_it_is_given_back() {
        let page = page_size();
        let file = SparseFile::create("test", 1 << 20).unwrap();
        assert_eq!(file.allocated(), 0);
        file.reserve(1 << 40, 3 * page as u64).unwrap();
        assert_eq!(file.allocated(), 3 * page as u64);
        let mapping = file.map(1 << 40, page).unwrap();
        // SAFETY: a page that only this test has.
        unsafe { mapping.as_ptr().write(7) };
        file.give_back(1 << 40, 3 * page as u64);
        assert_eq!(file.allocated(), 0);
        // SAFETY: as above; what was given back reads as zero.
        assert_eq!(unsafe { mapping.as_ptr().read() }, 0);
    }

    #[test]
    fn a_piece_mapped_twice_continues_at_its_beginning() {
        let page = page_size();
        let file = SparseFile::create("test", 1 << 20).unwrap();
        file.reserve(0, page as u64).unwrap();
        let mapping = file.map_twice(0, page).unwrap();
        // SAFETY: two pages are mapped, and only this test has them.
        unsafe {
            mapping.as_ptr().add(page).write(9);
            assert_eq!(mapping.as_ptr().read(), 9);
        }
    }

    #[test]
    fn more_than_the_file_is_refused() {
        let file = SparseFile::create("test", 1 << 20).unwrap();
        assert!(file.reserve(file.length() - 10, 11).is_err());
        assert!(file.reserve(u64::MAX, 2).is_err());
        assert!(SparseFile::create("test", u64::MAX).is_err());
    }
}
