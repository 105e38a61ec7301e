//! Values that live in a process of their own, and are called from any other.
//!
//! | module | what it is |
//! |---|---|
//! | [`hosted`] | [`Hosted`]: what stands for a value, and how it is called |
//! | [`reply`] | where a thread gets its answers |
//! | [`method`] | which function is called, with the value of which type |
//! | [`wire`] | what is asked, and what is answered |
//! | [`server`], [`slot`] | the process: its threads, and one value |
//!
//! All of it is made of [pipes](crate::channel), which survive whoever uses them. One pipe carries requests to the process, from all handles everywhere; its
//! receiving end is the process's alone, so that it is closed when the process is gone. One pipe for each value carries nothing: its sending end is what
//! handles keep, and when the last of them is dropped or dead, the value has nobody left. One more is kept open by the process, to be seen
//! closed by those who wait for an answer. So nothing is counted that would have to be counted again after a SIGKILL.

mod hosted;
mod method;
mod reply;
mod server;
mod slot;
mod wire;

use std::convert::identity;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::hosted::Hosted;
use self::hosted::Keeper;
use self::method::MakerId;
use self::wire::Request;
use crate::process::Builder;
use crate::wait::Source;
use crate::{
    Error, Pid, Process, Receiver, Result, Sender, StartMethod, Waitable, channel, channel_bytes, function,
    wait,
};

/// A process for values that other processes share: any of them calls functions on them by a [`Hosted`] handle.
///
/// For what has no fixed place in memory, and so cannot be a [`Value`](crate::Value) or an [`Array`](crate::Array): maps, trees, connections. A call costs two
/// messages; where plain data is enough, that is much faster.
///
/// The process is an ordinary child, and a daemon: it ends with the program, or the process, that started it. It also ends when no process has a
/// handle any more, neither a `Manager` nor a `Hosted`, and by [`shutdown`](Self::shutdown).
///
/// ```
/// # broody::init();
/// use std::collections::HashMap;
/// use broody::{Hosted, Manager};
///
/// type Counts = HashMap<String, u64>;
/// fn count((counts, text): (Hosted<Counts>, &'static str)) -> broody::Result<()> {
///     for word in text.split(' ') {
///         counts.call(|counts, word: String| *counts.entry(word).or_default() += 1, word.to_owned())?;
///     }
///     Ok(())
/// }
///
/// # fn main() -> broody::Result<()> {
/// let manager = Manager::start()?;
/// let counts = manager.host(Counts::new())?;
/// count((counts.clone(), "to be or not to be"))?;
/// let child = broody::spawn(|counts: Hosted<Counts>| counts.call(|counts, ()| counts["be"], ()).unwrap(), counts)?;
/// assert_eq!(child.join()?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manager {
    requests: Sender<[u8]>,
    /// Closed when the process is gone; nothing is sent.
    alive: Receiver<()>,
    pid: Pid,
}

impl Manager {
    /// Starts the process.
    ///
    /// # Errors
    /// As [`broody::spawn`](crate::spawn).
    pub fn start() -> Result<Self> {
        Self::start_as(Process::builder())
    }

    /// Starts the process as the builder says, by `Forkserver` or `Spawn`. It is a daemon in any case.
    ///
    /// # Errors
    /// As [`broody::spawn`](crate::spawn); [`Invalid`](Error::Invalid) for the start method `Fork`: a fork has all handles that this process has, those on itself
    /// among them, and would keep everything for good.
    pub fn start_as(builder: Builder) -> Result<Self> {
        if builder.method() == StartMethod::Fork {
            let what =
                "a manager cannot be a fork, which keeps all that this process has: use Forkserver or Spawn";
            return Err(Error::Invalid { what: what.to_owned() });
        }
        let (requests, to_serve) = channel_bytes()?;
        let (staying, alive) = channel::<()>()?;
        let child = builder.daemon(true).spawn(server::serve, (to_serve, staying))?;
        Ok(Self { requests, alive, pid: child.pid() })
    }

    /// The process's pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Moves a value into the process. It is encoded on its way.
    ///
    /// # Errors
    /// [`Encode`](Error::Encode) and [`Decode`](Error::Decode) for a value that does not survive that; [`ManagerLost`](Error::ManagerLost) when the process
    /// has ended; [`Memory`](Error::Memory) when there is no memory for it.
    pub fn host<T>(&self, value: T) -> Result<Hosted<T>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        self.host_with(identity::<T>, value)
    }

    /// Makes a value in the process: what `make(argument)` gives there. It need not have an encoding.
    ///
    /// # Errors
    /// [`Panicked`](Error::Panicked) if `make` does, and as [`host`](Self::host) for the argument.
    pub fn host_with<F, A, T>(&self, make: F, argument: A) -> Result<Hosted<T>>
    where
        F: Fn(A) -> T + Copy + 'static,
        A: Serialize + DeserializeOwned,
        T: Send + 'static,
    {
        let _ = make;
        let (kept, anchor) = channel::<()>()?;
        let ident = self.ask::<u64, A>(
            |reply| Request::Host { maker: MakerId::of::<F, A, T>(), anchor, reply },
            &argument,
            function::name_of::<F>,
        )?;
        Ok(Hosted::new(self.clone(), Keeper::new(ident, kept, self.requests.clone())))
    }

    /// Ends the process, with all values in it, and returns when it has ended. Calls that are running fail with [`ManagerLost`](Error::ManagerLost), as do later ones.
    ///
    /// # Errors
    /// [`Os`](Error::Os) when there are no descriptors left to wait with.
    pub fn shutdown(self) -> Result<()> {
        match self.requests.send_encoded(&wire::encoded(&Request::Stop)?, None) {
            // It has ended already.
            Ok(()) | Err(Error::Closed { .. }) => {}
            Err(error) => return Err(error),
        }
        wait(&[&self.alive], None)?;
        Ok(())
    }

    /// Whether the process is there.
    pub fn is_alive(&self) -> bool {
        !self.alive.is_ready()
    }

    fn lost(&self) -> Error {
        Error::ManagerLost { pid: self.pid }
    }

    /// Asks the process and waits for its answer.
    fn ask<R: DeserializeOwned, A: Serialize>(
        &self,
        request: impl FnOnce(Sender<[u8]>) -> Request,
        argument: &A,
        name: impl Fn() -> String,
    ) -> Result<R> {
        let line = reply::Line::take()?;
        let sent = wire::ask(&self.requests, &request(line.sender()), argument);
        match sent {
            Ok(()) => {}
            Err(wire::Unsent::NotEncoded(reason)) => {
                line.put_back();
                return Err(Error::Encode { what: "the argument", function: name(), reason });
            }
            Err(wire::Unsent::Failed(Error::Closed { .. })) => return Err(self.lost()),
            Err(wire::Unsent::Failed(error)) => return Err(error),
        }
        // What is left of the line after an error is dropped: an answer may still come, to nobody.
        let answer = line.receive(&self.alive)?.ok_or_else(|| self.lost())?;
        line.put_back();
        wire::result(&answer, self.pid, name)
    }
}

impl Waitable for Manager {
    /// Ready when the process has ended.
    fn source(&self) -> Result<Source<'_>> {
        self.alive.source()
    }
}
