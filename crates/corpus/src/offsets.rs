//! Offsets into text: code points and bytes as different types, and the one place that converts them.
//!
//! BigBIO (and this schema) count Unicode code points, half-open; Rust slices count bytes. Much of the text is
//! Chinese, where the two differ by a factor of three, so a plain integer would sooner or later be the wrong one.

use serde::{Deserialize, Serialize};

/// A half-open range `start..end` of Unicode code points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(usize, usize)", into = "(usize, usize)")]
pub struct CharSpan {
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
}

impl CharSpan {
    /// The span `start..end`, in code points.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// Length in code points; 0 where the ends are reversed.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether the span holds no code point.
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }
}

impl From<(usize, usize)> for CharSpan {
    fn from((start, end): (usize, usize)) -> Self {
        Self { start, end }
    }
}

impl From<CharSpan> for (usize, usize) {
    fn from(span: CharSpan) -> Self {
        (span.start, span.end)
    }
}

/// A half-open range `start..end` of bytes of a UTF-8 string, on character boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSpan {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// Translates between code points and bytes of one text in O(1) per ASCII text and O(64) otherwise.
pub struct TextIndex<'a> {
    text: &'a str,
    /// Byte position of every `STRIDE`-th code point; empty for ASCII text, where the two counts agree.
    marks: Vec<usize>,
    chars: usize,
}

const STRIDE: usize = 64;

impl<'a> TextIndex<'a> {
    /// Indexes `text`; one pass over it.
    pub fn new(text: &'a str) -> Self {
        if text.is_ascii() {
            return Self { text, marks: Vec::new(), chars: text.len() };
        }
        let mut marks = Vec::with_capacity(text.len() / STRIDE + 1);
        let mut chars = 0;
        for (byte, _) in text.char_indices() {
            if chars % STRIDE == 0 {
                marks.push(byte);
            }
            chars += 1;
        }
        Self { text, marks, chars }
    }

    /// Length of the text in code points.
    pub fn chars(&self) -> usize {
        self.chars
    }

    /// Byte position of code point `at`; the length of the text for `at == chars()`, `None` past it.
    pub fn byte(&self, at: usize) -> Option<usize> {
        if at > self.chars {
            return None;
        }
        if self.marks.is_empty() {
            return Some(at);
        }
        if at == self.chars {
            return Some(self.text.len());
        }
        let mark = self.marks[at / STRIDE];
        self.text[mark..].char_indices().nth(at % STRIDE).map(|(byte, _)| mark + byte)
    }

    /// Code point that starts at byte `at`, which must be a character boundary or the end; `None` elsewhere.
    pub fn char(&self, at: usize) -> Option<usize> {
        if !self.text.is_char_boundary(at) {
            return None;
        }
        if self.marks.is_empty() {
            return Some(at);
        }
        let mark = self.marks.partition_point(|&byte| byte <= at).saturating_sub(1);
        Some(mark * STRIDE + self.text[self.marks[mark]..at].chars().count())
    }

    /// The bytes of a span of code points; `None` where it is reversed or runs past the end.
    pub fn bytes(&self, span: CharSpan) -> Option<ByteSpan> {
        if span.start > span.end {
            return None;
        }
        Some(ByteSpan { start: self.byte(span.start)?, end: self.byte(span.end)? })
    }

    /// The code points of a span of bytes; `None` off character boundaries.
    pub fn chars_of(&self, span: ByteSpan) -> Option<CharSpan> {
        Some(CharSpan { start: self.char(span.start)?, end: self.char(span.end)? })
    }

    /// The text of a span of code points; `None` where it is reversed or runs past the end.
    pub fn slice(&self, span: CharSpan) -> Option<&'a str> {
        let ByteSpan { start, end } = self.bytes(span)?;
        Some(&self.text[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_and_chinese_agree_with_counting() {
        for text in ["", "aspirin", "高血压（hypertension）患者", &"糖尿病 type-2 ".repeat(40)] {
            let index = TextIndex::new(text);
            let starts: Vec<usize> = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
            assert_eq!(index.chars() + 1, starts.len());
            for (char, &byte) in starts.iter().enumerate() {
                assert_eq!(index.byte(char), Some(byte));
                assert_eq!(index.char(byte), Some(char));
            }
            assert_eq!(index.byte(starts.len()), None);
        }
    }

    #[test]
    fn a_byte_inside_a_character_is_no_char() {
        assert_eq!(TextIndex::new("血压").char(1), None);
        assert_eq!(TextIndex::new("血压").slice(CharSpan::new(1, 3)), None);
        assert_eq!(TextIndex::new("血压").slice(CharSpan::new(1, 2)), Some("压"));
    }
}
