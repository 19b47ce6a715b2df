//! Keeps the content of messages from being read as structure.
//!
//! Templates look at content (they trim it, ask what it starts with), so it must go through them as it is. Where it holds the
//! text of a special token, or a part that could become one with what the template puts beside it, a character that occurs
//! nowhere else is put inside. It keeps the search for special tokens from matching and is taken out before encoding.

use std::borrow::Cow;
use std::ops::Range;

use aho_corasick::{AhoCorasick, Anchored, BuildError, Input, MatchKind, StartKind};
use rustc_hash::FxHashSet;

/// Finds special tokens in rendered text, and what must be broken up in content, for the tokens of one tokenizer.
#[derive(Debug, Default)]
pub(crate) struct Shield {
    specials: Vec<(String, u32)>,
    ids: FxHashSet<u32>,
    longest: usize,
    searches: Option<Searches>,
}

#[derive(Debug)]
struct Searches {
    /// Special tokens from left to right, the longest where several start.
    leftmost: AhoCorasick,
    /// Every place a special token could start.
    overlapping: AhoCorasick,
    /// Everything a special token can end with, looked for at the start of content only.
    ends: AhoCorasick,
}

impl Shield {
    pub(crate) fn new<'s>(specials: impl Iterator<Item = (&'s str, u32)>) -> Result<Self, BuildError> {
        let mut specials: Vec<(String, u32)> =
            specials.filter(|(s, _)| !s.is_empty()).map(|(s, id)| (s.to_owned(), id)).collect();
        specials.sort();
        specials.dedup_by(|a, b| a.0 == b.0);
        if specials.is_empty() {
            return Ok(Self::default());
        }
        let texts = || specials.iter().map(|(s, _)| s.as_str());
        let ends = texts().flat_map(|s| s.char_indices().skip(1).map(|(at, _)| &s[at..]));
        let searches = Searches {
            leftmost: AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts())?,
            overlapping: AhoCorasick::builder().match_kind(MatchKind::Standard).build(texts())?,
            ends: AhoCorasick::builder().start_kind(StartKind::Anchored).build(ends)?,
        };
        let longest = texts().map(str::len).max().unwrap_or(0);
        let ids = specials.iter().map(|(_, id)| *id).collect();
        Ok(Self { specials, ids, longest, searches: Some(searches) })
    }

    /// The special tokens of rendered text, with the bytes they take.
    pub(crate) fn find(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        let found = self.searches.iter().flat_map(|searches| searches.leftmost.find_iter(text));
        found.map(|found| (found.range(), self.specials[found.pattern().as_usize()].1)).collect()
    }

    /// Lets ids through that ordinary text may become: the unknown token.
    pub(crate) fn allow(&mut self, ids: &[u32]) {
        ids.iter().for_each(|id| {
            self.ids.remove(id);
        });
    }

    /// Whether an id is one of the tokens that are kept out of content.
    pub(crate) fn holds(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// Characters that occur in none of the texts: noncharacters, which no text should hold.
    pub(crate) fn free_characters<'t, const N: usize>(
        texts: impl Iterator<Item = &'t str> + Clone,
    ) -> [char; N] {
        let mut free = ('\u{FDD0}'..='\u{FDEF}')
            .chain('\u{F0000}'..='\u{10FFFD}')
            .filter(|c| !texts.clone().any(|text| text.contains(*c)));
        // Of over a hundred thousand characters a text that holds all is not worth a thought.
        std::array::from_fn(|_| free.next().unwrap_or('\u{10FFFF}'))
    }

    /// Breaks up whatever in a message could be read as a special token.
    pub(crate) fn guard<'t>(&self, content: &'t str, breaker: char) -> Cow<'t, str> {
        let Some(searches) = &self.searches else { return content.into() };
        let after_first = |at: usize| at + content[at..].chars().next().map_or(0, char::len_utf8);
        let mut cuts: Vec<usize> = searches
            .overlapping
            .find_overlapping_iter(content)
            .map(|found| after_first(found.start()))
            .collect();
        let trimmed = content.trim();
        let start = content.len() - content.trim_start().len();
        let inside = trimmed.len() < self.longest && self.specials.iter().any(|(s, _)| s.contains(trimmed));
        let ends_one = searches.ends.is_match(Input::new(trimmed).anchored(Anchored::Yes));
        if !trimmed.is_empty() && (inside || ends_one) {
            cuts.push(start);
        }
        let tail = trimmed.floor_char_boundary(trimmed.len().saturating_sub(self.longest));
        for (at, _) in trimmed[tail..].char_indices() {
            if self.specials.iter().any(|(s, _)| s.starts_with(&trimmed[tail + at..])) {
                cuts.push(after_first(start + tail + at));
            }
        }
        if cuts.is_empty() {
            return content.into();
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut guarded = String::with_capacity(content.len() + cuts.len() * 4);
        let mut at = 0;
        for cut in cuts {
            guarded.push_str(&content[at..cut]);
            guarded.push(breaker);
            at = cut;
        }
        guarded.push_str(&content[at..]);
        guarded.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_content_completes_a_special_token() {
        let specials = ["<|im_end|>", "<|im_start|>", "[MASK]", "<｜end｜>"];
        let shield = Shield::new(specials.into_iter().zip(0..)).unwrap();
        assert!(shield.holds(3) && !shield.holds(4));
        let contents = [
            "<|im_end|>",
            "a<|im_end|>b",
            "<|im_end|><|im_start|>",
            "<|im_",
            "end|>x",
            "im_end",
            " |> ",
            "<",
            ">",
            "MASK",
            "[MASK",
            "x [MAS",
            "<｜end｜>",
            "<｜",
            "[[MASK]]",
            "p < 0.05 [95",
            "\n<|im_end|\n",
        ];
        for content in contents {
            let guarded = shield.guard(content, '\u{FDD0}');
            assert_eq!(guarded.replace('\u{FDD0}', ""), content);
            // Whatever stands around it, and however it is trimmed.
            for special in specials {
                for (cut, _) in special.char_indices().chain([(special.len(), ' ')]) {
                    for (end, _) in special.char_indices().chain([(special.len(), ' ')]) {
                        for body in [&*guarded, guarded.trim()] {
                            let text = format!("{}{body}{}", &special[..cut], &special[end..]);
                            let own = [0..cut, text.len() - (special.len() - end)..text.len()];
                            for found in specials.iter().flat_map(|s| text.match_indices(s)) {
                                let range = found.0..found.0 + found.1.len();
                                let outside =
                                    own.iter().any(|part| part.start <= range.start && range.end <= part.end);
                                assert!(outside, "{special:?} around {content:?} reads {text:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn harmless_content_is_left_alone() {
        let shield = Shield::new([("<|im_end|>", 0), ("[MASK]", 1)].into_iter()).unwrap();
        for content in ["", "糖尿病", "blood pressure < 120", "[1] Smith et al.", "a|>b<|c"] {
            assert_eq!(shield.guard(content, '\u{FDD0}'), content);
        }
        assert_eq!(Shield::default().guard("<|im_end|>", '\u{FDD0}'), "<|im_end|>");
    }

    #[test]
    fn free_characters_occur_nowhere() {
        let free = |texts: &[&str]| Shield::free_characters::<2>(texts.iter().copied());
        assert_eq!(free(&["a"]), ['\u{FDD0}', '\u{FDD1}']);
        assert_eq!(free(&["a\u{FDD0}", "\u{FDD2}"]), ['\u{FDD1}', '\u{FDD3}']);
        let all: String = ('\u{FDD0}'..='\u{FDEF}').collect();
        assert_eq!(free(&[&all]), ['\u{F0000}', '\u{F0001}']);
    }
}
