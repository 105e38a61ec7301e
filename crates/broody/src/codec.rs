//! How values cross between processes: serde with postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Encodes `value` at the end of `buffer`. On failure the buffer is as it was.
pub(crate) fn encode_into<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), String> {
    let before = buffer.len();
    let taken = std::mem::take(buffer);
    match postcard::to_extend(value, taken) {
        Ok(extended) => {
            *buffer = extended;
            Ok(())
        }
        Err(error) => {
            // postcard drops what it was extending; what was there before is only ever a batch under construction.
            debug_assert_eq!(before, 0, "encode_into a fresh buffer where a failure must leave earlier bytes");
            Err(error.to_string())
        }
    }
}

/// Encodes `value`.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut buffer = Vec::new();
    encode_into(value, &mut buffer)?;
    Ok(buffer)
}

/// Decodes a value that makes up the whole of `bytes`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes::<T>(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes are left over", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}
