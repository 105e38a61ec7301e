//! broody inside the runtime of another language: what bindings need, and nobody else.
//!
//! The program is then the language's interpreter, which cannot begin with [`init`](crate::init). In its place:
//!
//! * The supervisor is a small native program of this same version whose main is [`init`](crate::init). It starts children of `spawn`, which exec the
//!   runtime, and looks after those of `fork`.
//! * Children of `forkserver` are forked from a *template*: a process of the runtime whose engine has one thread, and that has loaded what children shall find
//!   loaded. It is a supervisor like the other one, for the children that it forks, and lives beside it.
//! * A process of the runtime that broody has exec'ed asks [`role`] what it is, and becomes that.
//! * Each fork goes through the runtime's own handlers.
//!
//! Functions are still named by their place in the binary; here that is the binding's shared library, and the same build of it must be loaded
//! in every process.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use broody_os::environment;
use broody_os::fork::{self, Fork};
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::context::Context;
use crate::function::FunctionId;
use crate::handle::{self, Outgoing};
use crate::process::{Launch, Process, StartMethod, fork_this_process, take_all_own_descriptors};
pub use crate::queue::{Buffer, MessageQueue, OwnBuffer, Received};
use crate::supervisor::link::Kind;
use crate::supervisor::{child, server};
use crate::{Result, boot, codec};

/// How processes of the runtime come into being.
#[derive(Debug)]
pub struct Runtime {
    /// The native supervisor.
    pub supervisor: PathBuf,
    /// The interpreter.
    pub program: PathBuf,
    /// Its arguments in a child, the name first: they must lead to [`role`].
    pub arguments: Vec<OsString>,
    /// Its arguments in the template; likewise.
    pub template_arguments: Vec<OsString>,
    /// Runs before a fork, in the thread that forks.
    pub before_fork: fn(),
    /// Runs after it in the parent, also when it failed.
    pub after_fork: fn(),
    /// Runs after it in the child.
    pub after_fork_in_child: fn(),
}

/// Never freed, since a fork may happen while another thread looks at it.
static RUNTIME: AtomicPtr<Runtime> = AtomicPtr::new(std::ptr::null_mut());

/// From now on processes of this runtime are started. Takes the place of [`init`](crate::init).
pub fn install(runtime: Runtime) {
    // Release: pairs with the acquire in `runtime`.
    RUNTIME.store(Box::into_raw(Box::new(runtime)), Ordering::Release);
    boot::set_initialized();
    crate::context::prepare();
}

/// The runtime, if this program is one's.
pub(crate) fn runtime() -> Option<&'static Runtime> {
    // Acquire: what it points to was written before. SAFETY: what is stored comes from Box::into_raw and is never freed.
    unsafe { RUNTIME.load(Ordering::Acquire).as_ref() }
}

/// Forks through the runtime's handlers, if there are some.
///
/// # Safety
/// As [`fork::fork`].
pub(crate) unsafe fn fork() -> broody_os::Result<Fork> {
    let Some(runtime) = runtime() else {
        // SAFETY: the caller's.
        return unsafe { fork::fork() };
    };
    (runtime.before_fork)();
    // SAFETY: the caller's.
    let forked = unsafe { fork::fork() };
    match forked {
        Ok(Fork::Child) => (runtime.after_fork_in_child)(),
        _ => (runtime.after_fork)(),
    }
    forked
}

/// Starts a thread as those of broody's own: no signal handler of the program's runs in it.
///
/// # Errors
/// When there is none to be had.
pub fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    crate::helper::start(name, work).map(drop)
}

/// What a process of the runtime was exec'ed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To be forked from: call [`Template::begin`].
    Template,
    /// A child of `spawn`: call [`resume`].
    Child,
}

/// What this process is to become; `None` for one that broody has not exec'ed. Once: it is forgotten then.
///
/// # Safety
/// No other thread may run: the environment is changed.
pub unsafe fn role() -> Option<Role> {
    let role = match std::env::var(boot::VARIABLE).ok()?.as_str() {
        boot::TEMPLATE => Role::Template,
        boot::EMBEDDED_CHILD => Role::Child,
        _ => return None,
    };
    // SAFETY: the caller's.
    unsafe { environment::take_variable(boot::VARIABLE) };
    Some(role)
}

/// The pid of the template, which is started if there is none.
///
/// # Errors
/// As [`spawn`](crate::spawn).
pub fn template_pid() -> Result<broody_os::Pid> {
    Ok(Context::current().link(Kind::Template)?.pid())
}

