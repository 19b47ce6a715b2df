//! WordPiece, as BERT's tokenizer does it: text is cleaned and cut into words, and each word into the longest pieces.
//!
//! Reference: transformers 4.44, `BertTokenizer` (the slow one). What stands for what is kept for every character, because
//! token classification needs the bytes of each token.

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use unicode_normalization::char::{canonical_combining_class, decompose_canonical};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::TokenizerError;
use super::config::TokenizerConfig;
use super::table::CharTable;
use super::vocabulary::{LARGEST_ID, Vocabulary};

/// Longer words are unknown.
const LONGEST_WORD: usize = 100;

/// Marks a piece that goes on a word.
const CONTINUES: &str = "##";

/// A WordPiece vocabulary and what is done to text before.
#[derive(Debug)]
pub(crate) struct WordPiece {
    tokens: Vocabulary,
    /// The pieces that go on a word, without their mark.
    inside: Vocabulary,
    unknown: u32,
    lower_case: bool,
    strip_accents: bool,
    chinese_apart: bool,
    clean_up: bool,
}

/// A character of the text as it is looked up, and the bytes of the text it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letter {
    c: char,
    start: usize,
    end: usize,
}

impl WordPiece {
    /// Reads `vocab.txt`: one token a line, its id the number of the line.
    ///
    /// Where the configuration does not say whether the vocabulary is cased, it is when one of its tokens has a capital
    /// letter outside of brackets.
    ///
    /// # Errors
    ///
    /// Tokens that are not UTF-8, too many of them, no unknown token.
    pub(crate) fn read(path: &Path, bytes: &[u8], config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let mut tokens: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut capital = false;
        for (number, line) in lines(bytes).enumerate() {
            let place = || format!("line {}", number + 1);
            let id = u32::try_from(number)
                .ok()
                .filter(|id| *id <= LARGEST_ID)
                .ok_or_else(|| TokenizerError::malformed(path, place(), "at most 4194304 lines", "more"))?;
            let token = std::str::from_utf8(line).map_err(|_| {
                TokenizerError::malformed(path, place(), "UTF-8", String::from_utf8_lossy(line))
            })?;
            capital |= !token.starts_with('[') && token.chars().any(char::is_uppercase);
            tokens.push((id, line.to_vec()));
        }
        // Of a token that occurs twice the last id counts; the table keeps the first it is given.
        tokens.reverse();
        let vocabulary = Vocabulary::new(&tokens);
        let name = config.unk_token.as_deref().unwrap_or("[UNK]");
        let unknown = vocabulary.id_of(name.as_bytes()).ok_or_else(|| {
            TokenizerError::malformed(path, "vocabulary", format!("the unknown token `{name}`"), "none")
        })?;
        let inside: Vec<(u32, Vec<u8>)> = tokens
            .iter()
            .filter_map(|(id, token)| Some((*id, token.strip_prefix(CONTINUES.as_bytes())?.to_vec())))
            .filter(|(_, token)| !token.is_empty())
            .collect();
        let lower_case = config.do_lower_case.unwrap_or(!capital);
        Ok(Self {
            tokens: vocabulary,
            inside: Vocabulary::new(&inside),
            unknown,
            lower_case,
            strip_accents: config.strip_accents.unwrap_or(lower_case),
            chinese_apart: config.tokenize_chinese_chars.unwrap_or(true),
            clean_up: config.clean_up_tokenization_spaces.unwrap_or(true),
        })
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        self.tokens.id_of(token.as_bytes())
    }

    /// A token as it is written; empty for ids that have none.
    pub(crate) fn token(&self, id: u32) -> &str {
        std::str::from_utf8(self.tokens.bytes_of(id)).unwrap_or_default()
    }

    /// Calls back with each token of a text and the bytes it stands for.
    pub(crate) fn encode(&self, text: &str, mut found: impl FnMut(u32, Range<usize>)) {
        let letters = self.letters(text);
        for word in letters.split(|letter| letter.c.is_whitespace()) {
            let bare;
            let word = if self.strip_accents {
                bare = without_accents(word);
                bare.as_slice()
            } else {
                word
            };
            for part in word.chunk_by(|a, b| !is_punctuation(a.c) && !is_punctuation(b.c)) {
                self.encode_word(part, &mut found);
            }
        }
    }

