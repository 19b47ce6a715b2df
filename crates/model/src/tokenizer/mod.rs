//! Text to token ids and back.
//!
//! Byte-level vocabularies (tiktoken rank lists and `tokenizer.json` files of that kind: Qwen, GLM-4, BLOOM, RoBERTa, our
//! own) run on the encoder in this module; every other `tokenizer.json` runs on the `tokenizers` crate behind the same type.
//!
//! This module knows nothing of conversations: which strings structure a prompt is the business of [`chat`](crate::chat).

mod added;
mod bpe;
mod byte_level;
mod classes;
mod config;
mod error;
mod foreign;
mod gguf;
mod json;
mod merge;
mod normal;
mod pieces;
mod ranks;
mod split;
mod stream;
mod train;
mod vocabulary;
mod write;

use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub use error::TokenizerError;
pub use stream::DecodeStream;
pub use train::{Trainer, TrainerOptions, TrainingInput, TrainingProgress, train_bpe};
pub use write::TrainedTokenizer;

use crate::weights::gguf::Vocabulary;

use added::{AddedToken, AddedTokens};
use bpe::ByteBpe;
pub(crate) use config::TokenizerConfig;
use foreign::Foreign;
use json::Pipeline;
use ranks::RankFamily;

/// A tokenizer; cloning shares it, and all threads may use it at once.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: Kind,
    added: AddedTokens,
    added_by_id: FxHashMap<u32, usize>,
    eos: Option<u32>,
    bos: Option<u32>,
    pad: Option<u32>,
    len: usize,
}

#[derive(Debug)]
enum Kind {
    Bytes(Box<ByteBpe>),
    Foreign(Box<Foreign>),
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder.
    ///
    /// Looked for, in this order: `tokenizer.json`; a `*.tiktoken` rank list (Qwen, first generation); a `tokenizer.model` that is
    /// a rank list (GLM-4). `tokenizer_config.json` beside them names the special tokens. A GGUF file, given itself or alone in its
    /// folder, has a tokenizer of its own.
    ///
    /// # Errors
    ///
    /// None of these files, files that break their format, kinds of tokenizer that are not supported.
    pub fn load(dir: &Path) -> Result<Self, TokenizerError> {
        if !dir.is_dir()
            && let Some((file, vocabulary)) = gguf::of_path(dir)?
        {
            return Self::from_vocabulary(&file, &vocabulary);
        }
        let config = TokenizerConfig::read(dir)?;
        let json = dir.join("tokenizer.json");
        if json.exists() {
            return Self::from_json(&json, &read_file(&json)?, &config);
        }
        let path = match rank_list(dir) {
            Err(none @ TokenizerError::NoTokenizer { .. }) => {
                let (file, vocabulary) = gguf::of_path(dir)?.ok_or(none)?;
                return Self::from_vocabulary(&file, &vocabulary);
            }
            found => found?,
        };
        let bytes = read_file(&path)?;
        if !ranks::looks_like_ranks(&bytes) && path.extension().is_some_and(|e| e == "model") {
            return Err(TokenizerError::Unsupported {
                path,
                what: "a SentencePiece model".into(),
                hint: "put the model's tokenizer.json beside it".into(),
            });
        }
        let class = config.tokenizer_class.as_deref().unwrap_or_default();
        let family = match class {
            "QWenTokenizer" => RankFamily::Qwen,
            "ChatGLM4Tokenizer" => RankFamily::Glm4,
            "" if path.file_name().is_some_and(|name| name == "qwen.tiktoken") => RankFamily::Qwen,
            _ => {
                return Err(TokenizerError::Unsupported {
                    path,
                    what: format!("a rank list of the class `{class}`"),
                    hint: "tokenizer_config.json must name QWenTokenizer or ChatGLM4Tokenizer as tokenizer_class".into(),
                });
            }
        };
        let bpe = ranks::read_ranks(&path, &bytes, family)?;
        let mut added = config.added_tokens.clone();
        if added.is_empty() && family == RankFamily::Qwen {
            added = ranks::qwen_special_tokens(bpe.vocabulary.len() as u32);
        }
        for token in &mut added {
            token.normalised = family == RankFamily::Qwen;
        }
        let tokenizer = Self::assemble(&path, Kind::Bytes(Box::new(bpe)), added, &config)?;
        Ok(tokenizer.with_default_end())
    }

