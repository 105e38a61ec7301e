//! The thread that makes queues, events and semaphores pollable.
//!
//! A queue is told of by words in shared memory, which poll(2) knows nothing of. A process that polls a queue has an eventfd for it, and this one
//! thread, which sleeps on the process's *bell* in the arena and signals the eventfds of the queues that have something. Who puts into a
//! queue that somebody watches rings the bells, once for each time that the queue has been found empty. Events that are set and semaphores
//! that are released do the same.
//!
//! A death rings all bells; the thread also looks by itself every second. It ends when nothing is watched any more.

use std::sync::{Arc, Mutex, Weak};

use broody_shm::arena::Arena;

use crate::Result;
use crate::context::lock;
use crate::helper;
use crate::memory;
use crate::watch::Watch;

/// What this process watches.
#[derive(Default)]
pub(crate) struct Watcher {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    watched: Vec<Weak<Watch>>,
    running: bool,
}

impl Watcher {
    /// Watches one thing more.
    pub(crate) fn add(&self, watch: &Arc<Watch>) -> Result<()> {
        let arena = memory::arena()?;
        let mut state = lock(&self.state);
        state.watched.push(Arc::downgrade(watch));
        if !state.running {
            let theirs = self.state.clone();
            helper::start("broody-watch", move || work(arena, &theirs))
                .map_err(|error| broody_os::Error::new("clone", error))?;
            state.running = true;
        }
        drop(state);
        watch.look_again();
        watch.tell();
        Ok(())
    }
}

fn work(arena: &'static Arena, state: &Mutex<State>) {
    let mut nobody_told = false;
    loop {
        let rung = arena.bell();
        let mut locked = lock(state);
        locked.watched.retain(|watch| watch.strong_count() > 0);
        if locked.watched.is_empty() {
            locked.running = false;
            return;
        }
        let watched: Vec<_> = locked.watched.iter().filter_map(Weak::upgrade).collect();
        drop(locked);
        for watch in watched {
            if nobody_told {
                watch.look_after_others();
            }
            // Another process may have been faster: then nobody rings for what comes next, unless it is asked to.
            watch.look_again();
            watch.tell();
        }
        nobody_told = arena.await_bell(rung);
    }
}
