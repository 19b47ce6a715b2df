//! Tokens as byte strings, both ways: id to bytes and bytes to id.

use rustc_hash::FxHasher;
use std::hash::Hasher;

/// Marks an empty slot and an id without token.
pub(crate) const NO_ID: u32 = u32::MAX;

/// Largest id accepted from a file, so that a hostile id cannot make the tables huge.
pub(crate) const LARGEST_ID: u32 = (1 << 22) - 1;

/// A dense table of tokens with a hash index over their bytes.
///
/// Ids may have gaps. Bytes of all tokens lie in one buffer, so that decoding and lookups touch few cache lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    /// Start and end of each id's bytes in `bytes`; equal for a gap.
    spans: Vec<(u32, u32)>,
    /// Open addressing, linear probing; length a power of two, at most half full.
    slots: Vec<u32>,
    mask: usize,
}

impl Vocabulary {
    /// Indexes tokens given as (id, bytes). Of equal byte strings the first keeps the way from bytes to id.
    ///
    /// Ids must be distinct and at most [`LARGEST_ID`], and the bytes of all tokens together under 4 GiB: readers check that.
    pub(crate) fn new(tokens: &[(u32, Vec<u8>)]) -> Self {
        let ids = tokens.iter().map(|(id, _)| *id as usize + 1).max().unwrap_or(0);
        let mut spans = vec![(0, 0); ids];
        let mut bytes = Vec::with_capacity(tokens.iter().map(|(_, token)| token.len()).sum());
        let size = (tokens.len() * 2 + 1).next_power_of_two();
        let mut vocabulary =
            Self { bytes: Vec::new(), spans: Vec::new(), slots: vec![NO_ID; size], mask: size - 1 };
        for (id, token) in tokens {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(token);
            spans[*id as usize] = (start, bytes.len() as u32);
        }
        vocabulary.bytes = bytes;
        vocabulary.spans = spans;
        for (id, token) in tokens {
            let mut slot = hash(token) & vocabulary.mask;
            loop {
                let held = vocabulary.slots[slot];
                if held == NO_ID {
                    vocabulary.slots[slot] = *id;
                    break;
                }
                if vocabulary.bytes_of(held) == token.as_slice() {
                    break;
                }
                slot = (slot + 1) & vocabulary.mask;
            }
        }
        vocabulary
    }

    /// One past the largest id.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The bytes of an id; empty for ids that have no token.
    #[inline]
    pub(crate) fn bytes_of(&self, id: u32) -> &[u8] {
        match self.spans.get(id as usize) {
            Some(&(start, end)) => &self.bytes[start as usize..end as usize],
            None => &[],
        }
    }

    /// The id of a byte string.
    #[inline]
    pub(crate) fn id_of(&self, token: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut slot = hash(token) & self.mask;
        loop {
            let held = self.slots[slot];
            if held == NO_ID {
                return None;
            }
            if self.bytes_of(held) == token {
                return Some(held);
            }
            slot = (slot + 1) & self.mask;
        }
    }
}

#[inline]
fn hash(token: &[u8]) -> usize {
    let mut hasher = FxHasher::default();
    hasher.write(token);
    hasher.finish() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_it_holds_and_nothing_else() {
        let tokens: Vec<(u32, Vec<u8>)> =
            (0..5000u32).map(|i| (i * 2, format!("t{i}").into_bytes())).collect();
        let vocabulary = Vocabulary::new(&tokens);
        assert_eq!(vocabulary.len(), 9999);
        for (id, token) in &tokens {
            assert_eq!(vocabulary.id_of(token), Some(*id));
            assert_eq!(vocabulary.bytes_of(*id), token);
        }
        assert_eq!(vocabulary.id_of(b"t5000"), None);
        assert_eq!(vocabulary.bytes_of(1), b"");
        assert_eq!(vocabulary.bytes_of(u32::MAX - 1), b"");
        assert_eq!(Vocabulary::default().id_of(b"x"), None);
    }
}
