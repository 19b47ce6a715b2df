//! The kinds of tokenizer behind the one type, and what each of them does with text and ids.

use std::ops::Range;

use super::added::{AddedTokens, Segment};
use super::bpe::ByteBpe;
use super::foreign::Foreign;
use super::moses;
use super::sentencepiece::SentencePiece;
use super::sentencepiece::chatglm::ChatGlm;
use super::word_bpe::{END, WordBpe};
use super::wordpiece::{WordPiece, clean_up};
use super::{Place, TokenizerError};

/// A tokenizer of one kind.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Byte-level BPE.
    Bytes(Box<ByteBpe>),
    /// A SentencePiece model, and whether text after a special token starts with a blank as text at the start does.
    SentencePiece { model: Box<SentencePiece>, blank_after_special: bool },
    /// ChatGLM-6B.
    ChatGlm(Box<ChatGlm>),
    /// WordPiece from `vocab.txt`.
    WordPiece(Box<WordPiece>),
    /// Moses words in parts, and whether decoded punctuation is closed up.
    Moses { words: Box<WordBpe>, clean_up: bool },
    /// A pipeline of the `tokenizers` crate.
    Foreign(Box<Foreign>),
}

impl Kind {
    /// Appends the ids of a text. `special` says whether special tokens in it are recognised.
    pub(crate) fn encode(
        &self,
        text: &str,
        added: &AddedTokens,
        special: bool,
        place: Place,
        out: &mut Vec<u32>,
    ) {
        match self {
            Self::Bytes(bpe) => bpe.encode(text, added, special, out),
            Self::Foreign(foreign) => foreign.encode(text, special, out),
            _ => {
                let mut place = place;
                added.raw(special).split(text, |segment| match segment {
                    Segment::Token(id) => {
                        out.push(id);
                        place = Place::AfterSpecial;
                    }
                    Segment::Text(text) => self.encode_ordinary(text, place, out),
                });
            }
        }
    }

    fn encode_ordinary(&self, text: &str, place: Place, out: &mut Vec<u32>) {
        match self {
            Self::SentencePiece { model, .. } => model.encode(text, self.starts_with_blank(place), out),
            Self::ChatGlm(model) => model.encode(text, self.starts_with_blank(place), out),
            Self::WordPiece(model) => model.encode(text, |id, _| out.push(id)),
            Self::Moses { words, .. } => moses::tokenize(text, |word| words.encode_word(word, out)),
            Self::Bytes(_) | Self::Foreign(_) => {}
        }
    }

    /// Whether text at a place starts with a blank that is not part of it.
    pub(crate) fn starts_with_blank(&self, place: Place) -> bool {
        match (self, place) {
            (_, Place::Start) => true,
            (Self::SentencePiece { blank_after_special, .. }, Place::AfterSpecial) => *blank_after_special,
            (_, Place::AfterSpecial) => true,
            (_, Place::Inside) => false,
        }
    }

    /// The ids of ordinary text with the bytes they stand for.
    pub(crate) fn encode_with_offsets(
        &self,
        text: &str,
        added: &AddedTokens,
    ) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        let mut tokens = Vec::new();
        match self {
            Self::Bytes(bpe) if !bpe.changes(text) => {
                let none = AddedTokens::default();
                let mut ids = Vec::new();
                let mut at = 0;
                added.raw(false).split_ranges(text, |range, id| {
                    let Some(id) = id else {
                        at = range.start;
                        ids.clear();
                        bpe.encode(&text[range], &none, false, &mut ids);
                        tokens.extend(ids.iter().map(|&id| {
                            let start = at;
                            at += bpe.vocabulary.bytes_of(id).len();
                            (id, start..at)
                        }));
                        return;
                    };
                    tokens.push((id, range));
                });
            }
            Self::WordPiece(model) => added.raw(false).split_ranges(text, |range, id| match id {
                Some(id) => tokens.push((id, range)),
                None => {
                    let start = range.start;
                    model.encode(&text[range], |id, part| {
                        tokens.push((id, start + part.start..start + part.end));
                    });
                }
            }),
            Self::Foreign(foreign) => {
                tokens = foreign.encode_with_offsets(text).ok_or(TokenizerError::NoOffsets)?;
            }
            _ => return Err(TokenizerError::NoOffsets),
        }
        Ok(tokens)
    }

    /// One past the largest id.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bpe) => bpe.vocabulary.len(),
            Self::SentencePiece { model, .. } => model.len(),
            Self::ChatGlm(model) => model.len(),
            Self::WordPiece(model) => model.len(),
            Self::Moses { words, .. } => words.len(),
            Self::Foreign(foreign) => foreign.len(),
        }
    }

    /// The id of a token given as the text it stands for.
    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        match self {
            Self::Bytes(bpe) => bpe.vocabulary.id_of(token.as_bytes()),
            Self::SentencePiece { model, .. } => model.id_of(token),
            Self::ChatGlm(model) => model.id_of(token),
            Self::WordPiece(model) => model.id_of(token),
            Self::Moses { words, .. } => words.id_of(token),
            Self::Foreign(foreign) => foreign.token_to_id(token),
        }
    }

    /// Appends the bytes of an id where they do not depend on its neighbours.
    pub(crate) fn append_bytes(&self, id: u32, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bpe) => out.extend_from_slice(bpe.vocabulary.bytes_of(id)),
            Self::SentencePiece { model, .. } => model.append_bytes(id, out),
            Self::ChatGlm(model) => model.append_bytes(id, out),
            Self::WordPiece(_) | Self::Moses { .. } | Self::Foreign(_) => {}
        }
    }

    /// Whether what an id adds to a text depends on the words around it, so that a text is decoded as a whole.
    pub(crate) fn decodes_words(&self) -> bool {
        matches!(self, Self::WordPiece(_) | Self::Moses { .. })
    }

    /// A token of a kind that [decodes words](Self::decodes_words), as it is written.
    pub(crate) fn token_text(&self, id: u32) -> &str {
        match self {
            Self::WordPiece(model) => model.token(id),
            Self::Moses { words, .. } => words.token(id),
            _ => "",
        }
    }

    /// Decodes tokens of a kind that [decodes words](Self::decodes_words).
    pub(crate) fn decode_words<'t>(&self, tokens: impl Iterator<Item = &'t str>) -> String {
        match self {
            Self::WordPiece(model) => model.decode(tokens),
            Self::Moses { clean_up: close_up, .. } => {
                let mut joined = String::new();
                for token in tokens {
                    match token.strip_suffix(END) {
                        Some(last) => {
                            joined.push_str(last);
                            joined.push(' ');
                        }
                        None => joined.push_str(token),
                    }
                }
                let text = moses::detokenize(joined.split_whitespace());
                if *close_up { clean_up(&text) } else { text }
            }
            _ => String::new(),
        }
    }
}
