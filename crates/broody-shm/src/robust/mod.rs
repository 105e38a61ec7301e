//! Synchronisation that survives its users.
//!
//! Each primitive is a few words in shared memory, and its protocol. What is common to all: one store changes the state *and* says whose
//! it is now, so that a death between two instructions leaves a state that means something; sleeps end by a wake, by the broadcast
//! after a death, or after [`BOUND`](crate::sync::BOUND).
//!
//! | module | what it gives | when a process dies |
//! |---|---|---|
//! | [`lock`] | the word of a lock | freed, and the next holder is told |
//! | [`guarded`] | a lock, plain or recursive, and the bytes that it guards | the same |
//! | [`semaphore`] | a counter that anybody counts up and down | nothing comes back by itself |
//! | [`permits`] | a bounded semaphore: each permit has an owner | its permits are free again |
//! | [`condition`] | waiting for a notification, of exactly as many as are notified | a notification that it had got is passed on |
//! | [`event`] | a flag to wait for | nothing to do |
//! | [`barrier`] | a meeting of a number of parties | broken for all |

pub mod barrier;
pub mod condition;
pub mod event;
pub mod guarded;
pub mod lock;
pub mod permits;
pub mod semaphore;
mod watchers;
