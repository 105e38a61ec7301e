//! What long arguments and results cost.

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use broody::{Pool, Slice};
use broody_os::memory::{self, SealedBytes};
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::measure::{Race, Table};

const WORKERS: usize = 2;
const MESSAGES: usize = 100;
const LENGTH: usize = 1 << 20;
const BYTES: f64 = (MESSAGES * LENGTH) as f64;

/// What a task need not make: what is measured is how it gets to the host.
static SOURCE: [u64; LENGTH / 8] = [0x0707_0707_0707_0707; LENGTH / 8];

fn source() -> &'static [u8] {
    bytemuck::cast_slice(&SOURCE)
}

/// As `serde_bytes` has them.
struct Bytes(Cow<'static, [u8]>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(Cow::Owned(bytes.to_vec())))
            }
        }
        deserializer.deserialize_bytes(Visit)
    }
}

fn bytes(_: u64) -> Bytes {
    Bytes(Cow::Borrowed(source()))
}

fn slice(_: u64) -> Slice<u64> {
    Slice::new(&SOURCE).unwrap()
}

fn byte_vector(_: u64) -> Vec<u8> {
    source().to_vec()
}

fn number_vector(_: u64) -> Vec<f64> {
    bytemuck::cast_slice(&SOURCE).to_vec()
}

fn length_of_bytes(bytes: Bytes) -> usize {
    black_box(bytes.0.len())
}

fn length_of_slice(slice: Slice<u64>) -> usize {
    black_box(size_of_val(&*slice))
}

/// Bytes in a second that all of it takes.
fn rate(all: impl FnOnce() -> usize) -> f64 {
    let start = Instant::now();
    assert_eq!(all(), MESSAGES * LENGTH);
    BYTES / start.elapsed().as_secs_f64()
}

pub fn run(table: &mut Table) {
    let pool = Pool::builder().workers(WORKERS).build().unwrap();
    let tasks = || 0..MESSAGES as u64;
    let mut copy = vec![1u8; LENGTH];
    let (far, mut far_copy) = (vec![7u8; MESSAGES * LENGTH], vec![1u8; MESSAGES * LENGTH]);
    let mut race = Race::default();
    race.add("memcpy", || {
        rate(|| {
            (0..MESSAGES).for_each(|_| black_box(&mut copy).copy_from_slice(black_box(source())));
            MESSAGES * LENGTH
        })
    });
    race.add("far", || {
        rate(|| {
            black_box(&mut far_copy).copy_from_slice(black_box(&far));
            far.len()
        })
    });
    // The way by the kernel, in one thread and with nobody to wake.
    race.add("memfd", || {
        let through = |bytes: &[u8]| {
            let memory = memory::create_with("bytes", bytes).unwrap();
            black_box(SealedBytes::new(&memory).unwrap().to_vec()).len()
        };
        rate(|| far.chunks(LENGTH).map(through).sum())
    });
    race.add("slices", || {
        rate(|| pool.imap(slice, tasks()).unwrap().map(|slice| size_of_val(&*slice.unwrap())).sum())
    });
    race.add("slices, all at once", || {
        rate(|| pool.map(slice, tasks()).unwrap().iter().map(|slice| size_of_val(&**slice)).sum())
    });
    race.add("bytes", || {
        rate(|| pool.imap(bytes, tasks()).unwrap().map(|bytes| bytes.unwrap().0.len()).sum())
    });
    race.add("bytes, all at once", || {
        rate(|| pool.map(bytes, tasks()).unwrap().iter().map(|bytes| bytes.0.len()).sum())
    });
    race.add("byte vectors", || {
        rate(|| pool.imap(byte_vector, tasks()).unwrap().map(|bytes| bytes.unwrap().len()).sum())
    });
    race.add("number vectors", || {
        rate(|| {
            let numbers = pool.imap(number_vector, tasks()).unwrap();
            numbers.map(|numbers| size_of_val(&*numbers.unwrap())).sum()
        })
    });
    race.add("slices as arguments", || {
        rate(|| {
            let slices = tasks().map(|_| Slice::new(&SOURCE).unwrap());
            pool.imap(length_of_slice, slices).unwrap().map(Result::unwrap).sum()
        })
    });
    race.add("bytes as arguments", || {
        rate(|| pool.imap(length_of_bytes, tasks().map(bytes)).unwrap().map(Result::unwrap).sum())
    });
    race.run(11);
    let beside = format!(
        "memcpy of 1 MB between warm buffers: {:.2} GB/s; of 100 MB from memory to memory: {:.2} GB/s; into a memfd of its own and out of it, \
         by one thread: {:.2} GB/s",
        race.rate("memcpy") / 1e9,
        race.rate("far") / 1e9,
        race.rate("memfd") / 1e9
    );
    let rows = [
        ("slices", "100 MB of results in 1 MB, each a `Slice`, by `imap`", "at least 0.5 x memcpy"),
        ("slices, all at once", "the same by `map`: all of them are there at once", ""),
        ("bytes", "100 MB of results in 1 MB, as bytes (`serde_bytes`), by `imap`", "at least 0.5 x memcpy"),
        ("bytes, all at once", "the same by `map`", ""),
        ("byte vectors", "100 MB of results in 1 MB, each a `Vec<u8>` that is made there, by `imap`", ""),
        ("number vectors", "the same, each a `Vec<f64>`", ""),
        ("slices as arguments", "100 MB of arguments in 1 MB, each a `Slice` that is made, by `imap`", ""),
        ("bytes as arguments", "the same, as bytes (`serde_bytes`)", ""),
    ];
    for (number, (name, what, target)) in rows.into_iter().enumerate() {
        let (rate, warm, far) = (race.rate(name) / 1e9, race.ratio(name, "memcpy"), race.ratio(name, "far"));
        let figure = format!("{rate:.2} GB/s, **{far:.2} x memcpy from memory**, {warm:.2} x warm");
        table.row(what, figure, if number == 0 { beside.clone() } else { "as above".to_owned() }, target);
    }
}
