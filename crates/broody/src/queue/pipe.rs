//! Pipes: queues with ends, which are closed when an end is gone.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use broody_shm::arena::Held;
use broody_shm::queue::{End, Limits, Message};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bytes::Bytes;
use super::faces::{Iter, iterates};
use super::messages::Received;
use super::typed::Queue;
use crate::embed::Encoded;
use crate::handle::{self, Outgoing, tag_of};
use crate::sync::deadline;
use crate::{Error, Result};

/// How many bytes of messages wait in a pipe before who sends waits, too.
const BUFFER: u64 = 4 << 20;

type Ends<T> = (Sender<T>, Receiver<T>);
type Connections<A, B> = (Connection<A, B>, Connection<B, A>);

/// An end of a pipe as an object: when the last handle on it, in any process, is gone, the pipe is closed.
#[derive(Debug, Clone)]
struct Anchor(Arc<Held>);

impl Serialize for Anchor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Anchor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        handle::deserialize(deserializer).map(Self)
    }
}

/// Makes a pipe for values in one direction: what is sent is received in order.
///
/// When all senders, in every process, are dropped or dead, [`Receiver::receive`] gives what is left and then
/// [`Closed`](Error::Closed). When all receivers are, so does [`Sender::send`].
///
/// ```
/// # broody::init();
/// let (sender, receiver) = broody::channel::<String>()?;
/// let child = broody::spawn(|sender: broody::Sender<String>| sender.send("hello".to_owned()).unwrap(), sender)?;
/// assert_eq!(receiver.iter().collect::<Result<Vec<_>, _>>()?, ["hello"]);
/// child.join()?;
/// # Ok::<(), broody::Error>(())
/// ```
///
/// # Errors
/// [`Memory`](Error::Memory) when there is no memory for it.
pub fn channel<T: Serialize + DeserializeOwned>() -> Result<(Sender<T>, Receiver<T>)> {
    ends()
}

/// Makes a pipe for messages of bytes in one direction: as [`channel`], without a codec.
///
/// ```
/// # broody::init();
/// let (sender, receiver) = broody::channel_bytes()?;
/// sender.send(b"hello")?;
/// assert_eq!(&*receiver.receive()?, b"hello");
/// # Ok::<(), broody::Error>(())
/// ```
///
/// # Errors
/// As [`channel`].
pub fn channel_bytes() -> Result<Ends<[u8]>> {
    ends()
}

fn ends<T: ?Sized>() -> Result<Ends<T>> {
    let limits = Limits { messages: None, bytes: Some(BUFFER), refuse_long: false };
    let queue = Queue::<T>::with(limits, tag_of::<T>(), false)?;
    let end = |which| queue.core().end(which).map(Anchor);
    let (sending, receiving) = (end(End::Sending)?, end(End::Receiving)?);
    Ok((Sender { queue: queue.clone(), anchor: sending }, Receiver { queue, anchor: receiving }))
}

/// Makes a pipe for values in both directions, as Python's `multiprocessing.Pipe`. Gives its two ends.
///
/// ```
/// # broody::init();
/// use broody::Connection;
/// let (ours, theirs) = broody::pipe::<u32, String>()?;
/// fn answer(theirs: Connection<String, u32>) {
///     while let Ok(number) = theirs.receive() {
///         theirs.send(number.to_string()).unwrap();
///     }
/// }
/// let child = broody::spawn(answer, theirs)?;
/// ours.send(7)?;
/// assert_eq!(ours.receive()?, "7");
/// drop(ours);
/// child.join()?;
/// # Ok::<(), broody::Error>(())
/// ```
///
/// # Errors
/// [`Memory`](Error::Memory) when there is no memory for it.
pub fn pipe<A, B>() -> Result<(Connection<A, B>, Connection<B, A>)>
where
    A: Serialize + DeserializeOwned,
    B: Serialize + DeserializeOwned,
{
    connect(channel()?, channel()?)
}

/// Makes a pipe for messages of bytes in both directions: as [`pipe()`], without a codec.
///
/// # Errors
/// As [`pipe()`].
pub fn pipe_bytes() -> Result<Connections<[u8], [u8]>> {
    connect(channel_bytes()?, channel_bytes()?)
}

