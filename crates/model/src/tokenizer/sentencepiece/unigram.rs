//! Segmentation by the most probable path: Viterbi over the scores of pieces.

use std::ops::Range;

use super::SentencePiece;
use super::model::PieceKind;

/// What an unknown character scores below the least probable piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The best way to a byte of the text.
#[derive(Debug, Clone, Copy)]
struct Best {
    score: f32,
    start: u32,
    id: u32,
}

const NOWHERE: u32 = u32::MAX;

/// Scores that every segmentation with a model needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    unknown: f32,
    highest: f32,
}

impl Scores {
    pub(super) fn of(pieces: &[super::model::Piece]) -> Self {
        let normal = pieces.iter().filter(|piece| piece.kind == PieceKind::Normal).map(|piece| piece.score);
        // The reference starts its maximum at the smallest positive number.
        let (lowest, highest) = normal.fold((f32::MAX, f32::MIN_POSITIVE), |(lowest, highest), score| {
            (lowest.min(score), highest.max(score))
        });
        Self { unknown: lowest - UNKNOWN_PENALTY, highest }
    }
}

/// Segments normalised text. Calls back with the bytes of each segment and its id, in order.
///
/// Sums are f32 and the first of equals stays, as in the reference, so that ties fall the same way.
pub(super) fn segment(
    model: &SentencePiece,
    scores: Scores,
    text: &str,
    mut found: impl FnMut(Range<usize>, u32),
) {
    let bytes = text.as_bytes();
    let mut best = vec![Best { score: 0.0, start: NOWHERE, id: model.unknown }; bytes.len() + 1];
    let mut at = 0;
    while at < bytes.len() {
        let here = best[at].score;
        let character = text[at..].chars().next().map_or(1, char::len_utf8);
        let mut has_single = false;
        let mut reach = |length: usize, id: u32, score: f32| {
            let target = &mut best[at + length];
            let score = here + score;
            if target.start == NOWHERE || score > target.score {
                *target = Best { score, start: at as u32, id };
            }
        };
        model.matched.prefixes(&bytes[at..], |length, id| {
            let piece = &model.pieces[id as usize];
            let score = match piece.kind {
                PieceKind::Unused => return,
                PieceKind::UserDefined => length as f32 * scores.highest - 0.1,
                _ => piece.score,
            };
            reach(length, id, score);
            has_single |= length == character;
        });
        if !has_single {
            reach(character, model.unknown, scores.unknown);
        }
        at += character;
    }
    let mut path = Vec::new();
    let mut end = bytes.len();
    while end > 0 {
        let Best { start, id, .. } = best[end];
        // Every character can be reached as an unknown one, so there always is a way back.
        let start = if start == NOWHERE { 0 } else { start as usize };
        path.push((start..end, id));
        end = start;
    }
    for (range, id) in path.into_iter().rev() {
        found(range, id);
    }
}
