//! Pieces to text, one at a time: the blank at the start, and bytes that are characters or not.

use super::SentencePiece;
use super::model::PieceKind;
use super::normalise::BLANK;

/// Decodes pieces one after the other. What is not certain yet (a part of a character) is held back.
#[derive(Debug, Clone)]
pub(crate) struct PieceDecoder {
    /// Whether a blank that a piece starts with is the one put in front of the text.
    at_start: bool,
    took_blank: bool,
    said_something: bool,
    /// Byte pieces of a character that is not complete.
    pending: Vec<u8>,
}

impl PieceDecoder {
    /// `start` says whether the text begins here, so that the blank in front of it is taken off.
    pub(crate) fn new(start: bool) -> Self {
        Self { at_start: start, took_blank: false, said_something: false, pending: Vec::new() }
    }

    /// Appends what a piece adds to the text.
    pub(crate) fn push(&mut self, model: &SentencePiece, id: u32, out: &mut String) {
        let Some(piece) = model.pieces.get(id as usize) else { return };
        if let PieceKind::Byte(byte) = piece.kind {
            self.pending.push(byte);
            self.say_characters(out);
            return;
        }
        self.flush(out);
        if self.took_blank || self.said_something {
            self.at_start = false;
        }
        self.took_blank = false;
        let text = match piece.kind {
            PieceKind::Control => return,
            PieceKind::Unknown => {
                self.say(&model.unk_surface, out);
                return;
            }
            _ => piece.text.as_str(),
        };
        let normaliser = &model.normaliser;
        let mut shown = text;
        if self.at_start
            && (normaliser.add_dummy_prefix || normaliser.remove_extra_whitespaces)
            && let Some(rest) = text.strip_prefix(BLANK)
        {
            shown = rest;
            // Where extra white space is removed, all of it at the start is.
            self.took_blank = !normaliser.remove_extra_whitespaces;
        }
        if shown.contains(BLANK) {
            self.say(&shown.replace(BLANK, " "), out);
        } else {
            self.say(shown, out);
        }
    }

    /// Ends a run of byte pieces: what is left of a character is one U+FFFD for each byte.
    pub(crate) fn flush(&mut self, out: &mut String) {
        for _ in std::mem::take(&mut self.pending) {
            self.say("\u{FFFD}", out);
        }
    }

    fn say(&mut self, text: &str, out: &mut String) {
        self.said_something |= !text.is_empty();
        out.push_str(text);
    }

    /// Says the complete characters among the pending bytes, and each byte that can begin none as U+FFFD.
    fn say_characters(&mut self, out: &mut String) {
        while !self.pending.is_empty() {
            match std::str::from_utf8(&self.pending) {
                Ok(text) => {
                    let text = text.to_owned();
                    self.pending.clear();
                    self.say(&text, out);
                }
                Err(error) if error.valid_up_to() > 0 => {
                    let valid: Vec<u8> = self.pending.drain(..error.valid_up_to()).collect();
                    self.say(&String::from_utf8_lossy(&valid), out);
                }
                Err(error) if error.error_len().is_some() => {
                    self.pending.remove(0);
                    self.say("\u{FFFD}", out);
                }
                Err(_) => return,
            }
        }
    }
}
