//! Data that several threads and processes use at once: never as a reference to it, only in atomic pieces.
//!
//! A piece is as large as the alignment of the item's type, 8 bytes at most, and the same for whoever uses the item: with a lock or
//! without. So an integer is one piece, which std's atomics use, too.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;

use bytemuck::Pod;

/// Numbers that can be used without a lock. For the integers of 8 to 64 bits; not to be implemented elsewhere.
pub trait Atomic: Pod + sealed::Sealed {
    #[doc(hidden)]
    fn load(place: NonNull<Self>) -> Self;
    #[doc(hidden)]
    fn store(place: NonNull<Self>, value: Self);
    #[doc(hidden)]
    fn change(place: NonNull<Self>, change: Change, value: Self) -> Self;
    #[doc(hidden)]
    fn compare_exchange(place: NonNull<Self>, current: Self, new: Self) -> Result<Self, Self>;
}

/// What is done to a number in one step.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum Change {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Min,
    Max,
    Swap,
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! atomic {
    ($($number:ident: $atomic:ident),*) => {
        $(
            const _: () = assert!(size_of::<$number>() == align_of::<$number>(), "a number is one piece");

            impl sealed::Sealed for $number {}

            // Sequentially consistent, as a user expects of a number that processes share.
            impl Atomic for $number {
                fn load(place: NonNull<Self>) -> Self {
                    at::$number(place).load(std::sync::atomic::Ordering::SeqCst)
                }

                fn store(place: NonNull<Self>, value: Self) {
                    at::$number(place).store(value, std::sync::atomic::Ordering::SeqCst);
                }

                #[inline]
                fn change(place: NonNull<Self>, change: Change, value: Self) -> Self {
                    use std::sync::atomic::Ordering::SeqCst;
                    let place = at::$number(place);
                    match change {
                        Change::Add => place.fetch_add(value, SeqCst),
                        Change::Sub => place.fetch_sub(value, SeqCst),
                        Change::And => place.fetch_and(value, SeqCst),
                        Change::Or => place.fetch_or(value, SeqCst),
                        Change::Xor => place.fetch_xor(value, SeqCst),
                        Change::Min => place.fetch_min(value, SeqCst),
                        Change::Max => place.fetch_max(value, SeqCst),
                        Change::Swap => place.swap(value, SeqCst),
                    }
                }

                fn compare_exchange(place: NonNull<Self>, current: Self, new: Self) -> Result<Self, Self> {
                    use std::sync::atomic::Ordering::SeqCst;
                    at::$number(place).compare_exchange(current, new, SeqCst, SeqCst)
                }
            }
        )*

        /// The atomic at a place in shared memory, which the caller keeps mapped for the call.
        mod at {
            $(
                pub(super) fn $number<'a>(place: std::ptr::NonNull<$number>) -> &'a std::sync::atomic::$atomic {
                    // SAFETY: callers give the place of an item of live data, mapped and aligned, and use the result at once.
                    unsafe { std::sync::atomic::$atomic::from_ptr(place.as_ptr()) }
                }
            )*
        }
    };
}

atomic!(
    u8: AtomicU8, i8: AtomicI8, u16: AtomicU16, i16: AtomicI16, u32: AtomicU32, i32: AtomicI32, u64: AtomicU64,
    i64: AtomicI64, usize: AtomicUsize, isize: AtomicIsize
);

/// Writes down `$method` for each change with its own document. What it is called and does is the same for one number and for one of many.
macro_rules! changes {
    ($method:ident) => {
        $method!(fetch_add, Add, "Adds, without the lock; wraps around.");
        $method!(fetch_sub, Sub, "Subtracts, without the lock; wraps around.");
        $method!(fetch_and, And, "Keeps the bits that `value` has, too, without the lock.");
        $method!(fetch_or, Or, "Adds the bits of `value`, without the lock.");
        $method!(fetch_xor, Xor, "Turns the bits of `value` over, without the lock.");
        $method!(fetch_min, Min, "Puts `value` there if it is less, without the lock.");
        $method!(fetch_max, Max, "Puts `value` there if it is more, without the lock.");
        $method!(swap, Swap, "Puts `value` there, without the lock.");
    };
}
pub(super) use changes;

/// Calls `$step` with the type of the pieces of `T`.
macro_rules! by_pieces {
    ($of:ident, $step:ident($($argument:expr),*)) => {
        match align_of::<$of>() {
            1 => $step!(u8, $($argument),*),
            2 => $step!(u16, $($argument),*),
            4 => $step!(u32, $($argument),*),
            _ => $step!(u64, $($argument),*),
        }
    };
}

/// Copies an item out of live shared data. Relaxed: whoever needs an order has a lock.
#[inline]
pub(super) fn copy_out<T: Pod>(place: NonNull<T>) -> T {
    macro_rules! copy {
        ($piece:ident, $bytes:expr) => {
            for (index, piece) in $bytes.chunks_exact_mut(size_of::<$piece>()).enumerate() {
                // SAFETY: within the item, whose size is a multiple of its alignment.
                let place = unsafe { place.cast::<$piece>().add(index) };
                piece.copy_from_slice(&at::$piece(place).load(Relaxed).to_ne_bytes());
            }
        };
    }
    let mut item = T::zeroed();
    by_pieces!(T, copy(bytemuck::bytes_of_mut(&mut item)));
    item
}

