//! SentencePiece models (`tokenizer.model`): LLaMA, Baichuan, ChatGLM-6B and others.
//!
//! Text is normalised, segmented by merging (BPE) or by the most probable path (unigram), and characters without a piece
//! become their bytes or the unknown piece. Reference: the SentencePiece library, `normalizer.cc`, `bpe_model.cc`,
//! `unigram_model.cc`, `sentencepiece_processor.cc`.
//!
//! This module knows pieces only: which of them a checkpoint looks for in text is [`AddedTokens`](super::added::AddedTokens).

mod bpe;
pub(crate) mod chatglm;
mod decode;
pub(crate) mod gguf;
mod model;
mod normalise;
mod trie;
mod unigram;

use std::ops::Range;
use std::path::Path;

pub(crate) use decode::PieceDecoder;
pub(crate) use model::looks_like_model;
pub(crate) use normalise::check_charsmap;

use model::{Model, ModelType, Piece, PieceKind};
use normalise::Normaliser;
use trie::Trie;

use super::TokenizerError;
use super::vocabulary::Vocabulary;

/// A SentencePiece model, ready to segment.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    pieces: Vec<Piece>,
    /// Ids of the pieces that merging reaches: normal, user-defined and unused ones.
    joined: Vocabulary,
    /// Ids of the other pieces: control, unknown, bytes.
    reserved: Vocabulary,
    /// The joined pieces again, for finding those a text starts with; empty for BPE.
    matched: Trie,
    unknown: u32,
    byte_ids: Option<[u32; 256]>,
    unk_surface: String,
    has_user_defined: bool,
    normaliser: Normaliser,
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    Bpe,
    Unigram(unigram::Scores),
}

impl SentencePiece {
    /// Reads a model file. Pieces in `structure` are not looked for in text even where the file defines them as user-defined:
    /// they are special tokens of the checkpoint.
    ///
    /// # Errors
    ///
    /// A file that is no such model or breaks its rules.
    pub(crate) fn read(
        path: &Path,
        bytes: &[u8],
        structure: &dyn Fn(&str) -> bool,
    ) -> Result<Self, TokenizerError> {
        Self::new(path, Model::read(path, bytes)?, structure)
    }

    /// The model in a GGUF file.
    ///
    /// # Errors
    ///
    /// Pieces that break the rules of a model.
    pub(crate) fn of_vocabulary(
        path: &Path,
        vocabulary: &crate::weights::gguf::Vocabulary,
    ) -> Result<Self, TokenizerError> {
        Self::new(path, Model::of_vocabulary(path, vocabulary)?, &|_| false)
    }

