//! Long arguments and results: encoded into a blob, of which the rings carry the name.
//!
//! An argument is its batch's, and so the host's, until the task is answered: a worker that gets its name opens it by a hold of its own, once
//! for each try. A result is handed over as objects in results are, see [`objects`](super::objects). In both, whoever is killed leaves
//! nothing: what is on its way is always somebody's, and holds go with their process.

use std::sync::Arc;

use broody_shm::arena::{Held, Name, Transit};
use broody_shm::blob::{Blob, Draft};

use super::wire::LONGEST;
use crate::memory;
use crate::output::Encoded;

/// The most shared objects in a result, so that their holds have room in a record.
const MOST_OBJECTS: usize = (LONGEST - 16) / 8;

/// An encoded argument in a blob.
pub(super) struct Apart {
    blob: Blob,
    length: usize,
}

impl Apart {
    pub(super) fn new(draft: Draft) -> Self {
        let (blob, length) = draft.finish();
        Self { blob, length }
    }

    /// A copy of bytes for which there was no shared memory before.
    pub(super) fn copy_of(bytes: &[u8]) -> Result<Self, String> {
        copied(bytes).map(Self::new)
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// What a worker is told.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket { name: self.blob.held().name(), length: self.length as u64 }
    }
}

/// Where a long argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    name: Name,
    length: u64,
}

impl Ticket {
    /// Of a ticket, in bytes.
    pub(super) const LENGTH: usize = 20;

    /// Of the argument, in bytes.
    pub(super) fn length(self) -> usize {
        self.length as usize
    }

    pub(super) fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..4].copy_from_slice(&self.name.index.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.name.name.to_le_bytes());
        bytes[12..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Self {
        let [index, name, length] = [(0, 4), (4, 8), (12, 8)].map(|(start, length)| {
            let mut number = [0; 8];
            number[..length].copy_from_slice(&bytes[start..start + length]);
            u64::from_le_bytes(number)
        });
        Self { name: Name { index: index as u32, name }, length }
    }

    /// In the worker: the argument, by a hold of this process's.
    pub(super) fn open(self) -> Result<Opened, String> {
        let arena = memory::arena().map_err(|error| error.to_string())?;
        let held = arena.open_object(self.name).map_err(|error| error.to_string())?;
        Opened::new(held, self.length)
    }
}

/// Bytes in somebody's blob.
pub(super) struct Opened {
    blob: Blob,
    length: usize,
}

impl Opened {
    /// The first bytes of an object that is to be a blob.
    pub(super) fn new(held: Arc<Held>, length: u64) -> Result<Self, String> {
        let blob = Blob::from_held(held).filter(|blob| blob.len() as u64 >= length);
        let blob = blob.ok_or("what was sent is no message")?;
        Ok(Self { blob, length: length as usize })
    }
}

impl std::ops::Deref for Opened {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.blob[..self.length]
    }
}

/// An encoded result as it goes to the host.
pub(super) enum Packed {
    /// As it is in the buffer.
    Bytes,
    /// As well, and these objects.
    WithObjects(Transit),
    /// The first so many bytes of the blob that is the last of these objects.
    Apart(Transit, u64),
}

/// Packs what was encoded into `buffer`, or apart, and the objects in it.
///
/// # Errors
/// Why it cannot be sent.
pub(super) fn pack(buffer: &[u8], encoded: Encoded, objects: Option<Transit>) -> Result<Packed, String> {
    let count = objects.as_ref().map_or(0, |objects| objects.holds().len());
    if count > MOST_OBJECTS {
        return Err(format!("a result has at most {MOST_OBJECTS} shared objects in it, not {count}"));
    }
    let draft = match (encoded, objects.is_some()) {
        (Encoded::Apart(draft), _) => draft,
        (Encoded::Own, false) if buffer.len() <= LONGEST => return Ok(Packed::Bytes),
        (Encoded::Own, true) if 4 + 8 * count + buffer.len() <= LONGEST => {
            return Ok(objects.map_or(Packed::Bytes, Packed::WithObjects));
        }
        // There was no shared memory for it: now there may be some. Or it became too long with its objects.
        (Encoded::Own, _) => copied(buffer)?,
    };
    let hold = draft.held().send().map_err(|error| error.to_string())?;
    let mut objects = objects.unwrap_or_else(|| Transit::new(draft.held().arena()));
    objects.push(hold);
    Ok(Packed::Apart(objects, draft.written().len() as u64))
}

/// These bytes in a blob.
fn copied(bytes: &[u8]) -> Result<Draft, String> {
    let arena = memory::arena().map_err(|error| error.to_string())?;
    let mut draft = Draft::new(arena, bytes.len()).map_err(|error| error.to_string())?;
    draft.extend(bytes);
    Ok(draft)
}
