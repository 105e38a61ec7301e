//! Queues between processes and threads of one program.

use std::time::Duration;

use broody_os::fork::{self, Fork};
use broody_os::wait::{self, ExitStatus, Reaped};
use broody_shm::arena::Arena;
use broody_shm::queue::{Limits, Message, Queue, QueueError};
use broody_shm::sync::Deadline;

fn message(bytes: &[u8]) -> Message<'_> {
    Message { bytes, holds: &[] }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Runs `child` in a fork and expects that it returns.
fn in_child(child: impl FnOnce()) -> broody_os::Pid {
    // SAFETY: the child uses only what this test made, and ends by _exit.
    match unsafe { fork::fork() }.unwrap() {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let returned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
            fork::exit_now(u8::from(!returned));
        }
    }
}

fn join(pid: broody_os::Pid) {
    loop {
        match wait::reap_pid(pid).unwrap() {
            Reaped::Running => std::thread::sleep(Duration::from_millis(1)),
            Reaped::Ended(status, _) => return assert_eq!(status, ExitStatus::Code(0)),
            Reaped::Stolen => panic!("stolen"),
        }
    }
}

#[test]
fn messages_come_out_as_they_went_in() {
    let arena = Arena::create(1).unwrap();
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    let lengths = [0usize, 1, 7, 8, 9, 4096, 100_000, 1 << 20, (1 << 20) + 1, 5 << 20];
    for length in lengths {
        let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
        queue.put(message(&bytes), Deadline::Now).unwrap();
    }
    assert_eq!(queue.len(), lengths.len());
    let mut buffer = Vec::new();
    for length in lengths {
        let taken = queue.take(&mut buffer, Deadline::Now).unwrap();
        let bytes: &[u8] = taken.blob.as_deref().unwrap_or(&buffer);
        assert_eq!(bytes.len(), length);
        assert!(bytes.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    }
    assert!(matches!(queue.take(&mut buffer, Deadline::Now), Err(QueueError::TimedOut)));
    drop(queue);
    assert_eq!(arena.objects(), 0);
}

#[test]
fn processes_exchange_messages_in_order() {
    let arena = Arena::create(1).unwrap();
    let (there, back) = (
        Queue::new(arena, Limits { messages: Some(10), ..Limits::default() }, 0, false).unwrap(),
        Queue::new(arena, Limits::default(), 0, false).unwrap(),
    );
    let child = in_child(|| {
        let mut buffer = Vec::new();
        loop {
            match there.take(&mut buffer, soon()) {
                Ok(_) => back.put(message(&buffer), soon()).unwrap(),
                Err(QueueError::Closed) => return,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut buffer = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..20_000u32 {
                there.put(message(&number.to_le_bytes()), soon()).unwrap();
            }
            there.close();
        });
        for number in 0..20_000u32 {
            back.take(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, number.to_le_bytes());
        }
    });
    join(child);
    assert_eq!(arena.rescues(), 0);
}
