//! Queues, where other processes or the values themselves do what is not expected.

use std::time::{Duration, Instant};

use broody::{Event, Lock, Queue, wait};
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
