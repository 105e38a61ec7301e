//! Vectors of bytes and of floating-point numbers whose encoding is what they are in memory: copied, not encoded one by one.
//!
//! Postcard writes such a vector as its length and the items' bytes, little endian. What is written here is the same, so that it does not matter
//! which side took the short way. (Other integers are written with as few bytes as each needs.)

#![allow(unsafe_code)]

use std::any::TypeId;
use std::marker::PhantomData;

/// The bytes of the items, if `T` is such a vector: their number, and they.
pub(crate) fn bytes_of<T>(value: &T) -> Option<(usize, &[u8])> {
    fn items<T, N: bytemuck::Pod>(value: &T) -> Option<(usize, &[u8])> {
        is::<T, Vec<N>>().then(|| {
            // SAFETY: it is one.
            let items = unsafe { &*std::ptr::from_ref(value).cast::<Vec<N>>() };
            (items.len(), bytemuck::cast_slice(items))
        })
    }
    if cfg!(target_endian = "big") {
        return None;
    }
    items::<T, u8>(value)
        .or_else(|| items::<T, i8>(value))
        .or_else(|| items::<T, f32>(value))
        .or_else(|| items::<T, f64>(value))
}

/// Whether `T` is such a vector.
#[inline]
pub(crate) fn is_plain<T>() -> bool {
    is::<T, Vec<u8>>() || is::<T, Vec<i8>>() || is::<T, Vec<f32>>() || is::<T, Vec<f64>>()
}

/// A vector of so many items with these bytes; `None` if `T` is no such vector, or needs another number of bytes.
pub(crate) fn from_bytes<T>(count: usize, bytes: &[u8]) -> Option<T> {
    fn items<T, N: bytemuck::Pod>(count: usize, bytes: &[u8]) -> Option<T> {
        if !is::<T, Vec<N>>() || count.checked_mul(size_of::<N>()) != Some(bytes.len()) {
            return None;
        }
        let mut items = Vec::<N>::with_capacity(count);
        // SAFETY: there is room for `count` items, which are as long as `bytes`; all bytes are values of them.
        unsafe {
            items.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            items.set_len(count);
        }
        let items = std::mem::ManuallyDrop::new(items);
        // SAFETY: `T` is that type, and the original is not dropped.
        Some(unsafe { std::mem::transmute_copy::<Vec<N>, T>(&items) })
    }
    if cfg!(target_endian = "big") {
        return None;
    }
    items::<T, u8>(count, bytes)
        .or_else(|| items::<T, i8>(count, bytes))
        .or_else(|| items::<T, f32>(count, bytes))
        .or_else(|| items::<T, f64>(count, bytes))
}

/// Whether `T` is `U`, which has no lifetimes.
fn is<T, U: 'static>() -> bool {
    trait Typed {
        fn id(&self) -> TypeId
        where
            Self: 'static;
    }
    impl<T> Typed for PhantomData<T> {
        fn id(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }
    let typed = PhantomData::<T>;
    // SAFETY: only the lifetime of the trait object changes, and what is called through it looks at no value: it says the type's id, which is
    // without lifetimes. Types of one id differ in lifetimes at most, and `U` has none.
    let id = unsafe { std::mem::transmute::<&dyn Typed, &(dyn Typed + 'static)>(&typed) }.id();
    id == TypeId::of::<U>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_vectors_are_told_from_others() {
        let text = "text".to_owned();
        let borrowed: Vec<&str> = vec![&text];
        assert_eq!(bytes_of(&vec![1u8, 2]), Some((2, &[1, 2][..])));
        assert_eq!(bytes_of(&vec![1.0f32]), Some((1, &1f32.to_le_bytes()[..])));
        assert!(
            bytes_of(&text).is_none() && bytes_of(&borrowed).is_none() && bytes_of(&vec![1u64]).is_none()
        );
        assert_eq!(from_bytes::<Vec<f64>>(2, &[0; 16]), Some(vec![0.0; 2]));
        assert!(
            from_bytes::<Vec<f64>>(2, &[0; 15]).is_none() && from_bytes::<Vec<u16>>(1, &[0; 2]).is_none()
        );
        assert!(from_bytes::<Vec<f64>>(usize::MAX, &[0; 8]).is_none());
    }
}
