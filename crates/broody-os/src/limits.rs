//! CPUs, memory and descriptors at hand. See sched_getaffinity(2), sched_getcpu(3), cgroups(7), proc_meminfo(5), getrlimit(2).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit};

use crate::{Error, Result};

/// How many CPUs this process may use: its affinity, cut down to its cgroup's CPU quota (rounded up). At least 1.
///
/// The machine's own count is what `nproc --all` says; in a container with half a CPU this is 1.
pub fn cpu_count() -> usize {
    let affinity = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize).max(1);
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match tightest(&cgroup, Path::new(CGROUPS), "cpu", quota_of) {
        Some(quota) => affinity.min(quota.ceil().max(1.0) as usize),
        None => affinity,
    }
}

/// The CPU that the calling thread runs on at this instant. See sched_getcpu(3), which is no system call here.
#[inline]
pub fn current_cpu() -> u32 {
    // SAFETY: takes nothing and touches nothing of ours.
    let cpu = unsafe { libc::sched_getcpu() };
    // -1 without the system call (ENOSYS): then every thread is on the same unknown CPU.
    cpu as u32
}

/// The CPUs that this process may use, by number. See sched_getaffinity(2).
pub fn cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Lets the calling thread, and those that it starts, run on this CPU alone. See sched_setaffinity(2).
///
/// # Errors
/// Of the system call: a CPU that there is not.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| Error::new("sched_setaffinity", error))
}

/// Lets this process run behind others, by so much more, up to 19 in all. See nice(2).
///
/// # Errors
/// EPERM for less than now without the right to it.
pub fn nice(more: i32) -> Result<()> {
    rustix::process::nice(more).map(|_| ()).map_err(|error| Error::new("nice", error))
}

/// The most memory that this process has had in use so far, in bytes (RSS). See getrusage(2).
pub fn peak_memory() -> u64 {
    // SAFETY: rusage is plain data, ours, and lives through the call, which cannot fail for the caller itself.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    usage.ru_maxrss as u64 * 1024
}

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The lowest of the figures that `read` finds in the cgroup directories on the way from this process's cgroup to the root.
///
/// `membership` is the text of /proc/self/cgroup; `root` is where cgroups are mounted. In a container the path may name a
/// place outside of it: then only the root is looked at, which is the container's own.
fn tightest(
    membership: &str,
    root: &Path,
    controller: &str,
    read: impl Fn(&Path) -> Option<f64>,
) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let base = match controllers {
            "" => root.to_owned(),
            list if list.split(',').any(|name| name == controller) => {
                let joined = root.join(list);
                if joined.exists() { joined } else { root.join(controller) }
            }
            _ => continue,
        };
        let mut directory: PathBuf = base.join(path.trim_start_matches('/'));
        while directory.starts_with(&base) {
            if let Some(found) = read(&directory) {
                tightest = Some(tightest.map_or(found, |before| before.min(found)));
            }
            if !directory.pop() {
                break;
            }
        }
    }
    tightest
}

/// Left to everybody else in the machine or cgroup, in bytes.
const SPARE: u64 = 8 << 20;

/// How much may be taken, at most, from one look to the next, in bytes.
const LONGEST_STRIDE: u64 = 64 << 20;

/// Refuses what the machine, or this process's cgroup, has no memory for.
///
/// Without this look, memory that is not there would wake the kernel's OOM killer instead of being an error. It is a look and no
/// reservation: others may take the memory just after it. A look takes some system calls, so that there is one only when a quarter of what there
/// was at the last one may be used up.
pub(crate) fn check_memory(length: u64) -> Result<()> {
    static UNSEEN: AtomicU64 = AtomicU64::new(0);
    // Relaxed: an estimate. Where two threads take from it at once, there is a look too many or too few.
    if let Some(left) = UNSEEN.load(Ordering::Relaxed).checked_sub(length) {
        UNSEEN.store(left, Ordering::Relaxed);
        return Ok(());
    }
    let Some(available) = available_memory() else { return Ok(()) };
    match available.checked_sub(length.saturating_add(SPARE)) {
        None => Err(Error::new("fallocate", rustix::io::Errno::NOMEM)),
        Some(left) => {
            UNSEEN.store((left / 4).min(LONGEST_STRIDE), Ordering::Relaxed);
            Ok(())
        }
    }
}

/// How much memory can be had without the OOM killer, in bytes: what the machine has, or less where a cgroup limits it.
pub fn available_memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemAvailable:"));
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = tightest(&cgroup, Path::new(CGROUPS), "memory", room_of).map(|bytes| bytes as u64);
    [machine.map(|kilobytes| kilobytes * 1024), cgroup].into_iter().flatten().min()
}

