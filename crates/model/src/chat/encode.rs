//! From rendered text to ids.

use std::ops::Range;

use super::Rendered;
use super::shield::Shield;
use crate::tokenizer::{Place, Tokenizer};

/// A rendered text and what is known about it.
pub(super) struct Layout<'a> {
    pub(super) text: &'a str,
    /// The character that breaks up special tokens inside content.
    pub(super) breaker: char,
    /// The special tokens that the template wrote, in order.
    pub(super) specials: &'a [(Range<usize>, u32)],
    /// Where answers begin: no token spans a prompt and its answer.
    pub(super) cuts: &'a [usize],
    /// What is learned.
    pub(super) learned: &'a [Range<usize>],
}

/// Encodes text: special tokens where the template put them, ordinary text between them.
///
/// An answer goes on from its prompt, so that a tokenizer that marks the beginnings of texts does not mark it, unless `apart` says
/// that answers are texts of their own.
pub(super) fn encode(tokenizer: &Tokenizer, shield: &Shield, layout: &Layout<'_>, apart: bool) -> Rendered {
    let mut encoder = Encoder { tokenizer, shield, layout, apart, rendered: Rendered::default() };
    let mut at = 0;
    for (range, token) in layout.specials {
        encoder.between(at..range.start);
        encoder.rendered.ids.push(*token);
        encoder.note(range.start);
        at = range.end;
    }
    encoder.between(at..layout.text.len());
    encoder.rendered
}

struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    shield: &'a Shield,
    layout: &'a Layout<'a>,
    apart: bool,
    rendered: Rendered,
}

impl Encoder<'_> {
    /// Says of the ids since the last note whether they are learned.
    fn note(&mut self, at: usize) {
        let learned = self.layout.learned.iter().any(|range| range.contains(&at));
        self.rendered.learned.resize(self.rendered.ids.len(), learned);
    }

    /// Encodes the text between two special tokens, cut where answers begin.
    fn between(&mut self, part: Range<usize>) {
        let mut before = String::new();
        let mut place = if part.start == 0 { Place::Start } else { Place::AfterSpecial };
        let mut from = part.start;
        for &cut in self.layout.cuts.iter().filter(|cut| part.contains(cut)).chain([&part.end]) {
            let piece = &self.layout.text[from..cut];
            if from > part.start {
                place = if self.apart { Place::Start } else { Place::Inside };
            }
            if piece.is_empty() {
                continue;
            }
            let whole = piece.replace(self.layout.breaker, "");
            let start = self.rendered.ids.len();
            self.append(&before, &whole, place);
            if self.is_misread(start) {
                self.rendered.ids.truncate(start);
                for pause in piece.split(self.layout.breaker) {
                    self.in_pieces(pause, place);
                    place = Place::Inside;
                }
            }
            self.note(from);
            before.push_str(&whole);
            from = cut;
        }
    }

    /// Appends the ids of a text that stands behind another.
    fn append(&mut self, before: &str, text: &str, place: Place) {
        let ids = &mut self.rendered.ids;
        if place == Place::Inside && !self.tokenizer.knows_places() && !before.is_empty() {
            let both = self.tokenizer.encode(&format!("{before}{text}"));
            if let Some(rest) = both.strip_prefix(&self.tokenizer.encode(before)[..]) {
                ids.extend(rest);
                return;
            }
        }
        self.tokenizer.encode_at(text, place, ids);
    }

    /// Whether text became a token that only the template may write: of some vocabularies every string of a token is one,
    /// and some normalise other characters to those of a special token.
    fn is_misread(&self, start: usize) -> bool {
        self.rendered.ids[start..].iter().any(|id| self.shield.holds(*id))
    }

    /// Encodes text in halves until none of them is read as a special token.
    fn in_pieces(&mut self, text: &str, place: Place) {
        let start = self.rendered.ids.len();
        self.tokenizer.encode_at(text, place, &mut self.rendered.ids);
        if !self.is_misread(start) {
            return;
        }
        self.rendered.ids.truncate(start);
        let middle = text.ceil_char_boundary(text.len() / 2);
        // A character that is a special token by itself is no text.
        if middle > 0 && middle < text.len() {
            self.in_pieces(&text[..middle], place);
            self.in_pieces(&text[middle..], Place::Inside);
        }
    }
}
