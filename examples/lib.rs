//! What the examples share: a look into /proc at what a program has left behind.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use broody_os::{Pid, fork, proc};

/// What /proc shows of the calling program's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Descendants that have ended and that nobody has reaped.
    pub zombies: usize,
    /// Processes of this program whose parent is gone, so that init has them now.
    pub orphans: usize,
    /// Descendants that run, without broody's supervisor (and the spare child that it has ready under load).
    pub live: usize,
}

impl Census {
    /// Looks now.
    pub fn take() -> Self {
        let mut census = Self { zombies: 0, orphans: 0, live: 0 };
        for pid in proc::descendants(fork::pid()) {
            match proc::stat(pid).ok().flatten().map(|stat| stat.letter) {
                Some('Z') => census.zombies += 1,
                Some(_) => census.live += usize::from(is_the_programs(pid)),
                None => {}
            }
        }
        let ours = executable(fork::pid());
        let is_orphan = |pid: &Pid| {
            proc::stat(*pid).ok().flatten().is_some_and(|stat| stat.parent == 1)
                && ours.is_some()
                && executable(*pid) == ours
        };
        census.orphans = proc::all().iter().filter(|pid| **pid != fork::pid() && is_orphan(pid)).count();
        census
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zombies {}, orphans {}, live children {}", self.zombies, self.orphans, self.live)
    }
}

/// Whether it is there, and none of broody's own.
fn is_the_programs(pid: Pid) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| !matches!(name.trim_end(), "broody-super" | "broody-spare"))
}

/// Which file a process runs.
fn executable(pid: Pid) -> Option<(u64, u64)> {
    let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}
