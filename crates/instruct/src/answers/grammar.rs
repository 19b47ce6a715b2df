//! Grammars: what a reply may be, in the dialect of Lark that llguidance reads.
//!
//! The grammar of a question accepts what `render` writes of every answer whose names are offered, in the order of the
//! offer, and whose strings stand in the text. It accepts a little more (an escape where none is needed), all of which
//! `parse` reads, and which names no string that is not in the text.
//!
//! A string of the text is a run of *pieces*: a run of Latin letters and digits is one, every other character is one of
//! its own. So a span may end at a hyphen or at any Chinese character, but not inside a word: a place there is no place
//! for [`project`](crate::projection::project) either.

use super::escape;

/// Most items of a list, so that a model that goes round in circles comes to an end; more where the text is long.
const MOST_ITEMS: usize = 64;

/// The strings of a text as they are written in an answer.
pub(super) struct Strings {
    /// Alternatives of the whole text, each cut into written pieces.
    variants: Vec<Vec<String>>,
    most: usize,
}

impl Strings {
    /// `special` says of a character, by its position, whether it is escaped; it is asked for each of `variants` in turn.
    /// Characters that are escaped in some strings and not in others are why there are several.
    pub(super) fn new(text: &str, variants: usize, special: impl Fn(usize, usize, char) -> bool) -> Self {
        let mut written: Vec<Vec<String>> = Vec::with_capacity(1);
        for variant in 0..variants {
            let pieces = pieces(text, |at, c| special(variant, at, c));
            if !written.contains(&pieces) {
                written.push(pieces);
            }
        }
        let pieces = written.first().map_or(0, |pieces| pieces.iter().filter(|piece| visible(piece)).count());
        Self { variants: written, most: pieces.min(MOST_ITEMS.max(pieces / 8)).max(1) }
    }

    /// Most items that a list of these strings may have.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A terminal for any string of the text, the empty one too.
    pub(super) fn terminal(&self, name: &str) -> String {
        let parts: Vec<String> = self.variants.iter().map(|pieces| substring(pieces)).collect();
        format!("{name}: {}\n", parts.join(" | "))
    }
}

/// Terminals for an item: `{name}` of the strings that `{name}_STRING` stands for. It neither begins nor ends in a blank,
/// unless it is guarded.
pub(super) fn item(name: &str) -> String {
    format!(
        "{name}_BARE: {name}_STRING & /\\S(?s:.*\\S)?/\n\
         {name}_ANY: {name}_STRING & /(?s:.*\\S.*)/\n\
         {name}: {name}_BARE | {name}_ANY \"\\\\&\" | \"\\\\&\" {name}_ANY (\"\\\\&\")?\n"
    )
}

/// Up to `most` times a symbol.
pub(super) fn up_to(most: usize, symbol: &str) -> String {
    // The dialect has no way to say "up to no times".
    if most == 0 { String::new() } else { format!("{symbol}{{0,{most}}}") }
}

/// Rules for lines that open with one of `openings`, in this order, each at most once, and go on with `body`; or for the
/// sentence that says that there is none.
pub(super) fn lines(openings: &[String], body: &str, nothing: &str) -> String {
    let mut rules = format!("start: {} | from_0\n", literal(nothing));
    for (at, opening) in openings.iter().enumerate() {
        let opening = literal(opening);
        let next = at + 1;
        rules.push_str(&if next < openings.len() {
            format!("from_{at}: {opening} {body} (\"\\n\" from_{next})? | from_{next}\n")
        } else {
            format!("from_{at}: {opening} {body}\n")
        });
    }
    rules
}

/// One of several fixed texts, without repetitions.
pub(super) fn one_of(texts: impl IntoIterator<Item = String>) -> String {
    let mut literals: Vec<String> = Vec::new();
    for text in texts {
        let literal = literal(&text);
        if !literals.contains(&literal) {
            literals.push(literal);
        }
    }
    literals.join(" | ")
}

/// A text as a literal.
pub(super) fn literal(text: &str) -> String {
    // The literals are those of JSON, but the delete character may not stand in them.
    json(text).replace('\u{7f}', "\\u007f")
}

fn json(text: impl serde::Serialize) -> String {
    serde_json::to_string(&text).expect("texts can be written as JSON")
}

fn substring(pieces: &[String]) -> String {
    format!("%regex {{\"substring_chunks\": {}}}", json(pieces))
}

/// A text cut into pieces, each as it is written.
fn pieces(text: &str, special: impl Fn(usize, char) -> bool) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut inside = false;
    for (at, c) in text.char_indices() {
        let letter = is_word(c);
        let goes_on = inside && letter;
        inside = letter;
        match pieces.last_mut() {
            Some(last) if goes_on => escape::push(last, c, special(at, c)),
            _ => {
                let mut piece = String::new();
                escape::push(&mut piece, c, special(at, c));
                pieces.push(piece);
            }
        }
    }
    pieces
}

/// Whether a piece is one that a count of words, or of Chinese characters, would count.
fn visible(piece: &str) -> bool {
    piece.chars().any(char::is_alphanumeric)
}

/// Letters and digits of Latin script, with their accents; not Greek ones, which stand for a word in names such as `TNFα`.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || (matches!(c, '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}') && c.is_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole_and_chinese_is_not() {
        let cut = |text| pieces(text, |_, c| c == ';').join("|");
        assert_eq!(cut("MPTP-induced"), "MPTP|-|induced");
        assert_eq!(cut("用β2受体; Sjögren\n\\"), "用|β|2|受|体|\\;| |Sjögren|\\n|\\\\");
        assert_eq!(cut(""), "");
    }

    #[test]
    fn literals_are_those_of_the_dialect() {
        assert_eq!(literal("a\"\\\n\u{7f}疾"), r#""a\"\\\n\u007f疾""#);
        assert_eq!(one_of(["a", "b", "a"].map(str::to_owned)), r#""a" | "b""#);
    }

    #[test]
    fn lists_are_bounded_by_the_text() {
        let most = |text: &str| Strings::new(text, 1, |_, _, _| false).most();
        assert_eq!(
            (most("a b, c"), most(""), most(&"a ".repeat(100)), most(&"字".repeat(1000))),
            (3, 1, 64, 125)
        );
    }

    #[test]
    fn equal_variants_are_written_once() {
        let strings = Strings::new("a;b", 4, |variant, _, c| variant < 2 && c == ';');
        assert_eq!(strings.terminal("S").matches("%regex").count(), 2);
    }
}
