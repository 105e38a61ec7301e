//! What the processes share, and how it must look in the end.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use broody::{
    Array, Barrier, Blob, BoundedSemaphore, Condition, Error, Event, JoinableQueue, Lock, LockError,
    LockGuard, Queue, RLock, Semaphore, SharedMemory, Value,
};
use broody_tests::PATIENCE;
use serde::{Deserialize, Serialize};

/// Two amounts whose sum is always the same.
pub const TOTAL: i64 = 1_000_000;

/// How many permits there are, and tokens at first.
pub const PERMITS: u32 = 3;

/// How many messages each process puts at most.
pub const MESSAGES: u32 = 1024;

/// A message: who has put it, and how many he had put before.
pub type Numbered = (u32, u32);

/// Objects on their way.
pub type Parcel = (Blob, Lock<[u64; 2]>);

#[derive(Clone, Serialize, Deserialize)]
pub struct Shared {
    stop: Event,
    progress: Value<u64>,
    pub accounts: Vec<Lock<[i64; 2]>>,
    pub recursive: RLock,
    /// Who has the recursive lock.
    pub inside: Value<u64>,
    pub semaphore: Semaphore,
    pub permits: BoundedSemaphore,
    pub queue: Queue<Numbered>,
    /// How often each message was taken: a byte for each.
    taken: SharedMemory,
    /// How many messages each process knows that it has put.
    put: Array<u32>,
    pub tasks: JoinableQueue<u64>,
    pub tasks_put: Value<u64>,
    pub tasks_done: Value<u64>,
    pub parcels: Queue<Parcel>,
    pub turn: Lock<u64>,
    pub condition: Condition,
    pub event: Event,
    pub barrier: Barrier,
}

/// Puts right what a dead holder may have left half-done.
pub fn sound<'a>(
    guard: Result<LockGuard<'a, [i64; 2]>, LockError<LockGuard<'a, [i64; 2]>>>,
) -> LockGuard<'a, [i64; 2]> {
    match guard {
        Ok(guard) => {
            assert_eq!(guard[0] + guard[1], TOTAL, "nobody died over it, and it is torn");
            guard
        }
        Err(LockError::OwnerDied(mut guard)) => {
            guard[1] = TOTAL - guard[0];
            guard
        }
        Err(error) => panic!("a lock is not free in time: {error}"),
    }
}

impl Shared {
    pub fn new(time: Duration) -> Self {
        // One is killed every few milliseconds.
        let most = 1000 + 1000 * time.as_secs() as usize;
        Self {
            stop: Event::new().unwrap(),
            progress: Value::new(0u64).unwrap(),
            accounts: (0..4).map(|_| Lock::new([TOTAL, 0]).unwrap()).collect(),
            recursive: RLock::new().unwrap(),
            inside: Value::new(0u64).unwrap(),
            semaphore: Semaphore::new(PERMITS).unwrap(),
            permits: BoundedSemaphore::new(PERMITS).unwrap(),
            queue: Queue::bounded(64).unwrap(),
            taken: SharedMemory::new(most * MESSAGES as usize).unwrap(),
            put: Array::zeroed(most).unwrap(),
            tasks: JoinableQueue::with(Queue::builder().messages(64)).unwrap(),
            tasks_put: Value::new(0u64).unwrap(),
            tasks_done: Value::new(0u64).unwrap(),
            parcels: Queue::bounded(16).unwrap(),
            turn: Lock::new(0u64).unwrap(),
            condition: Condition::new().unwrap(),
            event: Event::new().unwrap(),
            barrier: Barrier::new(3).unwrap(),
        }
    }

    /// How many processes may be started.
    pub fn most_processes(&self) -> u32 {
        self.put.len() as u32
    }

    /// How much was done.
    pub fn progress(&self) -> u64 {
        self.progress.load()
    }

    pub fn count_progress(&self) {
        self.progress.fetch_add(1);
    }

    /// The processes shall come to their end.
    pub fn stop(&self) {
        self.stop.set().unwrap();
    }

