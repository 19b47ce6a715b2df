//! Cutting text into the pieces that a model is asked about: sentences, or windows of whole sentences.
//!
//! Spans are code points of the whole text, so that what is found in a piece can be placed in the document. The pieces
//! leave out only blanks between them.

use serde::{Deserialize, Serialize};
use taiyi_corpus::offsets::{CharSpan, TextIndex};
use taiyi_corpus::schema::Ie;

/// The piece of text that one question is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The whole text.
    #[default]
    Document,
    /// One sentence.
    Sentence,
    /// As many sentences as fit into this many code points; at least one.
    Window(usize),
}

/// The pieces of an extraction document with their texts. No piece ends inside an entity: what would be cut is
/// merged. Passages are never joined unless an entity spans them or `unit` is the whole document.
pub fn units(ie: &Ie, unit: Unit) -> Vec<(CharSpan, String)> {
    let text = ie.text();
    if unit == Unit::Document {
        let span = CharSpan::new(0, text.chars().count());
        return vec![(span, text)];
    }
    let mut sentences = Vec::new();
    let mut start = 0;
    for passage in &ie.passages {
        let shift = |span: CharSpan| CharSpan::new(span.start + start, span.end + start);
        sentences.extend(self::sentences(&passage.text).into_iter().map(shift));
        // Passages are joined by one blank.
        start += passage.text.chars().count() + 1;
    }
    let hulls: Vec<CharSpan> = ie.entities.iter().filter_map(|entity| hull(&entity.offsets)).collect();
    let index = TextIndex::new(&text);
    let pieces = grouped(merged(sentences, &hulls), unit);
    pieces.into_iter().filter_map(|span| Some((span, index.slice(span)?.to_owned()))).collect()
}

/// The pieces of plain text, as [`units`] cuts it; a line break always parts sentences.
pub fn text_units(text: &str, unit: Unit) -> Vec<(CharSpan, String)> {
    let index = TextIndex::new(text);
    if unit == Unit::Document {
        return vec![(CharSpan::new(0, index.chars()), text.to_owned())];
    }
    grouped(sentences(text), unit)
        .into_iter()
        .filter_map(|span| Some((span, index.slice(span)?.to_owned())))
        .collect()
}

/// From the first code point of an entity's spans to the last; `None` where it has none.
pub(crate) fn hull(offsets: &[CharSpan]) -> Option<CharSpan> {
    let start = offsets.iter().map(|span| span.start).min()?;
    let end = offsets.iter().map(|span| span.end).max()?;
    Some(CharSpan::new(start, end))
}

/// Joins the sentences that a span runs across.
fn merged(sentences: Vec<CharSpan>, hulls: &[CharSpan]) -> Vec<CharSpan> {
    let mut joined_with_next = vec![false; sentences.len()];
    for hull in hulls {
        let first = sentences.partition_point(|sentence| sentence.end <= hull.start);
        let after = sentences.partition_point(|sentence| sentence.start < hull.end);
        for flag in joined_with_next.iter_mut().take(after.saturating_sub(1)).skip(first) {
            *flag = true;
        }
    }
    let mut pieces: Vec<CharSpan> = Vec::with_capacity(sentences.len());
    for (at, sentence) in sentences.into_iter().enumerate() {
        match pieces.last_mut() {
            Some(last) if at > 0 && joined_with_next[at - 1] => last.end = sentence.end,
            _ => pieces.push(sentence),
        }
    }
    pieces
}

fn grouped(sentences: Vec<CharSpan>, unit: Unit) -> Vec<CharSpan> {
    let Unit::Window(longest) = unit else { return sentences };
    let mut windows: Vec<CharSpan> = Vec::new();
    for sentence in sentences {
        match windows.last_mut() {
            Some(window) if sentence.end - window.start <= longest => window.end = sentence.end,
            _ => windows.push(sentence),
        }
    }
    windows
}

