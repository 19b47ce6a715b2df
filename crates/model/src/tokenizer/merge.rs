//! The merge loop of byte-pair encoding over one pre-token.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::vocabulary::{NO_ID, Vocabulary};

/// No merge: larger than every rank.
const NONE: u64 = u64::MAX;

/// Up to this many symbols the smallest rank is looked for by a plain scan, which beats a heap on short pieces.
const SCAN_LIMIT: usize = 96;

/// Which neighbours merge, at which rank, into which token.
///
/// A value holds the rank in its upper and the merged id in its lower half, so that comparing values compares ranks.
#[derive(Debug, Clone)]
pub(crate) struct Merges {
    pairs: FxHashMap<u64, u64>,
    /// The token of each single byte.
    byte_ids: [u32; 256],
    /// For each character U+4E00..=U+9FFF the token that it always becomes, or [`NO_ID`]; empty when the vocabulary
    /// does not allow to start from characters (see [`Merges::find_whole_characters`]).
    han: Vec<u32>,
}

/// Buffers of the merge loop, kept between pieces.
#[derive(Debug, Default)]
pub(crate) struct MergeBuffers {
    ids: Vec<u32>,
    values: Vec<u64>,
    links: Vec<(u32, u32)>,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
}

const HAN_FIRST: u32 = 0x4E00;
const HAN_COUNT: usize = 0x9FFF - 0x4E00 + 1;

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Merges {
    /// Merges as listed: (left, right, merged), ranked by their place in the list; a later mention replaces an earlier one.
    pub(crate) fn from_list(
        byte_ids: [u32; 256],
        list: impl ExactSizeIterator<Item = (u32, u32, u32)>,
        vocabulary: &Vocabulary,
    ) -> Self {
        let mut pairs = FxHashMap::with_capacity_and_hasher(list.len(), Default::default());
        for (rank, (left, right, merged)) in list.enumerate() {
            pairs.insert(key(left, right), (rank as u64) << 32 | u64::from(merged));
        }
        let mut merges = Self { pairs, byte_ids, han: Vec::new() };
        merges.find_whole_characters(vocabulary);
        merges
    }

    /// Merges of a rank list, where any two neighbours merge whose bytes together are a token, ranked by its id (tiktoken).
    pub(crate) fn from_ranks(byte_ids: [u32; 256], vocabulary: &Vocabulary) -> Self {
        let mut pairs = FxHashMap::with_capacity_and_hasher(vocabulary.len() * 3, Default::default());
        for id in 0..vocabulary.len() as u32 {
            let token = vocabulary.bytes_of(id);
            for split in 1..token.len() {
                let Some(left) = vocabulary.id_of(&token[..split]) else { continue };
                let Some(right) = vocabulary.id_of(&token[split..]) else { continue };
                pairs.insert(key(left, right), u64::from(id) << 32 | u64::from(id));
            }
        }
        let mut merges = Self { pairs, byte_ids, han: Vec::new() };
        merges.find_whole_characters(vocabulary);
        merges
    }

    #[inline]
    fn value(&self, left: u32, right: u32) -> u64 {
        self.pairs.get(&key(left, right)).copied().unwrap_or(NONE)
    }

    /// Encodes one piece and appends its ids.
    pub(crate) fn encode(&self, piece: &[u8], buffers: &mut MergeBuffers, out: &mut Vec<u32>) {
        self.start(piece, &mut buffers.ids);
        if buffers.ids.len() <= SCAN_LIMIT { self.merge_by_scan(buffers) } else { self.merge_by_heap(buffers) }
        out.extend_from_slice(&buffers.ids);
    }

    /// The symbols merging starts from: bytes, or whole Chinese characters where that gives the same result.
    ///
    /// The first and the last character of a run stay bytes unless the piece begins or ends there, because a token
    /// may span a part of them and a neighbour of another kind (Qwen has tokens of a space and half a character).
    fn start(&self, piece: &[u8], ids: &mut Vec<u32>) {
        ids.clear();
        let mut at = 0;
        while at < piece.len() {
            if !self.han.is_empty()
                && let Some(token) = self.han_at(piece, at)
                && token != NO_ID
                && (at == 0 || (at >= 3 && self.han_at(piece, at - 3).is_some()))
                && (at + 3 == piece.len() || self.han_at(piece, at + 3).is_some())
            {
                ids.push(token);
                at += 3;
            } else {
                ids.push(self.byte_ids[usize::from(piece[at])]);
                at += 1;
            }
        }
    }

    /// The table entry of the Chinese character that starts at a byte, if one does.
    #[inline]
    fn han_at(&self, piece: &[u8], at: usize) -> Option<u32> {
        let &[a, b, c] = piece.get(at..at + 3)?.first_chunk::<3>()?;
        if !(0xE4..=0xE9).contains(&a) || b & 0xC0 != 0x80 || c & 0xC0 != 0x80 {
            return None;
        }
        let code = u32::from(a & 0x0F) << 12 | u32::from(b & 0x3F) << 6 | u32::from(c & 0x3F);
        self.han.get(code.checked_sub(HAN_FIRST)? as usize).copied()
    }

    fn merge_by_scan(&self, MergeBuffers { ids, values, .. }: &mut MergeBuffers) {
        values.clear();
        values.extend(ids.windows(2).map(|pair| self.value(pair[0], pair[1])));
        loop {
            let mut best = NONE;
            let mut at = 0;
            for (i, &value) in values.iter().enumerate() {
                if value < best {
                    best = value;
                    at = i;
                }
            }
            if best == NONE {
                return;
            }
            ids[at] = best as u32;
            ids.remove(at + 1);
            values.remove(at);
            if at > 0 {
                values[at - 1] = self.value(ids[at - 1], ids[at]);
            }
            if at < values.len() {
                values[at] = self.value(ids[at], ids[at + 1]);
            }
        }
    }

    /// The same merges in O(n log n), so that a megabyte of letters without a break stays affordable.
    fn merge_by_heap(&self, MergeBuffers { ids, values, links, heap }: &mut MergeBuffers) {
        const END: u32 = u32::MAX;
        let n = ids.len();
        values.clear();
        values.extend(ids.windows(2).map(|pair| self.value(pair[0], pair[1])));
        values.push(NONE);
        links.clear();
        links.extend((0..n as u32).map(|i| (i.wrapping_sub(1), if i as usize + 1 == n { END } else { i + 1 })));
        heap.clear();
        heap.extend(
            values.iter().enumerate().filter(|(_, v)| **v != NONE).map(|(i, &v)| Reverse((v, i as u32))),
        );
        while let Some(Reverse((value, at))) = heap.pop() {
            let i = at as usize;
            // An entry is stale when its symbol was merged since; the pair's value then differs.
            if values[i] != value {
                continue;
            }
            let right = links[i].1 as usize;
            let after = links[right].1;
            ids[i] = value as u32;
            ids[right] = NO_ID;
            values[right] = NONE;
            links[i].1 = after;
            values[i] = NONE;
            if after != END {
                links[after as usize].0 = at;
                values[i] = self.value(ids[i], ids[after as usize]);
                if values[i] != NONE {
                    heap.push(Reverse((values[i], at)));
                }
            }
            let before = links[i].0;
            if before != END {
                let b = before as usize;
                values[b] = self.value(ids[b], ids[i]);
                if values[b] != NONE {
                    heap.push(Reverse((values[b], before)));
                }
            }
        }
        ids.retain(|&id| id != NO_ID);
    }

    /// Finds the characters from which merging may start instead of from their bytes, with the same result.
    ///
    /// That holds when (1) no token contains a part of one Chinese character together with anything of a Chinese
    /// neighbour, so that a character's own merges cannot be disturbed, and (2) every token of several characters ranks
    /// after the merges that make up each Chinese character in it, so that those come first anyway. Both are checked
    /// here; where (1) fails no character is taken, where (2) fails that character is not.
    fn find_whole_characters(&mut self, vocabulary: &Vocabulary) {
        let mut buffers = MergeBuffers::default();
        let mut han = vec![NO_ID; HAN_COUNT];
        let mut completed_at = vec![0u64; HAN_COUNT];
        for (i, entry) in han.iter_mut().enumerate() {
            let c = char::from_u32(HAN_FIRST + i as u32).expect("U+4E00..=U+9FFF are characters");
            let mut utf8 = [0; 4];
            let bytes = c.encode_utf8(&mut utf8).as_bytes();
            buffers.ids.clear();
            buffers.ids.extend(bytes.iter().map(|&b| self.byte_ids[usize::from(b)]));
            let first = self.value(buffers.ids[0], buffers.ids[1]);
            let second = self.value(buffers.ids[1], buffers.ids[2]);
            let inner = first.min(second);
            self.merge_by_scan(&mut buffers);
            if let &[token] = buffers.ids.as_slice() {
                let outer = if first <= second {
                    self.value(inner as u32, self.byte_ids[usize::from(bytes[2])])
                } else {
                    self.value(self.byte_ids[usize::from(bytes[0])], inner as u32)
                };
                *entry = token;
                completed_at[i] = inner.max(outer) >> 32;
            }
        }
        for &value in self.pairs.values() {
            let token = vocabulary.bytes_of(value as u32);
            if !whole_at_han_boundaries(token) {
                self.han = Vec::new();
                return;
            }
            if token.len() <= 3 {
                continue;
            }
            for chunk in token.utf8_chunks() {
                for c in chunk.valid().chars() {
                    let Some(i) = (c as u32).checked_sub(HAN_FIRST).map(|i| i as usize) else { continue };
                    if i < HAN_COUNT && completed_at[i] >= value >> 32 {
                        han[i] = NO_ID;
                    }
                }
            }
        }
        self.han = han;
    }
}

/// Whether both sides of every boundary between two characters in a token that may both be Chinese are complete.
fn whole_at_han_boundaries(token: &[u8]) -> bool {
    let is_lead = |b: u8| (0xE4..=0xE9).contains(&b);
    let continues = |b: u8| b & 0xC0 == 0x80;
    (1..token.len()).filter(|&p| is_lead(token[p])).all(|p| {
        let tail = token[..p].iter().rev().take_while(|&&b| continues(b)).count();
        let left = match token.get(p.wrapping_sub(tail + 1)) {
            _ if tail == 0 || tail > 2 => return true,
            Some(&b) if is_lead(b) && tail == 2 => true,
            Some(&b) if b >= 0xC0 => return true,
            _ => false,
        };
        let right = token[p + 1..].iter().take(2).filter(|&&b| continues(b)).count() == 2;
        left && right
    })
}