    pub fn is_over(&self) -> bool {
        self.stop.is_set()
    }

    /// How often a message was taken.
    fn mark((producer, number): Numbered, taken: &SharedMemory) -> &AtomicU8 {
        let place = producer as usize * MESSAGES as usize + number as usize;
        assert!(number < MESSAGES && place < taken.len(), "nobody has put ({producer}, {number})");
        // SAFETY: within the memory, which lives as long as the borrow; all touch it as atomics.
        unsafe { AtomicU8::from_ptr(taken.as_ptr().add(place)) }
    }

    /// Whoever takes a message says so.
    pub fn has_taken(&self, message: Numbered) {
        let before = Self::mark(message, &self.taken).fetch_add(1, Ordering::Relaxed);
        assert_eq!(before, 0, "{message:?} was taken twice");
    }

    /// Whoever has put a message says so.
    pub fn has_put(&self, (producer, number): Numbered) {
        self.put.store(producer as usize, number + 1).unwrap();
    }

    /// Looks at everything, when nobody else uses it any more.
    pub fn check(&self, started: u32, killed: u32) {
        for account in &self.accounts {
            drop(sound(account.lock_timeout(PATIENCE)));
            assert!(account.lock_timeout(PATIENCE).is_ok(), "a death is told once");
        }
        assert!(self.recursive.acquire(Some(PATIENCE)).unwrap().is_some());
        assert_eq!(self.recursive.depth(), 1);
        self.recursive.release().unwrap();
        drop(self.turn.lock_timeout(PATIENCE));
        assert!(self.turn.lock_timeout(PATIENCE).is_ok());
        assert_eq!(self.permits.value(), PERMITS, "no permit is lost");
        assert!(self.semaphore.value() <= PERMITS && PERMITS - self.semaphore.value() <= killed);
        self.check_messages(started, killed);
        self.check_tasks(killed);
        while let Ok(parcel) = self.parcels.try_get() {
            open(&parcel);
        }
        self.barrier.reset().unwrap();
        assert!(!self.barrier.is_broken());
    }

    fn check_messages(&self, started: u32, killed: u32) {
        while let Ok(message) = self.queue.try_get() {
            self.has_taken(message);
        }
        let mut missing = 0;
        for producer in 0..started {
            let known = self.put.load(producer as usize).unwrap();
            let taken = |number| Self::mark((producer, number), &self.taken).load(Ordering::Relaxed) == 1;
            missing += (0..known).filter(|number| !taken(*number)).count();
            // It may have died after a put, before it knew of it.
            assert!(!(known + 1..MESSAGES).any(taken), "{producer} has put what it had not come to");
        }
        assert!(missing <= killed as usize, "{missing} messages are lost, {killed} had one in their hands");
    }

    fn check_tasks(&self, killed: u32) {
        while let Ok(_task) = self.tasks.get_timeout(Duration::ZERO) {
            self.tasks.task_done().unwrap();
            self.tasks_done.fetch_add(1);
        }
        let lost = match self.tasks.join(Some(PATIENCE)) {
            Ok(()) => 0,
            Err(Error::TasksLost { count }) => count,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(self.tasks.unfinished(), 0);
        assert!(lost <= killed, "{lost} tasks are lost, {killed} had one in their hands");
        let (put, done) = (self.tasks_put.load(), self.tasks_done.load() + u64::from(lost));
        // Who dies after a put, or after he was done, has not counted it.
        assert!(put.abs_diff(done) <= killed.into(), "{put} were put, {done} done or lost");
    }
}

/// What a parcel has to look like.
pub fn open((blob, lock): &Parcel) {
    assert!(blob.iter().all(|byte| *byte == blob[0]), "the blob is torn");
    let mut guard = lock.lock_timeout(PATIENCE).unwrap_or_else(|error| match error {
        LockError::OwnerDied(guard) => guard,
        error => panic!("a lock in a parcel is not free: {error}"),
    });
    guard[0] += 1;
}
