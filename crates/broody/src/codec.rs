//! How values cross between processes: serde with postcard.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::handle::{self, Outgoing};
use crate::output::Output;
use crate::plain;

/// Appends to an output that holds other values already.
struct Appending<'a>(&'a mut Output);

impl Flavor for Appending<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// What went wrong, in words. Postcard keeps no reasons of other people's.
fn reason(error: postcard::Error) -> String {
    handle::take_problem().unwrap_or_else(|| error.to_string())
}

/// Encodes `value` at the end of `buffer`. On failure the buffer is as it was.
pub(crate) fn encode_into<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), String> {
    let mut output = Output::within(std::mem::take(buffer));
    let encoded = encode_onto(value, &mut output);
    *buffer = match encoded {
        Ok(()) => output.finish().0,
        Err(_) => output.undo(),
    };
    encoded
}

/// Encodes `value` at the end of what is there. On failure the output can only be [undone](Output::undo).
pub(crate) fn encode_onto<T: Serialize>(value: &T, output: &mut Output) -> Result<(), String> {
    if let Some((count, bytes)) = plain::bytes_of(value) {
        postcard::serialize_with_flavor(&count, Appending(output)).map_err(reason)?;
        output.extend(bytes);
        return Ok(());
    }
    postcard::serialize_with_flavor(value, Appending(output)).map_err(reason)
}

/// Encodes `value` into `place`, if there is room enough and it has an encoding.
#[inline]
pub(crate) fn encode_to<'a, T: Serialize>(value: &T, place: &'a mut [u8]) -> Option<&'a [u8]> {
    postcard::to_slice(value, place).ok().map(|bytes| &*bytes)
}

/// Encodes `value`.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut buffer = Vec::new();
    encode_into(value, &mut buffer)?;
    Ok(buffer)
}

/// Encodes `value`, which may contain handles on shared objects; gives what keeps those alive on their way.
pub(crate) fn encode_with_handles<T: Serialize>(value: &T) -> Result<(Vec<u8>, Outgoing), String> {
    let (bytes, outgoing) = handle::collect(|| encode(value));
    Ok((bytes?, outgoing))
}

/// Decodes a value that makes up the whole of `bytes`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let vector = || {
        let (count, bytes) = postcard::take_from_bytes::<usize>(bytes).ok()?;
        plain::from_bytes::<T>(count, bytes)
    };
    if let Some(vector) = plain::is_plain::<T>().then(vector).flatten() {
        return Ok(vector);
    }
    match postcard::take_from_bytes::<T>(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes are left over", rest.len())),
        Err(error) => Err(reason(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cannot be encoded: it says nothing of its length, and fails after a part was written.
    struct Halfway;

    impl Serialize for Halfway {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::{Error, SerializeTuple};
            let mut tuple = serializer.serialize_tuple(2)?;
            tuple.serialize_element(&7u8)?;
            Err(S::Error::custom("half-way"))
        }
    }

    #[test]
    fn what_cannot_be_encoded_leaves_the_buffer_as_it_was() {
        let mut buffer = encode(&1u8).unwrap();
        encode_into(&Halfway, &mut buffer).unwrap_err();
        encode_into(&2u8, &mut buffer).unwrap();
        assert_eq!(buffer, [1, 2]);
    }

    #[test]
    fn plain_vectors_are_encoded_as_others() {
        fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(values: Vec<T>) {
            let slowly = postcard::to_allocvec(&values).unwrap();
            assert_eq!(encode(&values).unwrap(), slowly);
            assert_eq!(decode::<Vec<T>>(&slowly).unwrap(), values);
            assert_eq!(decode::<(Vec<T>,)>(&slowly).unwrap().0, values);
            decode::<Vec<T>>(&[&slowly[..], &[1]].concat()).unwrap_err();
            if let Some((_, fewer)) = slowly.split_last().filter(|_| !values.is_empty()) {
                decode::<Vec<T>>(fewer).unwrap_err();
            }
        }
        check::<u8>(Vec::new());
        check((0..=255u8).collect());
        check((-128..=127i8).collect());
        check((0..1000u16).map(f32::from).collect());
        check((0..1000u16).map(|number| f64::from(number) / 3.0).collect());
        check((0..1000u64).collect());
    }

    #[test]
    fn bytes_that_are_too_few_or_too_many_are_refused() {
        let bytes = encode(&("text".to_owned(), 300u32)).unwrap();
        assert_eq!(decode::<(String, u32)>(&bytes).unwrap(), ("text".to_owned(), 300));
        decode::<(String, u32)>(&bytes[..bytes.len() - 1]).unwrap_err();
        decode::<String>(&bytes).unwrap_err();
    }
}
