//! What stands for a value in a manager's process.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::method::MethodId;
use super::wire::{self, Request};
use super::{Manager, slot};
use crate::{Error, Pid, Result, Sender, function};

/// A handle on a value in a [`Manager`]'s process.
///
/// It is a value itself: it can be cloned, passed to children of every start method, and sent through queues and to pools. The value is dropped when the last
/// handle on it, in any process, is dropped or has died with its process.
///
/// ```
/// # broody::init();
/// use broody::Manager;
/// let manager = Manager::start()?;
/// let stack = manager.host(vec![1, 2])?;
/// stack.call(Vec::push, 3)?;
/// assert_eq!(stack.call(|stack, ()| stack.pop(), ())?, Some(3));
/// # Ok::<(), broody::Error>(())
/// ```
pub struct Hosted<T> {
    manager: Manager,
    keeper: Arc<Keeper>,
    value: PhantomData<fn() -> T>,
}

/// Keeps the value, for all handles of this process.
#[derive(Debug)]
pub(super) struct Keeper {
    ident: u64,
    /// Always there until it is dropped.
    kept: Option<Sender<()>>,
    requests: Sender<[u8]>,
}

impl Keeper {
    pub(super) fn new(ident: u64, kept: Sender<()>, requests: Sender<[u8]>) -> Self {
        Self { ident, kept: Some(kept), requests }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.kept.take());
        // So that it is seen at once. If that cannot be told without waiting, or the process dies here, it is seen a little later.
        let released = wire::encoded(&Request::Released { ident: self.ident });
        if let Ok(released) = released {
            let _ = self.requests.send_encoded(&released, Some(Duration::ZERO));
        }
    }
}

impl<T> Hosted<T> {
    pub(super) fn new(manager: Manager, keeper: Keeper) -> Self {
        Self { manager, keeper: Arc::new(keeper), value: PhantomData }
    }

    /// The manager.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// The pid of the process that has the value.
    pub fn pid(&self) -> Pid {
        self.manager.pid()
    }
}

impl<T: 'static> Hosted<T> {
    /// Calls `function(value, argument)` in the manager's process, and gives what it returns.
    ///
    /// `function` is a fn item or a closure that captures nothing. Calls of one value come one after the other, in the order in which they were sent; calls of
    /// different values do not wait for each other. What has been sent is carried out, also if the caller dies meanwhile.
    ///
    /// If `function` panics, the value may be half-changed: it is *poisoned*, as a [`std::sync::Mutex`] is, and refuses calls until [`clear_poison`](Self::clear_poison).
    ///
    /// A function that calls its own value again would wait for itself: that is an error. One that does so by way of another value waits for ever.
    ///
    /// # Errors
    /// [`ManagerLost`](Error::ManagerLost) when the process has ended, before the call or in the middle of it; [`Panicked`](Error::Panicked) for this call and
    /// [`Poisoned`](Error::Poisoned) for later ones; [`Encode`](Error::Encode) and [`Decode`](Error::Decode) for an argument or a result that does not survive its
    /// way.
    pub fn call<F, A, R>(&self, function: F, argument: A) -> Result<R>
    where
        F: Fn(&mut T, A) -> R + Copy + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let _ = function;
        let ident = self.keeper.ident;
        if slot::is_called_here(self.manager.pid(), ident) {
            let what = "a function that was called on a hosted value calls the same value, and would wait for itself";
            return Err(Error::Invalid { what: what.to_owned() });
        }
        self.manager.ask::<R, A>(
            |reply| Request::Call { ident, method: MethodId::of::<F, T, A, R>(), reply },
            &argument,
            function::name_of::<F>,
        )
    }

    /// Lets a value be called again after a call has panicked. Whoever does that sees to it that the value makes sense, or is put right.
    ///
    /// # Errors
    /// [`ManagerLost`](Error::ManagerLost).
    pub fn clear_poison(&self) -> Result<()> {
        let ident = self.keeper.ident;
        self.manager.ask::<(), ()>(|reply| Request::Forgive { ident, reply }, &(), String::new)
    }
}

impl<T> Clone for Hosted<T> {
    fn clone(&self) -> Self {
        Self { manager: self.manager.clone(), keeper: self.keeper.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Hosted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted")
            .field("type", &std::any::type_name::<T>())
            .field("ident", &self.keeper.ident)
            .field("pid", &self.manager.pid())
            .finish()
    }
}

impl<T> Serialize for Hosted<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.manager, self.keeper.ident, &self.keeper.kept).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Hosted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (manager, ident, kept) = <(Manager, u64, Option<Sender<()>>)>::deserialize(deserializer)?;
        let requests = manager.requests.clone();
        let keeper = Arc::new(Keeper { ident, kept, requests });
        Ok(Self { manager, keeper, value: PhantomData })
    }
}