fn connect<A: ?Sized, B: ?Sized>(there: Ends<A>, here: Ends<B>) -> Result<Connections<A, B>> {
    Ok((Connection { sender: there.0, receiver: here.1 }, Connection { sender: here.0, receiver: there.1 }))
}

/// The end of a pipe that values are sent into; a `Sender<[u8]>` sends bytes as they are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Sender<T: ?Sized> {
    queue: Queue<T>,
    anchor: Anchor,
}

/// The end of a pipe that values come out of; a `Receiver<[u8]>` gives bytes as they are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Receiver<T: ?Sized> {
    queue: Queue<T>,
    anchor: Anchor,
}

impl<T: ?Sized> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), anchor: self.anchor.clone() }
    }
}

impl<T: ?Sized> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), anchor: self.anchor.clone() }
    }
}

fn as_pipe(error: Error) -> Error {
    match error {
        Error::Closed { .. } => Error::Closed { what: "other end of the pipe" },
        error => error,
    }
}

impl<T: Serialize + DeserializeOwned> Sender<T> {
    /// Sends a value, waiting while the pipe is full.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) when nobody can receive it; [`Encode`](Error::Encode) and [`Memory`](Error::Memory) as for
    /// [`Queue::put`].
    pub fn send(&self, value: impl Borrow<T>) -> Result<()> {
        self.queue.put(value).map_err(as_pipe)
    }

    /// Sends a value, waiting at most for `limit`; zero only tries.
    ///
    /// # Errors
    /// [`TimedOut`](Error::TimedOut), and as [`send`](Self::send).
    pub fn send_timeout(&self, value: impl Borrow<T>, limit: Duration) -> Result<()> {
        self.queue.put_timeout(value, limit).map_err(as_pipe)
    }
}

impl<T: Serialize + DeserializeOwned> Receiver<T> {
    /// Receives the next value, waiting for it.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) when there is none and nobody can send one; [`Decode`](Error::Decode) as for [`Queue::get`].
    pub fn receive(&self) -> Result<T> {
        self.queue.get().map_err(as_pipe)
    }

    /// Receives the next value, waiting at most for `limit`; zero only tries.
    ///
    /// # Errors
    /// [`TimedOut`](Error::TimedOut), and as [`receive`](Self::receive).
    pub fn receive_timeout(&self, limit: Duration) -> Result<T> {
        self.queue.get_timeout(limit).map_err(as_pipe)
    }
}

iterates!([T: Serialize + DeserializeOwned] Receiver<T>, T, |receiver| receiver.receive());

impl<T: ?Sized> Receiver<T> {
    /// Receives what comes until nobody can send any more. See [`Iter`].
    pub fn iter(&self) -> Iter<'_, Self> {
        Iter::new(self)
    }

    /// Whether a message is there, at this instant, or nobody can send one.
    pub fn is_ready(&self) -> bool {
        !self.queue.is_empty() || self.queue.is_closed()
    }

    /// Lets go of this end, as dropping it does: when it is the last copy, whoever sends is told.
    pub fn close(self) {}

    pub(crate) fn queue(&self) -> &Queue<T> {
        &self.queue
    }
}

impl<T: ?Sized> Sender<T> {
    /// Lets go of this end, as dropping it does: when it is the last copy, whoever receives is told, after the last message.
    pub fn close(self) {}
}

impl Sender<[u8]> {
    /// Sends a message, waiting while the pipe is full.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) when nobody can receive it; [`Memory`](Error::Memory) as for [`BytesQueue::put`](super::BytesQueue::put).
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        self.queue.bytes.put(bytes, None).map_err(as_pipe)
    }

    /// Sends a message, waiting at most for `limit`; zero only tries.
    ///
    /// # Errors
    /// [`TimedOut`](Error::TimedOut), and as [`send`](Self::send).
    pub fn send_timeout(&self, bytes: &[u8], limit: Duration) -> Result<()> {
        self.queue.bytes.put(bytes, Some(limit)).map_err(as_pipe)
    }
}

