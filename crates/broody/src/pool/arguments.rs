//! Encoded arguments.

use serde::Serialize;

use super::apart::{Apart, Ticket};
use super::wire::LONGEST;
use crate::codec;
use crate::handle::{self, Outgoing};
use crate::output::{Encoded, Output};

/// The encoded arguments of a batch's tasks.
pub(super) enum Arguments {
    /// Of a single task. An exact allocation, since many such tasks may wait.
    One(Box<[u8]>),
    Many(Box<Many>),
}

/// One behind the other.
#[derive(Default)]
pub(super) struct Many {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// What there is of them in shared memory, by their index.
    kept: Vec<(usize, Kept)>,
}

/// What of an argument is in shared memory: kept until its task is answered, since it may be run once more.
pub(super) struct Kept {
    apart: Option<Apart>,
    _objects: Outgoing,
}

/// An encoded argument.
#[derive(Clone, Copy)]
pub(super) enum Argument<'a> {
    Own(&'a [u8]),
    Apart(Ticket),
}

impl Argument<'_> {
    /// Its length, in bytes.
    pub(super) fn len(self) -> usize {
        match self {
            Argument::Own(bytes) => bytes.len(),
            Argument::Apart(ticket) => ticket.length(),
        }
    }
}

impl Many {
    /// Adds one. Gives the number of bytes that it takes, those in shared memory included.
    pub(super) fn push<A: Serialize>(&mut self, argument: &A) -> Result<usize, String> {
        let before = self.bytes.len();
        let mut output = Output::at_most(LONGEST, std::mem::take(&mut self.bytes));
        let (result, objects) = handle::collect(|| codec::encode_onto(argument, &mut output));
        if let Err(reason) = result {
            self.bytes = output.undo();
            return Err(reason);
        }
        let (bytes, encoded) = output.finish();
        self.bytes = bytes;
        let mut length = self.bytes.len() - before;
        let apart = match encoded {
            Encoded::Own => None,
            Encoded::Apart(draft) => Some(Apart::new(draft)),
        };
        if apart.is_some() || !objects.is_empty() {
            length += apart.as_ref().map_or(0, Apart::len) + objects.bytes();
            self.kept.push((self.ends.len(), Kept { apart, _objects: objects }));
        }
        self.ends.push(self.bytes.len());
        Ok(length)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn kept(&self, index: usize) -> Option<usize> {
        self.kept.binary_search_by_key(&index, |(index, _)| *index).ok()
    }
}

impl From<Many> for Arguments {
    fn from(many: Many) -> Self {
        if many.len() == 1 && many.kept.is_empty() {
            Self::One(many.bytes.into())
        } else {
            Self::Many(Box::new(many))
        }
    }
}

impl Arguments {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    /// Forgets them: nobody will ask again.
    pub(super) fn clear(&mut self) {
        *self = Self::One(Box::default());
    }

    /// That of the task at `index`.
    pub(super) fn get(&self, index: usize) -> Argument<'_> {
        let many = match self {
            Self::One(bytes) => return Argument::Own(bytes),
            Self::Many(many) => many,
        };
        let apart = many.kept(index).and_then(|at| many.kept[at].1.apart.as_ref());
        if let Some(apart) = apart {
            return Argument::Apart(apart.ticket());
        }
        let start = index.checked_sub(1).and_then(|before| many.ends.get(before).copied()).unwrap_or(0);
        Argument::Own(many.ends.get(index).map_or(&[], |end| &many.bytes[start..*end]))
    }

    /// What is in shared memory of an argument that is not needed any more.
    pub(super) fn release(&mut self, index: usize) -> Option<Kept> {
        match self {
            Self::One(_) => None,
            Self::Many(many) => many.kept(index).map(|at| many.kept.remove(at).1),
        }
    }
}