    /// Makes the tokenizer of a GGUF file; `path` is the file that errors name.
    ///
    /// # Errors
    ///
    /// Kinds and pre-tokenizers that are not supported, parts that do not fit together.
    pub fn from_vocabulary(path: &Path, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let (bpe, added) = gguf::byte_level(path, vocabulary)?;
        let config = gguf::config(vocabulary);
        Self::assemble(path, Kind::Bytes(Box::new(bpe)), added, &config).map(Self::with_default_end)
    }

    fn from_json(path: &Path, bytes: &[u8], config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        match json::read_json(path, bytes)? {
            Pipeline::ByteLevel { bpe, added } => Self::assemble(path, Kind::Bytes(bpe), added, config),
            Pipeline::Foreign => {
                let foreign = Foreign::read(path, bytes)?;
                let added = foreign.added_tokens();
                Self::assemble(path, Kind::Foreign(Box::new(foreign)), added, config)
            }
        }
        .map(Self::with_default_end)
    }

    fn assemble(
        path: &Path,
        kind: Kind,
        added: Vec<AddedToken>,
        config: &TokenizerConfig,
    ) -> Result<Self, TokenizerError> {
        let added_by_id: FxHashMap<u32, usize> = added.iter().enumerate().map(|(i, t)| (t.id, i)).collect();
        let len = match &kind {
            Kind::Bytes(bpe) => bpe.vocabulary.len(),
            Kind::Foreign(foreign) => foreign.len(),
        };
        let len = added.iter().map(|token| token.id as usize + 1).max().unwrap_or(0).max(len);
        let added = AddedTokens::new(added).map_err(|error| {
            TokenizerError::malformed(
                path,
                "added tokens",
                "tokens that can be searched for",
                error.to_string(),
            )
        })?;
        let inner = Inner { kind, added, added_by_id, eos: None, bos: None, pad: None, len };
        let mut tokenizer = Self { inner: Arc::new(inner) };
        let id = |token: &Option<String>| token.as_deref().and_then(|token| tokenizer.token_to_id(token));
        let (eos, bos, pad) = (id(&config.eos_token), id(&config.bos_token), id(&config.pad_token));
        if let Some(inner) = Arc::get_mut(&mut tokenizer.inner) {
            (inner.eos, inner.bos, inner.pad) = (eos, bos, pad);
        }
        Ok(tokenizer)
    }

