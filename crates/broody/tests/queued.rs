//! What a task costs that waits: memory, and who is woken for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broody::{AsyncResult, Event, Pool};

/// Counts what is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's, with the same arguments.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TASKS: u64 = 10_000;

/// One test at a time: what is counted is the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn add(x: u64) -> u64 {
    x + 1
}

fn wait_for(gate: Event) -> bool {
    gate.wait(Some(Duration::from_secs(60))).unwrap()
}

/// A pool whose workers do nothing until the gate opens, and have as many tasks as they take.
fn blocked(workers: usize) -> (Pool, Event, Vec<AsyncResult<bool>>) {
    let pool = Pool::builder().workers(workers).build().unwrap();
    let gate = Event::new().unwrap();
    let waiting = (0..3 * workers).map(|_| pool.apply_async(wait_for, gate.clone()).unwrap()).collect();
    while pool.stats().leased < 2 * workers {
        std::thread::yield_now();
    }
    (pool, gate, waiting)
}

#[test]
fn a_waiting_task_takes_less_than_200_bytes() {
    let _alone = ALONE.lock().unwrap();
    let (pool, gate, blocked) = blocked(8);
    let mut results = Vec::with_capacity(TASKS as usize);
    let before = IN_USE.load(Ordering::Relaxed);
    results.extend((0..TASKS).map(|x| pool.apply_async(add, x).unwrap()));
    let each = (IN_USE.load(Ordering::Relaxed) - before) / TASKS as usize + size_of_val(&results[0]);
    // The argument is two bytes of that, and an allocator takes eight for each of two pieces.
    assert!(each < 200 - 16, "{each} bytes");
    gate.set().unwrap();
    assert!((0..TASKS).zip(&results).all(|(x, result)| result.get().unwrap() == x + 1));
    assert!(blocked.iter().all(|blocked| blocked.get().unwrap()));
}

/// How often the pool's thread has gone to sleep; waits until it has its name.
fn sleeps() -> u64 {
    let is_pools = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "broody-pool")
    };
    let thread = || fs::read_dir("/proc/self/task").unwrap().flatten().find(is_pools);
    let thread = std::iter::from_fn(|| Some(thread())).flatten().next().unwrap();
    let status = fs::read_to_string(thread.path().join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn handing_in_wakes_nobody_while_all_workers_are_busy() {
    let _alone = ALONE.lock().unwrap();
    let (pool, gate, _blocked) = blocked(2);
    let before = sleeps();
    let results: Vec<_> = (0..TASKS).map(|x| pool.apply_async(add, x).unwrap()).collect();
    let woken = sleeps() - before;
    // It looks at the workers by itself, every few milliseconds at most.
    assert!(woken < TASKS / 20, "woken {woken} times");
    gate.set().unwrap();
    assert!((0..TASKS).zip(&results).all(|(x, result)| result.get().unwrap() == x + 1));
}
