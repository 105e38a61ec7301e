//! A request and its answer, in a page each, for two sides that look for them at the moment.
//!
//! A mailbox stands beside a stream between the same two sides, over which everything goes that it is not for: long messages, and whatever is sent
//! while the other side does not look. Nobody sleeps here, nobody is woken, and no system call is made.
//!
//! Each direction has one word. Its reader says that he looks ([`watch`](Mailbox::watch)); only then its writer fills the page, and publishes it by one
//! store from `WATCHED` to `FULL`. A reader who has looked for long enough takes back his word in the same way, from `WATCHED` to `NOBODY`, and
//! learns by that whether something came at the last moment. So a message is in the page or in the stream, never in both, and never in a page that
//! nobody looks at.
//!
//! Looking is of use only while the other side runs on another CPU: each side says on which one it was last ([`is_apart`](Mailbox::is_apart)).
//!
//! A writer that dies before its store has sent nothing. A reader that dies leaves the page to a writer that does not know it; that one sees the end of
//! the stream. A peer that does not follow the protocol can give wrong bytes and nothing else: lengths are checked, and bytes copied before they are read.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use broody_os::memory::{self, Mapping};

use crate::Corrupt;
use crate::sync::Word;

const SIDE: usize = 4096;
const WORDS: usize = size_of::<Words>();

/// The longest message, in bytes.
pub const ROOM: usize = SIDE - WORDS;

const NOBODY: u32 = 0;
const WATCHED: u32 = 1;
const FULL: u32 = 2;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the side that asks.
    Request,
    /// To it.
    Answer,
}

/// The words of one direction, which say whose its page is.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Words<W = AtomicU32> {
    state: W,
    length: W,
    /// Where its writer was last.
    cpu: W,
    _unused: u32,
}

impl<W: Word> Words<W> {
    pub(crate) fn watch(&self) {
        // Release: the page was read before.
        self.state.store(WATCHED, Ordering::Release);
    }

