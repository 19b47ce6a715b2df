//! `tokenizer.json`: byte-level pipelines become our own, all others go to the `tokenizers` crate.

use std::fmt;
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::TokenizerError;
use super::added::AddedToken;
use super::bpe::{ByteBpe, Pool};
use super::byte_level::ByteAlphabet;
use super::frame::Frame;
use super::merge::Merges;
use super::ranks::byte_ids;
use super::split::{GPT2_PATTERN, Splitter};
use super::vocabulary::{LARGEST_ID, Vocabulary};
use super::word_bpe::{read_merges, read_vocabulary};

/// A `tokenizer.json`, as far as it was understood.
pub(crate) enum Pipeline {
    /// Byte-level BPE of a kind our own encoder runs.
    ByteLevel { bpe: Box<ByteBpe>, added: Vec<AddedToken>, frame: Frame },
    /// Anything else.
    Foreign { frame: Frame },
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Option<Vec<Added>>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<Value>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(default)]
    vocab: Option<Vocab>,
    #[serde(default)]
    merges: Option<Vec<Merge>>,
}

/// The entries of a vocabulary, in file order; `None` when it is not a map from tokens to ids (Unigram).
struct Vocab(Option<Vec<(String, u32)>>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Vocab(Some(entries)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocab(None))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// Deserialises a map from tokens to ids, in file order.
pub(super) fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, u32)>, D::Error> {
    let Vocab(entries) = Vocab::deserialize(deserializer)?;
    entries.ok_or_else(|| D::Error::custom("expected a map from tokens to ids, found a list"))
}

/// Puts `vocab.json` and `merges.txt` together (GPT-2, RoBERTa, Qwen2).
///
/// # Errors
///
/// Those of [`read_json`].
pub(crate) fn byte_level_files(
    vocabulary_file: (&Path, &[u8]),
    merges_file: (&Path, &[u8]),
    pattern: &str,
    normalise: bool,
) -> Result<ByteBpe, TokenizerError> {
    let (path, bytes) = vocabulary_file;
    let entries = read_vocabulary(path, bytes)?;
    let merges = read_merges(merges_file.0, merges_file.1)?;
    let vocabulary = vocabulary(path, &entries)?;
    let byte_ids = byte_ids(path, &vocabulary)?;
    let list = merge_list(merges_file.0, &entries, merges.into_iter())?;
    Ok(ByteBpe {
        merges: Merges::from_list(byte_ids, list.into_iter(), &vocabulary),
        vocabulary,
        whole_pieces: false,
        splitters: vec![
            Splitter::new(pattern)
                .map_err(|reason| TokenizerError::Pattern { path: path.to_owned(), reason })?,
        ],
        normalise,
        scratch: Pool::default(),
    })
}

/// A merge, written as `"left right"` or `["left", "right"]`.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge, as \"left right\" or as a pair")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                        Ok(Merge(left.to_owned(), right.to_owned()))
                    }
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let short = || A::Error::custom("a merge of fewer than two tokens");
                let left = seq.next_element()?.ok_or_else(short)?;
                let right = seq.next_element()?.ok_or_else(short)?;
                if seq.next_element::<IgnoredAny>()?.is_some() {
                    return Err(A::Error::custom("a merge of more than two tokens"));
                }
                Ok(Merge(left, right))
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

/// Reads a `tokenizer.json`.
///
/// # Errors
///
/// Text that is not JSON of this shape; in byte-level vocabularies also ids that occur twice, merges that name or make
/// unknown tokens, and bytes without a token.
pub(crate) fn read_json(path: &Path, bytes: &[u8]) -> Result<Pipeline, TokenizerError> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| TokenizerError::json(path, e))?;
    let frame = file.post_processor.as_ref().map(Frame::from_json).unwrap_or_default();
    let Some(splitters) = byte_level_splitters(path, &file)? else { return Ok(Pipeline::Foreign { frame }) };
    let normalise = match file.normalizer.as_ref().map(normaliser) {
        None => false,
        Some(Some(nfc)) => nfc,
        Some(None) => return Ok(Pipeline::Foreign { frame }),
    };
    let Model { vocab: Some(Vocab(Some(entries))), merges: Some(merges), ignore_merges, .. } = file.model
    else {
        return Ok(Pipeline::Foreign { frame });
    };
    let added = file.added_tokens.unwrap_or_default();
    if let Some(token) = added.iter().find(|token| token.id > LARGEST_ID) {
        return Err(TokenizerError::malformed(
            path,
            format!("added token `{}`", token.content),
            "an id below 4194304",
            token.id.to_string(),
        ));
    }
    let vocabulary = vocabulary(path, &entries)?;
    let byte_ids = byte_ids(path, &vocabulary)?;
    let list = merge_list(path, &entries, merges.iter().map(|Merge(left, right)| (&**left, &**right)))?;
    Ok(Pipeline::ByteLevel {
        frame,
        bpe: Box::new(ByteBpe {
            merges: Merges::from_list(byte_ids, list.into_iter(), &vocabulary),
            vocabulary,
            whole_pieces: ignore_merges.unwrap_or(false),
            splitters,
            normalise,
            scratch: Pool::default(),
        }),
        added: added
            .into_iter()
            .map(|token| AddedToken {
                id: token.id,
                content: token.content,
                special: token.special,
                strip_left: token.lstrip,
                strip_right: token.rstrip,
                normalised: token.normalized,
                in_text: true,
            })
            .collect(),
    })
}

