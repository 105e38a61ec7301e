//! What queues cost.

mod peers;
mod round_trips;

use std::hint::black_box;
use std::time::{Duration, Instant};

use broody::{BytesQueue, Queue, Value};
use serde::{Deserialize, Serialize};

use crate::bare;
use crate::gate::{Gate, Times, seconds};
use crate::measure::{Race, Table};

/// A short message, as a value: 16 bytes in memory, and about 13 to 15 encoded.
type Pair = (u64, u64);

fn pair(number: u64) -> Pair {
    (number, u64::MAX - number)
}

/// A queue, and how it is used.
#[derive(Clone, Serialize, Deserialize)]
enum Way {
    Bytes(BytesQueue),
    Values(Queue<Pair>),
    /// By `put_many` and `get_many`, so many at once.
    Batches(Queue<Pair>, usize),
}

/// What one process has to do.
#[derive(Clone, Serialize, Deserialize)]
struct Job {
    way: Way,
    gate: Gate,
    /// How many messages each who puts puts, and of how many bytes.
    count: u64,
    size: usize,
    /// How many still put: the last one closes the queue.
    putting: Value<u32>,
    taken: Value<u64>,
}

impl Job {
    fn put(self) -> Times {
        let message = vec![7; self.size];
        self.gate.work(|| {
            match &self.way {
                Way::Bytes(queue) => {
                    (0..self.count).for_each(|_| queue.put(black_box(&message), None).unwrap());
                }
                Way::Values(queue) => (0..self.count).for_each(|number| queue.put(pair(number)).unwrap()),
                Way::Batches(queue, batch) => {
                    let batch = *batch as u64;
                    for start in (0..self.count).step_by(batch as usize) {
                        queue.put_many((start..start + batch).map(pair)).unwrap();
                    }
                }
            }
            if self.putting.fetch_add(u32::MAX) == 1 {
                match &self.way {
                    Way::Bytes(queue) => queue.close(),
                    Way::Values(queue) | Way::Batches(queue, _) => queue.close(),
                }
            }
        })
    }

    fn take(self) -> Times {
        self.gate.work(|| {
            let mut taken = 0;
            match &self.way {
                Way::Bytes(queue) => {
                    while let Ok(message) = queue.get(None) {
                        assert_eq!(black_box(message).len(), self.size);
                        taken += 1;
                    }
                }
                Way::Values(queue) => {
                    while let Ok((number, rest)) = queue.get() {
                        assert_eq!(number, u64::MAX - rest);
                        taken += 1;
                    }
                }
                Way::Batches(queue, batch) => {
                    while let Ok(values) = queue.get_many(*batch) {
                        taken += black_box(values).len() as u64;
                    }
                }
            }
            self.taken.fetch_add(taken);
        })
    }
}

/// Messages a second, from so many processes to as many others.
fn ours(way: Way, pairs: usize, count: u64, size: usize) -> f64 {
    let job = Job {
        way,
        gate: Gate::new(2 * pairs),
        count: count / pairs as u64,
        size,
        putting: Value::new(pairs as u32).unwrap(),
        taken: Value::new(0).unwrap(),
    };
    let start = |_| [broody::spawn(Job::put, job.clone()), broody::spawn(Job::take, job.clone())];
    let processes = (0..pairs).flat_map(start).collect::<Result<_, _>>().unwrap();
    let rate = count as f64 / seconds(processes);
    assert_eq!(job.taken.load(), count);
    rate
}

fn bytes() -> Way {
    Way::Bytes(BytesQueue::new().unwrap())
}

fn values() -> Way {
    Way::Values(Queue::new().unwrap())
}

/// How many messages a run has, for the fast and for the slow.
struct Counts {
    fast: u64,
    slow: u64,
}