    fn new(path: &Path, model: Model, structure: &dyn Fn(&str) -> bool) -> Result<Self, TokenizerError> {
        let malformed =
            |expected: &str, found: String| TokenizerError::malformed(path, "pieces", expected, found);
        let is_joined = |piece: &Piece| {
            matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused)
        };
        let table = |joined: bool| {
            let tokens: Vec<(u32, Vec<u8>)> = (0..)
                .zip(&model.pieces)
                .filter(|(_, piece)| is_joined(piece) == joined)
                .map(|(id, piece)| (id, piece.text.clone().into_bytes()))
                .collect();
            let table = Vocabulary::new(&tokens);
            match tokens.iter().find(|(id, text)| table.id_of(text) != Some(*id)) {
                Some((id, text)) => Err(malformed(
                    "every piece once",
                    format!("`{}` again, at {id}", String::from_utf8_lossy(text)),
                )),
                None => Ok(table),
            }
        };
        let (joined, reserved) = (table(true)?, table(false)?);
        let mut unknown = None;
        let mut byte_ids = [u32::MAX; 256];
        for (id, piece) in (0..).zip(&model.pieces) {
            match piece.kind {
                PieceKind::Unknown if unknown.replace(id).is_some() => {
                    return Err(malformed("one unknown piece", "two".into()));
                }
                PieceKind::Byte(byte) => byte_ids[usize::from(byte)] = id,
                _ => {}
            }
        }
        let unknown = unknown.ok_or_else(|| malformed("an unknown piece", "none".into()))?;
        let byte_ids = if model.byte_fallback {
            if let Some(byte) = byte_ids.iter().position(|id| *id == u32::MAX) {
                let found = format!("none for byte 0x{byte:02X}");
                return Err(malformed("a piece for each of the 256 bytes", found));
            }
            Some(byte_ids)
        } else {
            None
        };
        let user_defined = || {
            model
                .pieces
                .iter()
                .filter(|piece| piece.kind == PieceKind::UserDefined && !structure(&piece.text))
                .map(|piece| (piece.text.as_bytes(), 0))
        };
        let has_user_defined = user_defined().next().is_some();
        let kept = Trie::new(user_defined());
        let matched = match model.model_type {
            ModelType::Bpe => Trie::default(),
            ModelType::Unigram => Trie::new(
                (0..)
                    .zip(&model.pieces)
                    .filter(|(_, piece)| is_joined(piece))
                    .filter(|(_, piece)| piece.kind != PieceKind::UserDefined || !structure(&piece.text))
                    .map(|(id, piece)| (piece.text.as_bytes(), id)),
            ),
        };
        let algorithm = match model.model_type {
            ModelType::Bpe => Algorithm::Bpe,
            ModelType::Unigram => Algorithm::Unigram(unigram::Scores::of(&model.pieces)),
        };
        let normaliser = Normaliser::new(path, &model, kept, has_user_defined)?;
        Ok(Self {
            pieces: model.pieces,
            joined,
            reserved,
            matched,
            unknown,
            byte_ids,
            unk_surface: model.unk_surface,
            has_user_defined,
            normaliser,
            algorithm,
        })
    }

    /// Appends the ids of a text. `start` says whether the text begins something, so that the blank the model puts in front
    /// of a text goes there.
    pub(crate) fn encode(&self, text: &str, start: bool, out: &mut Vec<u32>) {
        self.encode_shifted(text, start, 0, out);
    }

    /// Like [`encode`](Self::encode), with a number added to every id.
    fn encode_shifted(&self, text: &str, start: bool, shift: u32, out: &mut Vec<u32>) {
        // Places in the text are kept in 32 bits, and a blank takes three bytes.
        const LONGEST: usize = u32::MAX as usize / 4;
        let mut rest = text;
        let mut start = start;
        while rest.len() > LONGEST {
            let (part, after) = rest.split_at(rest.floor_char_boundary(LONGEST));
            self.encode_shifted(part, start, shift, out);
            (rest, start) = (after, false);
        }
        let normal = self.normaliser.normalise(rest, start);
        let bytes = normal.as_bytes();
        let mut after_unknown = false;
        let found = |range: Range<usize>, id: u32| {
            let is_unknown = id == self.unknown;
            match &self.byte_ids {
                Some(byte_ids) if is_unknown => {
                    out.extend(bytes[range].iter().map(|&byte| byte_ids[usize::from(byte)] + shift));
                }
                // Unknown characters side by side are one unknown piece.
                _ if is_unknown && after_unknown => {}
                _ => out.push(id + shift),
            }
            after_unknown = is_unknown;
        };
        match self.algorithm {
            Algorithm::Bpe => bpe::segment(self, &normal, found),
            Algorithm::Unigram(scores) => unigram::segment(self, scores, &normal, found),
        }
    }

    /// The id of a segment; that of the unknown piece where there is none.
    fn id_of_segment(&self, segment: &[u8]) -> u32 {
        self.reserved.id_of(segment).or_else(|| self.joined.id_of(segment)).unwrap_or(self.unknown)
    }

    /// Number of pieces.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The id of a piece given as it is written, or as the text it stands for.
    pub(crate) fn id_of(&self, piece: &str) -> Option<u32> {
        let written = |piece: &str| {
            self.reserved.id_of(piece.as_bytes()).or_else(|| self.joined.id_of(piece.as_bytes()))
        };
        written(piece).or_else(|| written(&piece.replace(' ', normalise::BLANK)))
    }

    /// The control, unknown and user-defined pieces, which checkpoints use as special tokens.
    pub(crate) fn named_pieces(&self) -> impl Iterator<Item = (u32, &str, bool)> {
        (0..).zip(&self.pieces).filter_map(|(id, piece)| match piece.kind {
            PieceKind::Control | PieceKind::Unknown => Some((id, piece.text.as_str(), true)),
            PieceKind::UserDefined => Some((id, piece.text.as_str(), false)),
            _ => None,
        })
    }

    /// Appends the bytes a piece stands for, blanks included; nothing for control pieces.
    pub(crate) fn append_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let Some(piece) = self.pieces.get(id as usize) else { return };
        match piece.kind {
            PieceKind::Byte(byte) => out.push(byte),
            PieceKind::Control => {}
            PieceKind::Unknown => out.extend_from_slice(self.unk_surface.as_bytes()),
            _ => out.extend_from_slice(piece.text.replace(normalise::BLANK, " ").as_bytes()),
        }
    }
}
