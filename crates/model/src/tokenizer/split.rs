//! Pre-tokenisation: cutting text into the pieces inside which merges happen.
//!
//! The published patterns of Qwen, GLM-4, Llama 3, GPT-4 style and GPT-2 vocabularies are scanned by hand; any other pattern
//! runs on `fancy-regex`. A property test holds the two equal.

use std::ops::Range;

use super::classes::{CharClass, ClassTable};

/// The pattern of Qwen (first generation, 2, 2.5 and 3): numbers character by character.
pub(crate) const QWEN_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pattern of GLM-4 and Llama 3: numbers in groups of up to three characters.
pub(crate) const GLM4_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pattern of GPT-2 and RoBERTa, which `ByteLevel` pre-tokenizers apply when no pattern is given.
pub(crate) const GPT2_PATTERN: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A compiled pre-tokenisation pattern.
#[derive(Debug, Clone)]
pub(crate) enum Splitter {
    /// [`QWEN_PATTERN`] or [`GLM4_PATTERN`]; the number is the longest group of number characters.
    Gpt4 { numbers: usize },
    /// [`GPT2_PATTERN`].
    Gpt2,
    /// Any other pattern. Text between matches is a piece too (the behaviour called `Isolated`).
    Regex(Box<fancy_regex::Regex>),
}

impl Splitter {
    /// Recognises a known pattern or compiles another.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        match pattern {
            QWEN_PATTERN => Ok(Self::Gpt4 { numbers: 1 }),
            GLM4_PATTERN => Ok(Self::Gpt4 { numbers: 3 }),
            GPT2_PATTERN => Ok(Self::Gpt2),
            other => Self::regex(other),
        }
    }

    /// Compiles a pattern without looking whether it is known.
    pub(crate) fn regex(pattern: &str) -> Result<Self, String> {
        // The engine's default of a million steps is met by runs of a few hundred thousand spaces.
        const BACKTRACKS: usize = 100_000_000;
        fancy_regex::RegexBuilder::new(pattern)
            .backtrack_limit(BACKTRACKS)
            .build()
            .map(|regex| Self::Regex(Box::new(regex)))
            .map_err(|error| error.to_string().replace('\n', " "))
    }

    /// Calls back with every piece of the text, in order; the pieces joined are the text.
    #[inline]
    pub(crate) fn split<'t>(&self, text: &'t str, mut piece: impl FnMut(&'t str)) {
        match self {
            Self::Gpt4 { numbers } => {
                let scanner = Scanner { text, classes: ClassTable::get() };
                let mut at = 0;
                while at < text.len() {
                    let end = scanner.gpt4(at, *numbers);
                    piece(&text[at..end]);
                    at = end;
                }
            }
            Self::Gpt2 => {
                let scanner = Scanner { text, classes: ClassTable::get() };
                let mut at = 0;
                while at < text.len() {
                    let end = scanner.gpt2(at);
                    piece(&text[at..end]);
                    at = end;
                }
            }
            Self::Regex(regex) => split_by_regex(regex, text, piece),
        }
    }
}

/// Cuts by a regular expression. Where the engine gives up (its step limit), the rest of the text is one piece.
fn split_by_regex<'t>(regex: &fancy_regex::Regex, text: &'t str, mut piece: impl FnMut(&'t str)) {
    let mut at = 0;
    let mut emit = |range: Range<usize>| {
        if !range.is_empty() {
            piece(&text[range]);
        }
    };
    for found in regex.find_iter(text) {
        let Ok(found) = found else {
            tracing::warn!(rest_bytes = text.len() - at, "pre-tokenisation pattern exceeded its step limit");
            break;
        };
        emit(at..found.start());
        emit(found.start()..found.end());
        at = found.end();
    }
    emit(at..text.len());
}

/// Finds the end of the piece that starts at a byte offset.
struct Scanner<'t> {
    text: &'t str,
    classes: &'static ClassTable,
}

