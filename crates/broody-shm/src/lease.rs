//! A range of numbers that a worker claims one by one from below and its host takes back from above.
//!
//! The host grants `0..end` of the things in a frame. The worker claims the next one before it begins with it; the host may at
//! any time shorten the range and so have back what was not claimed. Both do it by compare-and-swap on one word, so that each
//! number goes to exactly one of them.
//!
//! ```text
//! | frame: 32 bits | next: 16 bits | end: 16 bits |      claimed: 0..next    still granted: next..end
//! ```
//!
//! The frame's number is part of the word: a worker that is late with an old frame finds that the word is about another one.
//! A worker that dies leaves the word as it was: what it claimed and gave no answer for is what it was doing.

use std::sync::atomic::{AtomicU64, Ordering};

/// The most things in one frame.
pub const MOST: usize = u16::MAX as usize;

/// The word, in shared memory. All zero bytes grant nothing of frame 0.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Lease(AtomicU64);

/// The word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    frame: u32,
    next: u16,
    end: u16,
}

impl Word {
    fn unpack(word: u64) -> Self {
        Self { frame: (word >> 32) as u32, next: (word >> 16) as u16, end: word as u16 }
    }

    fn pack(self) -> u64 {
        (u64::from(self.frame) << 32) | (u64::from(self.next) << 16) | u64::from(self.end)
    }
}

// Relaxed throughout: the word only says who owns a number. What the numbers stand for is published, before the worker can know
// of the frame, by the ring that the frame travels in.
impl Lease {
    /// The host grants `0..end` of `frame`. Whatever the word was about before is over.
    pub fn grant(&self, frame: u32, end: u16) {
        self.0.store(Word { frame, next: 0, end }.pack(), Ordering::Relaxed);
    }

    /// The worker claims the next number of `frame`; `None` when there is none left for it.
    pub fn claim(&self, frame: u32) -> Option<u16> {
        let step = |word| {
            let word = Word::unpack(word);
            (word.frame == frame && word.next < word.end).then(|| Word { next: word.next + 1, ..word }.pack())
        };
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            .ok()
            .map(|before| Word::unpack(before).next)
    }

    /// The host takes back what is above `keep` of the numbers not yet claimed. Gives the new end: what is at or above it is the
    /// host's again.
    pub fn take_back(&self, frame: u32, keep: u16) -> Option<u16> {
        let mut end = 0;
        let step = |word| {
            let word = Word::unpack(word);
            end = word.end.min(word.next.saturating_add(keep));
            (word.frame == frame).then(|| Word { end, ..word }.pack())
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok().map(|_| end)
    }

    /// How many numbers of `frame` have been claimed.
    pub fn claimed(&self, frame: u32) -> u16 {
        let word = Word::unpack(self.0.load(Ordering::Relaxed));
        if word.frame == frame { word.next } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_go_up_and_end_where_the_host_says() {
        let lease = Lease::default();
        assert_eq!(lease.claim(1), None);
        lease.grant(7, 3);
        assert_eq!((lease.claim(7), lease.claim(7)), (Some(0), Some(1)));
        assert_eq!(lease.claimed(7), 2);
        assert_eq!(lease.take_back(7, 0), Some(2));
        assert_eq!(lease.claim(7), None);
        assert_eq!(lease.claimed(8), 0);
    }

    #[test]
    fn an_old_frame_is_nobodys_any_more() {
        let lease = Lease::default();
        lease.grant(1, 2);
        lease.grant(17, 2);
        assert_eq!(lease.claim(1), None);
        assert_eq!(lease.take_back(1, 0), None);
        assert_eq!(lease.claim(17), Some(0));
    }

    #[test]
    fn each_number_goes_to_one_side_only() {
        for round in 0..200 {
            let lease = Lease::default();
            lease.grant(round, 1000);
            let (claimed, end) = std::thread::scope(|scope| {
                let worker = scope.spawn(|| std::iter::from_fn(|| lease.claim(round)).count());
                let host = scope.spawn(|| {
                    std::thread::yield_now();
                    lease.take_back(round, 0).unwrap()
                });
                (worker.join().unwrap(), host.join().unwrap())
            });
            assert_eq!(claimed, usize::from(end));
        }
    }
}
