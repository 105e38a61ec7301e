//! What /proc tells of processes. See proc(5).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::Pid;

/// What a process is doing, in the words of an operating systems textbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It could run, and waits for a CPU.
    Ready,
    /// It runs.
    Running,
    /// It waits for something: time, input, a lock, a disk.
    Blocked,
    /// It was stopped by a signal or a debugger.
    Stopped,
    /// It has ended and was not reaped yet.
    Zombie,
}

/// The fields of /proc/PID/stat that broody reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The state's letter.
    pub letter: char,
    /// The parent's pid.
    pub parent: Pid,
    /// When the process started, in clock ticks since boot. Together with the pid it names a process for good.
    pub start_time: u64,
}

/// Reads /proc/PID/stat. `None` when there is no such process.
///
/// # Errors
/// What else keeps the file from being read: nothing is known of the process then. EMFILE, ENFILE, ENOMEM.
pub fn stat(pid: Pid) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(&text).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        // It is reaped between the opening and the reading.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The command name may hold anything, also spaces and parentheses: fields are counted from its last one.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    Some(Stat {
        letter: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        start_time: fields.nth(17)?.parse().ok()?,
    })
}

/// Waits until all threads of `pid`, which was sent SIGSTOP, are stopped; at most for `limit`. Whether they are.
pub fn await_stop(pid: Pid, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let letter = |path: &std::path::Path| {
        fs::read_to_string(path.join("stat")).ok().and_then(|text| parse_stat(&text)).map(|stat| stat.letter)
    };
    let is_stopped = || {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
        threads.flatten().all(|thread| matches!(letter(&thread.path()), Some('T' | 't' | 'Z' | 'X')))
    };
    while !is_stopped() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// How many bytes of memory `pid` has in use (RSS), without those of files and of memory that it shares. `None` when there is no such process.
pub fn resident(pid: Pid) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (all, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(all.saturating_sub(shared) * crate::memory::page_size() as u64)
}

/// What `pid` is doing. `None` when there is no such process, or nothing can be read of it.
///
/// The kernel has one letter for ready and running. They are told apart by whether the CPU time in /proc/PID/schedstat moves
/// within 10 ms, for which this waits; the other states are told at once.
pub fn state(pid: Pid) -> Option<State> {
    match stat(pid).ok()??.letter {
        'R' => {
            let cpu_time = || {
                Some(fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?.split(' ').next()?.to_owned())
            };
            let (before, end) = (cpu_time(), Instant::now() + Duration::from_millis(10));
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
                if cpu_time() != before {
                    return Some(State::Running);
                }
            }
            Some(State::Ready)
        }
        'T' | 't' => Some(State::Stopped),
        'Z' | 'X' => Some(State::Zombie),
        _ => Some(State::Blocked),
    }
}

/// The children of `pid`, those of all its threads.
pub fn children(pid: Pid) -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for task in tasks.flatten() {
        match fs::read_to_string(task.path().join("children")) {
            Ok(list) => found.extend(list.split_ascii_whitespace().filter_map(|id| id.parse::<Pid>().ok())),
            // Kernels without CONFIG_PROC_CHILDREN, or a thread that ended meanwhile.
            Err(_) if task.path().exists() => return children_by_scan(pid),
            Err(_) => {}
        }
    }
    found
}

/// The children of the thread `id`, which is the first of its process: all of them where it is the only one.
pub fn children_of_thread(id: Pid) -> Vec<Pid> {
    match fs::read_to_string(format!("/proc/{id}/task/{id}/children")) {
        Ok(list) => list.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect(),
        Err(_) => children_by_scan(id),
    }
}

fn children_by_scan(pid: Pid) -> Vec<Pid> {
    all().into_iter().filter(|child| matches!(stat(*child), Ok(Some(stat)) if stat.parent == pid)).collect()
}

/// Every process that can be seen.
pub fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Every descendant of `pid` now, nearest first, without itself.
pub fn descendants(pid: Pid) -> Vec<Pid> {
    let mut seen = BTreeSet::from([pid]);
    let mut found = Vec::new();
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        for child in children(parent) {
            if seen.insert(child) {
                found.push(child);
                next.push(child);
            }
        }
    }
    found
}

/// The numbers of the descriptors that `pid` has open.
pub fn descriptors(pid: Pid) -> io::Result<Vec<RawFd>> {
    let mut open = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            open.push(number);
        }
    }
    Ok(open)
}

/// How many threads the calling process has.
pub fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) R) b) S 7 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 9001 1 1";
        assert_eq!(parse_stat(line), Some(Stat { letter: 'S', parent: 7, start_time: 9001 }));
    }

    #[test]
    fn a_torn_line_is_no_process() {
        assert_eq!(parse_stat("42 (a"), None);
        assert_eq!(parse_stat("42 (a) S"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_told_from_one_that_cannot_be_read() {
        // No process has a number beyond the kernel's limit of 2^22.
        assert_eq!(stat(i32::MAX).unwrap(), None);
        assert_eq!(stat(crate::fork::pid()).unwrap().unwrap().parent, crate::fork::parent_pid());
    }

    #[test]
    fn this_process_is_its_parents_child() {
        let me = crate::fork::pid();
        let parent = stat(me).unwrap().unwrap().parent;
        assert!(children(parent).contains(&me));
        assert!(children_by_scan(parent).contains(&me));
        assert!(matches!(state(me), Some(State::Running | State::Ready | State::Blocked)));
    }
}
