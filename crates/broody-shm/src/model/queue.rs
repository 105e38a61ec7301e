//! Messages, many to many.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;

use super::{Kernel, ModelWord, Thread, for_every_death, mortal, owner};
use crate::owner::Owner;
use crate::queue::sleepers::Sleepers;
use crate::robust::lock::LockWord;
use crate::sync::{Deadline, Parking, Word};

/// A queue's way to put and take, with one slot for a message.
#[derive(Default)]
struct Ring {
    tx: LockWord<ModelWord>,
    rx: LockWord<ModelWord>,
    tail: ModelWord,
    head: ModelWord,
    items: Sleepers<ModelWord>,
    messages: [loom::cell::UnsafeCell<u32>; 4],
}

impl Ring {
    fn put(&self, me: Owner, parking: &Thread<'_>, message: u32) {
        self.tx.acquire(me, parking, Deadline::Never).unwrap();
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: between tail and head, under the lock of putters.
        self.messages[tail as usize].with_mut(|place| unsafe { *place = message });
        self.tail.store(tail + 1, Ordering::Release);
        self.tx.release(me, parking);
        ModelWord::fence();
        self.items.wake(parking, 1);
    }

    fn take(&self, me: Owner, parking: &Thread<'_>) -> u32 {
        loop {
            self.rx.acquire(me, parking, Deadline::Never).unwrap();
            let head = self.head.load(Ordering::Relaxed);
            let taken = (head != self.tail.load(Ordering::Acquire)).then(|| {
                // SAFETY: between head and tail, under the lock of takers.
                let message = self.messages[head as usize].with(|place| unsafe { *place });
                self.head.store(head + 1, Ordering::Release);
                message
            });
            self.rx.release(me, parking);
            if let Some(message) = taken {
                return message;
            }
            let look = || self.head.load(Ordering::Acquire) != self.tail.load(Ordering::Acquire);
            self.items.sleep(look, |word, value| parking.sleep(word, value, Deadline::Never));
        }
    }

    fn repair(&self, dead: Owner) {
        self.tx.repair(dead);
        self.rx.repair(dead);
        self.items.repair();
    }
}

#[test]
fn a_message_is_whole_and_reaches_the_taker_whatever_becomes_of_another_putter() {
    for_every_death(24, |life| {
        let kernel = Arc::new(Kernel::default());
        let ring = Arc::new(Ring::default());
        let (theirs, their_kernel, to_repair) = (ring.clone(), kernel.clone(), ring.clone());
        let putter = mortal(
            kernel.clone(),
            life,
            move || theirs.put(owner(1), &Thread(&their_kernel, 1), 7),
            move || to_repair.repair(owner(1)),
        );
        let (theirs, their_kernel) = (ring.clone(), kernel.clone());
        let taker = thread::spawn(move || theirs.take(owner(2), &Thread(&their_kernel, 2)));
        if !putter.join().unwrap() {
            // It may have published before it died.
            ring.put(owner(0), &Thread(&kernel, 0), 7);
        }
        assert_eq!(taker.join().unwrap(), 7);
    });
}

#[test]
fn a_message_whose_taker_dies_is_taken_by_another_or_was_taken() {
    for_every_death(24, |life| {
        let kernel = Arc::new(Kernel::default());
        let ring = Arc::new(Ring::default());
        ring.put(owner(0), &Thread(&kernel, 0), 1);
        let (theirs, their_kernel, to_repair) = (ring.clone(), kernel.clone(), ring.clone());
        let mortal = mortal(
            kernel.clone(),
            life,
            move || _ = theirs.take(owner(1), &Thread(&their_kernel, 1)),
            move || to_repair.repair(owner(1)),
        );
        let (theirs, their_kernel) = (ring.clone(), kernel.clone());
        let other = thread::spawn(move || theirs.take(owner(2), &Thread(&their_kernel, 2)));
        ring.put(owner(0), &Thread(&kernel, 0), 2);
        let got = other.join().unwrap();
        let lived = mortal.join().unwrap();
        assert!(got == 1 || got == 2);
        // One message each; what the dead one had not taken is still there.
        let taken = ring.head.load(Ordering::SeqCst);
        assert!(taken == 2 || (!lived && taken == 1), "{taken} taken");
    });
}
