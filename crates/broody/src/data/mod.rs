//! Data that processes share: values, arrays, bytes.

mod array;
mod atomic;
mod blob;
mod guardian;
mod memory;
mod slice;
mod value;

pub use array::{Array, ArrayGuard};
pub use atomic::Atomic;
pub use blob::Blob;
pub(crate) use guardian::Guardian;
pub use memory::SharedMemory;
pub(crate) use memory::leave_names;
pub use slice::Slice;
pub use value::{Value, ValueGuard};
