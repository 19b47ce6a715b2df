//! PubTator: the text on a title line and an abstract line, then tab-separated mentions and relations.
//!
//! ```text
//! 1234567|t|Made-up title on aspirin.
//! 1234567|a|Aspirin caused headache.
//! 1234567	17	24	aspirin	Chemical	MESH:D001241
//! 1234567	CID	D001241	D006261
//! ```
//!
//! Offsets count code points of the title, one separator and the abstract, which is how the schema counts passages: the
//! first passage is the title, the others joined by one space the abstract. A text of a single passage is parted at its
//! first line break, which the separator stands for; without one it is all title. Other line breaks and tabs become blanks,
//! so that every offset stays. A discontinuous mention is written from its first character to its last. Relations are
//! between concepts: an argument is its entity's first concept, or its string where it has none. Events, causal relations and
//! coreferences have no place in the format.
//! Specification: <https://www.ncbi.nlm.nih.gov/research/pubtator3/tutorial>; read back by
//! [`crate::readers::pubtator`].

use std::fmt::Write;

use super::{Losses, hull, without_breaks};
use crate::offsets::TextIndex;
use crate::schema::{Entity, Ie, RelationLevel};

/// A document in the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Its lines, without the blank line that parts documents.
    pub text: String,
    /// What could not be written as it was.
    pub losses: Losses,
}

/// Renders an extraction document.
pub fn render(id: &str, ie: &Ie) -> Rendered {
    let mut losses = Losses::default();
    let own_id = id;
    let id: String = id
        .chars()
        .map(|c| if c.is_whitespace() || c.is_control() || "|\u{feff}".contains(c) { '_' } else { c })
        .collect();
    let id = if id.is_empty() { "document".to_owned() } else { id };
    losses.renamed += usize::from(id != own_id);
    let (title, body) = parts(ie);
    let mut clean = |text: &str| {
        let (text, count) = without_breaks(text);
        losses.characters += count;
        text
    };
    let (title, body) = (clean(&title), clean(&body));
    let mut text = format!("{id}|t|{title}\n{id}|a|{body}\n");
    let joined = format!("{title} {body}");
    let index = TextIndex::new(&joined);
    for entity in &ie.entities {
        let place = hull(&entity.offsets).and_then(|span| Some((span, index.slice(span)?)));
        let Some((span, surface)) = place else {
            losses.unplaced += 1;
            continue;
        };
        losses.discontinuous += usize::from(entity.offsets.len() > 1);
        let kind = column(&entity.kind, &mut losses);
        let concepts = concepts(entity, &mut losses);
        let _ = writeln!(text, "{id}\t{}\t{}\t{surface}\t{kind}\t{concepts}", span.start, span.end);
    }
    for relation in &ie.relations {
        let mut argument = |id: &str| {
            let name = match relation.level {
                RelationLevel::Concept => id.to_owned(),
                RelationLevel::Mention => {
                    let entity = ie.entity(id)?;
                    entity
                        .normalized
                        .first()
                        .map_or_else(|| entity.surface(), |concept| concept.db_id.clone())
                }
            };
            Some(column(&name, &mut losses))
        };
        let (Some(head), Some(tail)) = (argument(&relation.arg1_id), argument(&relation.arg2_id)) else {
            losses.left_out += 1;
            continue;
        };
        let mut kind = column(&relation.kind, &mut losses);
        if kind.trim().parse::<f64>().is_ok() {
            // A number in this column would make the line a mention.
            kind.insert(0, '_');
            losses.renamed += 1;
        }
        let _ = writeln!(text, "{id}\t{kind}\t{head}\t{tail}");
    }
    losses.left_out += ie.causal_relations.len() + ie.events.len() + ie.coreferences.len();
    Rendered { text, losses }
}

/// The text as title and abstract, with one code point between them that is not in either.
fn parts(ie: &Ie) -> (String, String) {
    match ie.passages.as_slice() {
        [] => (String::new(), String::new()),
        [only] => match only.text.split_once('\n') {
            Some((title, body)) => (title.to_owned(), body.to_owned()),
            None => (only.text.clone(), String::new()),
        },
        [title, rest @ ..] => {
            let rest: Vec<&str> = rest.iter().map(|passage| passage.text.as_str()).collect();
            (title.text.clone(), rest.join(" "))
        }
    }
}

fn column(text: &str, losses: &mut Losses) -> String {
    let (text, count) = without_breaks(text);
    losses.characters += count;
    text
}

