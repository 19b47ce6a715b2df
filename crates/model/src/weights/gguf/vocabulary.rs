//! The tokenizer inside a GGUF file, as data: pieces, merges, special ids. How text is cut with it is the business of
//! [`tokenizer`](crate::tokenizer), which also makes one of these from the tokenizer files of a model folder.

use super::{header::Header, write::Entry};
use crate::error::Error;

/// What `tokenizer.ggml.*` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vocabulary {
    /// The kind: `gpt2` (byte-level BPE with merges), `llama` (SentencePiece BPE with scores).
    pub model: String,
    /// How text is cut before merging, by llama.cpp's name (`qwen2`, `llama-bpe`, …).
    pub pre: Option<String>,
    /// The pieces, by id.
    pub tokens: Vec<Token>,
    /// Merges of a byte-level vocabulary, best first: `left right`.
    pub merges: Vec<String>,
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    /// The piece for what has none.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Whether encoded text begins with `bos`.
    pub add_bos: Option<bool>,
    /// Whether encoded text ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space is put before the text (SentencePiece's dummy prefix).
    pub add_space_prefix: Option<bool>,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

/// One piece.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its text: in the byte alphabet (`gpt2`), or with U+2581 for spaces (`llama`).
    pub text: String,
    /// Merging prefers higher scores (`llama`); 0 elsewhere.
    pub score: f32,
    /// What it is for.
    pub kind: TokenKind,
}

/// What a piece is for, numbered as in SentencePiece's model files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// What has no piece.
    Unknown,
    /// Structure (`<s>`); not recognised in ordinary text.
    Control,
    /// A fixed string that is never split.
    UserDefined,
    /// Fills up the embedding.
    Unused,
    /// A single byte, `<0x0A>`.
    Byte,
}

impl TokenKind {
    pub(crate) fn number(self) -> i32 {
        match self {
            TokenKind::Normal => 1,
            TokenKind::Unknown => 2,
            TokenKind::Control => 3,
            TokenKind::UserDefined => 4,
            TokenKind::Unused => 5,
            TokenKind::Byte => 6,
        }
    }

    pub(crate) fn of_number(number: i64) -> Option<TokenKind> {
        use TokenKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        [Normal, Unknown, Control, UserDefined, Unused, Byte]
            .into_iter()
            .find(|kind| i64::from(kind.number()) == number)
    }
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const UNK: &str = "tokenizer.ggml.unknown_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
const TEMPLATE: &str = "tokenizer.chat_template";

impl Vocabulary {
    pub(super) fn read(header: &Header, bytes: &[u8]) -> Result<Option<Vocabulary>, Error> {
        let Some(model) = header.text(MODEL)? else { return Ok(None) };
        if matches!(model, "none" | "no_vocab") {
            return Ok(None);
        }
        let texts = header.strings(bytes, TOKENS)?;
        let texts = texts.ok_or_else(|| header.wrong(TOKENS, "an array of strings", "nothing"))?;
        let fit = |key: &str, numbers: Option<Vec<f64>>| -> Result<Option<Vec<f64>>, Error> {
            match numbers {
                Some(numbers) if numbers.len() != texts.len() => Err(header.wrong(
                    key,
                    format!("{} numbers, one for each token", texts.len()),
                    numbers.len().to_string(),
                )),
                numbers => Ok(numbers),
            }
        };
        let kinds = fit(KINDS, header.numbers(bytes, KINDS)?)?;
        let scores = fit(SCORES, header.numbers(bytes, SCORES)?)?;
        let mut tokens = Vec::with_capacity(texts.len());
        for (id, text) in texts.iter().enumerate() {
            let kind = match &kinds {
                None => TokenKind::Normal,
                Some(kinds) => TokenKind::of_number(kinds[id] as i64)
                    .ok_or_else(|| header.wrong(KINDS, "numbers from 1 to 6", kinds[id].to_string()))?,
            };
            let score = scores.as_ref().map_or(0.0, |scores| scores[id] as f32);
            tokens.push(Token { text: (*text).to_owned(), score, kind });
        }
        let id = |key: &str| -> Result<Option<u32>, Error> {
            let Some(n) = header.unsigned(key)? else { return Ok(None) };
            // Published files name tokens that do not exist; llama.cpp leaves those out too.
            Ok(u32::try_from(n).ok().filter(|&id| (id as usize) < tokens.len()))
        };
        let (bos, eos, eot, unk, pad) = (id(BOS)?, id(EOS)?, id(EOT)?, id(UNK)?, id(PAD)?);
        let merges = header.strings(bytes, MERGES)?.unwrap_or_default();
        Ok(Some(Vocabulary {
            model: model.to_owned(),
            pre: header.text(PRE)?.map(str::to_owned),
            tokens,
            merges: merges.into_iter().map(str::to_owned).collect(),
            bos,
            eos,
            eot,
            unk,
            pad,
            add_bos: header.flag(ADD_BOS)?,
            add_eos: header.flag(ADD_EOS)?,
            add_space_prefix: header.flag(ADD_SPACE)?,
            chat_template: header.text(TEMPLATE)?.map(str::to_owned),
        }))
    }

    /// Fills up with unused pieces, as the converter does, so that every row of the embedding has one.
    pub(super) fn fill(&mut self, rows: usize) {
        while self.tokens.len() < rows {
            let text = format!("[PAD{}]", self.tokens.len());
            let score = if self.model == "llama" { -10_000.0 } else { 0.0 };
            self.tokens.push(Token { text, score, kind: TokenKind::Unused });
        }
    }

    pub(super) fn entries(&self) -> Vec<(String, Entry)> {
        let mut entries = vec![(MODEL, Entry::Text(self.model.clone()))];
        if let Some(pre) = &self.pre {
            entries.push((PRE, Entry::Text(pre.clone())));
        }
        entries.push((TOKENS, Entry::Texts(self.tokens.iter().map(|token| token.text.clone()).collect())));
        if self.model == "llama" {
            entries.push((SCORES, Entry::F32s(self.tokens.iter().map(|token| token.score).collect())));
        }
        entries.push((KINDS, Entry::I32s(self.tokens.iter().map(|token| token.kind.number()).collect())));
        if !self.merges.is_empty() {
            entries.push((MERGES, Entry::Texts(self.merges.clone())));
        }
        let ids = [(BOS, self.bos), (EOS, self.eos), (EOT, self.eot), (UNK, self.unk), (PAD, self.pad)];
        entries.extend(ids.into_iter().filter_map(|(key, id)| Some((key, Entry::U32(id?)))));
        let flags = [(ADD_BOS, self.add_bos), (ADD_EOS, self.add_eos), (ADD_SPACE, self.add_space_prefix)];
        entries.extend(flags.into_iter().filter_map(|(key, flag)| Some((key, Entry::Flag(flag?)))));
        if let Some(template) = &self.chat_template {
            entries.push((TEMPLATE, Entry::Text(template.clone())));
        }
        entries.into_iter().map(|(key, entry)| (key.to_owned(), entry)).collect()
    }
}
