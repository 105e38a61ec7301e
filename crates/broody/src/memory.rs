//! The program's shared memory: one [`Arena`] for all its processes.
//!
//! Made by the host, with its supervisor or with its first shared object, whichever comes first. The supervisor gets it with the first
//! message and has it mapped, and so have the children that it forks. A child that has exec'ed finds its descriptor at [`ARENA`].

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use broody_os::{fork, limits};
use broody_shm::ArenaError;
use broody_shm::arena::{Arena, Held};

use crate::Result;
use crate::supervisor::server::ARENA;

static PROGRAM: OnceLock<&'static Arena> = OnceLock::new();

/// Whether this process was exec'ed with the arena's descriptor at its place.
static INHERITED: AtomicBool = AtomicBool::new(false);

/// The process that made the arena, in it and in its forks.
static MAKER: AtomicI32 = AtomicI32::new(0);

/// The program's arena, made if this is the first process to ask.
pub(crate) fn arena() -> Result<&'static Arena> {
    if let Some(arena) = PROGRAM.get() {
        return Ok(arena);
    }
    crate::context::prepare();
    let arena = if INHERITED.load(Ordering::Relaxed) {
        // SAFETY: the child was exec'ed with the descriptor at this number, and nothing owns it. Should two threads come here at once, both map
        // it, and the descriptor, which is never closed, has two owners that are never dropped.
        Arena::open(unsafe { fork::inherited(ARENA) }?)?
    } else {
        let arena = Arena::create(random_number())?;
        // Relaxed: this process alone looks at it.
        MAKER.store(fork::pid(), Ordering::Relaxed);
        arena
    };
    Ok(PROGRAM.get_or_init(|| arena))
}

/// Whether this process has made the arena: it is the first one of the program.
pub(crate) fn is_maker() -> bool {
    MAKER.load(Ordering::Relaxed) == fork::pid()
}

/// The arena, if this process has used it.
pub(crate) fn existing_arena() -> Option<&'static Arena> {
    PROGRAM.get().copied()
}

/// The most memory that pools keep for long messages, in bytes, and the part of what there is.
const MOST_KEPT: u64 = 1 << 30;
const PART_KEPT: u64 = 16;

/// While what this gives is there, pages of long messages are kept for the next ones, so that these need no new ones: at most [`MOST_KEPT`].
pub(crate) fn keep_pages() -> Result<Arc<Held>> {
    let arena = arena()?;
    let part = limits::available_memory().map_or(0, |available| available / PART_KEPT);
    Ok(arena.keep_pages(part.min(MOST_KEPT))?)
}

/// Nothing is going on: what is kept goes back to the machine.
pub(crate) fn give_kept_back() {
    if let Some(arena) = existing_arena() {
        arena.give_kept_back();
    }
}

/// This process ends in an orderly way.
pub(crate) fn leave() {
    if let Some(arena) = existing_arena() {
        crate::data::leave_names();
        arena.leave();
    }
}

/// This process is the supervisor: takes what the host has sent.
pub(crate) fn adopt(arena: std::result::Result<&'static Arena, ArenaError>) {
    if let Ok(arena) = arena {
        let _ = PROGRAM.set(arena);
    }
}

/// This process was exec'ed as a child.
pub(crate) fn expect_inherited() {
    INHERITED.store(true, Ordering::Relaxed);
}

/// Tells arenas apart: by a number that no other one is likely to have.
fn random_number() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