/// The sentences of English, Chinese or mixed text, without the blanks around them.
///
/// A Chinese full stop, question or exclamation mark ends a sentence wherever it stands; an English one before a blank that a
/// capital, a digit, an opening bracket or quote or a Chinese character follows, unless it belongs to an abbreviation, an
/// initial or stands inside brackets. Closing quotes and brackets go with the sentence. A line break ends one, too.
pub fn sentences(text: &str) -> Vec<CharSpan> {
    let characters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut start = 0;
    let mut depth = 0_usize;
    let mut at = 0;
    while at < characters.len() {
        let c = characters[at];
        let mut end = at + 1;
        let ends = match c {
            '\n' | '\r' => {
                depth = 0;
                true
            }
            '。' | '！' | '？' | '…' => true,
            '(' | '[' | '（' | '［' => {
                depth += 1;
                false
            }
            ')' | ']' | '）' | '］' => {
                depth = depth.saturating_sub(1);
                false
            }
            '.' | '!' | '?' => {
                while characters.get(end).is_some_and(|&c| is_closing(c)) {
                    end += 1;
                }
                // An unclosed bracket must not glue the rest of the text together.
                let inside = depth > 0 && closes_soon(&characters[end..]);
                !inside && english_end(&characters, at, end)
            }
            _ => false,
        };
        if ends {
            while characters.get(end).is_some_and(|&c| is_closing(c) || matches!(c, '。' | '！' | '？' | '…'))
            {
                end += 1;
            }
            push(&mut found, &characters, start, end);
            start = end;
            depth = 0;
            at = end;
        } else {
            at += 1;
        }
    }
    push(&mut found, &characters, start, characters.len());
    found
}

fn push(found: &mut Vec<CharSpan>, characters: &[char], start: usize, end: usize) {
    let piece = &characters[start..end];
    let Some(first) = piece.iter().position(|c| !c.is_whitespace()) else { return };
    let last = piece.iter().rposition(|c| !c.is_whitespace()).unwrap_or(first);
    found.push(CharSpan::new(start + first, start + last + 1));
}

fn is_closing(c: char) -> bool {
    matches!(c, ')' | ']' | '"' | '\'' | '”' | '’' | '）' | '］' | '」' | '』' | '》')
}

/// Whether an open bracket is closed within a sentence's length.
fn closes_soon(rest: &[char]) -> bool {
    rest.iter().take(200).take_while(|c| **c != '\n').any(|c| matches!(c, ')' | ']' | '）' | '］'))
}

/// Whether the mark at `at`, with its closing quotes up to `end`, ends an English sentence.
fn english_end(characters: &[char], at: usize, end: usize) -> bool {
    let Some(&next) = characters.get(end) else { return true };
    if is_chinese(next) {
        // "见图1.结果" is a stop; "Fig.一" hardly occurs.
        return !characters[..at].last().is_some_and(char::is_ascii_digit) || characters[at] != '.';
    }
    if !next.is_whitespace() {
        return false;
    }
    let Some(&follows) = characters[end..].iter().find(|c| !c.is_whitespace()) else { return true };
    let opens = follows.is_uppercase()
        || follows.is_numeric()
        || is_chinese(follows)
        || "([\"'“‘（《+-±<>".contains(follows);
    if characters[at] != '.' {
        return opens;
    }
    opens && !abbreviation(characters, at, follows)
}

fn is_chinese(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}')
}

