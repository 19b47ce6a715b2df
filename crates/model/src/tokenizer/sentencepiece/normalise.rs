//! What SentencePiece does to text before segmenting it: replacement rules, white space, the blank in front.
//!
//! The rules of a model (`nmt_nfkc` and the like) come as a double-array trie from strings to strings, of which the longest
//! that matches is applied. Format: `darts-clone`, one 32-bit unit per node, little endian, after its size in bytes:
//!
//! ```text
//! bits 0..=7 label | bit 8 a value follows | bit 9 wide offset | bits 10..=30 offset | bit 31 this unit is a value
//! ```

use std::path::Path;

use super::model::Model;
use super::trie::Trie;
use crate::tokenizer::TokenizerError;

/// Stands for a blank in pieces: U+2581.
pub(super) const BLANK: &str = "\u{2581}";

/// Longest key of a replacement rule and longest replacement, in bytes. Those of `nmt_nfkc` have 12 and 33.
const LONGEST_RULE: usize = 256;

/// Normalises text as one model asks for.
#[derive(Debug, Clone)]
pub(super) struct Normaliser {
    rules: Option<Rules>,
    /// User-defined pieces pass unchanged.
    pub(super) kept: Trie,
    has_kept: bool,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    whitespace_as_suffix: bool,
}

impl Normaliser {
    /// Takes the rules out of a model. `kept` holds the user-defined pieces.
    ///
    /// # Errors
    ///
    /// A table of rules that is cut short or holds a replacement of more than 256 bytes.
    pub(super) fn new(
        path: &Path,
        model: &Model,
        kept: Trie,
        has_kept: bool,
    ) -> Result<Self, TokenizerError> {
        let rules = match model.charsmap.as_slice() {
            [] => None,
            bytes => Some(Rules::read(bytes).map_err(|expected| {
                let found = format!("{} bytes that are none", bytes.len());
                TokenizerError::malformed(path, "precompiled_charsmap", expected, found)
            })?),
        };
        Ok(Self {
            rules,
            kept,
            has_kept,
            add_dummy_prefix: model.add_dummy_prefix,
            remove_extra_whitespaces: model.remove_extra_whitespaces,
            escape_whitespaces: model.escape_whitespaces,
            whitespace_as_suffix: model.whitespace_as_suffix,
        })
    }

    /// The form of a text that is segmented. `start` says whether the text begins something, so that a blank goes in front
    /// of it where the model adds one.
    pub(super) fn normalise(&self, text: &str, start: bool) -> String {
        let mut rest = text;
        // Text that goes on after other text keeps the blank it starts with.
        if start && self.remove_extra_whitespaces {
            while !rest.is_empty() {
                let (part, length) = self.first_part(rest);
                if part != " " {
                    break;
                }
                rest = &rest[length..];
            }
        }
        let mut normal = String::with_capacity(rest.len() + rest.len() / 4 + BLANK.len());
        if rest.is_empty() {
            return normal;
        }
        let blank = if self.escape_whitespaces { BLANK } else { " " };
        let add_blank = start && self.add_dummy_prefix;
        if add_blank && !self.whitespace_as_suffix {
            normal.push_str(blank);
        }
        let mut after_blank = start && self.remove_extra_whitespaces;
        while !rest.is_empty() {
            let (mut part, length) = self.first_part(rest);
            if after_blank {
                part = part.trim_start_matches(' ');
            }
            if !part.is_empty() {
                push_escaped(part, blank, &mut normal);
                after_blank = part.ends_with(' ');
            }
            if !self.remove_extra_whitespaces {
                after_blank = false;
            }
            rest = &rest[length..];
        }
        if self.remove_extra_whitespaces {
            normal.truncate(normal.trim_end_matches(blank).len());
        }
        if add_blank && self.whitespace_as_suffix {
            normal.push_str(blank);
        }
        normal
    }

    /// What the beginning of a text becomes, and how many bytes of it that takes: a user-defined piece, the longest rule, or
    /// one character. Without rules and pieces all of it passes at once.
    fn first_part<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if self.has_kept
            && let Some(length) = self.kept.longest(text.as_bytes())
        {
            return (&text[..length], length);
        }
        if let Some(rules) = &self.rules
            && let Some((replacement, length)) = rules.longest(text)
        {
            return (replacement, length);
        }
        let length = match (self.has_kept, &self.rules) {
            (false, None) if !self.remove_extra_whitespaces => text.len(),
            _ => text.chars().next().map_or(text.len(), char::len_utf8),
        };
        (&text[..length], length)
    }
}

/// Appends text with every blank written as the model writes it.
fn push_escaped(text: &str, blank: &str, out: &mut String) {
    let mut parts = text.split(' ');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        out.push_str(blank);
        out.push_str(part);
    }
}

/// Replacement rules: a double-array trie whose values are places in a list of strings that end with a zero byte.
#[derive(Debug, Clone)]
struct Rules {
    units: Vec<u32>,
    replacements: String,
}

/// Checks a table of rules for a reader that trusts it: no way through it leaves the table or the list of replacements.
///
/// # Errors
///
/// What is missing.
pub(crate) fn check_charsmap(bytes: &[u8]) -> Result<(), &'static str> {
    let rules = Rules::read(bytes)?;
    let leads_inside = |node: usize| node | 0xFF < rules.units.len();
    if !leads_inside(0) || !leads_inside(offset(rules.units[0])) {
        return Err("blocks of 256 units");
    }
    for (node, &unit) in rules.units.iter().enumerate().filter(|(_, unit)| *unit >> 31 == 0) {
        let next = node ^ offset(unit);
        if !leads_inside(next) {
            return Err("units that lead to others");
        }
        let value = (rules.units[next] & 0x7FFF_FFFF) as usize;
        if unit >> 8 & 1 == 1 && !rules.replacements.is_char_boundary(value) {
            return Err("values that are places of replacements");
        }
    }
    Ok(())
}

/// How far the children of a unit are from it, as a number to combine by exclusive or.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

impl Rules {
    fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or("its size in four bytes")?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, replacements) = rest.split_at_checked(size).ok_or("as many bytes as it states")?;
        let (units, []) = trie.as_chunks::<4>() else { return Err("units of four bytes") };
        let replacements = std::str::from_utf8(replacements).map_err(|_| "replacements in UTF-8")?;
        if replacements.split('\0').any(|replacement| replacement.len() > LONGEST_RULE) {
            return Err("replacements of at most 256 bytes");
        }
        Ok(Self {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_owned(),
        })
    }

    /// The replacement of the longest key that the text starts with, and the length of that key.
    fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let mut node = offset(*self.units.first()?);
        let mut longest = None;
        for (at, &byte) in text.as_bytes().iter().take(LONGEST_RULE).enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else { break };
            if unit & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1
                && let Some(&value) = self.units.get(node)
            {
                longest = Some((value & 0x7FFF_FFFF, at + 1));
            }
        }
        let (start, length) = longest?;
        // A broken table may end a key inside a character or point outside the list; such a rule is none.
        let replacement = self.replacements.get(start as usize..)?;
        text.is_char_boundary(length).then_some(())?;
        Some((replacement.split('\0').next().unwrap_or_default(), length))
    }
}
