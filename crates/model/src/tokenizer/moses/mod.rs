//! Words as the Moses tokenizer for English cuts them, with every dash between letters split off and special characters
//! escaped, and the way back.
//!
//! The rules are substitutions over the whole text, one after the other, each of which sees what the ones before made. Source:
//! Moses, `scripts/tokenizer/tokenizer.perl` and `detokenizer.perl`, as sacremoses 0.2 has them.
//!
//! ```text
//! all-trans-retinoic acid (p<0.05).   ->   all @-@ trans @-@ retinoic acid ( p &lt; 0.05 ) .
//! ```

mod tables;

use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use super::table::CharTable;

const LETTER: u8 = 1;
const DIGIT: u8 = 2;
const MARK: u8 = 4;
const NUMBER: u8 = 8;
const LOWER: u8 = 16;
const CURRENCY: u8 = 32;
const SPACE: u8 = 64;

/// White space as Python's `\s` has it: Unicode's, and four separators among the control characters.
const SPACES: [(u32, u32); 10] = [
    (0x9, 0xD),
    (0x1C, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
];

/// Words that keep the full stop after them, whatever follows.
const ABBREVIATIONS: [&str; 102] = [
    "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S", "T", "U",
    "V", "W", "X", "Y", "Z", "Adj", "Adm", "Adv", "Asst", "Bart", "Bldg", "Brig", "Bros", "Capt", "Cmdr",
    "Col", "Comdr", "Con", "Corp", "Cpl", "DR", "Dr", "Drs", "Ens", "Gen", "Gov", "Hon", "Hr", "Hosp",
    "Insp", "Lt", "MM", "MR", "MRS", "MS", "Maj", "Messrs", "Mlle", "Mme", "Mr", "Mrs", "Ms", "Msgr", "Op",
    "Ord", "Pfc", "Ph", "Prof", "Pvt", "Rep", "Reps", "Res", "Rev", "Rt", "Sen", "Sens", "Sfc", "Sgt", "Sr",
    "St", "Supt", "Surg", "v", "vs", "i.e", "rev", "e.g", "Rs", "Nos", "Nr", "Jan", "Feb", "Mar", "Apr",
    "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Words that keep the full stop after them when a number follows.
const BEFORE_NUMBERS: [&str; 3] = ["No", "Art", "pp"];

fn sets() -> &'static CharTable {
    static TABLE: OnceLock<CharTable> = OnceLock::new();
    TABLE.get_or_init(|| {
        CharTable::from_ranges(&[
            (LETTER, &tables::LETTERS),
            (DIGIT, &tables::DIGITS),
            (MARK, &tables::MARKS),
            (NUMBER, &tables::NUMBERS),
            (LOWER, &tables::LOWER),
            (CURRENCY, &tables::CURRENCY),
            (SPACE, &SPACES),
        ])
    })
}

fn is_space(c: char) -> bool {
    sets().has(c, SPACE)
}

fn is_letter(c: char) -> bool {
    sets().has(c, LETTER | MARK)
}

fn is_number(c: char) -> bool {
    sets().has(c, NUMBER)
}

fn is_alphanumeric(c: char) -> bool {
    sets().has(c, LETTER | DIGIT | MARK)
}

/// Cuts text into Moses words; calls back with each.
pub(crate) fn tokenize(text: &str, mut word: impl FnMut(&str)) {
    let mut text = apart(&cleaned(text));
    text = mark_runs_of_dots(&text);
    // A comma between numbers stays. The three rules see what the ones before them made.
    text =
        substitute(&text, |[a, b, _]| (!is_number(a?) && b == Some(',')).then_some((2, Made::After(" , "))));
    text =
        substitute(&text, |[a, b, _]| (a == Some(',') && !is_number(b?)).then_some((2, Made::Before(" , "))));
    text = substitute(&text, |[a, b, c]| {
        (is_number(a?) && b == Some(',') && c.is_none()).then_some((2, Made::After(" , ")))
    });
    text = apostrophes(&text);
    text = full_stops(&text);
    if text.ends_with(".'") {
        text.truncate(text.len() - 2);
        text.push_str(" . ' ");
    }
    text = restore_runs_of_dots(&text);
    let mut escaped = String::new();
    for part in text.split(is_space).filter(|part| !part.is_empty()) {
        if part.contains(['&', '|', '<', '>', '\'', '"', '[', ']']) {
            escaped.clear();
            part.chars().for_each(|c| push_escaped(c, &mut escaped));
            word(&escaped);
        } else {
            word(part);
        }
    }
}

fn push_escaped(c: char, out: &mut String) {
    match c {
        '&' => out.push_str("&amp;"),
        '|' => out.push_str("&#124;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '\'' => out.push_str("&apos;"),
        '"' => out.push_str("&quot;"),
        '[' => out.push_str("&#91;"),
        ']' => out.push_str("&#93;"),
        other => out.push(other),
    }
}

/// One blank for white space, no control characters, none of both at the ends.
fn cleaned(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut space = false;
    for c in text.chars() {
        if is_space(c) {
            space = true;
        } else {
            if std::mem::take(&mut space) {
                cleaned.push(' ');
            }
            if c >= ' ' {
                cleaned.push(c);
            }
        }
    }
    cleaned.trim_matches(' ').to_owned()
}

/// Blanks around everything that is no letter, digit, blank or one of `.'` and `` ` ``, `,`, `-`; dashes between letters or
/// digits become ` @-@ `.
fn apart(text: &str) -> String {
    let mut apart = String::with_capacity(text.len() + text.len() / 4);
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        if c == '-' && is_alphanumeric(before) && chars.peek().is_some_and(|&next| is_alphanumeric(next)) {
            apart.push_str(" @-@ ");
        } else if is_alphanumeric(c) || is_space(c) || matches!(c, '.' | '\'' | '`' | ',' | '-') {
            apart.push(c);
        } else {
            apart.push(' ');
            apart.push(c);
            apart.push(' ');
        }
        before = c;
    }
    apart
}

/// What a rule makes of the characters it matched.
enum Made {
    /// The first of them, then this.
    After(&'static str),
    /// This, then the last of them.
    Before(&'static str),
    /// The first, this, the last.
    Between(&'static str),
}

/// Applies a rule from left to right. It sees up to three characters and says how many of them it takes and what they become;
/// characters that were taken are not seen again.
fn substitute(text: &str, rule: impl Fn([Option<char>; 3]) -> Option<(usize, Made)>) -> String {
    let mut made = String::with_capacity(text.len() + text.len() / 8);
    let mut rest = text.chars();
    loop {
        let mut ahead = rest.clone();
        let seen = [ahead.next(), ahead.next(), ahead.next()];
        let Some(first) = seen[0] else { return made };
        match rule(seen) {
            None => {
                made.push(first);
                rest.next();
            }
            Some((count, part)) => {
                let last = seen[count - 1].unwrap_or(first);
                match part {
                    Made::After(text) => {
                        made.push(first);
                        made.push_str(text);
                    }
                    Made::Before(text) => {
                        made.push_str(text);
                        made.push(last);
                    }
                    Made::Between(text) => {
                        made.push(first);
                        made.push_str(text);
                        made.push(last);
                    }
                }
                rest.by_ref().take(count).for_each(drop);
            }
        }
    }
}

/// Apostrophes stand alone, except before the letters of a contraction (`don 't`).
fn apostrophes(text: &str) -> String {
    if !text.contains('\'') {
        return text.to_owned();
    }
    const ALONE: Made = Made::Between(" ' ");
    const WITH_NEXT: Made = Made::Between(" '");
    let middle = |b: Option<char>| b == Some('\'');
    let mut text =
        substitute(text, |[a, b, c]| (middle(b) && !is_letter(a?) && !is_letter(c?)).then_some((3, ALONE)));
    text = substitute(&text, |[a, b, c]| {
        let a = a?;
        (middle(b) && !is_letter(a) && !is_number(a) && is_letter(c?)).then_some((3, ALONE))
    });
    text =
        substitute(&text, |[a, b, c]| (middle(b) && is_letter(a?) && !is_letter(c?)).then_some((3, ALONE)));
    text = substitute(&text, |[a, b, c]| {
        (middle(b) && is_letter(a?) && is_letter(c?)).then_some((3, WITH_NEXT))
    });
    substitute(&text, |[a, b, c]| (middle(b) && is_number(a?) && c == Some('s')).then_some((3, WITH_NEXT)))
}

/// Splits the full stop off the end of words, unless they are abbreviations or the next word is in lower case.
fn full_stops(text: &str) -> String {
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    let mut split = String::with_capacity(text.len() + 8);
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            split.push(' ');
        }
        match word.strip_suffix('.').filter(|stem| !stem.is_empty()) {
            Some(stem) if !keeps_full_stop(stem, words.get(i + 1).copied()) => {
                split.push_str(stem);
                split.push_str(" .");
            }
            _ => split.push_str(word),
        }
    }
    split
}

fn keeps_full_stop(stem: &str, next: Option<&str>) -> bool {
    let first = next.and_then(|next| next.chars().next());
    (stem.contains('.') && stem.chars().any(is_letter))
        || ABBREVIATIONS.contains(&stem)
        || first.is_some_and(|c| sets().has(c, LOWER))
        || (BEFORE_NUMBERS.contains(&stem) && first.is_some_and(|c| c.is_ascii_digit()))
}

/// Writes a run of several dots as a word that the rules for full stops leave alone: `DOT` for each, then `MULTI`.
fn mark_runs_of_dots(text: &str) -> String {
    if !text.contains("..") {
        return text.to_owned();
    }
    let mut marked = String::with_capacity(text.len() * 2);
    let mut rest = text;
    while let Some(at) = rest.find("..") {
        let (before, from) = rest.split_at(at);
        let after = from.trim_start_matches('.');
        marked.push_str(before);
        marked.push(' ');
        (0..from.len() - after.len()).for_each(|_| marked.push_str("DOT"));
        marked.push_str("MULTI");
        if !after.is_empty() {
            marked.push(' ');
        }
        rest = after;
    }
    marked.push_str(rest);
    marked
}

/// Undoes [`mark_runs_of_dots`], also where the text held such a word from the start.
fn restore_runs_of_dots(text: &str) -> String {
    if !text.contains("DOTMULTI") {
        return text.to_owned();
    }
    let mut restored = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("DOT") {
        let (before, from) = rest.split_at(at);
        restored.push_str(before);
        let after = from.trim_start_matches("DOT");
        let dots = from.len() - after.len();
        match after.strip_prefix("MULTI") {
            Some(after) => {
                (0..dots / 3).for_each(|_| restored.push('.'));
                rest = after;
            }
            None => {
                restored.push_str(&from[..dots]);
                rest = after;
            }
        }
    }
    restored.push_str(rest);
    restored
}

/// Joins Moses words to text.
pub(crate) fn detokenize<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let mut joined = String::from(" ");
    for word in words {
        joined.push_str(word);
        joined.push(' ');
    }
    let joined = unescaped(&joined.replace(" @-@ ", "-"));
    let words: Vec<&str> = joined.split(is_space).filter(|word| !word.is_empty()).collect();
    let mut text = String::with_capacity(joined.len());
    let mut quotes: FxHashMap<&str, bool> = FxHashMap::default();
    let mut space = " ";
    for (i, word) in words.iter().enumerate() {
        let before = i.checked_sub(1).map(|before| words[before]);
        let all = |of: &dyn Fn(char) -> bool| word.chars().all(of);
        let first = word.chars().next().unwrap_or(' ');
        if is_cjk(first) {
            if !before.is_some_and(|before| before.chars().next_back().is_some_and(is_cjk)) {
                text.push_str(space);
            }
            text.push_str(word);
            space = " ";
        } else if all(&|c| sets().has(c, CURRENCY) || matches!(c, '(' | '[' | '{' | '¿' | '¡')) {
            text.push_str(space);
            text.push_str(word);
            space = "";
        } else if all(&|c| matches!(c, ',' | '.' | '?' | '!' | ':' | ';' | '\\' | '%' | '}' | ']' | ')'))
            || (before.is_some() && is_contraction(word))
        {
            text.push_str(word);
            space = " ";
        } else if all(&|c| matches!(c, '\'' | '"' | '„' | '“' | '`')) {
            let kind = if all(&|c| matches!(c, '„' | '“')) { "\"" } else { word };
            let open = quotes.entry(kind).or_default();
            let possessive = *word == "'" && before.is_some_and(|before| before.ends_with('s'));
            if !*open && !possessive {
                text.push_str(space);
                text.push_str(word);
                space = "";
                *open = true;
            } else {
                *open = false;
                text.push_str(word);
                space = " ";
            }
        } else {
            text.push_str(space);
            text.push_str(word);
            space = " ";
        }
    }
    text.trim_matches(is_space).to_owned()
}

/// An apostrophe and a letter.
fn is_contraction(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next() == Some('\'') && chars.next().is_some_and(|c| sets().has(c, LETTER))
}

fn unescaped(text: &str) -> String {
    const ENTITIES: [(&str, &str); 11] = [
        ("&bar;", "|"),
        ("&#124;", "|"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&bra;", "["),
        ("&ket;", "]"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&#91;", "["),
        ("&#93;", "]"),
        ("&amp;", "&"),
    ];
    let mut text = text.to_owned();
    for (entity, c) in ENTITIES {
        if text.contains(entity) {
            text = text.replace(entity, c);
        }
    }
    text
}

/// The blocks whose neighbouring words are joined.
fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x1100..=0x11FF | 0x2E80..=0xA4CF | 0xA840..=0xA87F | 0xAC00..=0xD7AF | 0xF900..=0xFAFF | 0xFE30..=0xFE4F
        | 0xFF65..=0xFFDC | 0x17000..=0x18AFF | 0x1B000..=0x1B12F | 0x1B170..=0x1B2FF | 0x20000..=0x2FFFF)
}
