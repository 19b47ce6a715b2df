//! Turning ids into text one at a time, as they are generated.

use super::{Kind, Tokenizer};

/// Decodes a growing sequence of ids without ever showing half a character.
///
/// What all calls of [`push`](Self::push) and the final [`finish`](Self::finish) return, joined, is
/// [`Tokenizer::decode`] of the whole sequence.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    keep_special: bool,
    /// Bytes of a character that is not complete yet.
    pending: Vec<u8>,
    /// For pipelines whose decoding depends on neighbours: the ids still needed, and how many of them are shown.
    ids: Vec<u32>,
    shown: String,
    shown_ids: usize,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, keep_special: bool) -> Self {
        Self {
            tokenizer,
            keep_special,
            pending: Vec::new(),
            ids: Vec::new(),
            shown: String::new(),
            shown_ids: 0,
        }
    }

    /// Takes the next id and returns the text that became certain, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if matches!(self.tokenizer.inner.kind, Kind::Foreign(_)) {
            return self.push_foreign(id);
        }
        self.tokenizer.append_bytes(id, self.keep_special, &mut self.pending);
        let mut text = String::new();
        let mut at = 0;
        loop {
            match std::str::from_utf8(&self.pending[at..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    at = self.pending.len();
                }
                Err(error) => {
                    let valid = &self.pending[at..at + error.valid_up_to()];
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
        self.pending.drain(..at);
        (!text.is_empty()).then_some(text)
    }

    /// Returns what is left when no further id comes: an incomplete character as U+FFFD.
    pub fn finish(&mut self) -> Option<String> {
        let text = if self.ids.is_empty() {
            String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
        } else {
            let ids = std::mem::take(&mut self.ids);
            let shown = std::mem::take(&mut self.shown);
            self.shown_ids = 0;
            let whole = self.tokenizer.decode_kept(&ids, self.keep_special);
            whole.get(shown.len()..).unwrap_or_default().to_owned()
        };
        (!text.is_empty()).then_some(text)
    }

    /// Decoding of WordPiece or Metaspace pipelines depends on what stands before: the ids since the last shown text
    /// are decoded together, and what goes beyond the shown text is new. Method: Hugging Face tokenizers, `DecodeStream`.
    fn push_foreign(&mut self, id: u32) -> Option<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode_kept(&self.ids, self.keep_special);
        if text.len() <= self.shown.len() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        let new = text.get(self.shown.len()..)?.to_owned();
        self.ids.drain(..self.shown_ids);
        self.shown_ids = self.ids.len();
        self.shown = self.tokenizer.decode_kept(&self.ids, self.keep_special);
        Some(new)
    }
}
