//! Turning ids into text one at a time, as they are generated.

use super::kind::Kind;
use super::sentencepiece::PieceDecoder;
use super::sentencepiece::chatglm::ChatGlmDecoder;
use super::{Place, Tokenizer};

/// Decodes a growing sequence of ids without ever showing half a character.
///
/// What all calls of [`push`](Self::push) and the final [`finish`](Self::finish) return, joined, is
/// [`Tokenizer::decode`] of the whole sequence.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    keep_special: bool,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// Bytes of a character that is not complete yet.
    Bytes(Vec<u8>),
    Pieces(PieceDecoder),
    ChatGlm(Box<ChatGlmDecoder>),
    /// For decoding that depends on words around: all ids, and how many bytes of their text are shown.
    Words {
        ids: Vec<u32>,
        shown: usize,
    },
    /// For pipelines whose decoding depends on neighbours: the ids still needed, and how many of them are shown.
    Foreign {
        ids: Vec<u32>,
        shown: String,
        shown_ids: usize,
    },
}

/// Words at the end of a text that the next token may still change: closing up `don ' t` reaches over two blanks.
const UNCERTAIN_WORDS: usize = 3;

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, keep_special: bool) -> Self {
        let state = match &tokenizer.inner.kind {
            Kind::Bytes(_) => State::Bytes(Vec::new()),
            Kind::SentencePiece { .. } => State::Pieces(PieceDecoder::new(true)),
            Kind::ChatGlm(_) => State::ChatGlm(Box::new(ChatGlmDecoder::new(true))),
            Kind::WordPiece(_) | Kind::Moses { .. } => State::Words { ids: Vec::new(), shown: 0 },
            Kind::Foreign(_) => State::Foreign { ids: Vec::new(), shown: String::new(), shown_ids: 0 },
        };
        Self { tokenizer, keep_special, state }
    }

    /// Takes the next id and returns the text that became certain, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let Self { tokenizer, keep_special, state } = self;
        let mut text = String::new();
        match state {
            State::Bytes(pending) => {
                tokenizer.append_bytes(id, *keep_special, pending);
                take_characters(pending, &mut text);
            }
            State::Pieces(decoder) => {
                let Kind::SentencePiece { model, .. } = &tokenizer.inner.kind else { return None };
                // What is no text of its own (control pieces) leaves the state of the blank as it is.
                match tokenizer.added(id) {
                    Some(token) if token.in_text || !token.special => {
                        decoder.flush(&mut text);
                        if !token.special || *keep_special {
                            text.push_str(&token.content);
                        }
                        let place = if token.special { Place::AfterSpecial } else { Place::Inside };
                        if !token.special || *keep_special {
                            *decoder = PieceDecoder::new(tokenizer.inner.kind.starts_with_blank(place));
                        }
                    }
                    Some(_) if !*keep_special => {}
                    _ => decoder.push(model, id, &mut text),
                }
            }
            State::ChatGlm(decoder) => {
                let Kind::ChatGlm(model) = &tokenizer.inner.kind else { return None };
                match tokenizer.added(id) {
                    Some(_) if !*keep_special => {}
                    Some(token) => {
                        decoder.flush(&mut text);
                        text.push_str(&token.content);
                        **decoder = ChatGlmDecoder::new(true);
                    }
                    None => decoder.push(model, id, &mut text),
                }
            }
            State::Words { ids, shown } => {
                ids.push(id);
                let whole = tokenizer.decode_kept(ids, *keep_special);
                let blanks = whole.char_indices().rev().filter(|(_, c)| *c == ' ');
                if let Some((certain, _)) = blanks.take(UNCERTAIN_WORDS).nth(UNCERTAIN_WORDS - 1)
                    && let Some(new) = whole.get(*shown..certain)
                {
                    text.push_str(new);
                    *shown = certain;
                }
            }
            State::Foreign { ids, shown, shown_ids } => {
                // The ids since the last shown text are decoded together, and what goes beyond the shown text is new.
                // Method: Hugging Face tokenizers, `DecodeStream`.
                ids.push(id);
                let whole = tokenizer.decode_kept(ids, *keep_special);
                if whole.len() <= shown.len() || whole.ends_with(char::REPLACEMENT_CHARACTER) {
                    return None;
                }
                text.push_str(whole.get(shown.len()..)?);
                ids.drain(..*shown_ids);
                *shown_ids = ids.len();
                *shown = tokenizer.decode_kept(ids, *keep_special);
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// Returns what is left when no further id comes: an incomplete character as U+FFFD.
    pub fn finish(&mut self) -> Option<String> {
        let fresh = Self::new(self.tokenizer.clone(), self.keep_special).state;
        let mut text = String::new();
        match std::mem::replace(&mut self.state, fresh) {
            State::Bytes(pending) => text.push_str(&String::from_utf8_lossy(&pending)),
            State::Pieces(mut decoder) => decoder.flush(&mut text),
            State::ChatGlm(mut decoder) => decoder.flush(&mut text),
            State::Words { ids, shown } => {
                let whole = self.tokenizer.decode_kept(&ids, self.keep_special);
                text.push_str(whole.get(shown..).unwrap_or_default());
            }
            State::Foreign { ids, shown, .. } => {
                let whole = self.tokenizer.decode_kept(&ids, self.keep_special);
                text.push_str(whole.get(shown.len()..).unwrap_or_default());
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Moves the complete characters at the start of some bytes into a text, and bytes that can begin none as U+FFFD.
fn take_characters(pending: &mut Vec<u8>, text: &mut String) {
    let mut at = 0;
    loop {
        match std::str::from_utf8(&pending[at..]) {
            Ok(rest) => {
                text.push_str(rest);
                at = pending.len();
            }
            Err(error) => {
                let valid = &pending[at..at + error.valid_up_to()];
                text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
                at += error.valid_up_to();
                if let Some(bad) = error.error_len() {
                    text.push(char::REPLACEMENT_CHARACTER);
                    at += bad;
                    continue;
                }
            }
        }
        break;
    }
    pending.drain(..at);
}
