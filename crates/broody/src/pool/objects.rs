//! Results in which there are handles on shared objects.

use std::sync::{Arc, Mutex, OnceLock};

use broody_shm::arena::{Held, HoldId, Transit};

use crate::context::lock;
use crate::memory;

/// An encoded result and its objects, which stay as long as it does: it may be decoded any number of times.
pub(super) struct WithObjects {
    bytes: Vec<u8>,
    /// Until somebody wants them.
    transit: Mutex<Option<Transit>>,
    kept: OnceLock<Result<Vec<Arc<Held>>, String>>,
}

impl WithObjects {
    /// Of holds that were given to this process.
    pub(super) fn new(holds: &[HoldId], bytes: Vec<u8>) -> Self {
        let transit = memory::existing_arena().map(|arena| Transit::accept(arena, holds));
        Self { bytes, transit: Mutex::new(transit), kept: OnceLock::new() }
    }

    /// The result's bytes, now that its objects are kept.
    ///
    /// # Errors
    /// Why they cannot be.
    pub(super) fn open(&self) -> Result<&[u8], String> {
        let kept = self.kept.get_or_init(|| {
            let Some(transit) = lock(&self.transit).take() else { return Ok(Vec::new()) };
            let arena = memory::arena().map_err(|error| error.to_string())?;
            transit
                .holds()
                .iter()
                .map(|hold| arena.open_transit(*hold).map_err(|error| error.to_string()))
                .collect()
        });
        kept.as_ref().map(|_| self.bytes.as_slice()).map_err(Clone::clone)
    }

    /// How long the result is, in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}
