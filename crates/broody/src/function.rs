//! Which function runs in the child, and how.
//!
//! A `fn` item or a closure that captures nothing is zero-sized: the type is the function. The compiler makes a
//! [`Trampoline`] for each such type, which decodes the argument, calls the function and encodes the result; the trampoline's
//! distance from a static of the binary names it in every process of the same build. Anything that captures has a state that
//! has no meaning in another process, and is refused when the program is compiled.

#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::output::Output;
use crate::{codec, handle};

/// Decodes the argument, calls the function, and encodes its result (there is nothing else in the output).
pub(crate) type Trampoline = fn(&[u8], &mut Output) -> Outcome;

/// How a call ended, without its result's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It returned, and the result is encoded.
    Returned,
    /// It panicked.
    Panicked { message: String, backtrace: String },
    /// Its argument could not be decoded.
    BadArgument(String),
    /// Its result could not be encoded.
    BadResult(String),
}

impl Outcome {
    /// Why there is no result, in words.
    pub(crate) fn reason(self) -> Option<String> {
        match self {
            Outcome::Returned => None,
            Outcome::Panicked { message, .. } => Some(message),
            Outcome::BadArgument(reason) | Outcome::BadResult(reason) => Some(reason),
        }
    }

    /// With no text longer than `most` bytes: a message has its limits, and a stack may have none.
    #[inline]
    pub(crate) fn shortened(self, most: usize) -> Self {
        if matches!(self, Outcome::Returned) { self } else { self.cut(most) }
    }

    fn cut(self, most: usize) -> Self {
        let cut = |mut text: String| {
            if text.len() > most {
                text.truncate(text.floor_char_boundary(most));
                text.push_str(" [cut]");
            }
            text
        };
        match self {
            Outcome::Returned => self,
            Outcome::Panicked { message, backtrace } => {
                Outcome::Panicked { message: cut(message), backtrace: cut(backtrace) }
            }
            Outcome::BadArgument(reason) => Outcome::BadArgument(cut(reason)),
            Outcome::BadResult(reason) => Outcome::BadResult(cut(reason)),
        }
    }
}

/// The name of a function that holds in every process of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct FunctionId(i64);

impl FunctionId {
    /// The function of this type.
    pub(crate) fn of<F, A, R>() -> Self
    where
        F: Fn(A) -> R + Copy + 'static,
        A: DeserializeOwned,
        R: Serialize,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "broody: this closure captures variables (or is a function pointer), and a new process does not have \
                 them. Pass what it needs as its argument, or use broody::fork, whose child is a copy of this process"
            );
        }
        let trampoline: Trampoline = call::<F, A, R>;
        Self(broody_os::image::distance(trampoline as *const ()) as i64)
    }

    /// A function whose result stays where it is: it becomes that process's [state](crate::worker_state).
    pub(crate) fn of_initializer<F, A, T>() -> Self
    where
        F: Fn(A) -> T + Copy + 'static,
        A: DeserializeOwned,
        T: Send + Sync + 'static,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "broody: an initializer must not capture variables: pass them as its argument"
            )
        };
        let trampoline: Trampoline = initialize::<F, A, T>;
        Self(broody_os::image::distance(trampoline as *const ()) as i64)
    }

    /// The name in bytes, for messages that are not encoded.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// The inverse of [`to_bytes`](Self::to_bytes).
    pub(crate) const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(i64::from_le_bytes(bytes))
    }

    /// The trampoline that this names.
    ///
    /// # Safety
    /// `self` must come from [`of`](Self::of) in a process of the same build.
    pub(crate) unsafe fn trampoline(self) -> Trampoline {
        let address = broody_os::image::address(self.0 as isize);
        // SAFETY: in the same build, the same distance leads to the same trampoline.
        unsafe { std::mem::transmute::<*const (), Trampoline>(address) }
    }
}

/// The function of a type that is the function: for trampolines, whose names are made by who has it.
pub(crate) fn item<F: Copy + 'static>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: F is zero-sized, so that there is nothing to read; it is inhabited and Copy, since the caller of `of` had a value of it, and this is a
    // copy of that.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

fn call<F, A, R>(argument: &[u8], result: &mut Output) -> Outcome
where
    F: Fn(A) -> R + Copy + 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    let function = item::<F>();
    let returned = catch_panic(|| {
        let argument: A = codec::decode(argument).map_err(Outcome::BadArgument)?;
        let value = function(argument);
        handle::with_result_objects(|| codec::encode_onto(&value, result)).map_err(Outcome::BadResult)
    });
    match returned {
        Ok(Ok(())) => Outcome::Returned,
        Ok(Err(outcome)) | Err(outcome) => outcome,
    }
}

fn initialize<F, A, T>(argument: &[u8], _: &mut Output) -> Outcome
where
    F: Fn(A) -> T + Copy + 'static,
    A: DeserializeOwned,
    T: Send + Sync + 'static,
{
    let function = item::<F>();
    let returned = catch_panic(|| {
        let argument: A = codec::decode(argument).map_err(Outcome::BadArgument)?;
        crate::pool::set_worker_state(function(argument));
        Ok(())
    });
    match returned {
        Ok(Ok(())) => Outcome::Returned,
        Ok(Err(outcome)) | Err(outcome) => outcome,
    }
}

/// Runs `f`; a panic becomes an [`Outcome`].
pub(crate) fn catch_panic<T>(f: impl FnOnce() -> T) -> Result<T, Outcome> {
    // What a panicking function leaves half-done is only its own process's: a result that never leaves.
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let (place, backtrace) = panic_place::take();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(its payload is not text)");
        Outcome::Panicked { message: format!("{text}{place}"), backtrace }
    })
}

pub(crate) use panic_place::{prepare_recording, record_panics};

mod panic_place {
    use std::backtrace::Backtrace;
    use std::cell::{Cell, RefCell};
    use std::sync::Once;

    thread_local! {
        static RECORDED: Cell<bool> = const { Cell::new(false) };
        static LAST: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
    }

    /// Installs a hook that keeps the place and the stack of a panic, on threads for which [`record_panics`] was called. Panics of all
    /// other threads go to the hook that was there before.
    ///
    /// It has to be there before a fork: a hook cannot be installed in a child that was forked while another thread panicked.
    pub(crate) fn prepare_recording() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !RECORDED.get() {
                    return before(info);
                }
                let place = info.location().map(|place| format!(", at {place}")).unwrap_or_default();
                let stack = Backtrace::force_capture().to_string();
                LAST.with(|last| *last.borrow_mut() = Some((place, stack)));
            }));
        });
    }

    /// Panics of this thread are recorded from now on instead of printed: the parent shows them.
    pub(crate) fn record_panics() {
        RECORDED.set(true);
    }

    pub(super) fn take() -> (String, String) {
        LAST.with(|last| last.borrow_mut().take()).unwrap_or_default()
    }
}

/// The name of a function's type, as the compiler writes it.
pub(crate) fn name_of<F>() -> String {
    std::any::type_name::<F>().to_owned()
}
