//! Where a thread gets its answers: a pipe that it keeps, and whose sending end goes with each request.

use std::cell::RefCell;
use std::time::Duration;

use broody_os::fork;

use crate::queue::Received;
use crate::{Error, Pid, Receiver, Result, Sender, channel_bytes, wait};

/// Who waits longer than that looks after the process as well.
const SOON: Duration = Duration::from_millis(20);

/// One thread's, for one call at a time.
pub(super) struct Line {
    sender: Sender<[u8]>,
    receiver: Receiver<[u8]>,
    /// A fork needs its own.
    owner: Pid,
}

thread_local! {
    static KEPT: RefCell<Option<Line>> = const { RefCell::new(None) };
}

impl Line {
    /// The calling thread's, or a new one if that is in use or another process's.
    pub(super) fn take() -> Result<Self> {
        let kept = KEPT.try_with(RefCell::take).ok().flatten();
        if let Some(kept) = kept.filter(|kept| kept.owner == fork::pid()) {
            return Ok(kept);
        }
        let (sender, receiver) = channel_bytes()?;
        Ok(Self { sender, receiver, owner: fork::pid() })
    }

    /// For the next call.
    pub(super) fn put_back(self) {
        // Not kept by a thread that is ending.
        let _ = KEPT.try_with(|kept| kept.replace(Some(self)));
    }

    pub(super) fn sender(&self) -> Sender<[u8]> {
        self.sender.clone()
    }

    /// Waits for the answer. `None`: it will not come, as the process that kept `alive` open has ended before.
    pub(super) fn receive(&self, alive: &Receiver<()>) -> Result<Option<Received>> {
        let mut limit = SOON;
        loop {
            // What was sent before the end is here when the end is seen.
            let is_over = alive.is_ready();
            match self.receiver.take(Some(if is_over { Duration::ZERO } else { limit })) {
                Ok(answer) => return Ok(Some(answer)),
                Err(Error::TimedOut { .. }) if is_over => return Ok(None),
                Err(Error::TimedOut { .. }) => {
                    wait(&[&self.receiver, alive], None)?;
                    limit = Duration::ZERO;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
