//! Bytes that do not change any more, handed over without a copy.
//!
//! A blob is filled by the process that makes it, before anybody else can know of it, and only read from then on. It is an object like others:
//! each process that has it keeps it by a hold, a message that refers to it has one, and its pages go back to the machine with the
//! last of them, whether that is dropped or dies.

use std::sync::Arc;

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
        let held = arena.allocate(Kind::Blob, length as u64, PLAIN)?;
        // SAFETY: the body is that long, zero, and nobody else knows of it yet.
        fill(unsafe { std::slice::from_raw_parts_mut(held.body().as_ptr().as_ptr(), length) });
        Ok(Self { held })
    }

    /// Makes a blob of these bytes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn copy_of(arena: &'static Arena, bytes: &[u8]) -> Result<Self, ArenaError> {
        Self::copy_as(arena, PLAIN, bytes)
    }

    /// Makes a blob of these bytes for a message: its pages, once it is freed, are kept for the next message.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_message(arena: &'static Arena, bytes: &[u8]) -> Result<Self, ArenaError> {
        Self::copy_as(arena, MESSAGE, bytes)
    }

    fn copy_as(arena: &'static Arena, tag: u64, bytes: &[u8]) -> Result<Self, ArenaError> {
        let mut draft = Draft::tagged(arena, tag, bytes.len())?;
        draft.extend(bytes);
        Ok(draft.finish().0)
    }

    /// The blob behind a handle; `None` when it is something else.
    pub fn from_held(held: Arc<Held>) -> Option<Self> {
        (held.kind() == Kind::Blob).then_some(Self { held })
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

/// A blob of a message that is being written: nobody else knows of it yet.
#[derive(Debug)]
pub struct Draft {
    held: Arc<Held>,
    written: usize,
    /// No process has written to its pages, or not to all of them.
    is_new: bool,
}

/// New pages that are fewer than this are written to as others are.
const FEW: usize = 16 * 1024;

/// So much the kernel maps around a page that is read for the first time: 16 pages for one fault. Who writes first has one for each page.
const AROUND: usize = 64 * 1024;

impl Draft {
    /// With room for so many bytes.
    ///
    /// # Errors
    /// As [`Blob::new`].
    pub fn new(arena: &'static Arena, room: usize) -> Result<Self, ArenaError> {
        Self::tagged(arena, MESSAGE, room)
    }

    fn tagged(arena: &'static Arena, tag: u64, room: usize) -> Result<Self, ArenaError> {
        let (kind, length) = (Kind::Blob, room as u64);
        let request = Request { kind, length, tag, parent: None, zeroed: false };
        let (held, is_new) = arena.make_in(&request)?;
        Ok(Self { held, written: 0, is_new })
    }

    /// How many bytes there is room for in all.
    pub fn room(&self) -> usize {
        self.held.body().length() as usize
    }

    /// The blob's handle.
    pub fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// What was written so far.
    pub fn written(&self) -> &[u8] {
        // SAFETY: so many bytes were written, and nobody but this value writes there.
        unsafe { std::slice::from_raw_parts(self.held.body().as_ptr().as_ptr(), self.written) }
    }

    /// Writes more.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn extend(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room() - self.written, "a draft is asked for its room before");
        let by_kernel = self.is_new && bytes.len() >= FEW;
        if !by_kernel || !self.held.write_by_kernel(self.written, bytes) {
            // SAFETY: the body is long enough for it and mapped as long as the handle lives; `bytes` can be no part of what was not written.
            // What is only read may be anything.
            unsafe {
                let end = self.held.body().as_ptr().as_ptr().add(self.written);
                for ahead in (0..bytes.len()).step_by(AROUND) {
                    end.add(ahead).read_volatile();
                }
                end.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        }
        self.written += bytes.len();
    }

    /// Nothing more is written. The blob may be longer than what was.
    pub fn finish(self) -> (Blob, usize) {
        (Blob { held: self.held }, self.written)
    }
}
