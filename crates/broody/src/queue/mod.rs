//! Queues and pipes between processes, that survive whoever uses them.
//!
//! When `put` returns, the message is in shared memory, and nothing of it in the process: no thread feeds a pipe behind its back, and nothing
//! is lost when the process ends the next moment. A process that is killed in the middle of a put has put nothing; one that is killed in the
//! middle of a get has taken nothing.

mod bytes;
mod core;
mod faces;
mod joinable;
mod messages;
mod pipe;
mod typed;

pub use bytes::{Bytes, BytesQueue};
pub use faces::{Iter, Takes};
pub use joinable::{JoinableBytesQueue, JoinableQueue};
pub use messages::{Buffer, MessageQueue, OwnBuffer, Received};
pub use pipe::{Connection, Receiver, Sender, channel, channel_bytes, pipe, pipe_bytes};
pub use typed::{Queue, QueueBuilder};
