//! What is asked, and what is answered.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::method::{MakerId, MethodId};
use crate::embed::Encoded;
use crate::function::Outcome;
use crate::{Error, Pid, Receiver, Result, Sender, codec};

/// The beginning of a message to the process; an argument follows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Make a value, which lives as long as somebody has the other end of `anchor`. The answer is its number.
    Host { maker: MakerId, anchor: Receiver<()>, reply: Sender<[u8]> },
    /// Call a value.
    Call { ident: u64, method: MethodId, reply: Sender<[u8]> },
    /// A value that was poisoned may be called again.
    Forgive { ident: u64, reply: Sender<[u8]> },
    /// Somebody has let go of a value: has everybody?
    Released { ident: u64 },
    /// End.
    Stop,
}

/// How a request has ended; a result follows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Called(Outcome),
    /// A call before, of this function, has panicked.
    Poisoned {
        message: String,
    },
    /// There is no value of that number.
    Unknown,
}

/// Why a request was not sent.
pub(super) enum Unsent {
    NotEncoded(String),
    Failed(Error),
}

/// Sends a request with its argument.
pub(super) fn ask<A: Serialize>(
    to: &Sender<[u8]>,
    request: &Request,
    argument: &A,
) -> std::result::Result<(), Unsent> {
    let encoded = Encoded::new(|| {
        let mut bytes = codec::encode(request)?;
        codec::encode_into(argument, &mut bytes)?;
        Ok(bytes)
    });
    to.send_encoded(&encoded.map_err(Unsent::NotEncoded)?, None).map_err(Unsent::Failed)
}

/// A request that has no argument and no answer, as a message.
pub(super) fn encoded(request: &Request) -> Result<Encoded> {
    let encoded = Encoded::new(|| codec::encode(request));
    encoded.map_err(|reason| Error::Invalid { what: reason })
}

/// The result in the bytes of an answer.
pub(super) fn result<R: DeserializeOwned>(bytes: &[u8], pid: Pid, name: impl Fn() -> String) -> Result<R> {
    let damaged = |reason: String| Error::Decode { what: "the result", function: name(), reason };
    let (answer, rest) =
        postcard::take_from_bytes::<Answer>(bytes).map_err(|error| damaged(error.to_string()))?;
    match answer {
        Answer::Called(Outcome::Returned) => codec::decode(rest).map_err(damaged),
        Answer::Called(Outcome::Panicked { message, backtrace }) => {
            Err(Error::Panicked { function: name(), pid, message, backtrace })
        }
        Answer::Called(Outcome::BadArgument(reason)) => {
            Err(Error::Decode { what: "the argument", function: name(), reason })
        }
        Answer::Called(Outcome::BadResult(reason)) => {
            Err(Error::Encode { what: "the result", function: name(), reason })
        }
        Answer::Poisoned { message } => Err(Error::Poisoned { message }),
        Answer::Unknown => Err(Error::Invalid { what: "the manager has no such value".to_owned() }),
    }
}