    /// Where no configuration names an end of text, `<|endoftext|>` is it; padding without a token of its own uses it too.
    fn with_default_end(mut self) -> Self {
        let end = self.special_id("<|endoftext|>");
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.eos = inner.eos.or(end);
            inner.pad = inner.pad.or(inner.eos);
        }
        self
    }

    /// Encodes ordinary text: strings such as `<|im_end|>` in it are text like any other.
    ///
    /// Added tokens that are not special (extra words of a vocabulary) are recognised, as they are part of ordinary text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids);
        ids
    }

    /// Like [`encode`](Self::encode), appending to a buffer.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        self.encode_either(text, false, ids);
    }

    /// Encodes text in which special tokens are recognised. Not for text of foreign origin.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_either(text, true, &mut ids);
        ids
    }

    fn encode_either(&self, text: &str, special: bool, ids: &mut Vec<u32>) {
        match &self.inner.kind {
            Kind::Bytes(bpe) => bpe.encode(text, &self.inner.added, special, ids),
            Kind::Foreign(foreign) => foreign.encode(text, special, ids),
        }
    }

    /// Decodes ids, special tokens as their text. Bytes that are not UTF-8 become U+FFFD, ids without a token nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_kept(ids, true)
    }

    /// Decodes ids, leaving special tokens out.
    pub fn decode_without_special(&self, ids: &[u32]) -> String {
        self.decode_kept(ids, false)
    }

    fn decode_kept(&self, ids: &[u32], keep_special: bool) -> String {
        if let Kind::Foreign(foreign) = &self.inner.kind {
            return foreign.decode(ids, keep_special);
        }
        let mut bytes = Vec::new();
        for &id in ids {
            self.append_bytes(id, keep_special, &mut bytes);
        }
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// The bytes ids stand for, special tokens as their text; they need not be UTF-8.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        if let Kind::Foreign(foreign) = &self.inner.kind {
            return foreign.decode(ids, true).into_bytes();
        }
        let mut bytes = Vec::new();
        for &id in ids {
            self.append_bytes(id, true, &mut bytes);
        }
        bytes
    }

    #[inline]
    fn append_bytes(&self, id: u32, keep_special: bool, out: &mut Vec<u8>) {
        let added = self.inner.added_by_id.get(&id).map(|&i| &self.inner.added.tokens()[i]);
        match (added, &self.inner.kind) {
            (Some(token), _) if token.special && !keep_special => {}
            (Some(token), _) => out.extend_from_slice(token.content.as_bytes()),
            (None, Kind::Bytes(bpe)) => out.extend_from_slice(bpe.vocabulary.bytes_of(id)),
            (None, Kind::Foreign(_)) => {}
        }
    }

    /// Starts decoding ids one at a time, special tokens as their text.
    pub fn decode_stream(&self) -> DecodeStream {
        DecodeStream::new(self.clone(), true)
    }

    /// Starts decoding ids one at a time, leaving special tokens out.
    pub fn decode_stream_without_special(&self) -> DecodeStream {
        DecodeStream::new(self.clone(), false)
    }

    /// One past the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.len
    }

    /// The id of a token given as the text it stands for (`" the"`, `"<|im_end|>"`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        let added = self.inner.added.tokens().iter().find(|t| t.content == token).map(|t| t.id);
        added.or_else(|| match &self.inner.kind {
            Kind::Bytes(bpe) => bpe.vocabulary.id_of(token.as_bytes()),
            Kind::Foreign(foreign) => foreign.token_to_id(token),
        })
    }

    /// The id of a special token.
    pub fn special_id(&self, token: &str) -> Option<u32> {
        self.special_tokens().find(|(content, _)| *content == token).map(|(_, id)| id)
    }

    /// The special tokens with their ids.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.inner.added.tokens().iter().filter(|t| t.special).map(|t| (t.content.as_str(), t.id))
    }

    /// Whether an id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.added_by_id.get(&id).is_some_and(|&i| self.inner.added.tokens()[i].special)
    }

    /// The end-of-text token.
    pub fn eos_id(&self) -> Option<u32> {
        self.inner.eos
    }

    /// The beginning-of-text token, where the vocabulary has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.inner.bos
    }

    /// The padding token; the end-of-text token where there is no other.
    pub fn pad_id(&self) -> Option<u32> {
        self.inner.pad
    }

    /// Checks that a model with `model_vocab_size` embedding rows was made for this tokenizer.
    ///
    /// Every id must have a row. Rows beyond the largest id are padding, of which published checkpoints have up to about
    /// a thousand; many more mean another vocabulary.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::DoesNotFit`].
    pub fn check_fits(&self, model_vocab_size: usize) -> Result<(), TokenizerError> {
        let tokenizer = self.vocab_size();
        let hint = if model_vocab_size < tokenizer {
            "ids without a row cannot be embedded; use the tokenizer the model was trained with, or resize the embedding"
        } else if model_vocab_size - tokenizer > (tokenizer / 8 + 128).min(1024) {
            "that is far more than padding; use the tokenizer the model was trained with"
        } else {
            return Ok(());
        };
        Err(TokenizerError::DoesNotFit { tokenizer, model: model_vocab_size, hint })
    }
}

/// Makes the tokenizer part of a GGUF file from the tokenizer files of a model folder; `None` where there are none.
///
/// # Errors
///
/// Files that break their format, and tokenizers that GGUF cannot hold.
pub fn gguf_vocabulary(dir: &Path) -> Result<Option<Vocabulary>, TokenizerError> {
    gguf::of_folder(dir)
}

/// Largest tokenizer file read; the largest published ones are some 30 MB.
const LARGEST_FILE_BYTES: u64 = 512 << 20;

fn read_file(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let bytes = std::fs::metadata(path).map_err(|e| TokenizerError::io(path, e))?.len();
    if bytes > LARGEST_FILE_BYTES {
        return Err(TokenizerError::malformed(path, "size", "at most 512 MiB", format!("{bytes} bytes")));
    }
    std::fs::read(path).map_err(|e| TokenizerError::io(path, e))
}

/// The rank list of a model folder.
fn rank_list(dir: &Path) -> Result<std::path::PathBuf, TokenizerError> {
    let entries = std::fs::read_dir(dir).map_err(|e| TokenizerError::io(dir, e))?;
    let mut lists: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "tiktoken"))
        .collect();
    lists.sort();
    let model = dir.join("tokenizer.model");
    match lists.as_slice() {
        [only] => Ok(only.clone()),
        [] if model.exists() => Ok(model),
        [] => Err(TokenizerError::NoTokenizer { path: dir.to_owned() }),
        [first, second, ..] => Err(TokenizerError::Unsupported {
            path: first.clone(),
            what: format!("a second rank list, {}, in one folder", second.display()),
            hint: "keep the one that belongs to the model".into(),
        }),
    }
}
