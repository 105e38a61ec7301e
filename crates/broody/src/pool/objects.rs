//! Results in which there are handles on shared objects, or that are in shared memory themselves.

use std::sync::{Arc, Mutex, OnceLock};

use broody_shm::arena::{Held, HoldId, Transit};

use super::apart::Opened;
use crate::context::lock;
use crate::memory;

/// An encoded result and its objects, which stay as long as it does: it may be decoded any number of times.
pub(super) struct WithObjects {
    bytes: Bytes,
    /// Until somebody wants them.
    transit: Mutex<Option<Transit>>,
    kept: OnceLock<Result<Kept, String>>,
}

enum Bytes {
    Own(Vec<u8>),
    /// The first so many in the blob that is the last of the objects.
    Apart(u64),
}

struct Kept {
    _objects: Vec<Arc<Held>>,
    apart: Option<Opened>,
}

impl WithObjects {
    /// Of holds that were given to this process.
    pub(super) fn new(holds: &[HoldId], bytes: Vec<u8>) -> Self {
        Self::of(holds, Bytes::Own(bytes))
    }

    /// Of holds that were given to this process, the last of which is of the blob with the result.
    pub(super) fn apart(holds: &[HoldId], length: u64) -> Self {
        Self::of(holds, Bytes::Apart(length))
    }

    fn of(holds: &[HoldId], bytes: Bytes) -> Self {
        let transit = memory::existing_arena().map(|arena| Transit::accept(arena, holds));
        Self { bytes, transit: Mutex::new(transit), kept: OnceLock::new() }
    }

    /// The result's bytes, now that its objects are kept.
    ///
    /// # Errors
    /// Why they cannot be.
    pub(super) fn open(&self) -> Result<&[u8], String> {
        let kept = self.kept.get_or_init(|| self.keep()).as_ref().map_err(Clone::clone)?;
        Ok(match (&self.bytes, &kept.apart) {
            (Bytes::Own(bytes), _) => bytes,
            (Bytes::Apart(_), Some(opened)) => opened,
            (Bytes::Apart(_), None) => return Err("its memory did not arrive".to_owned()),
        })
    }

    fn keep(&self) -> Result<Kept, String> {
        let mut objects = Vec::new();
        if let Some(transit) = lock(&self.transit).take() {
            let arena = memory::arena().map_err(|error| error.to_string())?;
            for hold in transit.holds() {
                objects.push(arena.open_transit(*hold).map_err(|error| error.to_string())?);
            }
        }
        let apart = match self.bytes {
            Bytes::Apart(length) => objects.pop().map(|held| Opened::new(held, length)).transpose()?,
            Bytes::Own(_) => None,
        };
        Ok(Kept { _objects: objects, apart })
    }

    /// How long the result is, in bytes.
    pub(super) fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Own(bytes) => bytes.len(),
            Bytes::Apart(length) => *length as usize,
        }
    }
}
