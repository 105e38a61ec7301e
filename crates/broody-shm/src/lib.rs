//! Shared memory between processes, either of which may die at any instruction.
//!
//! Nothing here knows what the bytes mean or what a process is for. Each module states its protocol, who owns what at each
//! instant, and what a death leaves behind.
//!
//! | module | what it gives |
//! |---|---|
//! | [`sleep`] | one side sleeps, the other wakes it, without a system call when nobody sleeps |
//! | [`ring`] | a byte ring for one producer and one consumer |
//! | [`lease`] | a range of numbers that one side claims from below and the other takes back from above |
//! | [`duplex`] | two rings and some leases in one piece of memory: a link between two processes |
//!
//! A peer is expected to be a process of the same program, which follows the protocol or is dead. What it could break all the
//! same by writing to wild addresses is checked where it is read, and is [`Corrupt`].

pub mod duplex;
pub mod lease;
pub mod ring;
pub mod sleep;

/// The other side has written what no working process writes. It cannot be talked to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared memory of a process was overwritten: it has a memory error")]
pub struct Corrupt;