/// Whether the full stop at `at` belongs to an abbreviation that a sentence goes on after.
fn abbreviation(characters: &[char], at: usize, follows: char) -> bool {
    // These are followed by a name, a number or more of the same sentence, hardly ever by a new one.
    const ALWAYS: [&str; 33] = [
        "e.g", "i.e", "vs", "fig", "figs", "dr", "mr", "mrs", "ms", "prof", "st", "eq", "eqs", "ref", "refs",
        "approx", "ca", "cf", "viz", "resp", "var", "subsp", "ssp", "ed", "eds", "vol", "tab", "suppl",
        "nos", "al", "jr", "sr", "ph.d",
    ];
    const BEFORE_NUMBER: [&str; 16] = [
        "no", "p", "pp", "ch", "sec", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct",
        "nov",
    ];
    let start = characters[..at]
        .iter()
        .rposition(|c| !(c.is_alphabetic() || *c == '.'))
        .map_or(0, |before| before + 1);
    let word: String = characters[start..at].iter().collect();
    let lower = word.to_lowercase();
    if ALWAYS.contains(&lower.as_str()) || (follows.is_numeric() && BEFORE_NUMBER.contains(&lower.as_str())) {
        return true;
    }
    let letters = word.chars().count();
    // "U.S." may be followed by a name; "i.v." and "p.m." before a capital end a sentence.
    if word.contains('.') && word.chars().all(|c| c == '.' || c.is_uppercase()) {
        return true;
    }
    if letters == 1 && word.chars().all(char::is_uppercase) {
        // "J. Smith" and "E. coli" against "hepatitis B. The": an initial follows nothing, a capital or a stop.
        let previous = characters[..start].iter().rposition(|c| !c.is_whitespace());
        let Some(previous) = previous else { return true };
        let word_start =
            characters[..=previous].iter().rposition(|c| c.is_whitespace()).map_or(0, |before| before + 1);
        return matches!(characters[previous], '.' | ',' | '(' | ';')
            || characters[word_start].is_uppercase();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use taiyi_corpus::schema::{Entity, Passage};

    fn cut(text: &str) -> Vec<String> {
        text_units(text, Unit::Sentence).into_iter().map(|(_, piece)| piece).collect()
    }

    #[test]
    fn english_sentences() {
        let text = "We gave 3.5 mg/kg (i.v.) to E. coli-infected mice, e.g. BALB/c. Results (Fig. 2. See text) vs. Controls were \
            clear.\" Hepatitis B. The U.S. FDA agreed! Smith et al. Found no. 5? Yes. 12 of 20 did. p < 0.05";
        let expected = [
            "We gave 3.5 mg/kg (i.v.) to E. coli-infected mice, e.g. BALB/c.",
            "Results (Fig. 2. See text) vs. Controls were clear.\"",
            "Hepatitis B.",
            "The U.S. FDA agreed!",
            "Smith et al. Found no. 5?",
            "Yes.",
            "12 of 20 did. p < 0.05",
        ];
        // "Hepatitis" is capitalised here, so that "B." could be an initial; lower case decides.
        assert_eq!(
            cut(&text.replace("Hepatitis B", "It was hepatitis B")),
            expected.map(|s| s.replace("Hepatitis B", "It was hepatitis B"))
        );
    }

    #[test]
    fn chinese_and_mixed_sentences() {
        assert_eq!(
            cut("患者头痛3.5天。“是否发热？”无！\n查体：BP 120/80mmHg…… 予阿司匹林。"),
            ["患者头痛3.5天。", "“是否发热？”", "无！", "查体：BP 120/80mmHg……", "予阿司匹林。",]
        );
        assert_eq!(
            cut("见于HbH病.临床表现为贫血。剂量2.五片"),
            ["见于HbH病.", "临床表现为贫血。", "剂量2.五片"]
        );
        assert_eq!(cut(" \n "), [""; 0]);
    }

    #[test]
    fn an_entity_is_never_cut_and_passages_are() {
        let passages = ["A title without a stop", "First here. Second vitamin B. Third one goes. Last."];
        let mut ie = Ie::default();
        let mut start = 0;
        for (at, text) in passages.iter().enumerate() {
            let end = start + text.chars().count();
            ie.passages.push(Passage {
                id: at.to_string(),
                kind: "p".into(),
                text: (*text).into(),
                offsets: CharSpan::new(start, end),
            });
            start = end + 1;
        }
        let all = |ie: &Ie, unit| units(ie, unit).into_iter().map(|(_, piece)| piece).collect::<Vec<_>>();
        assert_eq!(
            all(&ie, Unit::Sentence),
            ["A title without a stop", "First here.", "Second vitamin B.", "Third one goes.", "Last."]
        );
        let text = ie.text();
        let at = text.find("B. Third").unwrap();
        ie.entities.push(Entity {
            id: "T1".into(),
            kind: "x".into(),
            text: vec!["B. Third".into()],
            offsets: vec![CharSpan::new(at, at + 8)],
            normalized: vec![],
        });
        assert_eq!(
            all(&ie, Unit::Sentence),
            ["A title without a stop", "First here.", "Second vitamin B. Third one goes.", "Last."]
        );
        assert_eq!(
            all(&ie, Unit::Window(30)),
            ["A title without a stop", "First here.", "Second vitamin B. Third one goes.", "Last."]
        );
        assert_eq!(all(&ie, Unit::Window(34))[0], "A title without a stop First here.");
        assert_eq!(all(&ie, Unit::Document), [text]);
    }

    proptest! {
        #[test]
        fn pieces_hold_all_text_but_blanks(text in "([a-zA-Z]{1,6}[ .!?\\n()]{0,3}|[血压。？“”1-9. ]{1,4}|.){0,30}", longest in 1_usize..50) {
            let index = TextIndex::new(&text);
            for unit in [Unit::Sentence, Unit::Window(longest)] {
                let pieces = text_units(&text, unit);
                let mut end = 0;
                for (span, piece) in &pieces {
                    prop_assert!(index.slice(CharSpan::new(end, span.start)).unwrap().trim().is_empty());
                    prop_assert_eq!(index.slice(*span), Some(piece.as_str()));
                    prop_assert!(!span.is_empty());
                    end = span.end;
                }
                prop_assert!(index.slice(CharSpan::new(end, index.chars())).unwrap().trim().is_empty());
            }
        }
    }
}