/// Adds those peers that messages of `size` bytes are sent by.
fn add_peers(race: &mut Race<'_>, size: usize, counts: &Counts) {
    let Counts { fast, slow } = *counts;
    race.add("pipe", move || peers::pipe(slow, size, false));
    race.add("buffered pipe", move || peers::pipe(slow, size, true));
    race.add("interprocess", move || peers::interprocess(slow, size));
    if size <= peers::MOST_SEQPACKET {
        race.add("seqpacket", move || peers::seqpacket(slow, size));
    }
    race.add("ipc-channel bytes", move || peers::ipc_channel_bytes(slow, size));
    if size == size_of::<Pair>() {
        race.add("ipc-channel", move || peers::ipc_channel_values(slow));
    }
    if size > peers::MOST_SEQPACKET {
        race.add("ipc-channel memory", move || peers::ipc_channel_memory(slow, size));
    }
    #[cfg(feature = "iceoryx2")]
    race.add("iceoryx2", move || peers::iceoryx2(fast, size));
    race.add("threads", move || peers::threads(fast, size));
}

/// The peers' rates, in words.
fn rates(race: &Race<'_>, shown: impl Fn(f64) -> String) -> String {
    let ours = ["BytesQueue", "Queue", "bounded", "memcpy", "2 to 2", "2 to 2, values", "batches of 100"];
    let peers: Vec<_> = race
        .names()
        .filter(|name| !ours.contains(name))
        .map(|name| format!("{name} {}", shown(race.rate(name))))
        .collect();
    peers.join(", ")
}

fn millions(rate: f64) -> String {
    format!("{:.2}", rate / 1e6)
}

fn short_messages(table: &mut Table) {
    let size = size_of::<Pair>();
    let counts = Counts { fast: 1_000_000, slow: 50_000 };
    let fast = counts.fast;
    let mut race = Race::default();
    race.add("BytesQueue", || ours(bytes(), 1, fast, size));
    race.add("Queue", || ours(values(), 1, fast, size));
    add_peers(&mut race, size, &counts);
    race.add("bounded", || {
        ours(Way::Bytes(BytesQueue::bounded(None, Some(1 << 16)).unwrap()), 1, fast, size)
    });
    race.add("2 to 2", || ours(bytes(), 2, fast, size));
    race.add("2 to 2, values", || ours(values(), 2, fast, size));
    race.add("batches of 100", || ours(Way::Batches(Queue::new().unwrap(), 100), 1, fast, size));
    race.run(11);
    let beside = rates(&race, millions);
    table.row(
        "messages of 16 B, 1 process to 1: `BytesQueue`",
        format!(
            "{} million/s, **{:.1} x pipe**",
            millions(race.rate("BytesQueue")),
            race.ratio("BytesQueue", "pipe")
        ),
        format!("million/s: {beside}. iceoryx2's subscriber never sleeps; threads: crossbeam-channel"),
        "at least 10 x pipe",
    );
    table.row(
        "`Queue<(u64, u64)>`",
        format!(
            "{} million/s, **{:.1} x pipe, {:.1} x ipc-channel**",
            millions(race.rate("Queue")),
            race.ratio("Queue", "pipe"),
            race.ratio("Queue", "ipc-channel")
        ),
        "as above".to_owned(),
        "at least 10 x pipe, 5 x ipc-channel",
    );
    table.row(
        "`BytesQueue` of at most 64 KiB",
        format!("{} million/s, {:.1} x pipe", millions(race.rate("bounded")), race.ratio("bounded", "pipe")),
        "a pipe's bound, too".to_owned(),
        "",
    );
    table.row(
        "`Queue` by `put_many` and `get_many`, 100 at once",
        format!("{} million/s", millions(race.rate("batches of 100"))),
        format!("{:.1} x one by one", race.ratio("batches of 100", "Queue")),
        "",
    );
    table.row(
        "2 processes to 2, 16 B",
        format!(
            "{} million/s, **{:.2} x of 1 to 1**; `Queue`: {:.2} x",
            millions(race.rate("2 to 2")),
            race.ratio("2 to 2", "BytesQueue"),
            race.ratio("2 to 2, values", "Queue")
        ),
        format!("1 to 1: {} million/s", millions(race.rate("BytesQueue"))),
        "at least 0.7 x",
    );
    let (queue, times) = (BytesQueue::new().unwrap(), 1000);
    let without = bare::times_without_system_calls(times, || {
        queue.put(&[7; 16], None).unwrap();
        assert_eq!(queue.get(None).unwrap().len(), 16);
    });
    table.row(
        "put + get when nobody sleeps, system calls",
        format!("**{}**", if without == times { "0" } else { "some" }),
        format!("{without} of {times} in a process for which any system call is deadly (seccomp)"),
        "0",
    );
}

