//! Pipelines other than byte-level BPE, run by the `tokenizers` crate.

use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use super::TokenizerError;
use super::added::AddedToken;

/// A tokenizer of the `tokenizers` crate, in two settings.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// Recognises special tokens in text.
    recognising: tokenizers::Tokenizer,
    /// Takes their text for ordinary text.
    ordinary: tokenizers::Tokenizer,
}

impl Foreign {
    pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Self, TokenizerError> {
        let unreadable = |found: String| {
            TokenizerError::malformed(path, "pipeline", "one that the tokenizers crate runs", found)
        };
        let text = std::str::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
        let mut recognising =
            tokenizers::Tokenizer::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        recognising.with_padding(None);
        recognising.with_truncation(None).map_err(|error| unreadable(error.to_string()))?;
        let mut ordinary = recognising.clone();
        ordinary.set_encode_special_tokens(true);
        let foreign = Self { recognising, ordinary };
        // A vocabulary without an unknown token fails on the first character it does not know: say so now.
        const RARE: &str = "a 糖 🧬 \u{10FFFD} \u{0}\n";
        foreign.try_encode(RARE, false).map_err(|error| unreadable(error.to_string()))?;
        Ok(foreign)
    }

    fn try_encode(&self, text: &str, special: bool) -> tokenizers::Result<Vec<u32>> {
        let tokenizer = if special { &self.recognising } else { &self.ordinary };
        Ok(tokenizer.encode_fast(text, false)?.get_ids().to_vec())
    }

    /// Appends the ids of a text.
    ///
    /// The crate can fail on text (a pattern's step limit). Then the text is cut in half at a character until it works.
    pub(crate) fn encode(&self, text: &str, special: bool, out: &mut Vec<u32>) {
        let mut rest = vec![text];
        while let Some(part) = rest.pop() {
            match self.try_encode(part, special) {
                Ok(ids) => out.extend(ids),
                Err(error) => {
                    let middle = part.floor_char_boundary(part.len().div_ceil(2));
                    tracing::warn!(bytes = part.len(), %error, "text was encoded in two halves");
                    if middle > 0 && middle < part.len() {
                        rest.push(&part[middle..]);
                        rest.push(&part[..middle]);
                    }
                }
            }
        }
    }

    /// The ids of ordinary text with the bytes they stand for.
    pub(crate) fn encode_with_offsets(&self, text: &str) -> Option<Vec<(u32, Range<usize>)>> {
        let encoding = self.ordinary.encode(text, false).ok()?;
        let ranges =
            encoding.get_offsets().iter().map(|&(start, end)| start.min(text.len())..end.min(text.len()));
        Some(encoding.get_ids().iter().copied().zip(ranges).collect())
    }

    pub(crate) fn decode(&self, ids: &[u32], keep_special: bool) -> String {
        self.recognising.decode(ids, !keep_special).unwrap_or_else(|error| {
            tracing::warn!(%error, "ids could not be decoded");
            String::new()
        })
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.recognising.token_to_id(token)
    }

    /// One past the largest id.
    pub(crate) fn len(&self) -> usize {
        self.recognising.get_vocab(true).values().map(|id| *id as usize + 1).max().unwrap_or(0)
    }

    pub(crate) fn added_tokens(&self) -> Vec<AddedToken> {
        let decoder = self.recognising.get_added_tokens_decoder();
        let mut tokens: Vec<AddedToken> = decoder
            .into_iter()
            .map(|(id, token)| AddedToken {
                id,
                content: token.content,
                special: token.special,
                strip_left: token.lstrip,
                strip_right: token.rstrip,
                normalised: token.normalized,
                in_text: true,
            })
            .collect();
        tokens.sort_by_key(|token| token.id);
        tokens
    }
}