/// The room that a cgroup has left, in bytes, counting pages of files that were not used lately as room.
fn room_of(directory: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let (limit, used, idle) = match read("memory.max") {
        Some(limit) => (number(limit)?, read("memory.current").and_then(number)?, "inactive_file"),
        None => {
            let used = read("memory.usage_in_bytes").and_then(number)?;
            (read("memory.limit_in_bytes").and_then(number)?, used, "total_inactive_file")
        }
    };
    let reclaimable = read("memory.stat").and_then(|text| field(&text, idle)).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(reclaimable)) as f64)
}

/// The number behind `name` in a text of such lines.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut words =
        text.lines().map(str::split_ascii_whitespace).find(|line| line.clone().next() == Some(name))?;
    words.nth(1)?.parse().ok()
}

fn quota_of(directory: &Path) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|value| *value > 0.0);
    if let Ok(text) = fs::read_to_string(directory.join("cpu.max")) {
        let mut parts = text.split_ascii_whitespace();
        return Some(number(parts.next()?)? / number(parts.next()?)?);
    }
    let quota = fs::read_to_string(directory.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(directory.join("cpu.cfs_period_us")).ok()?;
    Some(number(&quota)? / number(&period)?)
}

/// Raises this process's soft limit of descriptors to its hard limit; gives the limit before, for [`set_descriptors`].
pub fn raise_descriptors() -> Rlimit {
    let before = rustix::process::getrlimit(Resource::Nofile);
    set_descriptors(&Rlimit { current: before.maximum, maximum: before.maximum });
    before
}

/// Sets this process's limit of descriptors, as well as it can be done.
pub fn set_descriptors(limit: &Rlimit) {
    let _ = rustix::process::setrlimit(Resource::Nofile, *limit);
}

/// The limit of descriptors, for [`raise_descriptors`] and [`set_descriptors`].
pub type DescriptorLimit = Rlimit;

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempdir::Dir {
        let root = tempdir::Dir::new();
        for (path, text) in files {
            let path = root.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    mod tempdir {
        pub struct Dir(pub std::path::PathBuf);
        impl Dir {
            pub fn new() -> Self {
                use std::sync::atomic::{AtomicU32, Ordering};
                static NEXT: AtomicU32 = AtomicU32::new(0);
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                Self(std::env::temp_dir().join(format!("broody-os-{}-{number}", std::process::id())))
            }
        }
        impl Drop for Dir {
            fn drop(&mut self) {
                let _ = std::fs::remove_dir_all(&self.0);
            }
        }
    }

    #[test]
    fn the_tightest_quota_on_the_way_up_counts() {
        let root = tree(&[
            ("a/cpu.max", "150000 100000"),
            ("a/b/cpu.max", "max 100000"),
            ("cpu.max", "400000 100000"),
        ]);
        assert_eq!(tightest("0::/a/b\n", &root.0, "cpu", quota_of), Some(1.5));
    }

    #[test]
    fn version_one_quotas_are_understood() {
        let root = tree(&[("cpu/x/cpu.cfs_quota_us", "50000\n"), ("cpu/x/cpu.cfs_period_us", "100000\n")]);
        let membership = "3:cpu,cpuacct:/x\n1:name=systemd:/x\n";
        assert_eq!(tightest(membership, &root.0, "cpu", quota_of), Some(0.5));
    }

    #[test]
    fn the_room_of_a_cgroup_counts_idle_pages_of_files() {
        let root = tree(&[
            ("a/memory.max", "1000\n"),
            ("a/memory.current", "700\n"),
            ("a/memory.stat", "anon 500\ninactive_file 200\n"),
            ("memory.max", "max\n"),
            ("memory.current", "900\n"),
        ]);
        assert_eq!(tightest("0::/a\n", &root.0, "memory", room_of), Some(500.0));
        let old = tree(&[
            ("memory/b/memory.limit_in_bytes", "100"),
            ("memory/b/memory.usage_in_bytes", "120"),
            ("memory/b/memory.stat", "total_inactive_file 0"),
        ]);
        assert_eq!(tightest("4:memory:/b\n", &old.0, "memory", room_of), Some(0.0));
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn no_quota_is_no_limit() {
        let root = tree(&[
            ("cpu.max", "max 100000"),
            ("cpu/cpu.cfs_quota_us", "-1"),
            ("cpu/cpu.cfs_period_us", "100000"),
        ]);
        assert_eq!(tightest("0::/\n2:cpu:/\n", &root.0, "cpu", quota_of), None);
        assert!(cpu_count() >= 1);
    }
}
