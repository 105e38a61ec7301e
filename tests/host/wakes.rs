//! Processes that wait for each other all the time: nobody sleeps through his wake.

use std::time::{Duration, Instant};

use broody::{BareLock, Child, Condition, Event, Lock, Queue, Semaphore};
use broody_tests::{PATIENCE, Random, observer};

/// How many hammer at a time.
const PROCESSES: u64 = 4;

/// How long, for each kind of object.
const TIME: Duration = Duration::from_millis(700);

/// Something that processes do with objects `O`, until `Instant` (as a time since the start of the machine).
type Work<O> = fn(&O, &mut Random, u64);

/// Hammers, and gives how many sleepers got on only because their sleep was bounded.
fn hammer<O>(objects: O, number: u64, seed: u64, work: Work<O>) {
    let mut random = Random::new(seed ^ (number << 32));
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        work(&objects, &mut random, number);
        if random.below(8) == 0 {
            // So that others come to sleep.
            std::thread::sleep(Duration::from_micros(random.below(300)));
        }
    }
}

/// A short time, of which many are over before what is waited for comes.
fn short(random: &mut Random) -> Option<Duration> {
    (random.below(4) == 0).then(|| Duration::from_micros(random.below(400)))
}

fn use_lock(lock: &BareLock, random: &mut Random, _: u64) {
    if lock.acquire(short(random)).unwrap().is_some() {
        if random.below(4) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(100)));
        }
        lock.release().unwrap();
    }
}

fn use_semaphore((free, taken): &(Semaphore, Semaphore), random: &mut Random, number: u64) {
    // Tokens go round.
    let (from, to) = if number.is_multiple_of(2) { (free, taken) } else { (taken, free) };
    if from.acquire(Some(short(random).unwrap_or(TIME))).unwrap() {
        to.release(1).unwrap();
    }
}

fn use_condition((turn, condition): &(Lock<u64>, Condition), random: &mut Random, number: u64) {
    let guard = turn.lock().unwrap();
    let limit = short(random).unwrap_or(TIME);
    let (mut guard, came) =
        condition.wait_while(guard, Some(limit), |turn| *turn % PROCESSES != number).unwrap();
    if came {
        *guard += 1;
        condition.notify_all().unwrap();
    }
}

fn use_event((ping, pong): &(Event, Event), random: &mut Random, number: u64) {
    let (from, to) = if number.is_multiple_of(2) { (ping, pong) } else { (pong, ping) };
    if from.wait(Some(short(random).unwrap_or(TIME))).unwrap() {
        from.clear();
        to.set().unwrap();
    }
}

fn use_queue((there, back): &(Queue<u64>, Queue<u64>), random: &mut Random, number: u64) {
    let (from, to) = if number.is_multiple_of(2) { (there, back) } else { (back, there) };
    let limit = short(random).unwrap_or(TIME);
    if let Ok(message) = from.get_timeout(limit) {
        to.put_timeout(message, PATIENCE).unwrap();
    }
}

macro_rules! series {
    ($name:literal, $objects:expr, $work:expr) => {{
        let objects = $objects;
        let rounds = (0..3).take_while(|_| {
            let seed = broody_tests::seed();
            let before = observer().rescues();
            let children: Vec<Child<()>> = (0..PROCESSES)
                .map(|number| {
                    let argument = (objects.clone(), number, seed);
                    broody::spawn(|(objects, number, seed)| hammer(objects, number, seed, $work), argument)
                        .unwrap()
                })
                .collect();
            children.iter().for_each(|child| child.join().unwrap());
            observer().rescues() != before
        });
        // Once may be chance: a sleep that was over in the instant before its wake, on a loaded machine.
        assert!(rounds.count() < 3, "{}: somebody slept through his wake, each time", $name);
    }};
}

pub fn run() {
    broody::spawn(|(): ()| (), ()).unwrap().join().unwrap();
    series!("a lock", BareLock::new().unwrap(), use_lock);
    let full = |count: u32| (Semaphore::new(count).unwrap(), Semaphore::new(0).unwrap());
    series!("a semaphore", full(1), use_semaphore);
    series!("a condition", (Lock::new(0u64).unwrap(), Condition::new().unwrap()), use_condition);
    let events = (Event::new().unwrap(), Event::new().unwrap());
    events.0.set().unwrap();
    series!("an event", events, use_event);
    let queues = (Queue::<u64>::bounded(1).unwrap(), Queue::<u64>::bounded(1).unwrap());
    queues.0.put(1).unwrap();
    series!("a queue", queues, use_queue);
}
