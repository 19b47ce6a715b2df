//! Byte-level byte-pair encoding: text to ids by our own code, the hot path of training and serving.

use std::sync::{Mutex, PoisonError};

use super::added::{AddedTokens, Segment};
use super::merge::{MergeBuffers, Merges};
use super::normal::nfc;
use super::split::Splitter;
use super::vocabulary::Vocabulary;

/// Everything a byte-level vocabulary needs to encode.
#[derive(Debug)]
pub(crate) struct ByteBpe {
    pub(crate) vocabulary: Vocabulary,
    pub(crate) merges: Merges,
    /// A piece that is itself a token is that token, without merging (tiktoken; `ignore_merges` of `tokenizer.json`).
    pub(crate) whole_pieces: bool,
    /// Applied one after the other, each to the pieces of the one before.
    pub(crate) splitters: Vec<Splitter>,
    /// Whether text is put into normalisation form C.
    pub(crate) normalise: bool,
    pub(crate) scratch: Pool,
}

impl ByteBpe {
    /// Appends the ids of a text. `special` says whether special tokens in it are recognised.
    pub(crate) fn encode(&self, text: &str, added: &AddedTokens, special: bool, out: &mut Vec<u32>) {
        let mut scratch = self.scratch.take();
        added.raw(special).split(text, |segment| match segment {
            Segment::Token(id) => out.push(id),
            Segment::Text(text) => {
                let normal = if self.normalise { nfc(text) } else { text.into() };
                added.normalised(special).split(&normal, |segment| match segment {
                    Segment::Token(id) => out.push(id),
                    Segment::Text(text) => self.encode_split(text, &self.splitters, &mut scratch, out),
                });
            }
        });
        self.scratch.put(scratch);
    }

    /// Whether normalisation changes a text.
    pub(crate) fn changes(&self, text: &str) -> bool {
        self.normalise && nfc(text) != text
    }

    fn encode_split(&self, text: &str, splitters: &[Splitter], scratch: &mut Scratch, out: &mut Vec<u32>) {
        match splitters {
            [] => self.encode_piece(text.as_bytes(), scratch, out),
            [last] => last.split(text, |piece| self.encode_piece(piece.as_bytes(), scratch, out)),
            [first, rest @ ..] => first.split(text, |piece| self.encode_split(piece, rest, scratch, out)),
        }
    }

    #[inline]
    fn encode_piece(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Some(key) = Key::of(piece) else {
            return self.encode_uncached(piece, &mut scratch.buffers, out);
        };
        let entry = &mut scratch.cache[key.slot()];
        if entry.key == key.words {
            out.extend_from_slice(&entry.ids[..entry.count as usize]);
            return;
        }
        let start = out.len();
        self.encode_uncached(piece, &mut scratch.buffers, out);
        let ids = &out[start..];
        if ids.len() <= CACHED_IDS {
            entry.key = key.words;
            entry.count = ids.len() as u32;
            entry.ids[..ids.len()].copy_from_slice(ids);
        }
    }

    fn encode_uncached(&self, piece: &[u8], buffers: &mut MergeBuffers, out: &mut Vec<u32>) {
        if self.whole_pieces
            && let Some(id) = self.vocabulary.id_of(piece)
        {
            out.push(id);
            return;
        }
        self.merges.encode(piece, buffers, out);
    }
}

/// Longest piece the cache holds; with its length it fills half a cache line.
const CACHED_BYTES: usize = 31;
/// Most ids the cache holds for a piece.
const CACHED_IDS: usize = 7;
/// 1 MiB of entries: the frequent words of two languages, and it fits the second-level cache.
const CACHE_ENTRIES: usize = 1 << 14;

/// A piece padded with zeros, its length in the last byte.
struct Key {
    words: [u64; 4],
}

impl Key {
    #[inline]
    fn of(piece: &[u8]) -> Option<Self> {
        if piece.len() > CACHED_BYTES {
            return None;
        }
        let mut padded = [0u8; 32];
        padded[..piece.len()].copy_from_slice(piece);
        padded[31] = piece.len() as u8;
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(padded.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(Self { words })
    }

    #[inline]
    fn slot(&self) -> usize {
        const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut hash = 0u64;
        for word in self.words {
            hash = (hash.rotate_left(23) ^ word).wrapping_mul(ODD);
        }
        (hash >> (64 - CACHE_ENTRIES.trailing_zeros())) as usize
    }
}

/// One remembered piece: 64 bytes. An all-zero key would be the empty piece, which never comes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Entry {
    key: [u64; 4],
    ids: [u32; CACHED_IDS],
    count: u32,
}

/// What one thread needs while it encodes.
#[derive(Debug)]
pub(crate) struct Scratch {
    cache: Box<[Entry]>,
    buffers: MergeBuffers,
}

/// Scratch of threads that encoded before, for the next that comes.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Scratch>>);

impl Pool {
    fn take(&self) -> Scratch {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        held.unwrap_or_else(|| Scratch {
            cache: vec![Entry::default(); CACHE_ENTRIES].into_boxed_slice(),
            buffers: MergeBuffers::default(),
        })
    }

    fn put(&self, scratch: Scratch) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}
