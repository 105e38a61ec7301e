//! What each process does until it is killed.

use std::collections::BTreeMap;
use std::time::Duration;

use broody::{Blob, BytesQueue, Error, Lock, LockError, OwnerDied, Queue, Semaphore};
use broody_tests::{PATIENCE, Random};

use crate::shared::{MESSAGES, Parcel, Shared, open, sound};

struct Worker {
    shared: Shared,
    number: u32,
    random: Random,
    /// How many messages it has put.
    put: u32,
    /// The last message of each process that it has taken.
    last: BTreeMap<u32, u32>,
    parcels: Vec<Parcel>,
}

/// Does one thing after the other.
pub fn work((shared, number, seed): (Shared, u32, u64)) {
    let random = Random::new(seed);
    let mut worker = Worker { shared, number, random, put: 0, last: BTreeMap::new(), parcels: Vec::new() };
    while !worker.shared.is_over() {
        worker.act();
        worker.shared.count_progress();
    }
}

/// Only that the time was over is no mistake.
fn in_time<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::TimedOut { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

impl Worker {
    fn act(&mut self) {
        match self.random.below(14) {
            0 | 1 => self.transfer(),
            2 => self.enter(),
            3 => self.use_tokens(),
            4 => self.put(),
            5 => self.take(),
            6 => self.put_task(),
            7 => self.do_task(),
            8 => self.send_parcel(),
            9 => self.receive_parcel(),
            10 => self.wait_or_notify(),
            11 => self.raise_flag(),
            12 => self.meet(),
            _ => self.make_and_drop(),
        }
    }

    /// A short time, which may be over before what is waited for comes.
    fn short(&mut self) -> Duration {
        Duration::from_micros(self.random.below(3000))
    }

    fn transfer(&mut self) {
        let account = &self.shared.accounts[self.random.below(4) as usize];
        let mut guard = sound(account.lock_timeout(PATIENCE));
        let amount = self.random.below(1000) as i64;
        guard[0] -= amount;
        if self.random.below(4) == 0 {
            std::thread::yield_now();
        }
        guard[1] += amount;
    }

    fn enter(&mut self) {
        let (lock, inside) = (&self.shared.recursive, &self.shared.inside);
        let OwnerDied(died) = lock.acquire(Some(PATIENCE)).unwrap().expect("the lock is free in time");
        assert!(died || inside.load() == 0, "somebody else is inside");
        inside.store(self.number.into());
        lock.acquire(None).unwrap();
        assert_eq!(lock.depth(), 2);
        std::thread::yield_now();
        lock.release().unwrap();
        assert_eq!(inside.load(), u64::from(self.number), "somebody else is inside");
        inside.store(0);
        lock.release().unwrap();
    }

    fn use_tokens(&mut self) {
        let limit = self.short();
        if self.shared.permits.acquire(Some(limit)).unwrap() {
            std::thread::yield_now();
            self.shared.permits.release().unwrap();
        }
        if self.shared.semaphore.acquire(Some(limit)).unwrap() {
            self.shared.semaphore.release(1).unwrap();
        }
    }

    fn put(&mut self) {
        let message = (self.number, self.put);
        let limit = self.short();
        if self.put < MESSAGES && in_time(self.shared.queue.put_timeout(message, limit)).is_some() {
            self.shared.has_put(message);
            self.put += 1;
        }
    }

    fn take(&mut self) {
        let limit = self.short();
        if let Some((producer, number)) = in_time(self.shared.queue.get_timeout(limit)) {
            self.shared.has_taken((producer, number));
            let before = self.last.insert(producer, number);
            assert!(before.is_none_or(|before| before < number), "{producer}: {number} after {before:?}");
        }
    }

    fn put_task(&mut self) {
        let limit = self.short();
        if in_time(self.shared.tasks.put_timeout(7, limit)).is_some() {
            self.shared.tasks_put.fetch_add(1);
        }
    }

    fn do_task(&mut self) {
        let limit = self.short();
        if in_time(self.shared.tasks.get_timeout(limit)).is_some() {
            self.shared.tasks.task_done().unwrap();
            self.shared.tasks_done.fetch_add(1);
        }
    }

    fn send_parcel(&mut self) {
        let limit = self.short();
        let parcel = self.parcels.pop().unwrap_or_else(|| {
            let length = 1 + self.random.below(100_000) as usize;
            let byte = self.random.below(256) as u8;
            (Blob::with(length, |bytes| bytes.fill(byte)).unwrap(), Lock::new([0u64, 0]).unwrap())
        });
        in_time(self.shared.parcels.put_timeout(&parcel, limit));
    }

    fn receive_parcel(&mut self) {
        let limit = self.short();
        if let Some(parcel) = in_time(self.shared.parcels.get_timeout(limit)) {
            open(&parcel);
            // It may be sent on, or kept for a while.
            self.parcels.push(parcel);
            self.parcels.truncate(2);
        }
    }

    fn wait_or_notify(&mut self) {
        let limit = self.short();
        let whatever = |error| match error {
            LockError::OwnerDied(guard) => guard,
            error => panic!("the lock is not free in time: {error}"),
        };
        let mut guard = self.shared.turn.lock_timeout(PATIENCE).unwrap_or_else(whatever);
        if self.random.below(2) == 0 {
            match self.shared.condition.wait_timeout(guard, limit) {
                Ok(_) | Err(LockError::OwnerDied(_)) => {}
                Err(error) => panic!("{error}"),
            }
        } else {
            *guard += 1;
            self.shared.condition.notify(self.random.below(3) as u32).unwrap();
        }
    }

    fn raise_flag(&mut self) {
        let limit = self.short();
        match self.random.below(3) {
            0 => self.shared.event.set().unwrap(),
            1 => self.shared.event.clear(),
            _ => _ = self.shared.event.wait(Some(limit)).unwrap(),
        }
    }

    fn meet(&mut self) {
        let limit = self.short();
        match self.shared.barrier.wait(Some(limit)) {
            Ok(_) => {}
            Err(Error::BrokenBarrier) => self.shared.barrier.reset().unwrap(),
            Err(error) => panic!("{error}"),
        }
    }

    fn make_and_drop(&mut self) {
        match self.random.below(3) {
            0 => drop(Semaphore::new(1).unwrap()),
            1 => {
                let queue = Queue::<Blob>::new().unwrap();
                queue.put(Blob::new(&[1; 5000]).unwrap()).unwrap();
                assert_eq!(queue.len(), 1);
            }
            _ => {
                // Longer than what goes into a ring.
                let queue = BytesQueue::new().unwrap();
                queue.put(&vec![5; 1_100_000], None).unwrap();
                assert!(queue.get(None).unwrap().iter().all(|byte| *byte == 5));
            }
        }
    }
}
