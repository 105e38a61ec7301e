//! What a message looks like in a queue's ring.
//!
//! ```text
//! | length: 40 | holds: 16 | kind: 8 |   holds, 8 bytes each   |   bytes, padded to 8   |
//! ```
//!
//! A message that is apart has, for bytes, the name of a blob; its hold is the first one. Numbers are little endian. What is read is not
//! believed: a ring may have been overwritten.

use super::mark::UNIT;
use crate::Corrupt;
use crate::arena::{HoldId, Name};
use crate::blob::Blob;

const HEADER: usize = 8;
const HOLD: usize = 8;
const NAME: usize = 16;

const INLINE: u8 = 1;
const APART: u8 = 2;

/// A message to be written.
pub(super) struct Outgoing<'a> {
    apart: Option<(Name, HoldId)>,
    holds: &'a [HoldId],
    bytes: &'a [u8],
}

impl<'a> Outgoing<'a> {
    pub(super) fn inline(bytes: &'a [u8], holds: &'a [HoldId]) -> Self {
        Self { apart: None, holds, bytes }
    }

    pub(super) fn apart(blob: &Blob, hold: HoldId, holds: &'a [HoldId]) -> Self {
        Self { apart: Some((blob.held().name(), hold)), holds, bytes: &[] }
    }

    /// One that is apart, to ask whether there would be room.
    pub(super) fn reference() -> Self {
        let (name, hold) = (Name { index: 0, name: 0 }, HoldId { index: 0, use_number: 0 });
        Self { apart: Some((name, hold)), holds: &[], bytes: &[] }
    }

    pub(super) fn is_apart(&self) -> bool {
        self.apart.is_some()
    }

    /// All holds, that of the blob first.
    pub(super) fn holds(&self) -> impl Iterator<Item = HoldId> {
        self.apart.map(|(_, hold)| hold).into_iter().chain(self.holds.iter().copied())
    }

    fn holds_count(&self) -> usize {
        self.holds.len() + usize::from(self.is_apart())
    }

    fn payload(&self) -> usize {
        if self.is_apart() { NAME } else { self.bytes.len() }
    }

    /// All of it, in bytes.
    #[inline]
    pub(super) fn length(&self) -> usize {
        (HEADER + self.holds_count() * HOLD + self.payload()).next_multiple_of(UNIT as usize)
    }

    /// Writes it to the beginning of `place`, which has room for it.
    #[inline]
    pub(super) fn write(&self, place: &mut [u8]) {
        let kind = if self.is_apart() { APART } else { INLINE };
        let header = self.payload() as u64 | ((self.holds_count() as u64) << 40) | (u64::from(kind) << 56);
        place[..HEADER].copy_from_slice(&header.to_le_bytes());
        let mut at = HEADER;
        for hold in self.holds() {
            let raw = u64::from(hold.index) | (u64::from(hold.use_number) << 32);
            place[at..at + HOLD].copy_from_slice(&raw.to_le_bytes());
            at += HOLD;
        }
        match self.apart {
            None => place[at..at + self.bytes.len()].copy_from_slice(self.bytes),
            Some((name, _)) => {
                place[at..at + 8].copy_from_slice(&u64::from(name.index).to_le_bytes());
                place[at + 8..at + NAME].copy_from_slice(&name.name.to_le_bytes());
            }
        }
    }
}

/// The length in a ring of a message that is nothing but these bytes.
#[inline]
pub(super) fn short_length(bytes: &[u8]) -> usize {
    (HEADER + bytes.len()).next_multiple_of(UNIT as usize)
}

/// Writes such a message.
#[inline]
pub(super) fn write_short(bytes: &[u8], place: &mut [u8]) {
    let (header, rest) = place.split_at_mut(HEADER);
    header.copy_from_slice(&(bytes.len() as u64 | (u64::from(INLINE) << 56)).to_le_bytes());
    rest[..bytes.len()].copy_from_slice(bytes);
}

