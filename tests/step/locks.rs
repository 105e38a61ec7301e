//! Locks, plain and recursive.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use broody_os::Pid;
use broody_os::memory::{self, Mapping};
use broody_shm::arena::Arena;
use broody_shm::handle::Handle;
use broody_shm::robust::guarded::Guarded;
use broody_shm::sync::Deadline;
use broody_tests::PATIENCE;

use crate::operation::{Operation, bury, done_if, stay_on_one_cpu};
use crate::other::Other;
use crate::trace::{Spot, Stop, Traced, about_to_sleep, be_traced, marker};
use crate::{MANY, soon};

type Lock = Handle<Guarded>;

struct Stage {
    arena: &'static Arena,
    lock: Lock,
    others: Vec<Other>,
    /// Holds the lock, and dies while it gives it back.
    dying: Option<Traced>,
}

fn stage(arena: &'static Arena) -> Stage {
    Stage { arena, lock: Lock::new(arena, 0, 0).unwrap(), others: Vec::new(), dying: None }
}

fn taken(arena: &'static Arena) -> Stage {
    let stage = stage(arena);
    take(&stage.lock);
    stage
}

/// Takes the lock, and says whether its last holder died.
fn take(lock: &Lock) -> bool {
    lock.acquire(soon()).unwrap().expect("the lock is free in time").owner_died
}

fn give_back(lock: &Lock) {
    assert!(lock.release().unwrap());
}

fn take_and_give_back(lock: &Lock) -> bool {
    let died = take(lock);
    give_back(lock);
    died
}

/// Uses the lock, which is free and has been told of whoever died.
fn use_it(lock: &Lock) {
    for _ in 0..MANY / 2 {
        assert!(!take_and_give_back(lock), "a death is told once");
    }
}

fn add_sleeper(stage: &mut Stage) {
    let lock = &stage.lock;
    let sleeper = Other::asleep(|| take_and_give_back(lock).into());
    stage.others.push(sleeper);
}

/// Takes a recursive lock, and says whether its last holder died.
fn take_again(lock: &Lock) -> bool {
    lock.acquire_again(soon()).unwrap().expect("the lock is free in time").owner_died
}

fn give_back_once(lock: &Lock) {
    assert!(lock.release_once().unwrap());
}

/// Uses the recursive lock, which is free.
fn use_it_again(lock: &Lock) -> bool {
    let died = take_again(lock);
    for depth in 0..MANY / 2 {
        assert_eq!((lock.depth(), take_again(lock)), (depth + 1, false));
    }
    for _ in 0..=MANY / 2 {
        give_back_once(lock);
    }
    assert!(!lock.is_locked() && !lock.release_once().unwrap());
    died
}

fn add_recursive_sleeper(stage: &mut Stage) {
    let lock = &stage.lock;
    let sleeper = Other::asleep(|| {
        let died = take_again(lock);
        give_back_once(lock);
        died.into()
    });
    stage.others.push(sleeper);
}

#[test]
fn a_free_lock_is_taken_or_not() {
    Operation::new(
        "lock",
        stage,
        |stage| _ = take(&stage.lock),
        |stage| {
            let died = take_and_give_back(&stage.lock);
            use_it(&stage.lock);
            done_if(died)
        },
    )
    .warm_up(|stage| _ = take_and_give_back(&stage.lock))
    .kill_everywhere_at_first_use();
}

#[test]
fn a_lock_that_is_given_back_goes_to_the_next_one() {
    Operation::new(
        "unlock, with a sleeper",
        stage,
        |stage| give_back(&stage.lock),
        |mut stage| {
            let died = stage.others.remove(0).end(stage.arena) != 0;
            use_it(&stage.lock);
            done_if(!died)
        },
    )
    .prepare(|stage| _ = take(&stage.lock))
    .ready(add_sleeper)
    .kill_everywhere();
}

