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
    /// For each character U+4E00..=U+9FFF how merging may start from it; empty when the vocabulary does not allow to
    /// start from characters at all (see [`Merges::find_whole_characters`]).
    han: Vec<Han>,
}

/// What is known of one Chinese character.
#[derive(Debug, Clone, Copy)]
struct Han {
    /// The token its bytes always become, or [`NO_ID`].
    token: u32,
    /// Whether some token holds it whole together with a part of a Chinese character before it.
    open_left: bool,
    /// Whether some token holds it whole together with a part of a Chinese character after it.
    open_right: bool,
}

/// Buffers of the merge loop, kept between pieces.
#[derive(Debug, Default)]
pub(crate) struct MergeBuffers {
    /// The symbols that merge, and afterwards what they became.
    pub(super) ids: Vec<u32>,
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

    /// Merges between symbols that are no bytes: (left, right, merged), ranked by their place in the list.
    pub(crate) fn between_symbols(list: impl Iterator<Item = (u32, u32, u32)>) -> Self {
        let pairs = (0u64..)
            .zip(list)
            .map(|(rank, (left, right, merged))| (key(left, right), rank << 32 | u64::from(merged)));
        Self { pairs: pairs.collect(), byte_ids: [NO_ID; 256], han: Vec::new() }
    }

    #[inline]
    fn value(&self, left: u32, right: u32) -> u64 {
        self.pairs.get(&key(left, right)).copied().unwrap_or(NONE)
    }

    /// Encodes one piece and appends its ids.
    pub(crate) fn encode(&self, piece: &[u8], buffers: &mut MergeBuffers, out: &mut Vec<u32>) {
        self.start(piece, &mut buffers.ids);
        self.merge(buffers);
        out.extend_from_slice(&buffers.ids);
    }

    /// Does all merges between the symbols in the buffers.
    pub(crate) fn merge(&self, buffers: &mut MergeBuffers) {
        if buffers.ids.len() <= SCAN_LIMIT {
            self.merge_by_scan(buffers)
        } else {
            self.merge_by_heap(buffers)
        }
    }

    /// The symbols merging starts from: bytes, or whole Chinese characters where that gives the same result.
    ///
    /// A character beside one of another kind stays bytes, because a token may span a part of it and the neighbour (Qwen has
    /// tokens of a space and half a character); so does one beside a Chinese character with which that can happen.
    fn start(&self, piece: &[u8], ids: &mut Vec<u32>) {
        ids.clear();
        let mut at = 0;
        while at < piece.len() {
            if let Some(run) = self.han_run(piece, at, ids) {
                at += run;
            } else {
                ids.push(self.byte_ids[usize::from(piece[at])]);
                at += 1;
            }
        }
    }

    /// Starts the run of Chinese characters at an offset and returns its bytes, if there is one.
    fn han_run(&self, piece: &[u8], start: usize, ids: &mut Vec<u32>) -> Option<usize> {
        let mut here = self.han_at(piece, start)?;
        let mut left_closed = start == 0;
        let mut at = start;
        loop {
            let next = self.han_at(piece, at + 3);
            let right_closed = match next {
                Some(next) => !here.open_right && !next.open_left,
                None => at + 3 == piece.len(),
            };
            if left_closed && right_closed && here.token != NO_ID {
                ids.push(here.token);
            } else {
                ids.extend(piece[at..at + 3].iter().map(|&b| self.byte_ids[usize::from(b)]));
            }
            at += 3;
            left_closed = right_closed;
            match next {
                Some(next) => here = next,
                None => return Some(at - start),
            }
        }
    }