/// The splitters of a byte-level pipeline that our encoder runs; `None` for any other pipeline.
fn byte_level_splitters(path: &Path, file: &File) -> Result<Option<Vec<Splitter>>, TokenizerError> {
    let model = &file.model;
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let plain_bpe = model.kind.as_deref().is_none_or(|kind| kind == "BPE")
        && model.merges.is_some()
        && model.dropout.unwrap_or(0.0) == 0.0
        && model.unk_token.as_ref().is_none_or(Value::is_null)
        && empty(&model.continuing_subword_prefix)
        && empty(&model.end_of_word_suffix)
        && !model.byte_fallback.unwrap_or(false);
    let decodes_bytes = file.decoder.as_ref().is_some_and(|decoder| decoder["type"] == "ByteLevel");
    let whole_words_only = file.added_tokens.iter().flatten().any(|token| token.single_word);
    if !plain_bpe || !decodes_bytes || whole_words_only {
        return Ok(None);
    }
    let Some(stages) = file.pre_tokenizer.as_ref() else { return Ok(None) };
    let stages = match &stages["type"] {
        Value::String(kind) if kind == "Sequence" => match &stages["pretokenizers"] {
            Value::Array(stages) => stages.as_slice(),
            _ => return Ok(None),
        },
        _ => std::slice::from_ref(stages),
    };
    let Some((last, first)) = stages.split_last() else { return Ok(None) };
    let mut splitters = Vec::new();
    for stage in first {
        let isolated = stage["type"] == "Split"
            && stage["behavior"] == "Isolated"
            && stage["invert"] == Value::Bool(false);
        let pattern = match (&stage["pattern"]["Regex"], &stage["pattern"]["String"]) {
            (Value::String(regex), _) => regex.clone(),
            (_, Value::String(literal)) => fancy_regex::escape(literal).into_owned(),
            _ => return Ok(None),
        };
        if !isolated {
            return Ok(None);
        }
        splitters.push(
            Splitter::new(&pattern)
                .map_err(|reason| TokenizerError::Pattern { path: path.to_owned(), reason })?,
        );
    }
    if last["type"] != "ByteLevel" || last["add_prefix_space"] != Value::Bool(false) {
        return Ok(None);
    }
    if last["use_regex"] != Value::Bool(false) {
        splitters.push(Splitter::new(GPT2_PATTERN).expect("a known pattern"));
    }
    Ok(Some(splitters))
}

/// Whether a normaliser is NFC (`Some(true)`), nothing (`Some(false)`) or something else (`None`).
fn normaliser(value: &Value) -> Option<bool> {
    match (value, value["type"].as_str()) {
        (Value::Null, _) => Some(false),
        (_, Some("NFC")) => Some(true),
        (_, Some("Sequence")) => {
            let parts = value["normalizers"].as_array()?;
            parts.iter().try_fold(false, |nfc, part| Some(nfc | normaliser(part)?))
        }
        _ => None,
    }
}

fn vocabulary(path: &Path, entries: &[(String, u32)]) -> Result<Vocabulary, TokenizerError> {
    let alphabet = ByteAlphabet::new();
    let mut ids = FxHashSet::default();
    let mut tokens = Vec::with_capacity(entries.len());
    let mut verbatim = Vec::new();
    for (token, id) in entries {
        let place = || format!("token `{token}`");
        if *id > LARGEST_ID {
            return Err(TokenizerError::malformed(path, place(), "an id below 4194304", id.to_string()));
        }
        if !ids.insert(*id) {
            let found = format!("id {id}, which another token has");
            return Err(TokenizerError::malformed(path, place(), "an id of its own for every token", found));
        }
        match alphabet.read(token) {
            Some(bytes) => tokens.push((*id, bytes)),
            None => verbatim.push((*id, token.clone().into_bytes())),
        }
    }
    // Tokens spelled outside the byte alphabet are special ones, written as they read.
    tokens.append(&mut verbatim);
    Ok(Vocabulary::new(&tokens))
}

fn merge_list<'m>(
    path: &Path,
    entries: &[(String, u32)],
    merges: impl ExactSizeIterator<Item = (&'m str, &'m str)>,
) -> Result<Vec<(u32, u32, u32)>, TokenizerError> {
    let ids: FxHashMap<&str, u32> = entries.iter().map(|(token, id)| (token.as_str(), *id)).collect();
    let mut list = Vec::with_capacity(merges.len());
    let mut joined = String::new();
    for (rank, (left, right)) in merges.enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |token: &str| {
            ids.get(token).copied().ok_or_else(|| {
                TokenizerError::malformed(
                    path,
                    format!("merge {rank}"),
                    "tokens of the vocabulary",
                    format!("`{token}`, which is not in it"),
                )
            })
        };
        list.push((id(left)?, id(right)?, id(&joined)?));
    }
    Ok(list)
}