#[test]
fn a_lock_that_is_given_back_for_another_goes_to_the_next_one() {
    Operation::new(
        "unlock for another process, with a sleeper",
        taken,
        |stage| assert!(stage.lock.release_for_anybody().unwrap()),
        |mut stage| {
            let done = !stage.lock.release().unwrap();
            assert_eq!(stage.others.remove(0).end(stage.arena), 0, "its holder lives");
            use_it(&stage.lock);
            done_if(done)
        },
    )
    .warm_up(|stage| _ = stage.lock.acquire(Deadline::Now).unwrap())
    .ready(add_sleeper)
    .kill_everywhere();
}

fn waits() -> Operation<Stage> {
    Operation::new(
        "lock, after a wait",
        taken,
        |stage| _ = take(&stage.lock),
        |mut stage| {
            let told: Vec<_> = stage.others.drain(..).map(|other| other.end(stage.arena)).collect();
            let died = take_and_give_back(&stage.lock) || told.contains(&1);
            use_it(&stage.lock);
            done_if(died)
        },
    )
    .warm_up(|stage| _ = stage.lock.acquire(Deadline::Now).unwrap())
    .waits_for(|stage| {
        give_back(&stage.lock);
        true
    })
}

#[test]
fn who_waits_for_a_lock_has_it_or_not() {
    waits().kill_everywhere();
}

#[test]
fn who_waits_for_a_lock_and_dies_keeps_no_other_from_it() {
    // Which of the two comes first is the kernel's choice.
    waits().ready(add_sleeper).in_any_order().kill_everywhere();
}

#[test]
fn who_is_about_to_wait_for_a_lock_does_not_sleep_through_its_release() {
    waits().stop_everywhere();
}

#[test]
fn who_is_about_to_wait_for_a_lock_does_not_sleep_through_its_holders_death() {
    waits()
        .ready(|stage| {
            let lock = &stage.lock;
            give_back(lock);
            stage.dying = Some(Traced::start(|| {
                take(lock);
                marker();
                give_back(lock);
                marker();
            }));
        })
        .waits_for(|stage| {
            let dying = stage.dying.take().unwrap();
            // By one of two instructions, as somebody sleeps or not: looked for anew each time.
            dying.run_until(&Spot::new(), || !stage.lock.is_locked());
            bury(stage.arena, dying);
            true
        })
        .stop_everywhere();
}

#[test]
fn a_free_recursive_lock_is_taken_or_not() {
    Operation::new(
        "recursive lock",
        stage,
        |stage| _ = take_again(&stage.lock),
        |stage| done_if(use_it_again(&stage.lock)),
    )
    .warm_up(|stage| {
        take_again(&stage.lock);
        give_back_once(&stage.lock);
    })
    .kill_everywhere();
}

#[test]
fn a_recursive_lock_is_free_when_its_holder_dies_however_often_he_has_taken_it() {
    Operation::new(
        "recursive lock, the second time, and back",
        stage,
        |stage| {
            take_again(&stage.lock);
            give_back_once(&stage.lock);
        },
        |mut stage| {
            assert_eq!(stage.others.remove(0).end(stage.arena), 1);
            assert!(!use_it_again(&stage.lock));
            done_if(true)
        },
    )
    .prepare(|stage| _ = take_again(&stage.lock))
    .ready(add_recursive_sleeper)
    .in_any_order()
    .kill_everywhere();
}

#[test]
fn a_recursive_lock_that_is_given_back_goes_to_the_next_one() {
    Operation::new(
        "recursive unlock, with a sleeper",
        stage,
        |stage| give_back_once(&stage.lock),
        |mut stage| {
            let died = stage.others.remove(0).end(stage.arena) != 0;
            use_it_again(&stage.lock);
            done_if(!died)
        },
    )
    .prepare(|stage| _ = take_again(&stage.lock))
    .ready(add_recursive_sleeper)
    .kill_everywhere();
}

#[test]
fn a_recursive_lock_that_is_given_back_altogether_is_taken_back_or_not() {
    Operation::new(
        "recursive unlock and lock for a wait",
        stage,
        |stage| {
            let depth = stage.lock.release_all().unwrap();
            assert_eq!(depth, 2);
            stage.lock.acquire_all(depth).unwrap();
            assert_eq!(stage.lock.depth(), 2);
        },
        |stage| {
            use_it_again(&stage.lock);
            assert!(!use_it_again(&stage.lock));
            done_if(true)
        },
    )
    .prepare(|stage| {
        take_again(&stage.lock);
        take_again(&stage.lock);
    })
    .in_any_order()
    .kill_everywhere();
}