impl Scanner<'_> {
    /// The character at an offset, its class and the offset after it.
    #[inline]
    fn at(&self, at: usize) -> Option<(char, CharClass, usize)> {
        let &first = self.text.as_bytes().get(at)?;
        if first < 0x80 {
            let c = char::from(first);
            return Some((c, self.classes.of(c), at + 1));
        }
        let c = self.text[at..].chars().next()?;
        Some((c, self.classes.of(c), at + c.len_utf8()))
    }

    #[inline]
    fn class(&self, at: usize) -> Option<CharClass> {
        self.at(at).map(|(_, class, _)| class)
    }

    /// The end of the run of one class from an offset on.
    #[inline]
    fn run(&self, mut at: usize, class: CharClass) -> usize {
        while let Some((_, found, next)) = self.at(at) {
            if found != class {
                break;
            }
            at = next;
        }
        at
    }

    /// `\p{N}{1,most}` from an offset where a number stands.
    #[inline]
    fn numbers(&self, mut at: usize, most: usize) -> usize {
        for _ in 0..most {
            match self.at(at) {
                Some((_, CharClass::Number, next)) => at = next,
                _ => break,
            }
        }
        at
    }

    #[inline]
    fn line_ends(&self, at: usize) -> usize {
        at + self.text.as_bytes()[at..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count()
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d` from an offset where an apostrophe stands.
    ///
    /// Case folding is Unicode's: besides `S` it takes `ſ` (U+017F) for `s`, the only letter of these with such a relative.
    fn contraction(&self, at: usize, any_case: bool) -> Option<usize> {
        let rest = &self.text.as_bytes()[at + 1..];
        let fold = |b: u8| if any_case { b.to_ascii_lowercase() } else { b };
        match (rest.first().map(|&b| fold(b)), rest.get(1).map(|&b| fold(b))) {
            (Some(b's' | b't' | b'm' | b'd'), _) => Some(at + 2),
            (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => Some(at + 3),
            _ if any_case && rest.starts_with("ſ".as_bytes()) => Some(at + 3),
            _ => None,
        }
    }

    /// The end of the run of white space from an offset on, and the end of its last line end if it has one.
    fn white(&self, mut at: usize) -> (usize, Option<usize>, usize) {
        let mut last_line_end = None;
        let mut last_start = at;
        while let Some((_, class, next)) = self.at(at) {
            match class {
                CharClass::Newline => last_line_end = Some(next),
                CharClass::Space => {}
                _ => break,
            }
            last_start = at;
            at = next;
        }
        (at, last_line_end, last_start)
    }

    /// `\s+(?!\S)|\s+` for a run of white space from `start` to `end` whose last character starts at `last`:
    /// all of it at the end of the text, else all but its last character, which goes with what follows.
    #[inline]
    fn leave_one(&self, start: usize, end: usize, last: usize) -> usize {
        if end == self.text.len() || last == start { end } else { last }
    }

    fn gpt4(&self, start: usize, numbers: usize) -> usize {
        let Some((c, class, next)) = self.at(start) else { return start };
        match class {
            CharClass::Letter => self.run(next, CharClass::Letter),
            CharClass::Number => self.numbers(start, numbers),
            CharClass::Other => {
                if c == '\''
                    && let Some(end) = self.contraction(start, true)
                {
                    return end;
                }
                match self.class(next) {
                    Some(CharClass::Letter) => self.run(next, CharClass::Letter),
                    _ => self.line_ends(self.run(next, CharClass::Other)),
                }
            }
            CharClass::Space => match self.class(next) {
                Some(CharClass::Letter) => self.run(next, CharClass::Letter),
                Some(CharClass::Other) if c == ' ' => self.line_ends(self.run(next, CharClass::Other)),
                _ => self.white_gpt4(start),
            },
            CharClass::Newline => self.white_gpt4(start),
        }
    }

    fn white_gpt4(&self, start: usize) -> usize {
        match self.white(start) {
            (_, Some(line_end), _) => line_end,
            (end, None, last) => self.leave_one(start, end, last),
        }
    }

    fn gpt2(&self, start: usize) -> usize {
        let Some((c, class, next)) = self.at(start) else { return start };
        match class {
            CharClass::Letter | CharClass::Number => self.run(next, class),
            CharClass::Other => match c {
                '\'' => self.contraction(start, false).unwrap_or_else(|| self.run(next, CharClass::Other)),
                _ => self.run(next, CharClass::Other),
            },
            CharClass::Space | CharClass::Newline => match self.class(next) {
                Some(follows @ (CharClass::Letter | CharClass::Number | CharClass::Other)) if c == ' ' => {
                    self.run(next, follows)
                }
                _ => {
                    let (end, _, last) = self.white(start);
                    self.leave_one(start, end, last)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn pieces(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        splitter.split(text, |piece| pieces.push(piece.to_owned()));
        pieces
    }

    /// The hand-written and the compiled splitter of each known pattern.
    fn both() -> &'static [(Splitter, Splitter); 3] {
        static BOTH: LazyLock<[(Splitter, Splitter); 3]> = LazyLock::new(|| {
            [QWEN_PATTERN, GLM4_PATTERN, GPT2_PATTERN].map(|pattern| {
                let by_hand = Splitter::new(pattern).unwrap();
                assert!(!matches!(by_hand, Splitter::Regex(_)));
                (by_hand, Splitter::regex(pattern).unwrap())
            })
        });
        &BOTH
    }

    fn same(text: &str) {
        for (by_hand, by_regex) in both() {
            let found = pieces(by_hand, text);
            assert_eq!(found.concat(), text);
            assert_eq!(found, pieces(by_regex, text), "{by_hand:?} on {text:?}");
        }
    }

    #[test]
    fn scanner_equals_regex_on_hard_cases() {
        for text in [
            "",
            " ",
            "  ",
            "   a",
            "a  b",
            "\n",
            " \n",
            "\n ",
            " \n \n a",
            " \r\n\r\n  x",
            "a \n\n",
            "'s 'S 'ſ 'll 'LL 'lL 're 'VE 'l 'r '",
            "''s'd",
            "it's IT'S l'ſx",
            "x'sy",
            "\u{3000}\u{3000}糖尿病",
            "\t\t,",
            " ,\n",
            "。\r\n\r\n病",
            "1234 5,678",
            "½Ⅷ٣",
            "e\u{301}\u{301}x",
            "\u{a0}x",
            "\u{a0},",
            "\u{85}x\u{2028}y",
            "!!\n\n  !",
            "a\u{200b}b",
        ] {
            same(text);
        }
    }

    /// Characters of every kind the patterns tell apart.
    fn mixed() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[ \t\r\n]{1,3}",
            3 => "'(s|t|re|ve|m|ll|d|S|LL|Re|ſ|x|r|l)?",
            4 => "[a-zA-Z]{1,4}",
            3 => "[0-9]{1,5}",
            4 => "[糖尿病患者，。：（）]{1,4}",
            2 => "[\u{3000}\u{a0}\u{85}\u{2028}\u{2029}\u{200b}\u{b}\u{c}\u{1c}\u{feff}]{1,2}",
            2 => "[!-/:-@{-~]{1,3}",
            2 => "[½Ⅷ٣²𝟘①㊀]{1,2}",
            2 => "[\u{300}\u{301}\u{e31}\u{93e}🧬👩\u{200d}⚕\u{fe0f}]{1,2}",
            1 => any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn scanner_equals_regex_on_random_text(text in mixed()) {
            same(&text);
        }
    }

    #[test]
    fn every_character_is_classed_as_the_regex_does() {
        let mut text = String::new();
        for c in '\0'..=char::MAX {
            text.push(c);
            if (c as u32).is_multiple_of(3) {
                text.push('a');
            }
        }
        for (by_hand, by_regex) in both() {
            assert!(pieces(by_hand, &text) == pieces(by_regex, &text), "{by_hand:?}");
        }
    }
}
