//! Byte-pair encoding over the characters of words, the last of which carries `</w>` (fastBPE, subword-nmt), and the two file
//! layouts of BioGPT: `vocab.json` with `merges.txt` (Hugging Face) and `dict.txt` with `bpecodes` (fairseq).
//!
//! This module knows nothing of how text is cut into words.

use std::path::Path;
use std::sync::Mutex;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

use super::TokenizerError;
use super::merge::{MergeBuffers, Merges};
use super::vocabulary::{LARGEST_ID, NO_ID};
use super::wordpiece::lines;

/// Marks the end of a word.
pub(super) const END: &str = "</w>";

/// Marks, in fairseq's files, a token that is not the end of its word.
const GOES_ON: &str = "@@";

/// A vocabulary of parts of words and the merges that make them.
#[derive(Debug)]
pub(crate) struct WordBpe {
    /// Tokens by id, those that end a word with [`END`]; empty for ids without a token.
    tokens: Vec<String>,
    ids: FxHashMap<String, u32>,
    unknown: u32,
    /// Every string that takes part in merging.
    symbols: FxHashMap<String, u32>,
    /// The id of each symbol; [`NO_ID`] where it has none.
    symbol_ids: Vec<u32>,
    merges: Merges,
    buffers: Mutex<MergeBuffers>,
}

impl WordBpe {
    /// Puts a vocabulary and a list of merges together; `path` names the file of the vocabulary in messages.
    fn new(
        path: &Path,
        entries: Vec<(String, u32)>,
        merges: Vec<(&str, &str)>,
        unknown: &str,
    ) -> Result<Self, TokenizerError> {
        let count = entries.iter().map(|(_, id)| *id as usize + 1).max().unwrap_or(0);
        let mut tokens = vec![String::new(); count];
        let mut ids = FxHashMap::with_capacity_and_hasher(entries.len(), Default::default());
        let mut taken = FxHashSet::default();
        for (token, id) in entries {
            if !taken.insert(id) {
                let place = format!("token `{token}`");
                let found = format!("id {id}, which another token has");
                return Err(TokenizerError::malformed(
                    path,
                    place,
                    "an id of its own for every token",
                    found,
                ));
            }
            tokens[id as usize].clone_from(&token);
            ids.insert(token, id);
        }
        let unknown = ids.get(unknown).copied().ok_or_else(|| {
            TokenizerError::malformed(path, "vocabulary", format!("the unknown token `{unknown}`"), "none")
        })?;
        let mut symbols: FxHashMap<String, u32> = FxHashMap::default();
        let mut symbol_ids = Vec::new();
        let mut symbol = |text: &str| match symbols.get(text) {
            Some(&symbol) => symbol,
            None => {
                let symbol = symbol_ids.len() as u32;
                symbol_ids.push(ids.get(text).copied().unwrap_or(NO_ID));
                symbols.insert(text.to_owned(), symbol);
                symbol
            }
        };
        for token in ids.keys() {
            symbol(token);
        }
        let mut list = Vec::with_capacity(merges.len());
        let mut joined = String::new();
        for (left, right) in merges {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            list.push((symbol(left), symbol(right), symbol(&joined)));
        }
        Ok(Self {
            tokens,
            ids,
            unknown,
            merges: Merges::between_symbols(list.into_iter()),
            symbols,
            symbol_ids,
            buffers: Mutex::default(),
        })
    }

    /// Reads `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    ///
    /// JSON that is no map from tokens to ids, ids that are too large or given twice, lines that are no merge.
    pub(crate) fn read_hugging_face(
        vocabulary: (&Path, &[u8]),
        merges: (&Path, &[u8]),
        unknown: &str,
    ) -> Result<Self, TokenizerError> {
        let entries = read_vocabulary(vocabulary.0, vocabulary.1)?;
        Self::new(vocabulary.0, entries, read_merges(merges.0, merges.1)?, unknown)
    }

