//! Other ways to send messages from one process to another. Each function gives messages a second.
//!
//! Left out: crossmist 1.1.2, which cannot send a number when it is built by Rust 1.95 (it finds out what is plain data by a way in which std
//! copies arrays, which is another one now, and comes to an `unreachable!`).

use std::hint::black_box;
use std::io::{BufReader, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use broody::Child;
use interprocess::local_socket::prelude::*;
use interprocess::local_socket::{GenericNamespaced, ListenerOptions};
use ipc_channel::ipc::{self, IpcSharedMemory};

use super::{Pair, pair};
use crate::gate::{Gate, Times, seconds};

/// A fork that puts, and one that takes. Each gets its end before the work begins.
fn race(count: u64, put: impl FnOnce(&Gate) -> Times, take: impl FnOnce(&Gate) -> Times) -> f64 {
    let gate = Gate::new(2);
    let processes: Vec<Child<Times>> =
        vec![broody::fork(|| put(&gate)).unwrap(), broody::fork(|| take(&gate)).unwrap()];
    count as f64 / seconds(processes)
}

/// A length, and so many bytes.
fn framed(count: u64, size: usize, mut writer: impl Write, mut reader: impl Read) -> f64 {
    let (message, mut buffer) = (vec![7; size], vec![0; size]);
    race(
        count,
        |gate| {
            gate.work(|| {
                for _ in 0..count {
                    let length = (size as u64).to_le_bytes();
                    let mut parts = &mut [IoSlice::new(&length), IoSlice::new(black_box(&message))][..];
                    while !parts.is_empty() {
                        let written = writer.write_vectored(parts).unwrap();
                        IoSlice::advance_slices(&mut parts, written);
                    }
                }
            })
        },
        |gate| {
            gate.work(|| {
                for _ in 0..count {
                    let mut length = [0; 8];
                    reader.read_exact(&mut length).unwrap();
                    let length = u64::from_le_bytes(length) as usize;
                    reader.read_exact(&mut buffer[..length]).unwrap();
                    black_box(&buffer);
                }
            })
        },
    )
}

/// A pipe, read with two system calls a message, or through a buffer.
pub fn pipe(count: u64, size: usize, buffered: bool) -> f64 {
    let (reader, writer) = std::io::pipe().unwrap();
    if buffered {
        framed(count, size, writer, BufReader::with_capacity(64 << 10, reader))
    } else {
        framed(count, size, writer, reader)
    }
}

/// A stream socket of Unix.
pub fn interprocess(count: u64, size: usize) -> f64 {
    let name = format!("broody-bench-{}", std::process::id());
    let name = || name.as_str().to_ns_name::<GenericNamespaced>().unwrap();
    let listener = ListenerOptions::new().name(name()).create_sync().unwrap();
    let writer = LocalSocketStream::connect(name()).unwrap();
    framed(count, size, writer, listener.accept().unwrap())
}

/// The longest packet that is measured, in bytes: a long one is more than a socket's buffer holds.
pub const MOST_SEQPACKET: usize = 64 << 10;

/// Packets, which need no length before them. See unix(7).
pub fn seqpacket(count: u64, size: usize) -> f64 {
    let mut ends = [0; 2];
    // SAFETY: room for two numbers.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: both were just made, and nothing else owns them.
    let [writer, reader] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    let (message, mut buffer) = (vec![7u8; size], vec![0u8; size]);
    race(
        count,
        |gate| {
            gate.work(|| {
                for _ in 0..count {
                    // SAFETY: the bytes live through the call.
                    let sent = unsafe { libc::send(writer.as_raw_fd(), message.as_ptr().cast(), size, 0) };
                    assert_eq!(sent, size as isize);
                }
            })
        },
        |gate| {
            gate.work(|| {
                for _ in 0..count {
                    // SAFETY: the bytes live through the call, and are ours alone.
                    let received =
                        unsafe { libc::recv(reader.as_raw_fd(), buffer.as_mut_ptr().cast(), size, 0) };
                    assert_eq!(received, size as isize);
                }
            })
        },
    )
}

pub fn ipc_channel_values(count: u64) -> f64 {
    let (sender, receiver) = ipc::channel::<Pair>().unwrap();
    race(
        count,
        |gate| gate.work(|| (0..count).for_each(|number| sender.send(pair(number)).unwrap())),
        |gate| gate.work(|| (0..count).for_each(|number| assert_eq!(receiver.recv().unwrap(), pair(number)))),
    )
}

pub fn ipc_channel_bytes(count: u64, size: usize) -> f64 {
    let (sender, receiver) = ipc::bytes_channel().unwrap();
    let message = vec![7; size];
    race(
        count,
        |gate| gate.work(|| (0..count).for_each(|_| sender.send(black_box(&message)).unwrap())),
        |gate| gate.work(|| (0..count).for_each(|_| assert_eq!(receiver.recv().unwrap().len(), size))),
    )
}

/// Each message is memory of its own, of which the descriptor is sent.
pub fn ipc_channel_memory(count: u64, size: usize) -> f64 {
    let (sender, receiver) = ipc::channel::<IpcSharedMemory>().unwrap();
    let message = vec![7; size];
    race(
        count,
        |gate| {
            gate.work(|| (0..count).for_each(|_| sender.send(IpcSharedMemory::from_bytes(&message)).unwrap()))
        },
        |gate| {
            gate.work(|| {
                // Read as others' messages are: each byte.
                let mut buffer = vec![0; size];
                for _ in 0..count {
                    buffer.copy_from_slice(&receiver.recv().unwrap());
                    black_box(&buffer);
                }
            })
        },
    )
}

/// Publish and subscribe, one to one. The subscriber cannot sleep: it looks again and again.
#[cfg(feature = "iceoryx2")]
pub fn iceoryx2(count: u64, size: usize) -> f64 {
    use std::sync::atomic::{AtomicU32, Ordering};

    use iceoryx2::prelude::*;

    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let name = format!("broody-bench/{}/{run}", std::process::id());
    let service = || {
        let node = NodeBuilder::new().create::<ipc::Service>().unwrap();
        let name: ServiceName = name.as_str().try_into().unwrap();
        // No message is lost, and the buffer is long: who finds it full sleeps for a while, whatever happens.
        let service = node.service_builder(&name).publish_subscribe::<[u8]>();
        let held = ((8 << 20) / size).clamp(4, 4096);
        let service = service.enable_safe_overflow(false).subscriber_max_buffer_size(held);
        (service.open_or_create().unwrap(), node)
    };
    race(
        count,
        |gate| {
            let (service, _node) = service();
            let publisher = service.publisher_builder().initial_max_slice_len(size);
            let publisher =
                publisher.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered).create().unwrap();
            let message = vec![7; size];
            let send = || {
                let sample = publisher.loan_slice_uninit(size).unwrap();
                sample.write_from_slice(black_box(&message)).send().unwrap()
            };
            // A first message connects the two; before that, others may be dropped.
            while send() == 0 {}
            gate.work(|| (0..count).for_each(|_| assert_eq!(send(), 1)))
        },
        |gate| {
            let (service, _node) = service();
            let subscriber = service.subscriber_builder().create().unwrap();
            let mut buffer = vec![0; size];
            let mut receive = || {
                let sample = loop {
                    match subscriber.receive().unwrap() {
                        Some(sample) => break sample,
                        None => std::hint::spin_loop(),
                    }
                };
                buffer.copy_from_slice(&sample);
                black_box(&buffer);
            };
            receive();
            gate.work(|| (0..count).for_each(|_| receive()))
        },
    )
}

/// Between two threads of this process, by a channel of crossbeam: what is possible without a second process.
pub fn threads(count: u64, size: usize) -> f64 {
    let start = Instant::now();
    if size == size_of::<Pair>() {
        let (sender, receiver) = crossbeam_channel::unbounded();
        std::thread::scope(|scope| {
            scope.spawn(move || (0..count).for_each(|number| sender.send(pair(number)).unwrap()));
            (0..count).for_each(|number| assert_eq!(receiver.recv().unwrap(), pair(number)));
        });
    } else {
        let message = vec![7u8; size];
        let (sender, receiver) = crossbeam_channel::bounded(((64 << 10) / size).max(4));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..count).for_each(|_| sender.send(black_box(&message).clone()).unwrap()));
            (0..count).for_each(|_| assert_eq!(receiver.recv().unwrap().len(), size));
        });
    }
    count as f64 / start.elapsed().as_secs_f64()
}
