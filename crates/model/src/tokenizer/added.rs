//! Tokens that are cut out of the text before anything else: special tokens and other added ones.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

/// A token that stands for a fixed string and is not reached by merging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// Special tokens carry structure (`<|im_end|>`); they are recognised only where the caller asks for it.
    pub(crate) special: bool,
    /// Takes the white space before it along.
    pub(crate) strip_left: bool,
    /// Takes the white space after it along.
    pub(crate) strip_right: bool,
    /// Looked for in the normalised text instead of the text as given.
    pub(crate) normalised: bool,
    /// Looked for in text at all; a control piece of a bare SentencePiece model is not.
    pub(crate) in_text: bool,
}

impl AddedToken {
    pub(crate) fn special(id: u32, content: impl Into<String>) -> Self {
        Self {
            id,
            content: content.into(),
            special: true,
            strip_left: false,
            strip_right: false,
            normalised: false,
            in_text: true,
        }
    }
}

/// All added tokens of a tokenizer and the four searches over them.
#[derive(Debug, Default)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    raw_all: Matcher,
    raw_ordinary: Matcher,
    normalised_all: Matcher,
    normalised_ordinary: Matcher,
}

impl AddedTokens {
    pub(crate) fn new(tokens: Vec<AddedToken>) -> Result<Self, aho_corasick::BuildError> {
        let pick = |normalised: bool, ordinary_only: bool| {
            Matcher::new(
                tokens
                    .iter()
                    .filter(|t| {
                        t.in_text
                            && t.normalised == normalised
                            && !(ordinary_only && t.special)
                            && !t.content.is_empty()
                    })
                    .cloned()
                    .collect(),
            )
        };
        Ok(Self {
            raw_all: pick(false, false)?,
            raw_ordinary: pick(false, true)?,
            normalised_all: pick(true, false)?,
            normalised_ordinary: pick(true, true)?,
            tokens,
        })
    }

    pub(crate) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// The search over the text as given.
    pub(crate) fn raw(&self, special: bool) -> &Matcher {
        if special { &self.raw_all } else { &self.raw_ordinary }
    }

    /// The search over the normalised text.
    pub(crate) fn normalised(&self, special: bool) -> &Matcher {
        if special { &self.normalised_all } else { &self.normalised_ordinary }
    }
}

/// A part of a text: an added token, or the text between two.
pub(crate) enum Segment<'t> {
    Token(u32),
    Text(&'t str),
}

/// A search for a set of added tokens, leftmost first, the longest where several start.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    automaton: Option<AhoCorasick>,
    tokens: Vec<AddedToken>,
}

impl Matcher {
    fn new(tokens: Vec<AddedToken>) -> Result<Self, aho_corasick::BuildError> {
        if tokens.is_empty() {
            return Ok(Self::default());
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|t| t.content.as_bytes()))?;
        Ok(Self { automaton: Some(automaton), tokens })
    }

    /// Calls back with every part of the text, in order; empty texts are left out.
    pub(crate) fn split<'t>(&self, text: &'t str, mut part: impl FnMut(Segment<'t>)) {
        self.split_ranges(text, |range, id| {
            part(match id {
                Some(id) => Segment::Token(id),
                None => Segment::Text(&text[range]),
            });
        });
    }

    /// Like [`split`](Self::split), with the bytes of every part, and the id of those that are tokens.
    pub(crate) fn split_ranges(&self, text: &str, mut part: impl FnMut(Range<usize>, Option<u32>)) {
        let mut at = 0;
        if let Some(automaton) = &self.automaton {
            for found in automaton.find_iter(text) {
                let token = &self.tokens[found.pattern().as_usize()];
                // A token that strips to its right may have taken the start of this one's white space.
                let (mut start, mut end) = (found.start().max(at), found.end());
                if token.strip_left {
                    start = at + text[at..start].trim_end().len();
                }
                if token.strip_right {
                    end = text.len() - text[end..].trim_start().len();
                }
                if start > at {
                    part(at..start, None);
                }
                part(start..end.max(start), Some(token.id));
                at = end.max(at);
            }
        }
        if at < text.len() {
            part(at..text.len(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(tokens: &AddedTokens, special: bool, text: &str) -> Vec<String> {
        let mut parts = Vec::new();
        tokens.raw(special).split(text, |segment| {
            parts.push(match segment {
                Segment::Token(id) => format!("#{id}"),
                Segment::Text(text) => text.to_owned(),
            });
        });
        parts
    }

    #[test]
    fn special_tokens_are_seen_only_when_asked_for() {
        let tokens = AddedTokens::new(vec![
            AddedToken::special(1, "<|a|>"),
            AddedToken { special: false, ..AddedToken::special(2, "<think>") },
            AddedToken::special(3, "<|a|><|a|>"),
            AddedToken { strip_left: true, strip_right: true, ..AddedToken::special(4, "<mask>") },
        ])
        .unwrap();
        assert_eq!(parts(&tokens, true, "x<|a|>y<think>"), ["x", "#1", "y", "#2"]);
        assert_eq!(parts(&tokens, false, "x<|a|>y<think>"), ["x<|a|>y", "#2"]);
        assert_eq!(parts(&tokens, true, "<|a|><|a|><|a|>"), ["#3", "#1"]);
        assert_eq!(parts(&tokens, true, "a <mask> <mask> b"), ["a", "#4", "#4", "b"]);
        assert_eq!(parts(&tokens, true, ""), Vec::<String>::new());
    }
}