/// Copies an item into live shared data, as `copy_out`.
#[inline]
pub(super) fn copy_in<T: Pod>(place: NonNull<T>, item: T) {
    macro_rules! copy {
        ($piece:ident, $bytes:expr) => {
            for (index, piece) in $bytes.chunks_exact(size_of::<$piece>()).enumerate() {
                // SAFETY: as in `copy_out`.
                let place = unsafe { place.cast::<$piece>().add(index) };
                let value = $piece::from_ne_bytes(piece.try_into().expect("as long as a piece"));
                at::$piece(place).store(value, Relaxed);
            }
        };
    }
    by_pieces!(T, copy(bytemuck::bytes_of(&item)));
}

/// Shared bytes, as the words that they lie in.
#[derive(Clone, Copy)]
pub(super) struct Words(NonNull<u64>);

const WORD: usize = size_of::<u64>();

impl Words {
    /// # Safety
    /// `start` is aligned to 8 bytes. From there on, all words that have a byte in common with what is read or written are mapped, and
    /// nobody in this process uses them otherwise at the same time.
    pub(super) unsafe fn new(start: NonNull<u8>) -> Self {
        Self(start.cast())
    }

    fn word(self, index: usize) -> &'static std::sync::atomic::AtomicU64 {
        // SAFETY: mapped, by the contract of `new`; used at once.
        at::u64(unsafe { self.0.add(index) })
    }

    /// Copies bytes out.
    pub(super) fn read(self, offset: usize, bytes: &mut [u8]) {
        let load = |index| self.word(index).load(Relaxed).to_ne_bytes();
        let (first, skip) = (offset / WORD, offset % WORD);
        let (head, rest) = bytes.split_at_mut(head_length(offset).min(bytes.len()));
        if !head.is_empty() {
            head.copy_from_slice(&load(first)[skip..skip + head.len()]);
        }
        let mut index = offset.div_ceil(WORD);
        let mut whole = rest.chunks_exact_mut(WORD);
        for bytes in &mut whole {
            bytes.copy_from_slice(&load(index));
            index += 1;
        }
        let tail = whole.into_remainder();
        if !tail.is_empty() {
            tail.copy_from_slice(&load(index)[..tail.len()]);
        }
    }

    /// Copies bytes in.
    pub(super) fn write(self, offset: usize, bytes: &[u8]) {
        let (first, skip) = (offset / WORD, offset % WORD);
        let (head, rest) = bytes.split_at(head_length(offset).min(bytes.len()));
        self.write_part(first, skip, head);
        let mut index = offset.div_ceil(WORD);
        let whole = rest.chunks_exact(WORD);
        let tail = whole.remainder();
        for bytes in whole {
            let word = u64::from_ne_bytes(bytes.try_into().expect("as long as a word"));
            self.word(index).store(word, Relaxed);
            index += 1;
        }
        self.write_part(index, 0, tail);
    }

    /// Writes some bytes of a word; another thread may write the others at the same time.
    fn write_part(self, index: usize, skip: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let change = |word: u64| {
            let mut changed = word.to_ne_bytes();
            changed[skip..skip + bytes.len()].copy_from_slice(bytes);
            Some(u64::from_ne_bytes(changed))
        };
        let _ = self.word(index).fetch_update(Relaxed, Relaxed, change);
    }
}

/// How many bytes there are from `offset` to the next word.
fn head_length(offset: usize) -> usize {
    offset.next_multiple_of(WORD) - offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_and_written_wherever_they_begin_and_end() {
        let mut memory = [0u64; 5];
        let start = NonNull::from(&mut memory).cast();
        // SAFETY: an array of words, which nothing else uses before it is read below.
        let words = unsafe { Words::new(start) };
        let mut expected = [0u8; 40];
        for offset in 0..=40 {
            for length in 0..=40 - offset {
                let bytes: Vec<u8> = (0..length).map(|n| (7 * n + offset + length) as u8).collect();
                words.write(offset, &bytes);
                expected[offset..offset + length].copy_from_slice(&bytes);
                let (mut all, mut some) = ([0; 40], vec![0; length]);
                words.read(0, &mut all);
                words.read(offset, &mut some);
                assert_eq!((all, some), (expected, bytes), "{length} at {offset}");
            }
        }
        assert_eq!(bytemuck::bytes_of(&memory), expected);
    }

    #[test]
    fn neighbours_in_a_word_do_not_lose_each_others_bytes() {
        let memory = [const { std::sync::atomic::AtomicU64::new(0) }; 2];
        std::thread::scope(|scope| {
            for thread in 0..3usize {
                let memory = &memory;
                scope.spawn(move || {
                    // SAFETY: words, which are used atomically only.
                    let words = unsafe { Words::new(NonNull::from(memory).cast()) };
                    for round in 0..1000u16 {
                        let (offset, bytes) = (3 * thread, [round as u8; 3]);
                        words.write(offset, &bytes);
                        let mut got = [0; 3];
                        words.read(offset, &mut got);
                        assert_eq!(got, bytes);
                    }
                });
            }
        });
    }

    #[test]
    fn items_of_any_alignment_are_copied_whole() {
        fn check<T: Pod + PartialEq + std::fmt::Debug>(item: T) {
            let mut place = T::zeroed();
            let there = NonNull::from(&mut place);
            copy_in(there, item);
            assert_eq!(copy_out(there), item);
        }
        check(7u8);
        check([1u8, 2, 3]);
        check([1u16, 2, 3]);
        check(1.5f32);
        check([1.5f64, 2.5]);
        check(1u128 << 100);
        check(());
    }
}
