//! Where encoded bytes go: into the process's own memory while they are few, else into a blob that another process can look at.
//!
//! A long message is so written where it will be read. Bytes that come one by one are gathered first; many at once are copied once. Where shared
//! memory is not to be had, all of it stays in the process's own: whoever sends it may find some then, or tells of the error.

use broody_shm::blob::Draft;

use crate::memory;

/// What is gathered before it goes into a blob, in bytes.
const GATHERED: usize = 64 * 1024;

/// Room in a blob for what may follow the bytes that it was made for.
const MORE: usize = 1024;

/// Encoded bytes.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Those of others, what is few, or what is gathered.
    bytes: Vec<u8>,
    /// Where it begins in there.
    start: usize,
    /// How long `bytes` may become.
    most: usize,
    draft: Option<Draft>,
}

/// What an [`Output`] is in the end.
#[derive(Debug)]
pub(crate) enum Encoded {
    /// In the buffer.
    Own,
    /// In a blob of its own.
    Apart(Draft),
}

impl Output {
    /// At the end of a buffer, as long as it may be.
    pub(crate) fn within(buffer: Vec<u8>) -> Self {
        Self { start: buffer.len(), bytes: buffer, most: usize::MAX, draft: None }
    }

    /// At the end of a buffer if it is at most `longest` bytes, else in a blob.
    pub(crate) fn at_most(longest: usize, buffer: Vec<u8>) -> Self {
        let start = buffer.len();
        Self { start, most: start.saturating_add(longest), bytes: buffer, draft: None }
    }

    pub(crate) fn push(&mut self, byte: u8) {
        if self.bytes.len() >= self.most {
            self.spill(1);
        }
        self.bytes.push(byte);
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        if bytes.len() > self.most - self.bytes.len()
            && self.spill(bytes.len())
            && bytes.len() >= GATHERED
            && let Some(draft) = &mut self.draft
        {
            return draft.extend(bytes);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Moves what there is into a blob with room for so many more bytes. Whether it could.
    #[cold]
    fn spill(&mut self, more: usize) -> bool {
        let gathered = self.bytes.len() - self.start;
        let written = self.draft.as_ref().map_or(0, |draft| draft.written().len());
        let needed = written + gathered + more;
        if self.draft.as_ref().is_none_or(|draft| draft.room() < needed) {
            // Many at once are mostly all: room for them. Of those that come bit by bit more will come.
            let room = if more >= GATHERED { needed + MORE } else { needed.max(2 * written) + GATHERED };
            let larger = memory::arena().ok().and_then(|arena| Draft::new(arena, room).ok());
            let Some(mut larger) = larger else {
                self.give_up();
                return false;
            };
            if let Some(draft) = self.draft.take() {
                larger.extend(draft.written());
            }
            self.draft = Some(larger);
        }
        let Some(draft) = &mut self.draft else { return false };
        draft.extend(&self.bytes[self.start..]);
        self.bytes.truncate(self.start);
        self.most = self.start + GATHERED;
        true
    }

    /// All of it is in the process's own memory from now on.
    fn give_up(&mut self) {
        self.most = usize::MAX;
        if let Some(draft) = self.draft.take() {
            self.bytes.splice(self.start..self.start, draft.written().iter().copied());
        }
    }

    /// The buffer, and where the encoded bytes are.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Encoded) {
        if self.draft.is_some() {
            self.spill(0);
        }
        match self.draft {
            Some(draft) => (self.bytes, Encoded::Apart(draft)),
            None => (self.bytes, Encoded::Own),
        }
    }

    /// The buffer as it was.
    pub(crate) fn undo(mut self) -> Vec<u8> {
        self.bytes.truncate(self.start);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 1000;

    fn encoded(pieces: &[&[u8]]) -> (Vec<u8>, Encoded) {
        let mut output = Output::at_most(LONGEST, b"others".to_vec());
        for piece in pieces {
            match piece {
                [byte] => output.push(*byte),
                bytes => output.extend(bytes),
            }
        }
        output.finish()
    }

    #[test]
    fn what_is_long_goes_into_a_blob_whole_and_leaves_the_buffer_as_it_was() {
        let long = vec![7; 3 * GATHERED];
        let bytewise: Vec<[u8; 1]> = (0..200_000u32).map(|number| [number as u8]).collect();
        let bytewise: Vec<&[u8]> = bytewise.iter().map(<[u8; 1]>::as_slice).collect();
        let cases: [&[&[u8]]; 5] = [
            &[&long],
            &[b"1", &long, b"2", b"behind it", &long],
            &[&[1; LONGEST], b"2"],
            &bytewise,
            &[&[1; 600], &[2; 600], &[3; GATHERED - 1], &[4; GATHERED], &[5; 10]],
        ];
        for pieces in cases {
            let (buffer, Encoded::Apart(draft)) = encoded(pieces) else { panic!("it is long") };
            assert_eq!(buffer, b"others");
            assert!(draft.written() == pieces.concat());
        }
    }

    #[test]
    fn what_is_short_stays_in_the_buffer() {
        let (buffer, Encoded::Own) = encoded(&[b"s", &[b'h'; LONGEST - 1]]) else { panic!("it is short") };
        assert_eq!(buffer.len(), 6 + LONGEST);
        assert!(buffer.starts_with(b"otherssh"));
    }
}