    /// The table entry of the Chinese character that starts at a byte, if one does.
    #[inline]
    fn han_at(&self, piece: &[u8], at: usize) -> Option<Han> {
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
        links.extend(
            (0..n as u32).map(|i| (i.wrapping_sub(1), if i as usize + 1 == n { END } else { i + 1 })),
        );
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
    /// That holds for a character when (1) no token contains a part of it together with anything of a neighbour, so that
    /// its own merges cannot be disturbed, and (2) every token of several characters ranks after the merges that make up each
    /// Chinese character in it, so that those come first anyway. For (1) the tokens that hold a part of one Chinese character
    /// and something of another mark the boundaries where that can happen; a character that breaks (2) is not taken.
    fn find_whole_characters(&mut self, vocabulary: &Vocabulary) {
        let mut buffers = MergeBuffers::default();
        let mut han = vec![Han { token: NO_ID, open_left: false, open_right: false }; HAN_COUNT];
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
                entry.token = token;
                completed_at[i] = inner.max(outer) >> 32;
            }
        }
        for &value in self.pairs.values() {
            let token = vocabulary.bytes_of(value as u32);
            if token.len() <= 3 && std::str::from_utf8(token).is_ok() {
                continue;
            }
            for at in (1..token.len()).filter(|&at| is_han_lead(token[at])) {
                match (side_before(token, at), side_after(token, at)) {
                    (Side::Other, _) | (Side::Whole(_), Side::Whole(_)) => {}
                    (Side::Whole(left), _) => mark(&mut han, left, |entry| entry.open_right = true),
                    (Side::Part, Side::Whole(right)) => mark(&mut han, right, |entry| entry.open_left = true),
                    (Side::Part, _) => {
                        self.han = Vec::new();
                        return;
                    }
                }
            }
            for c in token.utf8_chunks().flat_map(|chunk| chunk.valid().chars()) {
                let late = |i: usize| completed_at.get(i).is_some_and(|&rank| rank >= value >> 32);
                if token.len() > 3 && (c as u32).checked_sub(HAN_FIRST).is_some_and(|i| late(i as usize)) {
                    mark(&mut han, c, |entry| entry.token = NO_ID);
                }
            }
        }
        self.han = han;
    }
}

fn mark(han: &mut [Han], c: char, change: impl FnOnce(&mut Han)) {
    let index = (c as u32).checked_sub(HAN_FIRST).map(|i| i as usize);
    if let Some(entry) = index.and_then(|i| han.get_mut(i)) {
        change(entry);
    }
}

/// What a token holds of the character on one side of a boundary.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    /// All of a character that may be Chinese.
    Whole(char),
    /// A part of a character that may be Chinese.
    Part,
    /// Something that is no part of a Chinese character.
    Other,
}

fn is_han_lead(byte: u8) -> bool {
    (0xE4..=0xE9).contains(&byte)
}

