//! Encoded arguments.

use serde::Serialize;

use crate::codec;
use crate::handle::{self, Outgoing};

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
    /// The shared objects in them, kept until all are answered: a task may be run once more.
    objects: Vec<Outgoing>,
}

impl Many {
    pub(super) fn push<A: Serialize>(&mut self, argument: &A) -> Result<(), String> {
        let (encoded, outgoing) = handle::collect(|| codec::encode_into(argument, &mut self.bytes));
        encoded?;
        if !outgoing.is_empty() {
            self.objects.push(outgoing);
        }
        self.ends.push(self.bytes.len());
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl From<Many> for Arguments {
    fn from(many: Many) -> Self {
        if many.len() == 1 && many.objects.is_empty() {
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
    pub(super) fn get(&self, index: usize) -> &[u8] {
        match self {
            Self::One(bytes) => bytes,
            Self::Many(many) => {
                let start =
                    index.checked_sub(1).and_then(|before| many.ends.get(before).copied()).unwrap_or(0);
                many.ends.get(index).map_or(&[], |end| &many.bytes[start..*end])
            }
        }
    }
}
