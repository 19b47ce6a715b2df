//! Unicode normalisation form C, skipped where a look at the text shows that it changes nothing.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Characters that stand alone in NFC, whatever their neighbours: no composition begins or ends with them in a way that
/// matters, and none has a decomposition. Covers Latin, Chinese text and its punctuation, so that bilingual text needs no
/// table look-ups.
#[inline]
fn is_inert(c: char) -> bool {
    matches!(c as u32,
        0..0x300 | 0x2002..0x20D0 | 0x3000..0x302A | 0x3030..0x3099 | 0x309B..0xA000 | 0xFF00..0xFFF0)
}

/// Puts text into normalisation form C.
pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || text.chars().all(is_inert) {
        return Cow::Borrowed(text);
    }
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        _ => Cow::Owned(text.nfc().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inert_characters_are_quickly_nfc() {
        for c in ('\0'..=char::MAX).filter(|&c| is_inert(c)) {
            assert_eq!(is_nfc_quick([c].into_iter()), IsNormalized::Yes, "{c:?}");
            assert_eq!(unicode_normalization::char::canonical_combining_class(c), 0, "{c:?}");
        }
    }

    #[test]
    fn composes() {
        assert_eq!(nfc("cafe\u{301}"), "café");
        assert_eq!(nfc("糖尿病 café"), "糖尿病 café");
        assert_eq!(nfc("\u{1112}\u{1161}\u{11ab}"), "한");
        assert_eq!(nfc("\u{212b}"), "Å");
        assert!(matches!(nfc("血压 120/80 mmHg"), Cow::Borrowed(_)));
    }
}