fn middling_messages(table: &mut Table) {
    let size = 1 << 10;
    let counts = Counts { fast: 200_000, slow: 30_000 };
    let fast = counts.fast;
    let mut race = Race::default();
    race.add("BytesQueue", || ours(bytes(), 1, fast, size));
    add_peers(&mut race, size, &counts);
    race.add("bounded", || {
        ours(Way::Bytes(BytesQueue::bounded(None, Some(1 << 16)).unwrap()), 1, fast, size)
    });
    race.run(11);
    let beside = rates(&race, millions);
    table.row(
        "messages of 1 KiB, 1 process to 1: `BytesQueue`",
        format!(
            "{} million/s, **{:.1} x ipc-channel**, {:.1} x pipe",
            millions(race.rate("BytesQueue")),
            race.ratio("BytesQueue", "ipc-channel bytes"),
            race.ratio("BytesQueue", "pipe")
        ),
        format!("million/s: {beside}"),
        "at least 5 x ipc-channel",
    );
    table.row(
        "`BytesQueue` of at most 64 KiB",
        format!(
            "{} million/s, {:.1} x ipc-channel, {:.1} x pipe",
            millions(race.rate("bounded")),
            race.ratio("bounded", "ipc-channel bytes"),
            race.ratio("bounded", "pipe")
        ),
        "a pipe's bound, too".to_owned(),
        "",
    );
}

/// Bytes a second that one thread copies, 1 MiB at a time.
fn memcpy(size: usize, count: u64) -> f64 {
    let (from, mut to) = (vec![7u8; size], vec![1u8; size]);
    let start = Instant::now();
    for _ in 0..count {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    (count * size as u64) as f64 / start.elapsed().as_secs_f64()
}

fn long_messages(table: &mut Table) {
    let size = 1 << 20;
    let counts = Counts { fast: 2000, slow: 150 };
    let fast = counts.fast;
    let mut race = Race::default();
    race.add("memcpy", || memcpy(size, fast));
    race.add("BytesQueue", || ours(bytes(), 1, fast, size) * size as f64);
    let mut peers = Race::default();
    add_peers(&mut peers, size, &counts);
    race.run(9);
    peers.run(5);
    let gigabytes = |rate: f64| format!("{:.1}", rate / 1e9);
    let beside = rates(&peers, |rate| gigabytes(rate * size as f64));
    table.row(
        "messages of 1 MiB, 1 process to 1: `BytesQueue`",
        format!(
            "{} GB/s, **{:.2} x memcpy**",
            gigabytes(race.rate("BytesQueue")),
            race.ratio("BytesQueue", "memcpy")
        ),
        format!("GB/s: memcpy {}, {beside}", gigabytes(race.rate("memcpy"))),
        "at least 0.6 x memcpy",
    );
}

/// The CPU time of a process while it waits for so many seconds.
fn blocked(seconds: u64) -> Duration {
    let wait = |(queue, seconds): (BytesQueue, u64)| {
        let before = bare::clock(libc::CLOCK_PROCESS_CPUTIME_ID);
        queue.get(Some(Duration::from_secs(seconds))).unwrap_err();
        bare::clock(libc::CLOCK_PROCESS_CPUTIME_ID) - before
    };
    broody::spawn(wait, (BytesQueue::new().unwrap(), seconds)).unwrap().join().unwrap()
}

pub fn run(table: &mut Table) {
    short_messages(table);
    middling_messages(table);
    long_messages(table);
    round_trips::run(table);
    let (short, long) = (blocked(1).as_secs_f64() * 1e3, blocked(10).as_secs_f64() * 1e3);
    table.row(
        "`get` that waits for 10 s, CPU time",
        format!("**{long:.2} ms**"),
        format!("{short:.2} ms in 1 s"),
        "under 1 ms",
    );
}