/// The pid of the supervisor that this process is connected to; `None` if there is none, unless `start`.
///
/// # Errors
/// As [`spawn`](crate::spawn).
pub fn supervisor_pid(start: bool) -> Result<Option<broody_os::Pid>> {
    let context = Context::current();
    if start {
        return context.living_link().map(|link| Some(link.pid()));
    }
    let mut links = context.existing_links().filter(|(kind, link)| *kind == Kind::Native && !link.is_lost());
    Ok(links.next().map(|(_, link)| link.pid()))
}

/// A process that children of `forkserver` are forked from.
#[derive(Debug)]
pub struct Template(server::Server);

impl Template {
    /// Makes this process the template of the program that has exec'ed it. Between this and [`serve`](Self::serve) is the time to load what
    /// children shall find loaded.
    ///
    /// # Errors
    /// What the system refuses, and [`Invalid`](crate::Error::Invalid) where nobody has exec'ed it.
    pub fn begin() -> Result<Self> {
        Ok(Self(server::Server::new()?))
    }

    /// Forks children until the program ends. Returns only in them: each goes to its function, and ends with it.
    pub fn serve(mut self) -> ! {
        self.0.note_foreign_descriptors();
        self.0.run()
    }
}

/// Makes this process the child that it was exec'ed as, and runs its function. Gives the exit code that it should end with.
pub fn resume() -> u8 {
    crate::context::prepare();
    child::resume()
}

/// Relaxed: set and read by the thread that runs the process's function, or before that thread's end is waited for.
static EXIT_CODE: AtomicU8 = AtomicU8::new(0);

/// In a function that is a process's: the exit code of that process, unless it panics.
pub fn set_exit_code(code: u8) {
    EXIT_CODE.store(code, Ordering::Relaxed);
}

pub(crate) fn exit_code() -> u8 {
    EXIT_CODE.load(Ordering::Relaxed)
}

/// The process ends at once by `_exit(2)`, after what it owns in shared memory was given back.
pub fn exit_now(code: u8) -> ! {
    crate::memory::leave();
    fork::exit_now(code)
}

/// A value that the runtime has encoded, with what keeps the shared objects alive whose handles are in it.
///
/// As a part of an argument, a result or a message it takes them along. Long bytes that the runtime's serialiser sets apart (pickle's protocol 5:
/// *out-of-band* buffers) go as handles on [`Buffer`]s.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The runtime's bytes.
    pub bytes: Vec<u8>,
    objects: RefCell<Option<Outgoing>>,
}

impl Encoded {
    /// Runs `encode`, in which [`encode_handle`] may be called.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn new<E>(encode: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Self, E> {
        let (bytes, outgoing) = handle::collect(encode);
        Ok(Self { bytes: bytes?, objects: RefCell::new(Some(outgoing)) })
    }

    /// As [`new`](Self::new), for bytes that are not ready when `encode` returns: gives what it does, and the objects, without any bytes yet.
    pub fn collect<T>(encode: impl FnOnce() -> T) -> (T, Self) {
        let (value, outgoing) = handle::collect(encode);
        (value, Self { bytes: Vec::new(), objects: RefCell::new(Some(outgoing)) })
    }

    /// Whether there are objects in it, on their way to somebody.
    pub fn has_objects(&self) -> bool {
        self.objects.borrow().as_ref().is_some_and(|outgoing| !outgoing.is_empty())
    }

    /// In another's [`new`](Self::new): the objects are in that one then.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) elsewhere.
    pub fn join_others(&self) -> Result<()> {
        let objects = self.objects.take().unwrap_or_default();
        handle::add(objects).map_err(|what| crate::Error::Invalid { what: what.to_owned() })
    }

    /// The objects of `head`, whose bytes this begins with, are in this, too. They stay in that.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no room for more holds.
    pub fn share_objects(&self, head: &Self) -> Result<()> {
        if let Some(theirs) = head.objects.borrow().as_ref().filter(|theirs| !theirs.is_empty()) {
            let again = Outgoing::keeping(theirs.kept())?;
            self.objects.borrow_mut().get_or_insert_default().extend(again);
        }
        Ok(())
    }

    /// Bytes in which there is no handle.
    pub fn plain(bytes: Vec<u8>) -> Self {
        Self { bytes, objects: RefCell::default() }
    }

    /// The same behind other bytes. The objects are in the new one then.
    pub fn behind(&self, prefix: &[u8]) -> Self {
        Self { bytes: [prefix, &self.bytes].concat(), objects: RefCell::new(self.objects.take()) }
    }

    /// Calls `send` with the objects, and gives them over if it succeeds.
    pub(crate) fn deliver(&self, send: impl FnOnce(&Outgoing) -> Result<()>) -> Result<()> {
        let objects = self.objects.take().unwrap_or_default();
        let sent = send(&objects);
        match sent {
            Ok(()) => objects.hand_over(),
            Err(_) => drop(self.objects.replace(Some(objects))),
        }
        sent
    }
}

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.join_others().map_err(serde::ser::Error::custom)?;
        Bytes(&self.bytes[..]).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Bytes(bytes) = Deserialize::deserialize(deserializer)?;
        Ok(Self { bytes, objects: RefCell::default() })
    }
}

