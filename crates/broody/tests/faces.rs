//! The forms of putting, taking and locking that wait, try, or do many at once: the same for all kinds of queues.

use std::time::Duration;

use broody::{
    BytesQueue, Connection, Error, JoinableBytesQueue, JoinableQueue, LockError, Queue, RLock, Sender, wait,
};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Short, where nothing is to happen.
const SHORT: Duration = Duration::from_millis(20);

fn values<T>(got: broody::Result<Vec<broody::Result<T>>>) -> Vec<T> {
    got.unwrap().into_iter().map(Result::unwrap).collect()
}

macro_rules! check_a_bounded_queue {
    ($queue:ident) => {
        assert!(matches!($queue.try_get_many(3), Err(Error::TimedOut { .. })));
        assert!(matches!($queue.get_many_timeout(3, SHORT), Err(Error::TimedOut { .. })));
        let numbers = [1, 2, 3, 4, 5u32];
        assert_eq!($queue.try_put_many(&numbers).unwrap(), 3);
        assert!($queue.is_full());
        assert!(matches!($queue.try_put_many(&numbers), Err(Error::TimedOut { .. })));
        assert!(matches!($queue.put_many_timeout(&numbers, SHORT), Err(Error::TimedOut { .. })));
        assert!(matches!($queue.try_put(9), Err(Error::TimedOut { .. })));
        assert_eq!($queue.try_get().unwrap(), 1);
        assert_eq!($queue.put_many_timeout(&numbers[3..], SHORT).unwrap(), 1);
        assert_eq!(values($queue.try_get_many(2)), [2, 3]);
        assert_eq!(values($queue.get_many_timeout(9, PATIENCE)), [4]);
        assert!(values($queue.try_get_many(0)).is_empty());
        assert_eq!($queue.try_put_many(&numbers[..0]).unwrap(), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!($queue.put_many_timeout(0..2000, PATIENCE).unwrap(), 2000);
                $queue.close();
            });
            assert!($queue.iter().map(Result::unwrap).eq(0..2000));
        });
        assert!($queue.is_closed() && $queue.is_empty() && $queue.len() == 0);
        assert!(matches!($queue.try_put_many(&numbers), Err(Error::Closed { .. })));
    };
}

#[test]
fn many_values_are_put_and_taken_as_far_as_there_is_room_and_time() {
    let queue = Queue::<u32>::bounded(3).unwrap();
    check_a_bounded_queue!(queue);
}

#[test]
fn a_queue_of_tasks_has_all_forms_of_a_queue() {
    let queue = JoinableQueue::<u32>::with(Queue::builder().messages(3)).unwrap();
    check_a_bounded_queue!(queue);
    assert_eq!(queue.unfinished(), 2004);
    (0..2004).for_each(|_| queue.task_done().unwrap());
    queue.join(Some(PATIENCE)).unwrap();
}

#[test]
fn many_messages_of_bytes_are_put_and_taken_at_once() {
    let queue = BytesQueue::bounded(Some(3), None).unwrap();
    assert!(matches!(queue.get_many(3, Some(Duration::ZERO)), Err(Error::TimedOut { .. })));
    assert_eq!(queue.put_many(&[&b"one"[..], b"", &[7; 100_000], b"four"], Some(SHORT)).unwrap(), 3);
    assert!(queue.is_full() && !queue.is_closed());
    assert!(matches!(queue.put_many(&["x"], Some(Duration::ZERO)), Err(Error::TimedOut { .. })));
    let got: Vec<_> = queue.get_many(9, None).unwrap().into_iter().map(|bytes| bytes.into_vec()).collect();
    assert_eq!(got, [b"one".to_vec(), Vec::new(), vec![7; 100_000]]);
    assert!(queue.get_many(0, None).unwrap().is_empty());
    queue.put_many(&["a", "b"], None).unwrap();
    queue.close();
    let left: Vec<_> = queue.iter().map(|bytes| bytes.unwrap().into_vec()).collect();
    assert_eq!(left, [b"a", b"b"]);
    assert!(queue.is_closed());
}

#[test]
fn a_recursive_lock_is_tried_and_waited_for() {
    let lock = RLock::new().unwrap();
    let once = lock.try_lock().unwrap();
    let twice = lock.lock_timeout(SHORT).unwrap();
    assert_eq!(lock.depth(), 2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert!(matches!(lock.try_lock(), Err(LockError::TimedOut)));
            assert!(matches!(lock.lock_timeout(SHORT), Err(LockError::TimedOut)));
        });
        other.join().unwrap();
    });
    drop((once, twice));
    assert!(!lock.locked());
}

#[test]
fn a_pipe_of_bytes_gives_them_as_they_are() {
    let (ours, theirs) = broody::pipe_bytes().unwrap();
    fn answer(theirs: Connection<[u8], [u8]>) -> String {
        while let Ok(bytes) = theirs.receive() {
            theirs.send(&bytes.iter().rev().copied().collect::<Vec<_>>()).unwrap();
        }
        // The end that sends to this one is gone first, the other one in the next instant.
        loop {
            match theirs.send(b"x") {
                Ok(()) => std::thread::yield_now(),
                Err(error) => return error.to_string(),
            }
        }
    }
    let child = broody::spawn(answer, theirs).unwrap();
    for message in [&b""[..], b"abc", &[7; 100_000]] {
        ours.send_timeout(message, PATIENCE).unwrap();
        assert_eq!(wait(&[&ours], Some(PATIENCE)).unwrap(), [0]);
        assert!(ours.is_ready());
        assert!(ours.receive_timeout(PATIENCE).unwrap().iter().eq(message.iter().rev()));
    }
    assert!(matches!(ours.receive_timeout(SHORT), Err(Error::TimedOut { .. })));
    ours.close();
    assert!(child.join().unwrap().contains("other end of the pipe is closed"));
}

#[test]
fn closing_the_last_sender_ends_what_is_received() {
    let (sender, receiver) = broody::channel_bytes().unwrap();
    let child = broody::spawn(
        |sender: Sender<[u8]>| {
            sender.send(b"one").unwrap();
            sender.close();
        },
        sender.clone(),
    )
    .unwrap();
    child.join().unwrap();
    sender.send(b"two").unwrap();
    sender.close();
    let all: Vec<_> = receiver.iter().map(|bytes| bytes.unwrap().into_vec()).collect();
    assert_eq!(all, [b"one", b"two"]);
    let (sender, receiver) = broody::channel::<u8>().unwrap();
    receiver.close();
    assert!(matches!(sender.send(1), Err(Error::Closed { .. })));
}

#[test]
fn a_joinable_queue_of_bytes_is_one_and_a_value() {
    fn work(queue: JoinableBytesQueue) -> usize {
        let mut lengths = 0;
        for message in &queue {
            lengths += message.unwrap().len();
            queue.task_done().unwrap();
        }
        lengths
    }
    let queue = JoinableBytesQueue::bounded(Some(10), None).unwrap();
    let child = broody::spawn(work, queue.clone()).unwrap();
    queue.put(b"one", None).unwrap();
    assert_eq!(queue.put_many(&[&b"three"[..], &[0; 100_000]], None).unwrap(), 2);
    queue.join(Some(std::time::Duration::from_secs(60))).unwrap();
    assert_eq!((queue.unfinished(), queue.len()), (0, 0));
    queue.close();
    assert_eq!(child.join().unwrap(), 100_008);
    assert!(matches!(queue.task_done(), Err(Error::NotHeld { .. })));
    assert!(matches!(queue.get(None), Err(Error::Closed { .. })));
    assert!(wait(&[&queue], None).unwrap().len() == 1, "a closed queue is ready");
}