/// A message as it was found.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    is_apart: bool,
    holds: &'a [[u8; HOLD]],
    bytes: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// The message at the beginning of `ring`, which may hold anything.
    ///
    /// # Errors
    /// [`Corrupt`] for what no [`Outgoing`] has written.
    #[inline]
    pub fn parse(ring: &'a [u8]) -> Result<Self, Corrupt> {
        let (header, rest) = ring.split_first_chunk::<HEADER>().ok_or(Corrupt)?;
        let header = u64::from_le_bytes(*header);
        let length = (header & ((1 << 40) - 1)) as usize;
        let (holds, kind) = (usize::from((header >> 40) as u16), (header >> 56) as u8);
        let (holds, rest) = rest.split_at_checked(holds * HOLD).ok_or(Corrupt)?;
        let bytes = rest.get(..length).ok_or(Corrupt)?;
        let (holds, _) = holds.as_chunks::<HOLD>();
        match kind {
            INLINE => Ok(Self { is_apart: false, holds, bytes }),
            APART if length == NAME && !holds.is_empty() => Ok(Self { is_apart: true, holds, bytes }),
            _ => Err(Corrupt),
        }
    }

    /// All holds, that of the blob first.
    pub fn holds(&self) -> impl ExactSizeIterator<Item = HoldId> + use<'a> {
        self.holds.iter().map(|raw| {
            let raw = u64::from_le_bytes(*raw);
            HoldId { index: raw as u32, use_number: (raw >> 32) as u32 }
        })
    }

    /// Whether it is nothing but its bytes.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        !self.is_apart && self.holds.is_empty()
    }

    /// What the message says.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The blob that the message is, and its hold.
    pub fn blob(&self) -> Option<(Name, HoldId)> {
        let (index, name) = self.bytes.split_first_chunk::<8>().filter(|_| self.is_apart)?;
        let name = u64::from_le_bytes(*name.first_chunk::<8>()?);
        Some((Name { index: u64::from_le_bytes(*index) as u32, name }, self.holds().next()?))
    }

    /// All of it, in bytes. At most what was parsed, but for the padding.
    #[inline]
    pub fn length(&self) -> usize {
        (HEADER + self.holds.len() * HOLD + self.bytes.len()).next_multiple_of(UNIT as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hold() -> impl Strategy<Value = HoldId> {
        any::<(u32, u32)>().prop_map(|(index, use_number)| HoldId { index, use_number })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            holds in prop::collection::vec(hold(), 0..5),
            apart in any::<Option<(u32, u64)>>(),
        ) {
            let mut message = Outgoing::inline(&bytes, &holds);
            if let Some((index, name)) = apart {
                message = Outgoing { apart: Some((Name { index, name }, HoldId { index: 1, use_number: 2 })), holds: &holds, bytes: &[] };
            }
            let mut place = vec![0xee; message.length() + 8];
            message.write(&mut place);
            if apart.is_none() && holds.is_empty() {
                let mut short = vec![0xee; short_length(&bytes) + 8];
                write_short(&bytes, &mut short);
                prop_assert_eq!(&short, &place);
            }
            let read = Incoming::parse(&place).unwrap();
            prop_assert_eq!(read.length(), message.length());
            prop_assert_eq!(read.holds().collect::<Vec<_>>(), message.holds().collect::<Vec<_>>());
            match apart {
                None => prop_assert_eq!((read.bytes(), read.blob()), (&bytes[..], None)),
                Some((index, name)) => prop_assert_eq!(read.blob().unwrap().0, Name { index, name }),
            }
        }

        #[test]
        fn anything_is_a_message_within_its_bounds_or_corrupt(mut ring in prop::collection::vec(any::<u8>(), 0..100), small: bool) {
            if small && ring.len() >= 8 {
                // Headers that might be right.
                ring[1..6].fill(0);
                ring[6] &= 3;
                ring[7] = 1 + (ring[7] & 1);
            }
            if let Ok(read) = Incoming::parse(&ring) {
                prop_assert!(read.length() < ring.len() + 8);
                let _ = (read.blob(), read.holds().count());
            }
        }
    }
}
