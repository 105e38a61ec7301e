//! CPUs and descriptors at hand. See sched_getaffinity(2), cgroups(7), getrlimit(2).

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};

/// How many CPUs this process may use: its affinity, cut down to its cgroup's CPU quota (rounded up). At least 1.
///
/// The machine's own count is what `nproc --all` says; in a container with half a CPU this is 1.
pub fn cpu_count() -> usize {
    let affinity = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize).max(1);
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match cgroup_quota(&cgroup, Path::new("/sys/fs/cgroup")) {
        Some(quota) => affinity.min(quota.ceil().max(1.0) as usize),
        None => affinity,
    }
}

/// The tightest CPU quota on the way from this process's cgroup to the root, in CPUs.
///
/// `membership` is the text of /proc/self/cgroup; `root` is where cgroups are mounted. In a container the path may name a
/// place outside of it: then only the root is looked at, which is the container's own.
fn cgroup_quota(membership: &str, root: &Path) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let base = match controllers {
            "" => root.to_owned(),
            list if list.split(',').any(|name| name == "cpu") => {
                let joined = root.join(list);
                if joined.exists() { joined } else { root.join("cpu") }
            }
            _ => continue,
        };
        let mut directory: PathBuf = base.join(path.trim_start_matches('/'));
        while directory.starts_with(&base) {
            if let Some(quota) = quota_of(&directory) {
                tightest = Some(tightest.map_or(quota, |before| before.min(quota)));
            }
            if !directory.pop() {
                break;
            }
        }
    }
    tightest
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
        assert_eq!(cgroup_quota("0::/a/b\n", &root.0), Some(1.5));
    }

    #[test]
    fn version_one_quotas_are_understood() {
        let root = tree(&[("cpu/x/cpu.cfs_quota_us", "50000\n"), ("cpu/x/cpu.cfs_period_us", "100000\n")]);
        assert_eq!(cgroup_quota("3:cpu,cpuacct:/x\n1:name=systemd:/x\n", &root.0), Some(0.5));
    }

    #[test]
    fn no_quota_is_no_limit() {
        let root = tree(&[
            ("cpu.max", "max 100000"),
            ("cpu/cpu.cfs_quota_us", "-1"),
            ("cpu/cpu.cfs_period_us", "100000"),
        ]);
        assert_eq!(cgroup_quota("0::/\n2:cpu:/\n", &root.0), None);
        assert!(cpu_count() >= 1);
    }
}
