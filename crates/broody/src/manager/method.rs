//! Which function is called, and with the value of which type.
//!
//! As [`FunctionId`](crate::function::FunctionId) names a function, by the distance of its trampoline from a static of the binary; here the trampoline
//! also knows the type of the value, and refuses any other.

#![allow(unsafe_code)]

use std::any::Any;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::function::{self, Outcome, catch_panic};

/// A value of any type.
pub(super) type Value = Box<dyn Any + Send>;

/// Decodes the argument, calls the function on the value, and encodes its result at the end of the bytes.
pub(super) type Method = fn(&mut Value, &[u8], &mut Vec<u8>) -> Outcome;

/// Decodes the argument, and makes a value of it.
pub(super) type Maker = fn(&[u8]) -> Result<Value, Outcome>;

/// The name of a [`Method`] that holds in every process of this build.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct MethodId(i64);

/// The name of a [`Maker`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct MakerId(i64);

macro_rules! captures_nothing {
    ($function:ty) => {
        const {
            assert!(
                size_of::<$function>() == 0,
                "broody: this closure captures variables (or is a function pointer), and the manager's process does not have them. Pass what it \
                 needs as its argument"
            );
        }
    };
}

impl MethodId {
    pub(super) fn of<F, T, A, R>() -> Self
    where
        F: Fn(&mut T, A) -> R + Copy + 'static,
        T: 'static,
        A: DeserializeOwned,
        R: Serialize,
    {
        captures_nothing!(F);
        let method: Method = call::<F, T, A, R>;
        Self(broody_os::image::distance(method as *const ()) as i64)
    }

    /// The method that this names.
    ///
    /// # Safety
    /// `self` must come from [`of`](Self::of) in a process of the same build.
    pub(super) unsafe fn method(self) -> Method {
        let address = broody_os::image::address(self.0 as isize);
        // SAFETY: in the same build, the same distance leads to the same trampoline.
        unsafe { std::mem::transmute::<*const (), Method>(address) }
    }
}

impl MakerId {
    pub(super) fn of<F, A, T>() -> Self
    where
        F: Fn(A) -> T + Copy + 'static,
        A: DeserializeOwned,
        T: Send + 'static,
    {
        captures_nothing!(F);
        let maker: Maker = make::<F, A, T>;
        Self(broody_os::image::distance(maker as *const ()) as i64)
    }

    /// The maker that this names.
    ///
    /// # Safety
    /// As [`MethodId::method`].
    pub(super) unsafe fn maker(self) -> Maker {
        let address = broody_os::image::address(self.0 as isize);
        // SAFETY: as there.
        unsafe { std::mem::transmute::<*const (), Maker>(address) }
    }
}

fn call<F, T, A, R>(value: &mut Value, argument: &[u8], result: &mut Vec<u8>) -> Outcome
where
    F: Fn(&mut T, A) -> R + Copy + 'static,
    T: 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    let Some(value) = (**value).downcast_mut::<T>() else {
        let wanted = std::any::type_name::<T>();
        return Outcome::BadArgument(format!("the hosted value is not a {wanted}"));
    };
    let returned = catch_panic(|| {
        let argument: A = codec::decode(argument).map_err(Outcome::BadArgument)?;
        codec::encode_into(&function::item::<F>()(value, argument), result).map_err(Outcome::BadResult)
    });
    match returned {
        Ok(Ok(())) => Outcome::Returned,
        Ok(Err(outcome)) | Err(outcome) => outcome,
    }
}

fn make<F, A, T>(argument: &[u8]) -> Result<Value, Outcome>
where
    F: Fn(A) -> T + Copy + 'static,
    A: DeserializeOwned,
    T: Send + 'static,
{
    catch_panic(|| {
        let argument: A = codec::decode(argument).map_err(Outcome::BadArgument)?;
        Ok(Box::new(function::item::<F>()(argument)) as Value)
    })?
}
