//! Queues, where other processes or the values themselves do what is not expected.

use std::time::{Duration, Instant};

use broody::{Queue, wait};

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
