//! A batch's bytes as words, for the calls between parts of a stage.
//!
//! The engine copies a list from one component to another element by element, whatever the element is: as 64-bit words a
//! batch passes eight times as fast as in bytes. The last word is filled up with zeroes, so the length goes beside.

use std::borrow::Cow;

const WORD: usize = size_of::<u64>();

/// The words of a batch, and its length in bytes. Copies nothing where the allocator placed the bytes on a word's boundary,
/// as it does.
pub fn pack(bytes: &mut Vec<u8>) -> (u32, Cow<'_, [u64]>) {
    // A batch is bounded far below 4 GiB.
    let length = bytes.len() as u32;
    bytes.resize(bytes.len().next_multiple_of(WORD), 0);
    let words = match bytemuck::try_cast_slice(bytes) {
        Ok(words) => Cow::Borrowed(words),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    };
    (length, words)
}

/// The bytes in words that [`pack`] made.
pub fn unpack(length: u32, words: &[u64]) -> &[u8] {
    let bytes: &[u8] = bytemuck::cast_slice(words);
    bytes.get(..length as usize).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_at_every_length() {
        for length in 0..40u8 {
            let original: Vec<u8> = (0..length).collect();
            let mut bytes = original.clone();
            let (packed, words) = pack(&mut bytes);
            assert_eq!((packed, words.len()), (u32::from(length), usize::from(length).div_ceil(8)));
            assert_eq!(unpack(packed, &words), original);
        }
    }
}