/// The id column: concepts with their terminology, several parted by `|`; `-` for none.
fn concepts(entity: &Entity, losses: &mut Losses) -> String {
    if entity.normalized.is_empty() {
        return "-".to_owned();
    }
    let mut ids = Vec::with_capacity(entity.normalized.len());
    for concept in &entity.normalized {
        let id = match concept.db_name.as_str() {
            "" => concept.db_id.clone(),
            name => format!("{name}:{}", concept.db_id),
        };
        if id.contains(|c: char| "|+".contains(c) || c.is_control()) {
            losses.left_out += 1;
        } else {
            ids.push(id);
        }
    }
    if ids.is_empty() { "-".to_owned() } else { ids.join("|") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offsets::CharSpan;
    use crate::readers::pubtator;
    use crate::schema::{Content, Normalized, Passage, Relation};
    use crate::source::Input;

    fn ie(passages: &[&str]) -> Ie {
        let mut start = 0;
        let mut ie = Ie::default();
        for (at, text) in passages.iter().enumerate() {
            let end = start + text.chars().count();
            let offsets = CharSpan::new(start, end);
            ie.passages.push(Passage { id: at.to_string(), kind: "p".into(), text: (*text).into(), offsets });
            start = end + 1;
        }
        ie
    }

    fn entity(ie: &mut Ie, start: usize, end: usize) {
        let text = ie.text();
        let span = CharSpan::new(start, end);
        let surface = TextIndex::new(&text).slice(span).unwrap().to_owned();
        let id = format!("T{}", ie.entities.len() + 1);
        ie.entities.push(Entity {
            id,
            kind: "Chemical".into(),
            text: vec![surface],
            offsets: vec![span],
            normalized: vec![],
        });
    }

    fn back(text: &str) -> Ie {
        let options = pubtator::Options::default();
        let documents: Vec<_> = pubtator::read(Input::from_bytes("written.txt", text), &options).collect();
        assert_eq!(documents.len(), 1, "{text}");
        match documents.into_iter().next().unwrap().unwrap().content {
            Content::Ie(ie) => ie,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let mut ie = ie(&["β-阻滞剂|t|试验", "美托洛尔 (metoprolol) 降压。"]);
        entity(&mut ie, 0, 5);
        entity(&mut ie, 11, 15);
        entity(&mut ie, 17, 27);
        ie.entities[1].normalized = vec![
            Normalized { db_name: "MESH".into(), db_id: "D008790".into() },
            Normalized { db_name: "OMIM".into(), db_id: "1".into() },
        ];
        ie.relations.push(Relation {
            id: "R1".into(),
            kind: "treats".into(),
            arg1_id: "T2".into(),
            arg2_id: "T1".into(),
            level: RelationLevel::Mention,
            normalized: vec![],
        });
        let rendered = render("1", &ie);
        assert!(rendered.losses.is_none(), "{:?}", rendered.losses);
        let read = back(&rendered.text);
        assert_eq!(read.entities, ie.entities);
        assert_eq!(read.text(), ie.text());
        assert_eq!((&*read.relations[0].arg1_id, &*read.relations[0].arg2_id), ("D008790", "β-阻滞剂"));
    }

    #[test]
    fn one_passage_is_parted_at_its_first_line_break_and_offsets_stay() {
        let mut ie = ie(&["标题\r\n头痛\t发热\n咳嗽"]);
        entity(&mut ie, 4, 6);
        entity(&mut ie, 7, 9);
        entity(&mut ie, 10, 12);
        let rendered = render("a b|c", &ie);
        assert!(rendered.text.starts_with("a_b_c|t|标题 \na_b_c|a|头痛 发热 咳嗽\n"), "{}", rendered.text);
        assert_eq!(rendered.losses, Losses { characters: 3, renamed: 1, ..Losses::default() });
        assert_eq!(back(&rendered.text).entities, ie.entities);
    }

    #[test]
    fn what_the_format_cannot_hold_is_counted() {
        let mut ie = ie(&["renal or hepatic failure"]);
        entity(&mut ie, 0, 5);
        ie.entities[0].offsets = vec![CharSpan::new(0, 5), CharSpan::new(17, 24)];
        entity(&mut ie, 0, 5);
        ie.entities[1].offsets.clear();
        entity(&mut ie, 0, 5);
        ie.entities[2].offsets = vec![CharSpan::new(20, 99)];
        ie.relations.push(Relation {
            id: "R".into(),
            kind: "1".into(),
            arg1_id: "D1".into(),
            arg2_id: "D2".into(),
            level: RelationLevel::Concept,
            normalized: vec![],
        });
        let rendered = render("1", &ie);
        let expected = Losses { discontinuous: 1, unplaced: 2, renamed: 1, ..Losses::default() };
        assert_eq!(rendered.losses, expected);
        let read = back(&rendered.text);
        assert_eq!(read.entities[0].text, ["renal or hepatic failure"]);
        assert_eq!(read.relations[0].kind, "_1");
    }

    proptest! {
        #[test]
        fn any_document_reads_back(
            passages in prop::collection::vec("(\\PC|[\\n\\r\\t|\u{85}\u{2028}血压]){0,12}", 0..4),
            spans in prop::collection::vec((0_usize..40, 1_usize..9), 0..5),
            id in "(\\PC|[|\\t\\n ]){0,6}",
            kind in "(\\PC|\\t|1){0,5}",
        ) {
            let mut ie = ie(&passages.iter().map(String::as_str).collect::<Vec<_>>());
            let length = ie.text().chars().count();
            for (start, len) in spans {
                if start + len <= length {
                    entity(&mut ie, start, start + len);
                    ie.entities.last_mut().unwrap().kind = kind.clone();
                }
            }
            let rendered = render(&id, &ie);
            prop_assert_eq!(rendered.text.lines().count(), 2 + ie.entities.len());
            let read = back(&rendered.text);
            let text = read.text();
            let index = TextIndex::new(&text);
            prop_assert_eq!(read.entities.len(), ie.entities.len());
            for (found, own) in read.entities.iter().zip(&ie.entities) {
                prop_assert_eq!(&found.offsets, &own.offsets);
                prop_assert_eq!(index.slice(found.offsets[0]), Some(found.text[0].as_str()));
                prop_assert_eq!(found.text[0].chars().map(|c| if super::super::breaks(c) { ' ' } else { c }).collect::<String>(),
                    own.text[0].chars().map(|c| if super::super::breaks(c) { ' ' } else { c }).collect::<String>());
            }
        }
    }
}
