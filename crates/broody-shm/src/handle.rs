//! A process's handle on one primitive.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::ArenaError;
use crate::arena::{Arena, Held, Kind, Request, Words};
use crate::owner::Owner;

/// The words of a primitive, and what kind of object they are.
pub trait Primitive: Words {
    /// What the arena knows it as.
    const KIND: Kind;
}

/// A handle on the primitive `W`. Clones of it are the same primitive; it is freed with the last handle in any process.
#[derive(Debug)]
pub struct Handle<W> {
    held: Arc<Held>,
    words: PhantomData<fn() -> W>,
}

impl<W> Clone for Handle<W> {
    fn clone(&self) -> Self {
        Self { held: self.held.clone(), words: PhantomData }
    }
}

impl<W: Primitive> Handle<W> {
    /// Makes one with `more` bytes behind its words. They are all zero.
    pub(crate) fn make(arena: &'static Arena, more: u64, tag: u64) -> Result<Self, ArenaError> {
        let length = size_of::<W>() as u64 + more;
        let held = arena.make(&Request { kind: W::KIND, length, tag, parent: None, zeroed: true })?;
        Ok(Self { held, words: PhantomData })
    }

    /// The primitive behind a handle; `None` when it is something else.
    pub fn from_held(held: Arc<Held>) -> Option<Self> {
        let fits = held.kind() == W::KIND && held.body().length() >= size_of::<W>() as u64;
        fits.then_some(Self { held, words: PhantomData })
    }

    /// The handle of any kind.
    pub fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// The words, and the calling process as their user.
    #[inline]
    pub(crate) fn enter(&self) -> Result<(&W, Owner, &'static Arena), ArenaError> {
        let me = self.held.owner()?;
        Ok((self.words(), me, self.held.arena()))
    }

    /// The words, for what has no way to tell of an error.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[inline]
    #[track_caller]
    pub(crate) fn look(&self) -> &W {
        self.held.must_keep();
        self.words()
    }

    /// The words, in a process that is known to keep the object.
    #[inline]
    pub(crate) fn words(&self) -> &W {
        self.held.body().get()
    }
}
