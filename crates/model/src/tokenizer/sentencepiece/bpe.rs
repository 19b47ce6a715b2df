//! Segmentation by merging: the two neighbours whose joint piece has the highest score first, the leftmost of equals.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::SentencePiece;
use super::model::{LONGEST_PIECE, PieceKind};

/// A run of bytes that is one symbol at the moment.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: u32,
    /// Equal to `start` when a neighbour has swallowed the symbol.
    end: u32,
    before: u32,
    after: u32,
    /// A user-defined piece, which does not merge.
    frozen: bool,
}

const NONE: u32 = u32::MAX;

/// A merge that may be done.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    length: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // Scores are finite; -0.0 equals 0.0 for the reference.
        let score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        score.then(other.left.cmp(&self.left)).then(other.length.cmp(&self.length))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Segments normalised text. Calls back with the bytes of each segment and its id, in order.
pub(super) fn segment(model: &SentencePiece, text: &str, mut found: impl FnMut(Range<usize>, u32)) {
    let bytes = text.as_bytes();
    let mut symbols = split(model, text);
    let mut heap = BinaryHeap::with_capacity(symbols.len());
    let mut halves = FxHashMap::default();
    let mut consider = |heap: &mut BinaryHeap<Candidate>, symbols: &[Symbol], left: u32, right: u32| {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (symbols[left as usize], symbols[right as usize]);
        let length = b.end - a.start;
        if a.frozen || b.frozen || length as usize > LONGEST_PIECE {
            return;
        }
        let Some(id) = model.joined.id_of(&bytes[a.start as usize..b.end as usize]) else { return };
        let piece = &model.pieces[id as usize];
        if piece.kind == PieceKind::Unused {
            halves.insert(id, a.end - a.start);
        }
        heap.push(Candidate { score: piece.score, left, right, length });
    };
    for right in 1..symbols.len() as u32 {
        consider(&mut heap, &symbols, right - 1, right);
    }
    while let Some(top) = heap.pop() {
        let (a, b) = (symbols[top.left as usize], symbols[top.right as usize]);
        // A candidate is stale when one of its symbols was merged since.
        if a.start == a.end
            || b.start == b.end
            || b.end.wrapping_sub(a.start) != top.length
            || a.after != top.right
        {
            continue;
        }
        symbols[top.left as usize].end = b.end;
        symbols[top.left as usize].after = b.after;
        if b.after != NONE {
            symbols[b.after as usize].before = top.left;
        }
        symbols[top.right as usize].end = b.start;
        consider(&mut heap, &symbols, a.before, top.left);
        consider(&mut heap, &symbols, top.left, b.after);
    }
    let mut stack = Vec::new();
    let mut at = if symbols.is_empty() { NONE } else { 0 };
    while at != NONE {
        let symbol = symbols[at as usize];
        // A piece that may not be a result is taken apart again, as it was put together last.
        stack.push(symbol.start as usize..symbol.end as usize);
        while let Some(range) = stack.pop() {
            let id = model.id_of_segment(&bytes[range.clone()]);
            match halves.get(&id) {
                Some(&left) if model.pieces[id as usize].kind == PieceKind::Unused => {
                    let middle = range.start + left as usize;
                    stack.push(middle..range.end);
                    stack.push(range.start..middle);
                }
                _ => found(range, id),
            }
        }
        at = symbol.after;
    }
}

/// The symbols merging starts from: user-defined pieces and characters.
fn split(model: &SentencePiece, text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let kept = if model.has_user_defined { model.normaliser.kept.longest(rest.as_bytes()) } else { None };
        let length = kept.unwrap_or_else(|| rest.chars().next().map_or(rest.len(), char::len_utf8));
        let index = symbols.len() as u32;
        symbols.push(Symbol {
            start: at as u32,
            end: (at + length) as u32,
            before: index.wrapping_sub(1),
            after: index + 1,
            frozen: kept.is_some(),
        });
        at += length;
    }
    if let Some(last) = symbols.last_mut() {
        last.after = NONE;
    }
    symbols
}
