//! Bytes that do not change any more, handed over without a copy.
//!
//! A blob is filled by the process that makes it, before anybody else can know of it, and only read from then on. It is an object like others:
//! each process that has it keeps it by a hold, a message that refers to it has one, and its pages go back to the machine with the
//! last of them, whether that is dropped or dies.

use std::sync::Arc;

use broody_os::memory::Mapping;

use crate::ArenaError;
use crate::arena::{Arena, Held, Kind, Request};

/// A blob of a user's.
const PLAIN: u64 = 0;

/// A blob that is a long message.
pub(crate) const MESSAGE: u64 = 1;

/// The bytes.
#[derive(Debug, Clone)]
pub struct Blob {
    held: Arc<Held>,
}

impl Blob {
    /// Makes a blob of `length` bytes, which `fill` writes; they are zero before.
    ///
    /// # Errors
    /// [`ArenaError::Os`] with ENOSPC or ENOMEM when there is no memory for it.
    pub fn new(
        arena: &'static Arena,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Self, ArenaError> {
        Self::make(arena, length, PLAIN, fill)
    }

    /// Makes a blob of these bytes for a message: its pages, once it is freed, are kept for the next message.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_message(arena: &'static Arena, bytes: &[u8]) -> Result<Self, ArenaError> {
        Self::make(arena, bytes.len(), MESSAGE, |place| place.copy_from_slice(bytes))
    }

    fn make(
        arena: &'static Arena,
        length: usize,
        tag: u64,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Self, ArenaError> {
        let zeroed = tag != MESSAGE;
        let request = Request { kind: Kind::Blob, length: length as u64, tag, parent: None, zeroed };
        let held = arena.make(&request)?;
        // SAFETY: the body is that long, and nobody else knows of it yet. Whatever was there before are bytes, too.
        fill(unsafe { std::slice::from_raw_parts_mut(held.body().as_ptr().as_ptr(), length) });
        Ok(Self { held })
    }

    /// The blob behind a handle; `None` when it is something else.
    pub fn from_held(held: Arc<Held>) -> Option<Self> {
        (held.kind() == Kind::Blob).then_some(Self { held })
    }

    /// The bytes as a copy that this process may change, of which each page is made when it is written to. `None` for a blob without pages of its
    /// own, which is short. The blob is to be kept as long as the copy.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork or without memory.
    pub fn private_copy(&self) -> Result<Option<Mapping>, ArenaError> {
        self.held.keep()?;
        self.held.map_private()
    }

    /// The handle.
    pub fn held(&self) -> &Arc<Held> {
        &self.held
    }
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    /// # Panics
    /// In a fork, when the blob was gone before it was used there.
    fn deref(&self) -> &[u8] {
        self.held.must_keep();
        let body = self.held.body();
        // SAFETY: mapped as long as the handle lives, and no process of the program writes to a blob after `new`.
        unsafe { std::slice::from_raw_parts(body.as_ptr().as_ptr(), body.length() as usize) }
    }
}
