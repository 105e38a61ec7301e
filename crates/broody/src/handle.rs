//! Handles on shared objects as values: how they are encoded.
//!
//! An encoded handle names the object, and a *hold* that keeps the object alive while the bytes are on their way. Whoever encodes for another
//! process [collects](collect) these holds and answers for them until the bytes are delivered; the decoder takes over the hold, or, where
//! the same bytes are decoded once more, gets a new one if the object is still there.
//!
//! Bytes that broody does not deliver cannot be answered for: a handle that is serialised anywhere else is an error.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use broody_shm::arena::{Held, HoldId, Kind, Name, Transit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::memory;

/// What the handles in some encoded bytes stand for.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Holds on their way.
    transit: Option<Transit>,
    /// The objects, for bytes that are decoded more than once.
    kept: Vec<Arc<Held>>,
}

impl Outgoing {
    /// The holds.
    pub(crate) fn holds(&self) -> &[HoldId] {
        self.transit.as_ref().map_or(&[], Transit::holds)
    }

    /// Somebody else answers for the holds now.
    pub(crate) fn hand_over(self) {
        if let Some(transit) = self.transit {
            transit.forget();
        }
    }

    /// Whether there is nothing that has to be kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many bytes there are in those that are blobs.
    pub(crate) fn bytes(&self) -> usize {
        let blobs = self.kept.iter().filter(|held| held.kind() == Kind::Blob);
        blobs.map(|held| held.body().length() as usize).sum()
    }

    /// The objects themselves.
    pub(crate) fn kept(&self) -> &[Arc<Held>] {
        &self.kept
    }

    /// Holds on objects that some bytes name, which were decoded before and will be again.
    pub(crate) fn keeping(kept: &[Arc<Held>]) -> crate::Result<Self> {
        let mut again = Self { transit: None, kept: kept.to_vec() };
        for held in kept {
            again.add(held.send()?, held);
        }
        Ok(again)
    }

    /// These and others.
    pub(crate) fn extend(&mut self, other: Self) {
        self.kept.extend(other.kept);
        match (&mut self.transit, other.transit) {
            (Some(ours), Some(theirs)) => {
                theirs.holds().iter().for_each(|hold| ours.push(*hold));
                theirs.forget();
            }
            (ours @ None, theirs) => *ours = theirs,
            (Some(_), None) => {}
        }
    }

    fn add(&mut self, hold: HoldId, held: &Held) {
        self.transit.get_or_insert_with(|| Transit::new(held.arena())).push(hold);
    }
}

const NOT_SENT: &str =
    "a shared object can be sent only as an argument at a process's start or through a queue or pipe";

thread_local! {
    /// Why a handle was not encoded or decoded: the codec has no place for a reason.
    static PROBLEM: RefCell<Option<String>> = const { RefCell::new(None) };
    static COLLECTING: Cell<Collecting> = const { Cell::new(Collecting::No) };
    static OUTGOING: RefCell<Outgoing> = const { RefCell::new(Outgoing { transit: None, kept: Vec::new() }) };
}

/// Whether handles are being collected in this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collecting {
    No,
    Nothing,
    Something,
}

/// Runs `encode`; the handles that it encodes are collected. What is encoded may itself put something into a queue.
pub(crate) fn collect<T>(encode: impl FnOnce() -> T) -> (T, Outgoing) {
    let outer = Collection::begin();
    let value = encode();
    (value, outer.end())
}

/// Whether handles are being collected in this thread.
pub(crate) fn is_collecting() -> bool {
    COLLECTING.get() != Collecting::No
}

/// What was collected before goes along with what is being collected now.
pub(crate) fn add(objects: Outgoing) -> Result<(), &'static str> {
    if objects.transit.is_none() && objects.is_empty() {
        return Ok(());
    }
    if !is_collecting() {
        return Err(NOT_SENT);
    }
    COLLECTING.set(Collecting::Something);
    OUTGOING.with_borrow_mut(|outgoing| outgoing.extend(objects));
    Ok(())
}

thread_local! {
    /// Whether shared objects may be in the results of functions that this thread runs, and those in the last one.
    static IN_RESULTS: Cell<bool> = const { Cell::new(false) };
    static RESULT: RefCell<Option<Transit>> = const { RefCell::new(None) };
}

/// This thread runs functions for somebody who takes the objects in their results by [`take_result_objects`].
pub(crate) fn allow_in_results() {
    IN_RESULTS.set(true);
}

