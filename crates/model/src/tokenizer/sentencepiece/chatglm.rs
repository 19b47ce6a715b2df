//! ChatGLM-6B on top of SentencePiece (`ice_text.model`): ids of images come first, and white space has words of its own.
//!
//! A line end is written `<n>`, a tab `<|tab|>`, and 2 to 80 blanks in a row `<|blank_N|>`, before text is segmented. The
//! first release (150,528 embedding rows) keeps 20,000 ids free for images in front of the pieces, and its model file holds the
//! 130,000 trained pieces only: the others are added here, as its tokenizer did when it was loaded. The later release (130,528 rows)
//! has all 130,344 pieces in the file and none for images. Source: THUDM/chatglm-6b, `tokenization_chatglm.py`, both releases.
//!
//! No golden file covers this module: it follows the published code and is tested on constructed models.

use std::path::Path;

use super::model::{Model, Piece, PieceKind};
use super::{PieceDecoder, SentencePiece};
use crate::tokenizer::TokenizerError;

/// Special tokens, in the order in which the first release appends them to the trained pieces.
pub(crate) const SPECIAL: [&str; 8] =
    ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"];

/// Ids kept for images by the first release.
pub(crate) const IMAGE_IDS: u32 = 20_000;

/// Longest run of blanks with a word of its own.
const LONGEST_RUN: usize = 80;

const LINE_END: &str = "<n>";
const TAB: &str = "<|tab|>";

/// The tokenizer of ChatGLM-6B.
#[derive(Debug)]
pub(crate) struct ChatGlm {
    model: SentencePiece,
    /// Added to the id of every piece.
    pub(crate) shift: u32,
}

impl ChatGlm {
    /// Reads `ice_text.model`. `shift` says how many ids stand for images, given the number of pieces.
    ///
    /// # Errors
    ///
    /// Those of [`SentencePiece::read`].
    pub(crate) fn read(
        path: &Path,
        bytes: &[u8],
        shift: impl FnOnce(usize) -> u32,
    ) -> Result<Self, TokenizerError> {
        let mut model = Model::read(path, bytes)?;
        if !model.pieces.iter().any(|piece| piece.text == "[gMASK]") {
            let piece = |text: String, kind| Piece { text, score: 0.0, kind };
            model.pieces.extend(SPECIAL.iter().map(|name| piece((*name).to_owned(), PieceKind::Control)));
            model.pieces.push(piece(TAB.to_owned(), PieceKind::UserDefined));
            model.pieces.extend((2..=LONGEST_RUN).map(|n| piece(blanks(n), PieceKind::UserDefined)));
            model
                .pieces
                .extend((0..=255u8).map(|byte| piece(format!("<0x{byte:02X}>"), PieceKind::Byte(byte))));
            model.byte_fallback = true;
        }
        let shift = shift(model.pieces.len());
        let model = SentencePiece::new(path, model, &|piece| SPECIAL.contains(&piece))?;
        Ok(Self { model, shift })
    }

    /// Appends the ids of a text; see [`SentencePiece::encode`].
    pub(crate) fn encode(&self, text: &str, start: bool, out: &mut Vec<u32>) {
        self.model.encode_shifted(&spell_white_space(text), start, self.shift, out);
    }

    /// One past the largest id.
    pub(crate) fn len(&self) -> usize {
        self.model.len() + self.shift as usize
    }

    /// The id of a piece.
    pub(crate) fn id_of(&self, piece: &str) -> Option<u32> {
        self.model.id_of(piece).map(|id| id + self.shift)
    }

    /// Appends the bytes an id stands for.
    pub(crate) fn append_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        if let Some(piece) = id.checked_sub(self.shift) {
            self.model.append_bytes(piece, &mut bytes);
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => out.extend_from_slice(restore_white_space(text).as_bytes()),
            Err(_) => out.extend_from_slice(&bytes),
        }
    }
}

/// Decodes ids one after the other, holding back what may be the beginning of a word for white space.
#[derive(Debug, Clone)]
pub(crate) struct ChatGlmDecoder {
    pieces: PieceDecoder,
    held: String,
}

impl ChatGlmDecoder {
    pub(crate) fn new(start: bool) -> Self {
        Self { pieces: PieceDecoder::new(start), held: String::new() }
    }

