//! What a child takes over from the process that asks for it: working directory, environment and standard streams.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::{Error, Result};

/// Which file something is: its device and inode. Two opens of one file are the same in this sense.
pub type FileIdentity = (u64, u64);

/// Which file descriptor `raw` is open on; `None` when it is closed.
pub fn descriptor_identity(raw: RawFd) -> Option<FileIdentity> {
    // SAFETY: stat is plain data; fstat fills it, or fails for a descriptor that is not open.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(raw, &raw mut stat) == 0).then_some((stat.st_dev, stat.st_ino))
    }
}

/// A copy of the standard stream `number` (1 or 2), close-on-exec; an error if it is closed.
pub fn duplicate_stream(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_DUPFD takes any number, open or not.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(Error::last("fcntl(F_DUPFD_CLOEXEC)")),
        // SAFETY: the kernel just made it for us.
        raw => Ok(unsafe { OwnedFd::from_raw_fd(raw) }),
    }
}

/// Which directory is the working directory; `None` when it cannot be told.
pub fn directory_identity() -> Option<FileIdentity> {
    let stat = rustix::fs::stat(".").ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// A descriptor of the working directory, to hand over with [`enter`].
pub fn directory() -> Result<OwnedFd> {
    rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::new("open", error))
}

/// Makes `directory` the working directory.
pub fn enter(directory: &OwnedFd) -> Result<()> {
    rustix::process::fchdir(directory).map_err(|error| Error::new("fchdir", error))
}

/// Puts a copy of `fd` at the standard stream `number` (0, 1 or 2).
pub fn replace_stream(number: RawFd, fd: impl AsFd) -> Result<()> {
    // SAFETY: both are descriptors; a standard stream is nobody's OwnedFd.
    match unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) } {
        -1 => Err(Error::last("dup2")),
        _ => Ok(()),
    }
}

/// Opens /dev/null at the standard stream `number` (0, 1 or 2).
pub fn silence_stream(number: RawFd) -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::new("open(/dev/null)", error))?;
    replace_stream(number, null)
}

/// The environment as one block, `NAME=value` after `NAME=value`, each ended by a zero byte.
pub fn variables() -> Vec<u8> {
    let mut block = Vec::with_capacity(4096);
    for (name, value) in std::env::vars_os() {
        block.extend_from_slice(name.as_bytes());
        block.push(b'=');
        block.extend_from_slice(value.as_bytes());
        block.push(0);
    }
    block
}

fn entries(block: &[u8]) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    block.split(|byte| *byte == 0).filter_map(|entry| {
        // A name may begin with '=' (std keeps such entries), so the separator is looked for after the first byte.
        let at = 1 + entry.get(1..)?.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&entry[..at]), OsStr::from_bytes(&entry[at + 1..])))
    })
}

/// Makes the environment what `block` (of [`variables`]) says.
///
/// # Safety
/// No other thread may run.
pub unsafe fn set_variables(block: &[u8]) {
    let old: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in old {
        // SAFETY: single-threaded, says the caller.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in entries(block) {
        // SAFETY: as above.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Takes the variable `name` out of the environment.
///
/// # Safety
/// No other thread may run.
pub unsafe fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: single-threaded, says the caller.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// Replaces this process by `program` with these arguments and this environment; returns only on failure. See execve(2).
pub fn exec(program: &Path, arguments: &[OsString], block: &[u8], more: (&str, &str)) -> Error {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).unwrap_or_default();
    let program = c_string(program.as_os_str().as_bytes().to_vec());
    let arguments: Vec<CString> =
        arguments.iter().map(|argument| c_string(argument.clone().into_vec())).collect();
    let mut environment: Vec<CString> = block
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
        .map(|entry| c_string(entry.to_vec()))
        .collect();
    environment.push(c_string(format!("{}={}", more.0, more.1).into_bytes()));
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    // SAFETY: both arrays end with a null pointer, and their strings live until the call has failed.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Error::last("execve")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_block_comes_apart_again() {
        let block = b"A=1\0=odd=2\0EMPTY=\0WITH=a=b\0";
        let found: Vec<_> = entries(block).map(|(n, v)| (n.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(found, [("A", "1"), ("=odd", "2"), ("EMPTY", ""), ("WITH", "a=b")]);
        assert!(entries(&variables()).any(|(name, _)| name == "PATH"));
    }
}