/// Encodes a result.
pub(crate) fn with_result_objects<T>(encode: impl FnOnce() -> T) -> T {
    if !IN_RESULTS.get() {
        return encode();
    }
    let (encoded, outgoing) = collect(encode);
    if let Some(transit) = outgoing.transit {
        RESULT.set(Some(transit));
    }
    encoded
}

/// The objects in the result of the last function that this thread ran.
pub(crate) fn take_result_objects() -> Option<Transit> {
    if IN_RESULTS.get() { RESULT.take() } else { None }
}

/// What was being collected in this thread when another collection began; goes on when that is over, also by a panic.
struct Collection {
    collecting: Collecting,
    outgoing: Option<Outgoing>,
}

impl Collection {
    fn begin() -> Self {
        let collecting = COLLECTING.replace(Collecting::Nothing);
        Self { collecting, outgoing: (collecting == Collecting::Something).then(|| OUTGOING.take()) }
    }

    /// Ends the inner one, and gives what it has collected.
    fn end(self) -> Outgoing {
        if COLLECTING.replace(Collecting::Nothing) == Collecting::Something {
            OUTGOING.take()
        } else {
            Outgoing::default()
        }
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        // Something is left only by a panic.
        let left = COLLECTING.replace(self.collecting) == Collecting::Something;
        match self.outgoing.take() {
            Some(outgoing) => drop(OUTGOING.replace(outgoing)),
            None if left => drop(OUTGOING.take()),
            None => {}
        }
    }
}

/// The error of a codec that has lost the reason; the reason is kept for [`take_problem`].
fn problem<T>(reason: impl std::fmt::Display, error: impl FnOnce(String) -> T) -> T {
    let reason = reason.to_string();
    let error = error(reason.clone());
    PROBLEM.set(Some(reason));
    error
}

/// Why a handle was not encoded or decoded in this thread just now.
pub(crate) fn take_problem() -> Option<String> {
    PROBLEM.take()
}

/// A handle, encoded.
#[derive(Debug, Serialize, Deserialize)]
struct Encoded {
    arena: u64,
    index: u32,
    name: u64,
    hold: u32,
    use_number: u32,
}

/// Encodes a handle.
pub(crate) fn serialize<S: Serializer>(held: &Arc<Held>, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::Error;
    if !is_collecting() {
        return Err(problem(NOT_SENT, S::Error::custom));
    }
    let hold = OUTGOING.with_borrow_mut(|outgoing| {
        let hold = held.send().map_err(|error| problem(error, S::Error::custom))?;
        COLLECTING.set(Collecting::Something);
        outgoing.add(hold, held);
        outgoing.kept.push(held.clone());
        Ok(hold)
    })?;
    let Name { index, name } = held.name();
    let HoldId { index: hold, use_number } = hold;
    Encoded { arena: held.arena().id(), index, name, hold, use_number }.serialize(serializer)
}

/// Decodes a handle.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Held>, D::Error> {
    use serde::de::Error;
    let encoded = Encoded::deserialize(deserializer)?;
    let arena = memory::arena().map_err(|error| problem(error, D::Error::custom))?;
    if arena.id() != encoded.arena {
        return Err(problem("this shared object is another program's", D::Error::custom));
    }
    let name = Name { index: encoded.index, name: encoded.name };
    let hold = HoldId { index: encoded.hold, use_number: encoded.use_number };
    arena.receive(name, hold).map_err(|error| problem(error, D::Error::custom))
}

/// The error of a handle on an object that is something else than it was taken for.
pub(crate) fn wrong_type<E: serde::de::Error>(wanted: &str) -> E {
    problem(format!("the shared object is not a {wanted} of this type"), E::custom)
}

/// What the type `T` is called in shared memory: the same in all processes of one build.
pub(crate) fn tag_of<T: ?Sized>() -> u64 {
    // FNV-1a: short, and stable over processes.
    std::any::type_name::<T>()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Lets a type be sent as the handle that it is. `$held` gives the handle's `Arc<Held>`, `$from` makes the type of one, if it is of its kind.
macro_rules! sent_as_handle {
    ($type:ty $(, $parameter:ident : $bound:path)?; $held:expr, $from:expr) => {
        impl$(<$parameter: $bound>)? serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let held: fn(&Self) -> &std::sync::Arc<broody_shm::arena::Held> = $held;
                $crate::handle::serialize(held(self), serializer)
            }
        }

        impl<'de $(, $parameter: $bound)?> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let held = $crate::handle::deserialize(deserializer)?;
                let from: fn(std::sync::Arc<broody_shm::arena::Held>) -> Option<Self> = $from;
                from(held).ok_or_else(|| $crate::handle::wrong_type(stringify!($type)))
            }
        }
    };
}
pub(crate) use sent_as_handle;
