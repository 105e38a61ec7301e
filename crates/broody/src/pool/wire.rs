//! What host and worker write into the rings between them.
//!
//! A record begins with its kind. Numbers are little endian.
//!
//! ```text
//! to the worker   Frame   what to say, frame, function | length, argument | APART, ticket | length, argument | ...
//!                 Quit
//! to the host     Answer  frame, index, how | result, or an encoded `Outcome`; or holds, and a result or the length of a long one
//!                 Span    when it ended, what it took           before an answer, if it was asked for
//!                 Pace    function, tasks, nanoseconds          after a frame: how long its tasks took
//! ```

use broody_shm::Corrupt;
use broody_shm::arena::HoldId;
use broody_shm::ring::Record;

use crate::function::FunctionId;

/// Arguments and results that are longer than this go [apart](super::apart), in bytes.
pub(super) const LONGEST: usize = CAPACITY / 4;

/// The size of a ring, in bytes.
pub(super) const CAPACITY: usize = 256 * 1024;

/// Instead of an argument's length: a [ticket](super::apart::Ticket) follows.
pub(super) const APART: u32 = u32::MAX;

/// The length of the longest header, in bytes.
pub(super) const HEADER: usize = 33;

/// To the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Frame { frame: u32, function: FunctionId, say: Say },
    Quit,
}

/// What the worker is to say when it begins a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    Nothing,
    When,
    /// Also how much memory it has.
    WhenAndHowLarge,
    /// All that, and in the end what it took.
    Everything,
}

/// To the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Answer {
        frame: u32,
        index: u16,
        how: How,
    },
    Pace {
        function: FunctionId,
        tasks: u16,
        nanoseconds: u64,
    },
    /// Before an answer, where it was asked for.
    Span(Span),
}

/// What a task took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// When it ended, how long it ran, and how much CPU time its process used meanwhile, in nanoseconds.
    pub(super) ended: u64,
    pub(super) took: u64,
    pub(super) cpu: u64,
    /// The most memory that its process ever had so far, in bytes.
    pub(super) peak: u64,
}

/// What an answer's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The encoded result.
    Returned,
    /// Objects in it, and the blob that it is in: see [`put_holds`]. Then its length.
    Apart,
    /// Objects in it, and the encoded result: see [`put_holds`].
    WithObjects,
    /// The function did not return: an encoded `Outcome`.
    Failed,
}

/// A header as bytes.
pub(super) struct Header {
    bytes: [u8; HEADER],
    length: usize,
}

impl Header {
    fn new(kind: u8) -> Self {
        let mut bytes = [0; HEADER];
        bytes[0] = kind;
        Self { bytes, length: 1 }
    }

    fn with<const N: usize>(mut self, field: [u8; N]) -> Self {
        self.bytes[self.length..self.length + N].copy_from_slice(&field);
        self.length += N;
        self
    }
}

impl Header {
    fn with_task(self, frame: u32, function: FunctionId) -> Self {
        self.with(frame.to_le_bytes()).with(function.to_bytes())
    }
}

impl Say {
    fn bits(self) -> u8 {
        (self as u8) << SAY.trailing_zeros()
    }

    fn of_bits(bits: u8) -> Option<Self> {
        [Say::Nothing, Say::When, Say::WhenAndHowLarge, Say::Everything]
            .into_iter()
            .find(|say| say.bits() == bits)
    }
}

impl std::ops::Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

const FRAME: u8 = 1;
const QUIT: u8 = 3;
const RETURNED: u8 = 4;
const RETURNED_APART: u8 = 5;
const FAILED: u8 = 6;
const PACE: u8 = 7;
const SPAN: u8 = 8;
const RETURNED_OBJECTS: u8 = 9;

/// In the kind of an order: what the worker is to say.
const SAY: u8 = 0x30;

impl Order {
    pub(super) fn header(self) -> Header {
        match self {
            Order::Frame { frame, function, say } => {
                Header::new(FRAME | say.bits()).with_task(frame, function)
            }
            Order::Quit => Header::new(QUIT),
        }
    }

    /// The header, and what follows it.
    pub(super) fn parse(record: Record<'_>) -> Result<(Self, Record<'_>), Corrupt> {
        let ([kind], rest) = record.split::<1>().ok_or(Corrupt)?;
        if kind == QUIT {
            return Ok((Order::Quit, rest));
        }
        let say = Say::of_bits(kind & SAY).ok_or(Corrupt)?;
        let (frame, rest) = rest.split::<4>().ok_or(Corrupt)?;
        let (function, rest) = rest.split::<8>().ok_or(Corrupt)?;
        let (frame, function) = (u32::from_le_bytes(frame), FunctionId::from_bytes(function));
        match kind & !SAY {
            FRAME => Ok((Order::Frame { frame, function, say }, rest)),
            _ => Err(Corrupt),
        }
    }
}