impl Sender<[u8]> {
    /// Sends what was encoded, with the objects in it, waiting at most for `limit` if there is one.
    ///
    /// # Errors
    /// As [`send_timeout`](Self::send_timeout); then the objects are still in it.
    pub(crate) fn send_encoded(&self, encoded: &Encoded, limit: Option<Duration>) -> Result<()> {
        let message = |outgoing: &Outgoing| {
            let message = Message { bytes: &encoded.bytes, holds: outgoing.holds() };
            self.queue.bytes.put_message(message, deadline(limit))
        };
        encoded.deliver(message).map_err(as_pipe)
    }
}

impl Receiver<[u8]> {
    /// Receives a message in which there may be objects, waiting at most for `limit` if there is one.
    ///
    /// # Errors
    /// As [`receive_timeout`](Self::receive_timeout).
    pub(crate) fn take(&self, limit: Option<Duration>) -> Result<Received> {
        Received::take(&self.queue.bytes, limit).map_err(as_pipe)
    }

    /// Receives the next message, waiting for it.
    ///
    /// # Errors
    /// [`Closed`](Error::Closed) when there is none and nobody can send one.
    pub fn receive(&self) -> Result<Bytes> {
        self.queue.bytes.get(None).map_err(as_pipe)
    }

    /// Receives the next message, waiting at most for `limit`; zero only tries.
    ///
    /// # Errors
    /// [`TimedOut`](Error::TimedOut), and as [`receive`](Self::receive).
    pub fn receive_timeout(&self, limit: Duration) -> Result<Bytes> {
        self.queue.bytes.get(Some(limit)).map_err(as_pipe)
    }
}

iterates!([] Receiver<[u8]>, Bytes, |receiver| receiver.receive());

/// One end of a pipe in both directions: sends `S`, receives `R`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Connection<S: ?Sized, R: ?Sized> {
    sender: Sender<S>,
    receiver: Receiver<R>,
}

impl<S: ?Sized, R: ?Sized> Clone for Connection<S, R> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), receiver: self.receiver.clone() }
    }
}

impl<S, R> Connection<S, R>
where
    S: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    /// See [`Sender::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, value: impl Borrow<S>) -> Result<()> {
        self.sender.send(value)
    }

    /// See [`Sender::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&self, value: impl Borrow<S>, limit: Duration) -> Result<()> {
        self.sender.send_timeout(value, limit)
    }

    /// See [`Receiver::receive`].
    ///
    /// # Errors
    /// As there.
    pub fn receive(&self) -> Result<R> {
        self.receiver.receive()
    }

    /// See [`Receiver::receive_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn receive_timeout(&self, limit: Duration) -> Result<R> {
        self.receiver.receive_timeout(limit)
    }
}

impl Connection<[u8], [u8]> {
    /// Sends a message of bytes, as a `Sender<[u8]>` does.
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        self.sender.send(bytes)
    }

    /// As [`send`](Self::send), waiting at most for `limit`; zero only tries.
    ///
    /// # Errors
    /// As there, and [`TimedOut`](Error::TimedOut).
    pub fn send_timeout(&self, bytes: &[u8], limit: Duration) -> Result<()> {
        self.sender.send_timeout(bytes, limit)
    }

    /// Receives the next message of bytes, as a `Receiver<[u8]>` does.
    ///
    /// # Errors
    /// As there.
    pub fn receive(&self) -> Result<Bytes> {
        self.receiver.receive()
    }

    /// As [`receive`](Self::receive), waiting at most for `limit`; zero only tries.
    ///
    /// # Errors
    /// As there, and [`TimedOut`](Error::TimedOut).
    pub fn receive_timeout(&self, limit: Duration) -> Result<Bytes> {
        self.receiver.receive_timeout(limit)
    }
}

impl<S: ?Sized, R: ?Sized> Connection<S, R> {
    /// See [`Receiver::is_ready`].
    pub fn is_ready(&self) -> bool {
        self.receiver.is_ready()
    }

    /// The two directions apart.
    pub fn split(self) -> (Sender<S>, Receiver<R>) {
        (self.sender, self.receiver)
    }

    /// Lets go of this end, as dropping it does: when it is the last copy, the other end is told.
    pub fn close(self) {}

    pub(crate) fn receiver(&self) -> &Receiver<R> {
        &self.receiver
    }
}
