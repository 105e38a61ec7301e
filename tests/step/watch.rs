//! Whether a step has changed shared memory.
//!
//! Between two changes of shared memory a death leaves the same thing, wherever it comes. So a run that is looked at after each
//! step finds those instants that matter, and they are tried first.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use broody_os::memory::page_size;

/// How much of a file is watched, in bytes: of an arena tables and small bodies, which is where all words are. Behind it lie the bytes of
/// messages and blobs.
const WATCHED: usize = 320 << 20;

/// A copy of the words in a file, an arena's or another one, to see when they change.
pub struct Watch {
    file: OwnedFd,
    mapping: *const u8,
    copy: Vec<Piece>,
    looks: u32,
}

struct Piece {
    start: usize,
    bytes: Vec<u8>,
}

impl Watch {
    pub fn new(file: BorrowedFd<'_>) -> Self {
        let file = file.try_clone_to_owned().expect("a descriptor");
        let (flags, fd) = (libc::MAP_SHARED | libc::MAP_NORESERVE, file.as_raw_fd());
        // SAFETY: a new mapping at a place that the kernel chooses.
        let mapping = unsafe { libc::mmap(std::ptr::null_mut(), WATCHED, libc::PROT_READ, flags, fd, 0) };
        assert_ne!(mapping, libc::MAP_FAILED);
        let mut watch = Self { file, mapping: mapping.cast(), copy: Vec::new(), looks: 0 };
        watch.copy = watch.read();
        watch
    }

    /// The pieces of the file that have pages.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let fd = self.file.as_raw_fd();
        let seek = |from: usize, whence| {
            // SAFETY: lseek takes any numbers; nobody uses the descriptor's position.
            let found = unsafe { libc::lseek(fd, from as libc::off_t, whence) };
            usize::try_from(found).ok().filter(|found| *found < WATCHED)
        };
        let mut pieces = Vec::new();
        let mut from = 0;
        while let Some(start) = seek(from, libc::SEEK_DATA) {
            let end = seek(start, libc::SEEK_HOLE).unwrap_or(WATCHED);
            pieces.push((start, end - start));
            from = end;
        }
        pieces
    }

    fn read(&self) -> Vec<Piece> {
        let read = |(start, length)| {
            let mut bytes = vec![0u8; length];
            // SAFETY: within the mapping, where the file has pages. Who writes there meanwhile only makes this a mixture of bytes.
            unsafe { self.mapping.add(start).copy_to_nonoverlapping(bytes.as_mut_ptr(), length) };
            Piece { start, bytes }
        };
        self.pieces().into_iter().map(read).collect()
    }

    /// Whether anything has changed since this was last asked. New pages are seen when they `may_grow`, and now and then.
    pub fn has_changed(&mut self, may_grow: bool) -> bool {
        let same = |piece: &Piece| {
            let (copy, length) = (piece.bytes.as_ptr().cast(), piece.bytes.len());
            // SAFETY: as in `read`.
            unsafe { libc::memcmp(self.mapping.add(piece.start).cast(), copy, length) == 0 }
        };
        self.looks += 1;
        let mut changed = !self.copy.iter().all(same);
        if may_grow || self.looks.is_multiple_of(16) {
            let places = self.copy.iter().map(|piece| (piece.start, piece.bytes.len()));
            changed |= !places.eq(self.pieces());
        }
        if changed {
            self.copy = self.read();
        }
        changed
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        debug_assert!(WATCHED.is_multiple_of(page_size()));
        // SAFETY: mapped by `new`, and nobody else knows of it.
        unsafe { libc::munmap(self.mapping.cast_mut().cast(), WATCHED) };
    }
}