fn continues(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

fn side_before(token: &[u8], at: usize) -> Side {
    let tail = token[..at].iter().rev().take_while(|&&b| continues(b)).count();
    match token[..at - tail].last() {
        // Nothing but the end of a character: one of three bytes may be Chinese.
        None if (1..=2).contains(&tail) => Side::Part,
        Some(&lead) if is_han_lead(lead) && tail == 2 => match std::str::from_utf8(&token[at - 3..at]) {
            Ok(text) => text.chars().next().map_or(Side::Part, Side::Whole),
            Err(_) => Side::Other,
        },
        _ => Side::Other,
    }
}

/// The side after a boundary where the lead byte of a character that may be Chinese stands.
fn side_after(token: &[u8], at: usize) -> Side {
    let whole = token.get(at..at + 3).and_then(|bytes| std::str::from_utf8(bytes).ok());
    whole.and_then(|text| text.chars().next()).map_or(Side::Part, Side::Whole)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::ranks::{RankFamily, read_ranks};
    use crate::tokenizer::{Kind, Tokenizer, Trainer, TrainerOptions};

    /// The same merges that start from bytes always, by the plainest code: rescan for the lowest rank after every merge.
    fn reference(merges: &Merges, piece: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = piece.iter().map(|&b| merges.byte_ids[usize::from(b)]).collect();
        loop {
            let values = ids.windows(2).map(|pair| merges.value(pair[0], pair[1]));
            let Some((value, at)) = values.zip(0..).min().filter(|(value, _)| *value != NONE) else {
                return ids;
            };
            ids[at] = value as u32;
            ids.remove(at + 1);
        }
    }

    fn encode(merges: &Merges, piece: &str) -> Vec<u32> {
        let mut out = Vec::new();
        merges.encode(piece.as_bytes(), &mut MergeBuffers::default(), &mut out);
        out
    }

    fn trained() -> Tokenizer {
        let mut trainer =
            Trainer::new(TrainerOptions { vocab_size: 700, ..TrainerOptions::default() }).unwrap();
        let text = "糖尿病患者应当控制饮食，适量运动。 飘飘 病人 the patient 高血压病史十年 ，糖 ，病";
        trainer.add(&text.repeat(50), 1.0).unwrap();
        trainer.finish(&mut |_| {}).unwrap().tokenizer().clone()
    }

    fn merges(tokenizer: &Tokenizer) -> &Merges {
        match &tokenizer.inner.kind {
            Kind::Bytes(bpe) => &bpe.merges,
            _ => unreachable!("a byte-level vocabulary"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn shortcuts_change_nothing(text in "([糖尿病患者应当控制饮食适量运动飘人高血压史十年龘霪，。 a-f]|[\u{4e00}-\u{9fff}]|[\u{3400}-\u{4dbf}é🧬]){1,60}") {
            let tokenizer = trained();
            let merges = merges(&tokenizer);
            prop_assert_eq!(encode(merges, &text), reference(merges, text.as_bytes()));
        }
    }

    #[test]
    fn long_pieces_merge_the_same_by_heap_and_by_scan() {
        let tokenizer = trained();
        let merges = merges(&tokenizer);
        for text in [
            "糖尿病患者the patient，".repeat(60),
            "a".repeat(500),
            "飘".repeat(200),
            "高血压病史十年".repeat(99),
        ] {
            assert!(text.len() > 2 * SCAN_LIMIT);
            assert_eq!(encode(merges, &text), reference(merges, text.as_bytes()));
        }
    }

    #[test]
    fn qwen_starts_from_characters_and_changes_nothing() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/oracles/tokenizers/qwen1/qwen.tiktoken");
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!("skipped: ../shared/oracles is not beside the repository");
            return;
        };
        let bpe = read_ranks(&path, &bytes, RankFamily::Qwen).unwrap();
        let whole = bpe
            .merges
            .han
            .iter()
            .filter(|han| han.token != NO_ID && !han.open_left && !han.open_right)
            .count();
        eprintln!("{whole} characters start whole");
        assert!(whole > 4000, "{whole}");
        let mut text = String::new();
        // Every character between a common and a rare neighbour, beside a space, and at both ends of a piece.
        for (i, code) in (0x4E00..=0x9FFFu32).enumerate() {
            let c = char::from_u32(code).unwrap();
            text.push_str(&format!(
                "{c}病{c}{}",
                char::from_u32(0x4E00 + (i as u32 * 7919) % 0x5200).unwrap()
            ));
            if i % 16 == 0 {
                text.push(' ');
            }
        }
        for piece in text.split_inclusive(' ') {
            assert_eq!(encode(&bpe.merges, piece), reference(&bpe.merges, piece.as_bytes()), "{piece}");
        }
    }

    #[test]
    fn parts_of_characters_in_tokens_are_seen() {
        let sides = |token: &[u8], at: usize| (side_before(token, at), side_after(token, at));
        let two = "糖尿".as_bytes();
        assert_eq!(sides(two, 3), (Side::Whole('糖'), Side::Whole('尿')));
        assert_eq!(sides(&two[..4], 3), (Side::Whole('糖'), Side::Part));
        assert_eq!(sides(&two[1..], 2), (Side::Part, Side::Whole('尿')));
        assert_eq!(sides(&two[2..5], 1), (Side::Part, Side::Part));
        assert_eq!(sides(" 糖".as_bytes(), 1), (Side::Other, Side::Whole('糖')));
        assert_eq!(sides("，糖".as_bytes(), 3), (Side::Other, Side::Whole('糖')));
        // Without its lead the comma could be Chinese.
        assert_eq!(sides(&"，糖".as_bytes()[1..], 2), (Side::Part, Side::Whole('糖')));
        assert_eq!(sides(&"🧬糖".as_bytes()[1..], 3), (Side::Other, Side::Whole('糖')));
        assert_eq!(sides("🧬糖".as_bytes(), 4), (Side::Other, Side::Whole('糖')));
    }
}
