//! The one escaping of all answer formats: a backslash, only where it is needed.
//!
//! | written | means |
//! |---|---|
//! | `\\` | a backslash |
//! | `\n`, `\r` | a line feed, a carriage return |
//! | `\;` `\；` `\:` `\：` `\,` `\，` `\[` `\]` | the character, which here separates nothing |
//! | `\&` | nothing: it guards a blank or a full stop at the edge of an item, or an item that reads like a fixed phrase |
//!
//! Each format says which characters separate; all others are written as they are. When reading, a backslash before any
//! other character is a backslash: models write `\alpha`, and mean it.

use std::iter::FusedIterator;

const SEPARATORS: &str = ";；:：,，[]";

fn is_escapable(c: char) -> bool {
    matches!(c, '\\' | 'n' | 'r' | '&') || SEPARATORS.contains(c)
}

/// The characters of written text: byte position, character, and whether it is part of an escape.
pub(crate) fn marks(raw: &str) -> impl FusedIterator<Item = (usize, char, bool)> + '_ {
    let mut pending = false;
    raw.char_indices().map(move |(at, c)| {
        if pending {
            pending = false;
            return (at, c, true);
        }
        let next = raw[at + c.len_utf8()..].chars().next();
        pending = c == '\\' && next.is_some_and(is_escapable);
        (at, c, pending)
    })
}

/// Writes `text` so that no character for which `special` holds stands bare, and no edge can be trimmed away.
pub(crate) fn escape(text: &str, special: impl Fn(char) -> bool) -> String {
    let mut written = String::with_capacity(text.len());
    for c in text.chars() {
        push(&mut written, c, special(c));
    }
    guard(
        written,
        text.starts_with(char::is_whitespace),
        text.is_empty() || text.ends_with(char::is_whitespace),
    )
}

/// Appends one character of an item, escaped where it must be.
pub(crate) fn push(written: &mut String, c: char, special: bool) {
    match c {
        '\n' => written.push_str("\\n"),
        '\r' => written.push_str("\\r"),
        '\\' => written.push_str("\\\\"),
        c => {
            if special {
                written.push('\\');
            }
            written.push(c);
        }
    }
}

/// Puts `\&` before and after, where asked for.
pub(crate) fn guard(mut written: String, before: bool, after: bool) -> String {
    if before {
        written.insert_str(0, "\\&");
    }
    if after {
        written.push_str("\\&");
    }
    written
}

/// Reads written text back; the flag says whether it held an escape, and so means exactly what it says.
pub(crate) fn unescape(raw: &str) -> (String, bool) {
    let mut text = String::with_capacity(raw.len());
    let mut escaped = false;
    let mut characters = raw.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, characters.peek()) {
            ('\\', Some(&next)) if is_escapable(next) => {
                escaped = true;
                characters.next();
                match next {
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    '&' => {}
                    next => text.push(next),
                }
            }
            _ => text.push(c),
        }
    }
    (text, escaped)
}

/// Cuts at every bare character for which `separates` holds.
pub(crate) fn split(raw: &str, separates: impl Fn(char) -> bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, c, escaped) in marks(raw) {
        if !escaped && separates(c) {
            pieces.push(&raw[start..at]);
            start = at + c.len_utf8();
        }
    }
    pieces.push(&raw[start..]);
    pieces
}

/// Cuts one full stop and the blanks around it off the end.
pub(crate) fn trim_stop(raw: &str) -> &str {
    let raw = raw.trim();
    raw.strip_suffix(['.', '。']).unwrap_or(raw).trim_end()
}

/// Whether [`trim_stop`] would cut into this text.
pub(crate) fn ends_in_stop(text: &str) -> bool {
    text.ends_with(['.', '。'])
}

/// A name without what models vary: case, full-width letters, underscores, runs of blanks.
pub(crate) fn fold(name: &str) -> String {
    let mut folded = String::with_capacity(name.len());
    let mut gap = false;
    for c in name.chars() {
        let c = match c {
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
            c => c,
        };
        if c.is_whitespace() || c == '_' {
            gap = true;
            continue;
        }
        if gap && !folded.is_empty() {
            folded.push(' ');
        }
        gap = false;
        folded.extend(c.to_lowercase());
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_text_is_untouched() {
        for text in ["2,3-二甲苯", "HbA1c: 7%", "E. coli", "（I型）", "a/b"] {
            assert_eq!(escape(text, |c| c == ';'), text);
            assert_eq!(unescape(text), (text.to_owned(), false));
        }
        assert_eq!(unescape("\\alpha\\"), ("\\alpha\\".to_owned(), false));
        assert_eq!(fold(" Cell_Line　ＡＢ "), "cell line ab");
    }

    proptest! {
        #[test]
        fn escaping_is_undone(text in ".*", other in ".*") {
            let special = |c| SEPARATORS.contains(c);
            let (one, two) = (escape(&text, special), escape(&other, special));
            prop_assert_eq!(one.trim(), &one);
            prop_assert!(!one.contains(['\n', '\r']) && !one.is_empty());
            prop_assert_eq!(&unescape(&one).0, &text);
            let joined = format!("{one};{two}");
            let pieces: Vec<String> = split(&joined, |c| c == ';').into_iter().map(|piece| unescape(piece).0).collect();
            prop_assert_eq!(pieces, vec![text, other]);
        }

        #[test]
        fn any_text_can_be_read(raw in "[\\\\nr&;： a]*") {
            let (text, escaped) = unescape(&raw);
            prop_assert_eq!(escaped, text.len() != raw.len());
            prop_assert_eq!(marks(&raw).count(), raw.chars().count());
        }
    }
}