#[test]
fn who_gives_up_waiting_for_a_lock_leaves_nobody_asleep() {
    stay_on_one_cpu();
    let stage = taken(Arena::create(1).unwrap());
    let lock = &stage.lock;
    let (hasty, end) = about_to_sleep(|deadline| {
        lock.acquire(Deadline::Now).unwrap();
        marker();
        let acquired = lock.acquire(deadline()).unwrap();
        assert!(acquired.is_none(), "somebody else has it");
        marker();
    });
    let mut patient = None;
    let mut asleep = || {
        if patient.is_none() {
            patient = Some(Other::asleep(|| take_and_give_back(lock).into()));
            // The one that has slept longest is woken, and finds the lock taken again; then its time is over.
            give_back(lock);
            take(lock);
        }
    };
    hasty.step(hasty.place(), Some(&mut asleep));
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    assert_eq!(hasty.go_on(&mut || {}), Stop::Marker);
    give_back(lock);
    assert_eq!(patient.unwrap().end(stage.arena), 0);
    assert_eq!(stage.arena.rescues(), 0, "it was woken");
    bury(stage.arena, hasty);
}

#[test]
fn a_lock_is_free_though_its_holder_had_let_go_of_its_handle_before_it_died() {
    stay_on_one_cpu();
    let stage = stage(Arena::create(1).unwrap());
    let hold = stage.lock.held().send().unwrap();
    let holder = Other::start(|| {
        let own = Lock::from_held(stage.arena.receive(stage.lock.held().name(), hold).unwrap()).unwrap();
        take(&own);
        0
    });
    holder.end(stage.arena);
    assert!(take_and_give_back(&stage.lock));
    use_it(&stage.lock);
}

/// Where threads of a process meet with the test. All zero at first.
struct Board(Mapping);

impl Board {
    fn new() -> Self {
        Self(Mapping::new(&memory::create("board", memory::page_size()).unwrap()).unwrap())
    }

    fn word(&self, number: usize) -> &AtomicU32 {
        assert!(number < 16);
        // SAFETY: a page, zeroed, which all touch as atomics.
        unsafe { self.0.as_ptr().cast::<AtomicU32>().add(number).as_ref() }
    }

    /// Waits until the word is not 0, and gives it.
    fn wait(&self, number: usize) -> u32 {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.word(number).load(Ordering::Acquire) {
                0 => assert!(Instant::now() < end, "the other side does not come"),
                value => return value,
            }
            std::thread::yield_now();
        }
    }

    fn set(&self, number: usize, value: u32) {
        self.word(number).store(value, Ordering::Release);
    }
}

#[test]
fn a_recursive_lock_is_for_one_thread_also_after_a_death() {
    stay_on_one_cpu();
    let stage = stage(Arena::create(1).unwrap());
    let (lock, board) = (&stage.lock, Board::new());
    let (thread, try_now, tried) = (0, 1, 2);
    // It dies as the holder, a thread with the same number as the first one of the next process.
    Other::start(|| {
        take_again(lock);
        0
    })
    .end(stage.arena);
    let process = Other::start(|| {
        lock.depth();
        lock.is_mine();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: gettid has no preconditions.
                board.set(thread, unsafe { libc::gettid() } as u32);
                be_traced();
                marker();
                take_again(lock);
                give_back_once(lock);
            });
            board.wait(try_now);
            let taken = lock.acquire_again(Deadline::Now).unwrap().is_some();
            board.set(tried, 1 + u32::from(taken));
        });
        0
    });
    let second = Traced::thread(board.wait(thread) as Pid);
    // Between the instruction that takes the lock and those that say which thread has it.
    while !lock.is_locked() {
        assert_eq!(second.step(second.place(), None), Stop::Trap);
    }
    board.set(try_now, 1);
    assert_eq!(board.wait(tried), 1, "another thread of its process has it");
    second.let_loose();
    process.end(stage.arena);
    assert!(!use_it_again(lock));
}
