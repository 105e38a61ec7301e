//! Queues, where other processes or the values themselves do what is not expected.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use broody::{Error, Event, Lock, Queue, wait};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_watched_queue_is_ready_at_once_though_another_process_took_the_message_before() {
    const ROUNDS: u32 = 10;
    let (queue, taken, next) =
        (Queue::<u32>::new().unwrap(), Queue::<u32>::new().unwrap(), Queue::<()>::new().unwrap());
    fn take((queue, taken, next): (Queue<u32>, Queue<u32>, Queue<()>)) {
        while next.get().is_ok() {
            taken.put(queue.get().unwrap()).unwrap();
        }
    }
    let child = broody::spawn(take, (queue.clone(), taken.clone(), next.clone())).unwrap();
    let mut late = 0;
    for round in 0..ROUNDS {
        let theirs = 2 * round;
        next.put(()).unwrap();
        // Time for the child, and then for the watch, to be asleep: what is tested is what wakes them.
        std::thread::sleep(Duration::from_millis(30));
        let put = std::thread::scope(|scope| {
            let putter = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                queue.put(theirs).unwrap();
                taken.get_timeout(PATIENCE).unwrap();
                std::thread::sleep(Duration::from_millis(30));
                queue.put(theirs + 1).unwrap();
                Instant::now()
            });
            loop {
                assert_eq!(wait(&[&queue], Some(PATIENCE)).unwrap(), [0]);
                // Left to the child, which may be slower than this.
                if queue.len() == 1 && putter.is_finished() {
                    break putter.join().unwrap();
                }
                std::thread::yield_now();
            }
        });
        late += u32::from(put.elapsed() > Duration::from_millis(400));
        assert_eq!(queue.get().unwrap(), theirs + 1);
    }
    next.close();
    child.join().unwrap();
    assert!(late <= 2, "{late} of {ROUNDS}");
}

#[test]
fn what_others_take_between_two_looks_does_not_end_the_wait() {
    let event = Event::new().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                event.set().unwrap();
                event.clear();
            }
        });
        let early = (0..20_000).filter(|_| wait(&[&event], Some(PATIENCE)).unwrap().is_empty()).count();
        over.store(true, Ordering::Relaxed);
        assert_eq!(early, 0, "waits that ended with nothing, long before their time");
    });
}

/// Two handles, and a note in a log that is itself a queue of handles, written between them.
struct Noted(Event, Option<Queue<(String, Lock<u8>)>>, Event);

impl Serialize for Noted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&self.0)?;
        if let Some(log) = &self.1 {
            log.put(("x".repeat(500), Lock::new(3).unwrap())).unwrap();
        }
        tuple.serialize_element(&self.2)?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Noted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (first, second) = Deserialize::deserialize(deserializer)?;
        Ok(Self(first, None, second))
    }
}

#[test]
fn a_value_that_uses_a_queue_while_it_is_encoded_keeps_its_handles() {
    let (queue, log) = (Queue::<Noted>::new().unwrap(), Queue::new().unwrap());
    let (first, second) = (Event::new().unwrap(), Event::new().unwrap());
    queue.put(Noted(first.clone(), Some(log.clone()), second.clone())).unwrap();
    let got = queue.get().unwrap();
    got.0.set().unwrap();
    assert!(first.is_set() && !second.is_set());
    got.2.set().unwrap();
    assert!(second.is_set());
    let (note, lock) = log.get().unwrap();
    assert_eq!((note.len(), *lock.lock().unwrap()), (500, 3));
}

/// A number that cannot be decoded if it is odd.
#[derive(Debug, PartialEq, Serialize)]
struct Even(u8);

impl<'de> Deserialize<'de> for Even {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        if number % 2 == 0 { Ok(Self(number)) } else { Err(serde::de::Error::custom("it is odd")) }
    }
}

#[test]
fn a_value_that_cannot_be_decoded_takes_no_other_one_with_it() {
    let queue = Queue::<Even>::new().unwrap();
    let is_right = |(index, got): (usize, &broody::Result<Even>)| match got {
        Ok(Even(number)) => index % 2 == 0 && usize::from(*number) == index,
        Err(error) => index % 2 == 1 && matches!(error, Error::Decode { .. }),
    };
    queue.put_many((0..5).map(Even)).unwrap();
    let got = queue.get_many(10).unwrap();
    assert!(got.len() == 5 && got.iter().enumerate().all(is_right), "{got:?}");
    queue.put_many((0..5).map(Even)).unwrap();
    queue.close();
    let got: Vec<_> = queue.iter().collect();
    assert!(got.len() == 5 && got.iter().enumerate().all(is_right), "{got:?}");
    assert!(matches!(queue.get_many(10), Err(Error::Closed { .. })));
}

#[test]
fn values_without_bytes_are_put_before_all_of_them_are_collected() {
    const MANY: usize = 10_000;
    let queue = Queue::<()>::new().unwrap();
    let mut seen = 0;
    // A queue without bounds takes what it is given: what is given is there before the end.
    let values = (0..MANY).map(|_| seen = seen.max(queue.len()));
    queue.put_many(values).unwrap();
    assert!(queue.len() == MANY && seen >= MANY / 2, "{seen}");
}

#[test]
fn waiting_for_nothing_ends_at_once() {
    assert!(wait(&[], None).unwrap().is_empty());
    assert!(wait(&[], Some(PATIENCE)).unwrap().is_empty());
}