    /// Appends what an id adds to the text; ids of images add nothing.
    pub(crate) fn push(&mut self, tokenizer: &ChatGlm, id: u32, out: &mut String) {
        let Some(piece) = id.checked_sub(tokenizer.shift) else { return };
        self.pieces.push(&tokenizer.model, piece, &mut self.held);
        let certain = match self.held.rfind('<') {
            Some(at) if may_become_white_space(&self.held[at..]) => at,
            _ => self.held.len(),
        };
        out.push_str(&restore_white_space(&self.held[..certain]));
        self.held.drain(..certain);
    }

    /// Appends what is left.
    pub(crate) fn flush(&mut self, out: &mut String) {
        self.pieces.flush(&mut self.held);
        out.push_str(&restore_white_space(&std::mem::take(&mut self.held)));
    }
}

fn blanks(count: usize) -> String {
    format!("<|blank_{count}|>")
}

/// Writes line ends, tabs and runs of blanks as words.
fn spell_white_space(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\n', '\t', ' ']) {
        let (before, from) = rest.split_at(at);
        spelled.push_str(before);
        let mut taken = 1;
        match from.as_bytes()[0] {
            b'\n' => spelled.push_str(LINE_END),
            b'\t' => spelled.push_str(TAB),
            _ => {
                taken = from.len() - from.trim_start_matches(' ').len();
                for _ in 0..taken / LONGEST_RUN {
                    spelled.push_str(&blanks(LONGEST_RUN));
                }
                match taken % LONGEST_RUN {
                    0 => {}
                    1 => spelled.push(' '),
                    left => spelled.push_str(&blanks(left)),
                }
            }
        }
        rest = &from[taken..];
    }
    spelled.push_str(rest);
    spelled
}

/// Undoes [`spell_white_space`].
fn restore_white_space(text: &str) -> String {
    let mut restored = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        restored.push_str(before);
        let length = if from.starts_with(LINE_END) {
            restored.push('\n');
            LINE_END.len()
        } else if from.starts_with(TAB) {
            restored.push('\t');
            TAB.len()
        } else if let Some((count, length)) = blank_run(from) {
            restored.extend(std::iter::repeat_n(' ', count));
            length
        } else {
            restored.push('<');
            1
        };
        rest = &from[length..];
    }
    restored.push_str(rest);
    restored
}

/// The number of blanks that `<|blank_N|>` at the start of a text stands for, and its length.
fn blank_run(text: &str) -> Option<(usize, usize)> {
    let (digits, _) = text.strip_prefix("<|blank_")?.split_once("|>")?;
    let count: usize = digits.parse().ok().filter(|count| (2..=LONGEST_RUN).contains(count))?;
    (digits == count.to_string()).then_some((count, "<|blank_|>".len() + digits.len()))
}

/// Whether a text that starts with `<` may go on to be a word for white space.
fn may_become_white_space(text: &str) -> bool {
    let begins = |word: &str| word.len() > text.len() && word.starts_with(text);
    if begins(LINE_END) || begins(TAB) || begins("<|blank_") {
        return true;
    }
    let Some(rest) = text.strip_prefix("<|blank_") else { return false };
    let digits = rest.strip_suffix('|').unwrap_or(rest);
    digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_spelled_and_restored() {
        assert_eq!(spell_white_space("a b\n\tc  d"), "a b<n><|tab|>c<|blank_2|>d");
        assert_eq!(spell_white_space(&" ".repeat(81)), "<|blank_80|> ");
        assert_eq!(spell_white_space(&" ".repeat(162)), "<|blank_80|><|blank_80|><|blank_2|>");
        for text in ["", "a", " a ", "\n\n", "x   y\t\tz", "<n", "a < b", "<|blank", "  \n  "] {
            assert_eq!(restore_white_space(&spell_white_space(text)), text);
        }
        // What the reference takes for white space, whoever wrote it.
        assert_eq!(
            restore_white_space("<n><|blank_3|><|blank_81|><|blank_02|>"),
            "\n   <|blank_81|><|blank_02|>"
        );
    }

    #[test]
    fn beginnings_of_words_are_recognised() {
        for word in [LINE_END, TAB, "<|blank_2|>", "<|blank_80|>"] {
            for (at, _) in word.char_indices().skip(1) {
                assert!(may_become_white_space(&word[..at]), "{word} {at}");
            }
            assert!(!may_become_white_space(word));
        }
        assert!(!may_become_white_space("<x") && !may_become_white_space("<|blank_123"));
    }
}