    pub(crate) fn unwatch(&self) -> bool {
        // Relaxed: nothing is read but what `take` reads.
        let before = self.state.compare_exchange(WATCHED, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
        before == Err(FULL)
    }

    pub(crate) fn is_full(&self) -> bool {
        // Relaxed: `take` orders.
        self.state.load(Ordering::Relaxed) == FULL
    }

    /// Has `write` fill the page with `length` bytes, if the reader looks. Whether he did until it was full.
    pub(crate) fn put(&self, length: u32, write: impl FnOnce()) -> bool {
        // Acquire: the reader has read what was there before.
        if self.state.load(Ordering::Acquire) != WATCHED {
            return false;
        }
        write();
        // Relaxed: published with the bytes.
        self.length.store(length, Ordering::Relaxed);
        // Release: the bytes are there when the word is seen.
        self.state.compare_exchange(WATCHED, FULL, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Has `read` read a page that is full, of so many bytes. Whether it was.
    pub(crate) fn take<E>(&self, read: impl FnOnce(u32) -> Result<(), E>) -> Result<bool, E> {
        // Acquire: with the store of `put`.
        if self.state.load(Ordering::Acquire) != FULL {
            return Ok(false);
        }
        read(self.length.load(Ordering::Relaxed))?;
        // Relaxed: nothing is written here before the next `watch`, which releases what was read.
        self.state.store(NOBODY, Ordering::Relaxed);
        Ok(true)
    }
}

#[repr(C, align(4096))]
struct Side {
    words: Words,
    /// Written only by the writer while the word is WATCHED, read only while it is FULL.
    bytes: std::cell::UnsafeCell<[u8; ROOM]>,
}

const _: () = assert!(size_of::<Side>() == SIDE);

/// One side's view of a mailbox. One thread of a process uses it at a time.
#[derive(Debug)]
pub struct Mailbox(Mapping);

impl Mailbox {
    /// A new one, and the descriptor by which the other side [opens](Self::open) it.
    ///
    /// # Errors
    /// When there is no memory or no descriptor for it.
    pub fn create() -> broody_os::Result<(Self, OwnedFd)> {
        let fd = memory::create("broody-mailbox", 2 * SIDE)?;
        Ok((Self(Mapping::new(&fd)?), fd))
    }

    /// The other side's. `None` if the descriptor is not one of a mailbox.
    ///
    /// # Errors
    /// When it cannot be mapped, or could still become shorter.
    pub fn open(fd: &OwnedFd) -> broody_os::Result<Option<Self>> {
        let mapping = Mapping::new(fd)?;
        Ok((mapping.len() == 2 * SIDE).then_some(Self(mapping)))
    }

    fn side(&self, way: Way) -> &Side {
        let index = match way {
            Way::Request => 0,
            Way::Answer => 1,
        };
        // SAFETY: mapped for two sides as long as `self` lives, and aligned to pages. All zero bytes are a side; its words are atomic, and its bytes are
        // reached by a raw pointer only.
        unsafe { self.0.as_ptr().cast::<Side>().add(index).as_ref() }
    }

    fn words(&self, way: Way) -> &Words {
        &self.side(way).words
    }

    /// The reader looks from now on.
    pub fn watch(&self, way: Way) {
        self.words(way).watch();
    }

    /// The reader does not look any more. Whether a message had come before: it is to be [taken](Self::take).
    pub fn unwatch(&self, way: Way) -> bool {
        self.words(way).unwatch()
    }

    /// Whether the side that writes `way` was last on another CPU than its reader, the caller, is now. The caller writes the other way.
    pub fn is_apart(&self, way: Way) -> bool {
        let own = broody_os::limits::current_cpu();
        let other = match way {
            Way::Request => Way::Answer,
            Way::Answer => Way::Request,
        };
        // Relaxed: a guess.
        self.words(other).cpu.store(own, Ordering::Relaxed);
        self.words(way).cpu.load(Ordering::Relaxed) != own
    }

    /// Whether a message has come.
    pub fn is_full(&self, way: Way) -> bool {
        self.words(way).is_full()
    }

    /// Leaves a message for a reader who looks. Whether it did: otherwise the message is to be sent.
    pub fn put(&self, way: Way, message: &[u8]) -> bool {
        let side = self.side(way);
        let write = || {
            // SAFETY: so many bytes are there, and the word is WATCHED: the other side reads none of them. A peer that breaks that reads nonsense.
            unsafe {
                let start = side.bytes.get().cast::<u8>();
                start.copy_from_nonoverlapping(message.as_ptr(), message.len());
            }
        };
        message.len() <= ROOM && side.words.put(message.len() as u32, write)
    }

    /// Takes the message that has come, into `message`, and looks no more. Whether there was one.
    ///
    /// # Errors
    /// [`Corrupt`] if its length cannot be one.
    pub fn take(&self, way: Way, message: &mut Vec<u8>) -> Result<bool, Corrupt> {
        let side = self.side(way);
        side.words.take(|length| {
            let length = length as usize;
            if length > ROOM {
                return Err(Corrupt);
            }
            message.clear();
            message.reserve(length);
            // SAFETY: so many bytes are there and there is room for; the other side does not write to them while the word is FULL. A peer that does
            // changes what is copied, which is checked by whoever reads it as what any peer has sent.
            unsafe {
                let start = side.bytes.get().cast::<u8>();
                message.as_mut_ptr().copy_from_nonoverlapping(start, length);
                message.set_len(length);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> (Mailbox, Mailbox) {
        let (ours, fd) = Mailbox::create().unwrap();
        (ours, Mailbox::open(&fd).unwrap().unwrap())
    }

    #[test]
    fn a_message_is_left_only_for_who_looks() {
        let (asks, serves) = both();
        let mut got = Vec::new();
        assert!(!asks.put(Way::Request, b"nobody looks"));
        serves.watch(Way::Request);
        assert!(!serves.take(Way::Request, &mut got).unwrap());
        assert!(!asks.put(Way::Request, &[0; ROOM + 1]), "there is no room for it");
        assert!(asks.put(Way::Request, &[7; ROOM]));
        assert!(!asks.put(Way::Request, b"another one"), "it is full");
        assert!(serves.is_full(Way::Request) && serves.take(Way::Request, &mut got).unwrap());
        assert_eq!(got, [7; ROOM]);
        assert!(!serves.take(Way::Request, &mut got).unwrap(), "it was taken");
        assert!(!asks.put(Way::Request, b"taken, and nobody looks"));
        asks.watch(Way::Answer);
        assert!(serves.put(Way::Answer, b""));
        assert!(asks.unwatch(Way::Answer), "it came before");
        assert!(asks.take(Way::Answer, &mut got).unwrap() && got.is_empty());
        asks.watch(Way::Answer);
        assert!(!asks.unwatch(Way::Answer));
        assert!(!serves.put(Way::Answer, b"too late"));
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        let (asks, serves) = both();
        serves.watch(Way::Request);
        assert!(asks.put(Way::Request, b"x"));
        asks.words(Way::Request).length.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(serves.take(Way::Request, &mut Vec::new()), Err(Corrupt));
        assert!(Mailbox::open(&memory::create("short", SIDE).unwrap()).unwrap().is_none());
    }

    #[test]
    fn each_message_comes_one_way_or_the_other_whenever_the_reader_gives_up() {
        let (asks, serves) = both();
        let (send, stream) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..20_000u32 {
                    if !asks.put(Way::Request, &number.to_ne_bytes()) {
                        send.send(number).unwrap();
                    }
                    // The answer, so that there is one request at a time.
                    while !asks.is_full(Way::Answer) {
                        std::hint::spin_loop();
                        std::thread::yield_now();
                    }
                    asks.take(Way::Answer, &mut Vec::new()).unwrap();
                }
            });
            let mut got = Vec::new();
            for number in 0..20_000u32 {
                serves.watch(Way::Request);
                for _ in 0..number % 50 {
                    if serves.is_full(Way::Request) {
                        break;
                    }
                    std::hint::spin_loop();
                }
                let came = if serves.unwatch(Way::Request) {
                    assert!(serves.take(Way::Request, &mut got).unwrap());
                    u32::from_ne_bytes(got[..].try_into().unwrap())
                } else {
                    stream.recv().unwrap()
                };
                assert_eq!(came, number);
                serves.watch(Way::Answer);
                assert!(serves.put(Way::Answer, b""));
            }
        });
    }
}
