//! Pipelines other than byte-level BPE, run by the `tokenizers` crate.

use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::TokenizerError;
use super::added::AddedToken;
use super::sentencepiece::check_charsmap;

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
        check(text).map_err(unreadable)?;
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

/// How much longer the replacements of a pipeline may make a text, and the longest word WordPiece may be asked to search.
const MOST_GROWTH: usize = 256;
const LONGEST_WORD: u64 = 10_000;

/// Looks for what the crate would run out of memory or time on, or panic: tables of rules that point nowhere, replacements
/// that multiply, words without a limit.
fn check(text: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        normalizer: Value,
        #[serde(default)]
        decoder: Value,
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(default)]
        max_input_chars_per_word: Option<u64>,
    }
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for (place, steps) in [("normalizer", &file.normalizer), ("decoder", &file.decoder)] {
        if growth(steps)? > MOST_GROWTH {
            return Err(format!("a {place} that makes text more than {MOST_GROWTH} times as long"));
        }
    }
    match file.model.max_input_chars_per_word {
        Some(longest) if longest > LONGEST_WORD => Err(format!("max_input_chars_per_word {longest}")),
        _ => Ok(()),
    }
}

/// How many times as long as before a text can be after some steps.
fn growth(step: &Value) -> Result<usize, String> {
    let steps = ["normalizers", "decoders"].into_iter().find_map(|name| step[name].as_array());
    if let Some(steps) = steps {
        return steps.iter().try_fold(1usize, |product, step| Ok(product.saturating_mul(growth(step)?)));
    }
    match step["type"].as_str() {
        Some("Precompiled") => {
            let charsmap = step["precompiled_charsmap"].as_str().unwrap_or_default();
            let charsmap = STANDARD.decode(charsmap).map_err(|error| error.to_string())?;
            check_charsmap(&charsmap)
                .map_err(|expected| format!("a precompiled_charsmap without {expected}"))?;
            Ok(1)
        }
        // The crate looks for characters before the start of tokens that have none.
        Some("Strip") if step["stop"].as_u64().is_some_and(|count| count > 0) => {
            Err("a decoder that strips the ends of tokens".to_owned())
        }
        Some("Replace") => {
            let content = step["content"].as_str().map_or(0, str::len);
            let pattern = step["pattern"]["String"].as_str().map_or(1, str::len);
            Ok(if pattern == 0 { content + 1 } else { content.div_ceil(pattern).max(1) })
        }
        _ => Ok(1),
    }
}
