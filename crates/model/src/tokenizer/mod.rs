//! Text to token ids and back.
//!
//! Byte-level vocabularies (tiktoken rank lists, `vocab.json` with `merges.txt`, and `tokenizer.json` files of that kind: Qwen,
//! GLM-4, BLOOM, RoBERTa, our own), SentencePiece models (LLaMA, Baichuan, ChatGLM-6B), WordPiece (BERT) and Moses words in parts
//! (BioGPT) run on the encoders in this module; every other `tokenizer.json` runs on the `tokenizers` crate behind the same type.
//!
//! This module knows nothing of conversations: which strings structure a prompt is the business of [`chat`](crate::chat).

mod added;
mod bpe;
mod byte_level;
mod classes;
mod config;
mod error;
mod files;
mod foreign;
mod frame;
mod gguf;
mod json;
mod kind;
mod load;
mod merge;
mod moses;
mod normal;
mod ranks;
mod sentencepiece;
mod split;
mod stream;
mod table;
mod train;
mod vocabulary;
mod word_bpe;
mod wordpiece;
mod write;

use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub use error::TokenizerError;
pub use files::is_text_side;
pub use frame::{EncoderInput, Origin};
pub use stream::DecodeStream;
pub use train::{Trainer, TrainerOptions, TrainingInput, TrainingProgress, train_bpe};
pub use write::TrainedTokenizer;

use crate::weights::gguf::Vocabulary;

use added::{AddedToken, AddedTokens};
pub(crate) use config::TokenizerConfig;
use frame::Frame;
use kind::Kind;
use sentencepiece::SentencePiece;

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
    frame: Frame,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    len: usize,
}

/// Where a text stands. SentencePiece vocabularies put a blank in front of a text, but not in the middle of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the start of the input.
    Start,
    /// After a special token.
    AfterSpecial,
    /// After other text.
    Inside,
}

/// Bytes of all added tokens together; published tokenizers have some tens of thousands.
const MOST_ADDED_BYTES: usize = 4 << 20;

impl Tokenizer {
    /// Makes the tokenizer of a GGUF file; `path` is the file that errors name.
    ///
    /// # Errors
    ///
    /// Kinds and pre-tokenizers that are not supported, parts that do not fit together.
    pub fn from_vocabulary(path: &Path, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let config = gguf::config(vocabulary);
        let marks = |wanted: Option<bool>, id: Option<u32>| id.filter(|_| wanted == Some(true));
        let bos = marks(vocabulary.add_bos, vocabulary.bos);
        let eos = marks(vocabulary.add_eos, vocabulary.eos);
        let frame = match (bos, eos) {
            (None, None) => Frame::default(),
            _ => Frame::around(bos.as_slice(), eos.as_slice()),
        };
        let (kind, added) = match vocabulary.model.as_str() {
            "llama" => {
                let model = Box::new(SentencePiece::of_vocabulary(path, vocabulary)?);
                (Kind::SentencePiece { model, blank_after_special: true }, gguf::added(vocabulary))
            }
            _ => {
                let (bpe, added) = gguf::byte_level(path, vocabulary)?;
                (Kind::Bytes(Box::new(bpe)), added)
            }
        };
        Self::assemble(path, kind, added, frame, &config).map(Self::with_default_end)
    }

    fn assemble(
        path: &Path,
        kind: Kind,
        added: Vec<AddedToken>,
        frame: Frame,
        config: &TokenizerConfig,
    ) -> Result<Self, TokenizerError> {
        let bytes: usize = added.iter().map(|token| token.content.len()).sum();
        if bytes > MOST_ADDED_BYTES {
            let found = format!("{bytes} bytes");
            return Err(TokenizerError::malformed(path, "added tokens", "at most 4 MiB of them", found));
        }
        let added_by_id: FxHashMap<u32, usize> = added.iter().enumerate().map(|(i, t)| (t.id, i)).collect();
        let len = added.iter().map(|token| token.id as usize + 1).max().unwrap_or(0).max(kind.len());
        if len > vocabulary::LARGEST_ID as usize + 1 {
            return Err(TokenizerError::malformed(
                path,
                "vocabulary",
                "ids below 4194304",
                (len - 1).to_string(),
            ));
        }
        let added = AddedTokens::new(added).map_err(|error| {
            TokenizerError::malformed(
                path,
                "added tokens",
                "tokens that can be searched for",
                error.to_string(),
            )
        })?;
        let (prefix, suffix) = (frame.tokens(false), frame.tokens(true));
        let inner =
            Inner { kind, added, added_by_id, eos: None, bos: None, pad: None, frame, prefix, suffix, len };
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
        self.encode_at(text, Place::Start, ids);
    }

