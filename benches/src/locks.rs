//! What locks cost.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use broody::Lock;
use broody_os::memory::{self, Mapping};

use crate::bare;
use crate::gate::{Gate, Times, seconds};
use crate::measure::{Race, Table};

const PAIRS: u64 = 1_000_000;

/// Pairs of lock and unlock a second, by one thread that nobody disturbs.
fn uncontended(pair: impl Fn()) -> f64 {
    let start = Instant::now();
    (0..PAIRS).for_each(|_| pair());
    PAIRS as f64 / start.elapsed().as_secs_f64()
}

/// What each of two processes adds.
const INCREMENTS: u64 = 2_000_000;

/// On CPU number `cpu`: on one and the same they would not contend.
fn increment((counter, gate, cpu): (Lock<u64>, Gate, usize)) -> Times {
    bare::pin(0, &[cpu]);
    gate.work(|| (0..INCREMENTS).for_each(|_| *counter.lock().unwrap() += 1))
}

/// Increments a second of two processes.
fn contended() -> f64 {
    let (counter, gate) = (Lock::new(0u64).unwrap(), Gate::new(2));
    let start = |cpu| broody::spawn(increment, (counter.clone(), gate.clone(), cpu)).unwrap();
    let rate = 2.0 * INCREMENTS as f64 / seconds(vec![start(0), start(1)]);
    assert_eq!(*counter.lock().unwrap(), 2 * INCREMENTS);
    rate
}

/// A mutex of pthreads and a counter in shared memory. See pthread_mutexattr_setpshared(3), pthread_mutexattr_setrobust(3).
struct Pthread {
    memory: Mapping,
}

#[repr(C)]
struct Guarded {
    mutex: libc::pthread_mutex_t,
    counter: u64,
}

impl Pthread {
    fn new(robust: libc::c_int) -> Self {
        let memory = memory::create("pthread-mutex", memory::page_size()).unwrap();
        let made = Self { memory: Mapping::new(&memory).unwrap() };
        // SAFETY: nobody else knows of the memory yet, which is long enough and zeroed; the attributes live through the calls.
        unsafe {
            let mut attributes = std::mem::zeroed::<libc::pthread_mutexattr_t>();
            assert_eq!(libc::pthread_mutexattr_init(&raw mut attributes), 0);
            let shared = libc::PTHREAD_PROCESS_SHARED;
            assert_eq!(libc::pthread_mutexattr_setpshared(&raw mut attributes, shared), 0);
            assert_eq!(libc::pthread_mutexattr_setrobust(&raw mut attributes, robust), 0);
            assert_eq!(libc::pthread_mutex_init(&raw mut (*made.guarded()).mutex, &raw const attributes), 0);
        }
        made
    }

    fn guarded(&self) -> *mut Guarded {
        self.memory.as_ptr().cast().as_ptr()
    }

    fn increment(&self) {
        // SAFETY: the mutex was initialised and stays mapped; who has it has the counter.
        unsafe {
            libc::pthread_mutex_lock(&raw mut (*self.guarded()).mutex);
            let counter = &raw mut (*self.guarded()).counter;
            counter.write(black_box(counter.read()) + 1);
            libc::pthread_mutex_unlock(&raw mut (*self.guarded()).mutex);
        }
    }

    /// As [`contended`], and by the same means.
    fn contended(robust: libc::c_int) -> f64 {
        let (guarded, gate) = (Self::new(robust), Gate::new(2));
        let increment = |cpu| {
            bare::pin(0, &[cpu]);
            gate.work(|| (0..INCREMENTS).for_each(|_| guarded.increment()))
        };
        let start = |cpu| broody::fork(|| increment(cpu)).unwrap();
        let rate = 2.0 * INCREMENTS as f64 / seconds(vec![start(0), start(1)]);
        // SAFETY: nobody writes to it any more.
        assert_eq!(unsafe { (*guarded.guarded()).counter }, 2 * INCREMENTS);
        rate
    }
}

pub fn run(table: &mut Table) {
    let (ours, theirs) = (Lock::new(0u64).unwrap(), Mutex::new(0u64));
    let robust = Pthread::new(libc::PTHREAD_MUTEX_ROBUST);
    let mut race = Race::default();
    race.add("Lock", || uncontended(|| *black_box(&ours).lock().unwrap() += 1));
    race.add("Mutex", || uncontended(|| *black_box(&theirs).lock().unwrap() += 1));
    race.add("pthread, robust", || uncontended(|| black_box(&robust).increment()));
    race.run(15);
    let nanoseconds = |name: &str| 1e9 / race.rate(name);
    table.row(
        "`Lock`: lock + unlock, uncontended",
        format!("{:.1} ns, **{:.2} x std**", nanoseconds("Lock"), race.ratio("Mutex", "Lock")),
        format!(
            "std's Mutex: {:.1} ns; robust pthread mutex: {:.1} ns",
            nanoseconds("Mutex"),
            nanoseconds("pthread, robust")
        ),
        "at most 2 x std",
    );
    let times = 1000;
    let without = bare::times_without_system_calls(times, || *ours.lock().unwrap() += 1);
    table.row(
        "the same, system calls",
        format!("**{}**", if without == times { "0" } else { "some" }),
        format!("{without} of {times} pairs in a process for which any system call is deadly (seccomp)"),
        "0",
    );

    let mut race = Race::default();
    race.add("Lock", contended);
    race.add("pthread", || Pthread::contended(libc::PTHREAD_MUTEX_STALLED));
    race.add("pthread, robust", || Pthread::contended(libc::PTHREAD_MUTEX_ROBUST));
    race.run(11);
    let millions = |name: &str| race.rate(name) / 1e6;
    table.row(
        "`Lock`: increments by 2 processes",
        format!("{:.1} million/s, **{:.2} x pthread**", millions("Lock"), race.ratio("Lock", "pthread")),
        format!(
            "pthread mutex, process-shared: {:.1} million/s; robust as well: {:.1} million/s",
            millions("pthread"),
            millions("pthread, robust")
        ),
        "at least 1 x pthread",
    );
}