/// Encoded at once, and not one by one.
struct Bytes<T>(T);

impl Serialize for Bytes<&[u8]> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes<Vec<u8>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Copied;
        impl Visitor<'_> for Copied {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Copied).map(Self)
    }
}

/// Encodes a handle on a shared object, in [`Encoded::new`] only.
///
/// # Errors
/// [`Invalid`](crate::Error::Invalid) elsewhere: nobody would keep the object alive on its way.
pub fn encode_handle<T: Serialize>(object: &T) -> Result<Vec<u8>> {
    codec::encode(object).map_err(|what| crate::Error::Invalid { what })
}

/// Whether [`encode_handle`] may be called now.
pub fn takes_handles() -> bool {
    handle::is_collecting()
}

/// Decodes what [`encode_handle`] has made.
///
/// # Errors
/// [`Invalid`](crate::Error::Invalid) for bytes of something else, of another program, or of an object that is gone.
pub fn decode_handle<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    codec::decode(bytes).map_err(|what| crate::Error::Invalid { what })
}

/// The name of a file in /dev/shm becomes this program's: it is removed when the program has ended, however it does. The file with this number may get
/// its name after this.
///
/// # Errors
/// [`Memory`](crate::Error::Memory) when there is no room for it; what the start of a supervisor refuses, who is to remove it.
pub fn keep_name(number: u64, name: &str) -> Result<()> {
    crate::context::Context::current().living_link()?;
    KEEPS_NAMES.store(true, Ordering::Relaxed);
    Ok(crate::memory::arena()?.keep_name(number, name)?)
}

/// The name is not this program's any more.
///
/// # Errors
/// [`Memory`](crate::Error::Memory) when shared memory is not to be had, which it was by [`keep_name`].
pub fn forget_name(number: u64, name: &str) -> Result<()> {
    Ok(crate::memory::arena()?.forget_name(number, name)?)
}

/// Whether this process has made names the program's. Relaxed: it says only that it is worth looking.
static KEEPS_NAMES: AtomicBool = AtomicBool::new(false);

/// Whether this process has something that only a supervisor will clean up.
pub(crate) fn needs_supervisor() -> bool {
    KEEPS_NAMES.load(Ordering::Relaxed)
}

/// How a process is to be started.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it ends with its starter instead of being joined.
    pub daemon: bool,
    /// `Spawn` or `Forkserver`.
    pub method: StartMethod,
    /// Descriptors that it takes by [`own_descriptors`]; at most 200.
    pub descriptors: &'a [BorrowedFd<'a>],
}

/// Starts `function(argument)` by exec or from the template.
///
/// # Errors
/// As [`spawn`](crate::spawn).
pub fn start<F, A, R>(how: Start<'_>, function: F, argument: &A) -> Result<Process>
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    let _ = function;
    let encoded = codec::encode_with_handles(argument);
    let (argument, outgoing) = encoded.map_err(|reason| crate::Error::Encode {
        what: "the argument",
        function: crate::function::name_of::<F>(),
        reason,
    })?;
    let launch = Launch {
        name: Some(how.name),
        daemon: how.daemon,
        method: how.method,
        function: FunctionId::of::<F, A, R>(),
        argument: &argument,
        own: how.descriptors,
    };
    Ok(Process::new(launch.start(outgoing)?))
}

/// Forks this process. `None` in the child, which is then known to the supervisor and ends by [`exit_now`].
///
/// # Errors
/// As [`fork()`](crate::fork()).
pub fn fork_here(name: &str, daemon: bool) -> Result<Option<Process>> {
    fork_this_process(name, daemon)
}

/// The descriptors that this process was started with; once.
pub fn own_descriptors() -> Vec<OwnedFd> {
    take_all_own_descriptors()
}

/// The environment as the kernel's process has it, which a runtime may have copied before it was changed.
pub fn variables() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}
