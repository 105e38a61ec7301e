//! Mappings of long messages that a process has let go of, for the next messages in the same places.
//!
//! A page that is mapped already costs no fault. What is kept here is address space: pages themselves stay, or go, by the
//! [arena's](super::pages) rules, and a mapping of pages that went gets those that come in their place.

use std::collections::VecDeque;

use broody_os::memory::Mapping;

/// The most bytes that are kept mapped.
const MOST_BYTES: usize = 256 << 20;

/// The most mappings: a process has 65,530 of them by default.
const MOST: usize = 1024;

/// By where they are in the file, the oldest first.
#[derive(Debug, Default)]
pub(super) struct KeptMappings {
    kept: VecDeque<(u64, Mapping)>,
    bytes: usize,
}

impl KeptMappings {
    /// One of at least so many bytes in this place.
    pub(super) fn take(&mut self, offset: u64, length: usize) -> Option<Mapping> {
        // The last ones are the likeliest: places are used again in that order.
        let at = self.kept.iter().rposition(|(at, _)| *at == offset)?;
        let (_, mapping) = self.kept.remove(at)?;
        self.bytes -= mapping.len();
        (mapping.len() >= length).then_some(mapping)
    }

    pub(super) fn keep(&mut self, offset: u64, mapping: Mapping) {
        // Another thread may have had the place mapped, too.
        drop(self.take(offset, 0));
        self.bytes += mapping.len();
        self.kept.push_back((offset, mapping));
        while self.bytes > MOST_BYTES || self.kept.len() > MOST {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// Whether there were any.
    pub(super) fn empty(&mut self) -> bool {
        self.bytes = 0;
        let had = !self.kept.is_empty();
        self.kept.clear();
        had
    }
}