impl Report {
    pub(super) fn header(self) -> Header {
        match self {
            Report::Answer { frame, index, how } => {
                let kind = match how {
                    How::Returned => RETURNED,
                    How::Apart => RETURNED_APART,
                    How::WithObjects => RETURNED_OBJECTS,
                    How::Failed => FAILED,
                };
                Header::new(kind).with(frame.to_le_bytes()).with(index.to_le_bytes())
            }
            Report::Pace { function, tasks, nanoseconds } => Header::new(PACE)
                .with(function.to_bytes())
                .with(tasks.to_le_bytes())
                .with(nanoseconds.to_le_bytes()),
            Report::Span(Span { ended, took, cpu, peak }) => Header::new(SPAN)
                .with(ended.to_le_bytes())
                .with(took.to_le_bytes())
                .with(cpu.to_le_bytes())
                .with(peak.to_le_bytes()),
        }
    }

    /// The header, and what follows it.
    pub(super) fn parse(record: Record<'_>) -> Result<(Self, Record<'_>), Corrupt> {
        let (kind, rest) = record.split::<1>().ok_or(Corrupt)?;
        let how = match kind {
            [RETURNED] => How::Returned,
            [RETURNED_APART] => How::Apart,
            [RETURNED_OBJECTS] => How::WithObjects,
            [FAILED] => How::Failed,
            [PACE] => {
                let (function, rest) = rest.split::<8>().ok_or(Corrupt)?;
                let (tasks, rest) = rest.split::<2>().ok_or(Corrupt)?;
                let (nanoseconds, rest) = rest.split::<8>().ok_or(Corrupt)?;
                let report = Report::Pace {
                    function: FunctionId::from_bytes(function),
                    tasks: u16::from_le_bytes(tasks),
                    nanoseconds: u64::from_le_bytes(nanoseconds),
                };
                return Ok((report, rest));
            }
            [SPAN] => {
                let (ended, rest) = rest.split::<8>().ok_or(Corrupt)?;
                let (took, rest) = rest.split::<8>().ok_or(Corrupt)?;
                let (cpu, rest) = rest.split::<8>().ok_or(Corrupt)?;
                let (peak, rest) = rest.split::<8>().ok_or(Corrupt)?;
                let [ended, took, cpu, peak] = [ended, took, cpu, peak].map(u64::from_le_bytes);
                return Ok((Report::Span(Span { ended, took, cpu, peak }), rest));
            }
            _ => return Err(Corrupt),
        };
        let (frame, rest) = rest.split::<4>().ok_or(Corrupt)?;
        let (index, rest) = rest.split::<2>().ok_or(Corrupt)?;
        Ok((Report::Answer { frame: u32::from_le_bytes(frame), index: u16::from_le_bytes(index), how }, rest))
    }
}

/// Writes down holds, in front of a result: their number, and 8 bytes for each.
pub(super) fn put_holds(holds: &[HoldId]) -> Vec<u8> {
    let mut bytes = (holds.len() as u32).to_le_bytes().to_vec();
    for hold in holds {
        bytes.extend(hold.index.to_le_bytes());
        bytes.extend(hold.use_number.to_le_bytes());
    }
    bytes
}

/// The holds that [`put_holds`] has written, and what follows them.
pub(super) fn take_holds(record: Record<'_>) -> Result<(Vec<HoldId>, Record<'_>), Corrupt> {
    let (count, mut rest) = record.split::<4>().ok_or(Corrupt)?;
    let mut holds = Vec::new();
    for _ in 0..u32::from_le_bytes(count) {
        let (index, after) = rest.split::<4>().ok_or(Corrupt)?;
        let (use_number, after) = after.split::<4>().ok_or(Corrupt)?;
        let [index, use_number] = [index, use_number].map(u32::from_le_bytes);
        holds.push(HoldId { index, use_number });
        rest = after;
    }
    Ok((holds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_apart_again_and_rubbish_is_corrupt() {
        let function = FunctionId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let (mut host, memory) = broody_shm::duplex::Host::create("test", 4096).unwrap();
        let mut worker = broody_shm::duplex::Worker::open(&memory).unwrap();
        let orders = [
            Order::Frame { frame: 9, function, say: Say::Nothing },
            Order::Frame { frame: u32::MAX, function, say: Say::WhenAndHowLarge },
            Order::Quit,
        ];
        for order in orders {
            host.outgoing.push(&[&order.header(), b"rest"]).unwrap();
            let (parsed, rest) = Order::parse(worker.inbox.take_next().unwrap().unwrap()).unwrap();
            assert_eq!((parsed, rest.len()), (order, 4));
        }
        let reports = [
            Report::Answer { frame: 1, index: 2, how: How::Failed },
            Report::Answer { frame: 1, index: 2, how: How::Apart },
            Report::Pace { function, tasks: 3, nanoseconds: u64::MAX },
            Report::Span(Span { ended: 1, took: 2, cpu: 3, peak: u64::MAX }),
        ];
        for report in reports {
            worker.outbox.push(&[&report.header(), b"rest"]).unwrap();
            let (parsed, rest) = Report::parse(host.incoming.take_next().unwrap().unwrap()).unwrap();
            assert_eq!((parsed, rest.len()), (report, 4));
        }
        for rubbish in [&b""[..], b"\x09", b"\x01\x01", b"\x07\x01\x01", b"\x08\0\0\0\0\0\0\0\0\0\0\0\0"] {
            worker.outbox.push(&[rubbish]).unwrap();
            assert!(Report::parse(host.incoming.take_next().unwrap().unwrap()).is_err());
        }
    }
}
