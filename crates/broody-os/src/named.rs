//! Shared memory with a name: files in /dev/shm that go away with their last user.
//!
//! Each user has a shared lock of flock(2) on the file, which the kernel takes away when the user ends, however it does. Whoever sees a user go
//! tries to get the lock for itself alone: if it can, there is no user left, and it removes the name. So the users may be of several
//! programs, which know nothing of each other.
//!
//! A file gets its name only when it is complete, and its number (inode) is known beforehand, so that a program which dies in between leaves
//! nothing, and nobody removes another one's file. See shm_open(3), open(2) on O_TMPFILE, linkat(2).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::mm::ProtFlags;

use crate::memory::Mapping;
use crate::{Error, Result};

const FOLDER: &str = "/dev/shm";

/// The longest name, in bytes.
pub const LONGEST: usize = 200;

/// A file in use: the shared lock is held as long as this lives.
#[derive(Debug)]
pub struct NamedFile {
    file: OwnedFd,
    length: u64,
    number: u64,
}

/// Whether `name` can be one: no slash, not empty, not too long.
pub fn is_valid(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST && !name.contains(['/', '\0']) && name != "." && name != ".."
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(FOLDER).join(name)
}

impl NamedFile {
    /// Makes a file of `length` zero bytes that has no name yet. Its memory is allocated.
    ///
    /// # Errors
    /// ENOSPC when /dev/shm is full.
    pub fn create(length: u64) -> Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(FOLDER, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| Error::new("open", error))?;
        if length > 0 {
            crate::limits::check_memory(length)?;
            loop {
                match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length) {
                    Ok(()) => break,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(Error::new("fallocate", error)),
                }
            }
        }
        Self::lock(file)
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// EEXIST when another file has it.
    pub fn publish(&self, name: &str) -> Result<()> {
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, source, CWD, path(name), AtFlags::SYMLINK_FOLLOW)
            .map_err(|error| Error::new("linkat", error))
    }

    /// Opens the file of this name, and becomes its user.
    ///
    /// # Errors
    /// ENOENT when there is none.
    pub fn open(name: &str) -> Result<Self> {
        loop {
            let file = rustix::fs::open(
                path(name),
                OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                Mode::empty(),
            )
            .map_err(|error| Error::new("open", error))?;
            let opened = Self::lock(file)?;
            // Its last user may have removed it before the lock was had; then there is none, or another one.
            if number_of(name) == Some(opened.number) {
                return Ok(opened);
            }
        }
    }

    fn lock(file: OwnedFd) -> Result<Self> {
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockShared) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::new("flock", error)),
            }
        }
        let stat = rustix::fs::fstat(&file).map_err(|error| Error::new("fstat", error))?;
        Ok(Self { file, length: stat.st_size as u64, number: stat.st_ino })
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its number, which no other file has meanwhile.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Maps all of it; `None` where there is nothing to map.
    ///
    /// # Errors
    /// Of mmap(2).
    pub fn map(&self) -> Result<Option<Mapping>> {
        match self.length {
            0 => Ok(None),
            length => {
                let access = ProtFlags::READ | ProtFlags::WRITE;
                Mapping::window(&self.file, 0, length as usize, access).map(Some)
            }
        }
    }

    /// Is no user any more, though the file stays open and mapped.
    pub fn leave(&self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

impl AsFd for NamedFile {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The number of the file that has this name, if there is one.
pub fn number(name: &str) -> Option<u64> {
    number_of(name).filter(|_| is_valid(name))
}

fn number_of(name: &str) -> Option<u64> {
    rustix::fs::lstat(path(name)).ok().map(|stat| stat.st_ino)
}

/// Removes the name if it is that of the file with this number and the file has no user. Whether it was removed.
pub fn remove_if_unused(name: &str, number: u64) -> bool {
    if !is_valid(name) || number_of(name) != Some(number) {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(file) = rustix::fs::open(path(name), flags, Mode::empty()) else { return false };
    let alone = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    // Nobody can become a user while the lock is held for oneself.
    alone && number_of(name) == Some(number) && remove(name).is_ok()
}

/// Removes the name if it is that of the file with this number, whoever uses the file. Whether it was removed.
pub fn remove_file(name: &str, number: u64) -> bool {
    is_valid(name) && number_of(name) == Some(number) && remove(name).is_ok()
}

/// Removes the name, whoever uses the file.
///
/// # Errors
/// ENOENT when there is none.
pub fn remove(name: &str) -> Result<()> {
    rustix::fs::unlink(path(name)).map_err(|error| Error::new("unlink", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(what: &str) -> String {
        format!("broody-test-{what}-{}", std::process::id())
    }

    #[test]
    fn a_name_goes_with_the_last_user() {
        let name = name("users");
        let first = NamedFile::create(4096).unwrap();
        first.publish(&name).unwrap();
        let second = NamedFile::open(&name).unwrap();
        assert_eq!((second.length(), second.number()), (4096, first.number()));
        drop(first);
        assert!(!remove_if_unused(&name, second.number()), "there is still a user");
        let number = second.number();
        assert!(!remove_if_unused(&name, number + 1), "another file's name");
        drop(second);
        assert!(remove_if_unused(&name, number));
        assert!(NamedFile::open(&name).is_err());
    }

    #[test]
    fn a_name_is_given_once() {
        let name = name("twice");
        let (first, second) = (NamedFile::create(1).unwrap(), NamedFile::create(1).unwrap());
        first.publish(&name).unwrap();
        assert!(second.publish(&name).is_err());
        first.leave();
        assert!(remove_if_unused(&name, first.number()));
        assert!(!is_valid("a/b") && !is_valid("") && !is_valid("..") && !is_valid(&"x".repeat(300)));
    }
}
