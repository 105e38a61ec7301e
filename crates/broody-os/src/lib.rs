//! The kernel as broody uses it: thin, safe, no policy.
//!
//! Each module is one subject of the kernel and links the manual pages of what it calls. Nothing here decides
//! *when* a process is killed or *what* shared memory means; that is the engine's.
//!
//! | module | subject |
//! |---|---|
//! | [`pidfd`] | race-free handles on processes |
//! | [`wait`] | looking at ended children and reaping them |
//! | [`fork`] | forking, and what a forked child has to put right |
//! | [`signals`] | masks and dispositions |
//! | [`socket`] | message sockets that pass descriptors and credentials |
//! | [`handover`] | descriptors for whoever asks with the right token |
//! | [`stream`] | bytes through pipes and stream sockets, without waiting or with |
//! | [`memory`] | anonymous sealed memory and its mappings |
//! | [`sparse`] | one large anonymous file of which pieces are reserved and given back |
//! | [`named`] | shared memory with a name, which goes with its last user |
//! | [`futex`] | sleeping on a word in shared memory |
//! | [`events`] | epoll, eventfd, poll |
//! | [`proc`] | what /proc tells of processes |
//! | [`clock`] | the time that all processes share |
//! | [`limits`] | CPUs and descriptors at hand |
//! | [`image`] | the running binary: its identity and addresses within it |
//! | [`environment`] | working directory, environment, standard streams |

mod error;

pub mod clock;
pub mod environment;
pub mod events;
pub mod fork;
pub mod futex;
pub mod handover;
pub mod image;
pub mod interrupt;
pub mod limits;
pub mod memory;
pub mod named;
pub mod pidfd;
pub mod proc;
pub mod signals;
pub mod socket;
pub mod sparse;
pub mod stream;
pub mod wait;

pub use error::{Error, NO_SUCH_PROCESS, Result};

/// A process id as the kernel counts them in this process's pid namespace.
pub type Pid = i32;