    /// Reads `dict.txt` and `bpecodes`: ids follow four special tokens in the order of the lines, and tokens that do not end a
    /// word carry `@@`. Source: fairseq, `data/dictionary.py`.
    ///
    /// # Errors
    ///
    /// Lines that are not `token count`, tokens that occur twice, lines that are no merge.
    pub(crate) fn read_fairseq(
        dictionary: (&Path, &[u8]),
        codes: (&Path, &[u8]),
    ) -> Result<Self, TokenizerError> {
        let (path, bytes) = dictionary;
        let mut entries: Vec<(String, u32)> =
            FAIRSEQ_SPECIAL.into_iter().map(str::to_owned).zip(0..).collect();
        let mut seen = FxHashSet::default();
        for (number, line) in lines(bytes).enumerate() {
            let malformed = |expected: &str, found: &str| {
                TokenizerError::malformed(path, format!("line {}", number + 1), expected, found)
            };
            let line =
                std::str::from_utf8(line).map_err(|_| malformed("UTF-8", &String::from_utf8_lossy(line)))?;
            let line = line.strip_suffix(" #fairseq:overwrite").unwrap_or(line);
            let (token, count) = line.rsplit_once(' ').ok_or_else(|| malformed("`token count`", line))?;
            if count.parse::<i64>().is_err() {
                return Err(malformed("a whole number as count", line));
            }
            if !seen.insert(token) {
                return Err(malformed("every token once", line));
            }
            let token = match token.strip_suffix(GOES_ON) {
                Some(part) => part.to_owned(),
                None => format!("{token}{END}"),
            };
            let id = u32::try_from(entries.len()).ok().filter(|id| *id <= LARGEST_ID);
            entries.push((token, id.ok_or_else(|| malformed("at most 4194304 tokens", "more"))?));
        }
        Self::new(path, entries, read_merges(codes.0, codes.1)?, FAIRSEQ_SPECIAL[3])
    }

    /// Appends the ids of a word.
    pub(crate) fn encode_word(&self, word: &str, out: &mut Vec<u32>) {
        let mut buffers = std::mem::take(&mut *self.held());
        let mut spelled = String::with_capacity(8);
        buffers.ids.clear();
        for (at, c) in word.char_indices() {
            spelled.clear();
            spelled.push(c);
            if at + c.len_utf8() == word.len() {
                spelled.push_str(END);
            }
            let unmergeable = self.symbol_ids.len() as u32;
            buffers.ids.push(self.symbols.get(&spelled).copied().unwrap_or(unmergeable));
        }
        self.merges.merge(&mut buffers);
        out.extend(buffers.ids.iter().map(|&symbol| match self.symbol_ids.get(symbol as usize) {
            Some(&id) if id != NO_ID => id,
            _ => self.unknown,
        }));
        *self.held() = buffers;
    }

    /// The buffers of whoever encoded last; empty ones while another thread has them.
    fn held(&self) -> std::sync::MutexGuard<'_, MergeBuffers> {
        self.buffers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One past the largest id.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The id of a token as it is written, with its mark at the end of a word.
    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// A token as it is written; empty for ids that have none.
    pub(crate) fn token(&self, id: u32) -> &str {
        self.tokens.get(id as usize).map_or("", String::as_str)
    }
}

/// The first entries of every fairseq dictionary.
pub(super) const FAIRSEQ_SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];

/// Reads `vocab.json`: a map from tokens to ids.
pub(super) fn read_vocabulary(path: &Path, bytes: &[u8]) -> Result<Vec<(String, u32)>, TokenizerError> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Map(#[serde(deserialize_with = "super::json::entries")] Vec<(String, u32)>);
    let Map(entries) = serde_json::from_slice(bytes).map_err(|e| TokenizerError::json(path, e))?;
    match entries.iter().find(|(_, id)| *id > LARGEST_ID) {
        Some((token, id)) => {
            let place = format!("token `{token}`");
            Err(TokenizerError::malformed(path, place, "an id below 4194304", id.to_string()))
        }
        None => Ok(entries),
    }
}

/// Reads `merges.txt` or `bpecodes`: two strings a line, and in some files how often they met.
pub(super) fn read_merges<'b>(
    path: &Path,
    bytes: &'b [u8],
) -> Result<Vec<(&'b str, &'b str)>, TokenizerError> {
    let mut merges = Vec::new();
    for (number, line) in lines(bytes).enumerate() {
        let malformed = |expected: &str| {
            let place = format!("line {}", number + 1);
            TokenizerError::malformed(path, place, expected, String::from_utf8_lossy(line))
        };
        let line = std::str::from_utf8(line).map_err(|_| malformed("UTF-8"))?;
        if line.is_empty() || (number == 0 && line.starts_with("#version")) {
            continue;
        }
        let mut parts = line.split(' ');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(left), Some(right), _, None) if !left.is_empty() && !right.is_empty() => {
                merges.push((left, right));
            }
            _ => return Err(malformed("two strings and at most a count")),
        }
        if merges.len() > LARGEST_ID as usize {
            return Err(malformed("at most 4194304 merges"));
        }
    }
    Ok(merges)
}
