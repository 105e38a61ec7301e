//! Shared memory between processes, either of which may die at any instruction.
//!
//! Nothing here knows what the bytes mean or what a process is for. Each module states its protocol, who owns what at each
//! instant, and what a death leaves behind.
//!
//! | module | what it gives |
//! |---|---|
//! | [`arena`] | the shared memory of one program: objects, who keeps them, what is put right after a death |
//! | [`robust`] | locks, semaphores, conditions, events, barriers |
//! | [`handle`] | a process's handle on one of these |
//! | [`queue`] | messages, many to many |
//! | [`blob`] | bytes that are handed over without a copy |
//! | [`sleep`] | one side sleeps, the other wakes it, without a system call when nobody sleeps |
//! | [`pace`] | whether it pays to look for a while before sleeping |
//! | [`ring`] | a byte ring for one producer and one consumer |
//! | [`lease`] | a range of numbers that one side claims from below and the other takes back from above |
//! | [`mailbox`] | a request and its answer, while both sides look for them |
//! | [`duplex`] | two rings and some leases in one piece of memory: a link between two processes |
//!
//! A peer is expected to be a process of the same program, which follows the protocol or is dead. What it could break all the
//! same by writing to wild addresses is checked where it is read, and is [`Corrupt`].

// The modules' comments are for who reads the code, whose documentation includes private items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod arena;
pub mod blob;
pub mod duplex;
pub mod handle;
pub mod lease;
pub mod mailbox;
#[cfg(test)]
mod model;
pub mod owner;
pub mod pace;
pub mod queue;
pub mod ring;
pub mod robust;
pub mod sleep;
pub mod sync;

/// The other side has written what no working process writes. It cannot be talked to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared memory of a process was overwritten: it has a memory error")]
pub struct Corrupt;

/// Why shared memory cannot be had or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// What was opened is no arena of this program's build.
    #[error("this is no shared memory of this program: its {what} is another one")]
    Foreign {
        /// What gave it away.
        what: &'static str,
    },
    /// A table is full.
    #[error("there are {most} {what} at once already, which is the most that shared memory has room for")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: u32,
    },
    /// More bytes than any shared memory has.
    #[error(
        "shared memory of {length} bytes is more than can be had (ulimit -f, RLIMIT_FSIZE, may limit it)"
    )]
    TooLong {
        /// In bytes.
        length: u64,
    },
    /// The object was freed: nobody kept it while it was on its way, or it was used in a fork only after it was gone.
    #[error("the shared object is gone: everybody who kept it has let go of it, or died")]
    Gone,
    /// The process that allocates just now is stopped.
    #[error("shared memory is being changed by a process that does not go on: is it stopped?")]
    Busy,
    /// The kernel refused something.
    #[error(transparent)]
    Os(#[from] broody_os::Error),
}