    /// Like [`encode_into`](Self::encode_into), for text that need not stand at the start: ordinary text that is put
    /// together of parts is encoded part by part, each with its place.
    pub fn encode_at(&self, text: &str, place: Place, ids: &mut Vec<u32>) {
        self.inner.kind.encode(text, &self.inner.added, false, place, ids);
    }

    /// Encodes text in which special tokens are recognised. Not for text of foreign origin.
    ///
    /// Which tokens those are follows the reference: a SentencePiece model without a `tokenizer_config.json` recognises none.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.inner.kind.encode(text, &self.inner.added, true, Place::Start, &mut ids);
        ids
    }

    /// Decodes ids, special tokens as their text. Bytes that are not UTF-8 become U+FFFD, ids without a token nothing.
    ///
    /// A blank that encoding put in front of the text is taken off. Control pieces of a SentencePiece model without a
    /// `tokenizer_config.json` have no text.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_kept(ids, true)
    }

    /// Decodes ids, leaving special tokens out.
    pub fn decode_without_special(&self, ids: &[u32]) -> String {
        self.decode_kept(ids, false)
    }

    fn decode_kept(&self, ids: &[u32], keep_special: bool) -> String {
        match &self.inner.kind {
            Kind::Foreign(foreign) => foreign.decode(ids, keep_special),
            Kind::Bytes(_) => {
                let mut bytes = Vec::new();
                for &id in ids {
                    self.append_bytes(id, keep_special, &mut bytes);
                }
                String::from_utf8(bytes)
                    .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
            }
            kind if kind.decodes_words() => kind.decode_words(
                ids.iter()
                    .filter(|id| keep_special || !self.is_special(**id))
                    .map(|&id| self.added(id).map_or_else(|| kind.token_text(id), |token| &token.content)),
            ),
            _ => {
                let mut stream = DecodeStream::new(self.clone(), keep_special);
                let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
                text.extend(stream.finish());
                text
            }
        }
    }

    /// The bytes ids stand for, special tokens as their text; they need not be UTF-8.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        if matches!(self.inner.kind, Kind::Foreign(_)) || self.inner.kind.decodes_words() {
            return self.decode_kept(ids, true).into_bytes();
        }
        let mut bytes = Vec::new();
        for &id in ids {
            self.append_bytes(id, true, &mut bytes);
        }
        bytes
    }

    #[inline]
    fn append_bytes(&self, id: u32, keep_special: bool, out: &mut Vec<u8>) {
        match self.added(id) {
            Some(token) if token.special && !(keep_special && token.in_text) => {}
            Some(token) => out.extend_from_slice(token.content.as_bytes()),
            None => self.inner.kind.append_bytes(id, out),
        }
    }

    #[inline]
    fn added(&self, id: u32) -> Option<&AddedToken> {
        self.inner.added_by_id.get(&id).map(|&i| &self.inner.added.tokens()[i])
    }

    /// Starts decoding ids one at a time, special tokens as their text.
    pub fn decode_stream(&self) -> DecodeStream {
        DecodeStream::new(self.clone(), true)
    }

    /// Starts decoding ids one at a time, leaving special tokens out.
    pub fn decode_stream_without_special(&self) -> DecodeStream {
        DecodeStream::new(self.clone(), false)
    }

    /// Whether [`encode_at`](Self::encode_at) heeds the place.
    pub(crate) fn knows_places(&self) -> bool {
        !matches!(self.inner.kind, Kind::Foreign(_))
    }

    /// One past the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.len
    }

    /// The id of a token given as the text it stands for (`" the"`, `"<|im_end|>"`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        let added = self.inner.added.tokens().iter().find(|t| t.content == token).map(|t| t.id);
        added.or_else(|| self.inner.kind.id_of(token))
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
        self.added(id).is_some_and(|token| token.special)
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