    /// The characters of a text, cleaned, in lower case where asked for, in normalisation form C, blanks around Chinese ones.
    fn letters(&self, text: &str) -> Vec<Letter> {
        let mut letters = Vec::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            let end = start + c.len_utf8();
            let mut push = |c: char| {
                if c == '\0' || c == char::REPLACEMENT_CHARACTER || is_control(c) {
                    return;
                }
                let apart = self.chinese_apart && is_chinese(c);
                if apart {
                    letters.push(Letter { c: ' ', start, end: start });
                }
                letters.push(Letter { c: if is_blank(c) { ' ' } else { c }, start, end });
                if apart {
                    letters.push(Letter { c: ' ', start: end, end });
                }
            };
            if self.lower_case && !c.is_ascii() {
                c.to_lowercase().for_each(&mut push);
            } else if self.lower_case {
                push(c.to_ascii_lowercase());
            } else {
                push(c);
            }
        }
        match is_nfc_quick(letters.iter().map(|letter| letter.c)) {
            IsNormalized::Yes => letters,
            _ => composed(&letters),
        }
    }

    /// The longest pieces of a word from left to right; the unknown token where that does not work out.
    fn encode_word(&self, word: &[Letter], found: &mut impl FnMut(u32, Range<usize>)) {
        let (Some(first), Some(last)) = (word.first(), word.last()) else { return };
        let whole = first.start..last.end;
        if word.len() > LONGEST_WORD {
            found(self.unknown, whole);
            return;
        }
        let text: String = word.iter().map(|letter| letter.c).collect();
        let mut ends = [0u16; LONGEST_WORD + 1];
        for (end, (at, letter)) in ends[1..].iter_mut().zip(text.char_indices()) {
            *end = (at + letter.len_utf8()) as u16;
        }
        let mut pieces = [(0u32, 0u8, 0u8); LONGEST_WORD];
        let (mut count, mut start) = (0, 0);
        while start < word.len() {
            let table = if start == 0 { &self.tokens } else { &self.inside };
            let piece = (start + 1..=word.len()).rev().find_map(|end| {
                let part = &text.as_bytes()[usize::from(ends[start])..usize::from(ends[end])];
                Some((table.id_of(part)?, end))
            });
            let Some((id, end)) = piece else {
                found(self.unknown, whole);
                return;
            };
            pieces[count] = (id, start as u8, end as u8);
            (count, start) = (count + 1, end);
        }
        for (id, start, end) in &pieces[..count] {
            found(*id, word[usize::from(*start)].start..word[usize::from(*end) - 1].end);
        }
    }

    /// Decodes tokens: words separated by blanks, punctuation closed up where the reference does.
    pub(crate) fn decode<'t>(&self, tokens: impl Iterator<Item = &'t str>) -> String {
        let mut text = String::new();
        for token in tokens {
            match token.strip_prefix(CONTINUES) {
                Some(rest) if !text.is_empty() => text.push_str(rest),
                _ => {
                    if !text.is_empty() {
                        text.push(' ');
                    }
                    text.push_str(token);
                }
            }
        }
        if self.clean_up { clean_up(text.trim()) } else { text.trim().to_owned() }
    }
}

/// The lines of a vocabulary file; one that ends with a line end has no line after it.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = (!bytes.is_empty()).then(|| bytes.split(|&b| b == b'\n'));
    lines.into_iter().flatten().map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// Closes up English punctuation and contractions, as transformers does after decoding (`clean_up_tokenization`).
pub(super) fn clean_up(text: &str) -> String {
    const CLOSED_UP: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    let mut text = text.to_owned();
    for (apart, together) in CLOSED_UP {
        if text.contains(apart) {
            text = text.replace(apart, together);
        }
    }
    text
}

/// Calls back with each run of letters that normalisation may change together: it ends before a character that stands alone.
fn runs(letters: &[Letter]) -> impl Iterator<Item = &[Letter]> {
    letters.chunk_by(|_, next| {
        canonical_combining_class(next.c) != 0 || is_nfc_quick([next.c].into_iter()) != IsNormalized::Yes
    })
}

/// Normalisation form C. What a run of characters becomes stands for all bytes of the run, unless it stays as it is.
fn composed(letters: &[Letter]) -> Vec<Letter> {
    let mut composed = Vec::with_capacity(letters.len());
    for run in runs(letters) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let before = composed.len();
        composed.extend(run.iter().map(|letter| letter.c).nfc().map(|c| Letter {
            c,
            start: first.start,
            end: last.end,
        }));
        if composed[before..].iter().map(|letter| letter.c).eq(run.iter().map(|letter| letter.c)) {
            composed.truncate(before);
            composed.extend_from_slice(run);
        }
    }
    composed
}

/// Normalisation form D without the marks that do not take room.
fn without_accents(word: &[Letter]) -> Vec<Letter> {
    let mut bare = Vec::with_capacity(word.len());
    for &Letter { c, start, end } in word {
        if c.is_ascii() {
            bare.push(Letter { c, start, end });
        } else {
            decompose_canonical(c, |c| bare.push(Letter { c, start, end }));
        }
    }
    // Canonical order; only marks that take room are left to tell, but those there are.
    let class = |letter: &Letter| canonical_combining_class(letter.c);
    for marks in bare.chunk_by_mut(|a, b| class(a) != 0 && class(b) != 0) {
        marks.sort_by_key(class);
    }
    bare.retain(|letter| !is_mark(letter.c));
    bare
}

const CONTROL: u8 = 1;
const PUNCTUATION: u8 = 2;
const BLANK: u8 = 4;
const MARK: u8 = 8;

fn categories() -> &'static CharTable {
    static TABLE: OnceLock<CharTable> = OnceLock::new();
    TABLE.get_or_init(|| {
        CharTable::new(&[
            (CONTROL, r"[\p{C}--[\t\n\r]]"),
            (PUNCTUATION, r"[\p{P}!-/:-@\[-`{-~]"),
            (BLANK, r"[\p{Zs}\t\n\r]"),
            (MARK, r"\p{Mn}"),
        ])
    })
}

fn is_control(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r')
    } else {
        categories().has(c, CONTROL)
    }
}

fn is_punctuation(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_punctuation() } else { categories().has(c, PUNCTUATION) }
}

fn is_blank(c: char) -> bool {
    categories().has(c, BLANK)
}

fn is_mark(c: char) -> bool {
    !c.is_ascii() && categories().has(c, MARK)
}

/// The blocks BERT takes for Chinese: the unified ideographs with their extensions A to E, and the compatibility ones.
fn is_chinese(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B820..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}
