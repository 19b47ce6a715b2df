//! BRAT standoff: the text in one file (`.txt`), the annotations in another (`.ann`), and for a folder of them the names that
//! the annotations use (`annotation.conf`).
//!
//! ```text
//! T1	Chemical 17 24	aspirin
//! T2	Disease 58 63;75 82	renal failure
//! R1	CID Arg1:T1 Arg2:T2
//! N1	Reference T1 MESH:D001241	aspirin
//! E1	Phosphorylation:T3 Theme:T1
//! *	Coreference T1 T2
//! ```
//!
//! The text file holds exactly the text that offsets count, in code points. A mention that runs over a line break is split
//! there into spans, as the format asks; its text column shows the spans joined by one blank, tabs and other control characters
//! as blanks. Types lose characters that part columns. A relation between concepts is written between their first mentions; a
//! causal relation whose tail is a relation has no place in the format.
//! Specification: <https://brat.nlplab.org/standoff.html>.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use super::{Losses, without_breaks};
use crate::offsets::{CharSpan, TextIndex};
use crate::schema::{Ie, RelationLevel};

/// A document in the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text file.
    pub text: String,
    /// The annotation file.
    pub annotations: String,
    /// What could not be written as it was.
    pub losses: Losses,
}

/// The names that annotations use: what `annotation.conf` declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types {
    entities: BTreeSet<String>,
    relations: BTreeSet<String>,
    events: BTreeMap<String, BTreeSet<String>>,
    coreferences: bool,
}

impl Types {
    /// The content of `annotation.conf`.
    pub fn configuration(&self) -> String {
        let mut text = String::from("[entities]\n");
        for name in &self.entities {
            let _ = writeln!(text, "{name}");
        }
        text.push_str("\n[relations]\n");
        for name in &self.relations {
            let _ = writeln!(text, "{name}\tArg1:<ENTITY>, Arg2:<ENTITY>");
        }
        if self.coreferences {
            text.push_str("Coreference\tArg1:<ENTITY>, Arg2:<ENTITY>, <REL-TYPE>:symmetric-transitive\n");
        }
        text.push_str("\n[events]\n");
        for (name, roles) in &self.events {
            let roles: Vec<String> = roles.iter().map(|role| format!("{role}*:<ANY>")).collect();
            let _ = writeln!(text, "{name}\t{}", roles.join(", "));
        }
        text.push_str("\n[attributes]\n");
        text
    }
}

/// Renders an extraction document and adds the names it uses to `types`.
pub fn render(ie: &Ie, types: &mut Types) -> Rendered {
    let text = ie.text();
    let mut writer =
        Writer { index: TextIndex::new(&text), lines: String::new(), losses: Losses::default(), bound: 0 };
    // The schema's ids and those of the file.
    let mut marks: HashMap<&str, String> = HashMap::new();
    let mut first_mentions: HashMap<&str, String> = HashMap::new();
    let mut references = Vec::new();
    for entity in &ie.entities {
        let kind = writer.name(&entity.kind);
        let Some((mark, surface)) = writer.text_bound(&kind, &entity.offsets) else {
            writer.losses.unplaced += 1;
            continue;
        };
        types.entities.insert(kind);
        for concept in &entity.normalized {
            first_mentions.entry(&concept.db_id).or_insert_with(|| mark.clone());
            let (db_name, db_id) = (&concept.db_name, &concept.db_id);
            let usable = |part: &str| {
                !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control())
            };
            if usable(db_name) && usable(db_id) && !db_name.contains(':') {
                references.push(format!("Reference {mark} {db_name}:{db_id}\t{surface}"));
            } else {
                writer.losses.left_out += 1;
            }
        }
        marks.insert(&entity.id, mark);
    }
    let mut links: Vec<(String, Option<&String>, Option<&String>)> = Vec::new();
    for relation in &ie.relations {
        let known = match relation.level {
            RelationLevel::Mention => &marks,
            RelationLevel::Concept => &first_mentions,
        };
        let ends = (known.get(&*relation.arg1_id), known.get(&*relation.arg2_id));
        links.push((writer.name(&relation.kind), ends.0, ends.1));
    }
    for relation in &ie.causal_relations {
        let ends = (marks.get(&*relation.head_id), marks.get(&*relation.tail_id));
        links.push((writer.name(&relation.kind), ends.0, ends.1));
    }
    let mut number = 0;
    for (kind, head, tail) in links {
        let (Some(head), Some(tail)) = (head, tail) else {
            writer.losses.left_out += 1;
            continue;
        };
        number += 1;
        let _ = writeln!(writer.lines, "R{number}\t{kind} Arg1:{head} Arg2:{tail}");
        types.relations.insert(kind);
    }
    for (at, reference) in references.iter().enumerate() {
        let _ = writeln!(writer.lines, "N{}\t{reference}", at + 1);
    }
    writer.events(ie, &mut marks, types);
    for chain in &ie.coreferences {
        let members: Vec<&str> =
            chain.entity_ids.iter().filter_map(|id| marks.get(id.as_str())).map(String::as_str).collect();
        writer.losses.left_out += usize::from(members.len() < chain.entity_ids.len());
        if members.len() > 1 {
            let _ = writeln!(writer.lines, "*\tCoreference {}", members.join(" "));
            types.coreferences = true;
        }
    }
    let Writer { lines: annotations, losses, .. } = writer;
    Rendered { text, annotations, losses }
}

struct Writer<'a> {
    index: TextIndex<'a>,
    lines: String,
    losses: Losses,
    /// Text-bound annotations so far.
    bound: usize,
}

impl Writer<'_> {
    /// Writes a `T` line; its mark and text column, or `None` where the spans are not in the text.
    fn text_bound(&mut self, kind: &str, offsets: &[CharSpan]) -> Option<(String, String)> {
        let mut spans = Vec::new();
        let mut surfaces = Vec::new();
        for span in offsets {
            let mut start = span.start;
            for line in self.index.slice(*span)?.split(['\n', '\r']) {
                let end = start + line.chars().count();
                if start < end {
                    spans.push(format!("{start} {end}"));
                    surfaces.push(without_breaks(line).0);
                }
                start = end + 1;
            }
        }
        if spans.is_empty() {
            return None;
        }
        self.bound += 1;
        let (mark, surface) = (format!("T{}", self.bound), surfaces.join(" "));
        let _ = writeln!(self.lines, "{mark}\t{kind} {}\t{surface}", spans.join(";"));
        Some((mark, surface))
    }

    /// A type or role without the characters that part columns.
    fn name(&mut self, name: &str) -> String {
        let kept =
            |c: char| if c.is_whitespace() || c.is_control() || ":;,<>|".contains(c) { '_' } else { c };
        let mut written: String = name.chars().map(kept).collect();
        if written.is_empty() {
            written.push('_');
        }
        self.losses.renamed += usize::from(written != name);
        written
    }

    fn events<'i>(&mut self, ie: &'i Ie, marks: &mut HashMap<&'i str, String>, types: &mut Types) {
        let mut triggers = Vec::with_capacity(ie.events.len());
        let mut number = 0;
        for event in &ie.events {
            let kind = self.name(&event.kind);
            let trigger = self.text_bound(&kind, &event.trigger.offsets).map(|(mark, _)| mark);
            if trigger.is_some() {
                number += 1;
                // An event may be an argument of one before it.
                marks.insert(&event.id, format!("E{number}"));
            }
            triggers.push((kind, trigger));
        }
        for (event, (kind, trigger)) in ie.events.iter().zip(triggers) {
            let Some((trigger, mark)) = trigger.zip(marks.get(&*event.id).cloned()) else {
                self.losses.left_out += 1;
                continue;
            };
            let roles = types.events.entry(kind.clone()).or_default();
            let mut arguments = String::new();
            let mut seen: HashMap<String, usize> = HashMap::new();
            for argument in &event.arguments {
                let role = self.name(&argument.role);
                let Some(target) = marks.get(&*argument.ref_id) else {
                    self.losses.left_out += 1;
                    continue;
                };
                let count = seen.entry(role.clone()).or_insert(0);
                *count += 1;
                // A repeated role is numbered.
                let numbered = if *count > 1 { format!("{role}{count}") } else { role.clone() };
                let _ = write!(arguments, " {numbered}:{target}");
                roles.insert(role);
            }
            let _ = writeln!(self.lines, "{mark}\t{kind}:{trigger}{arguments}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::{Argument, Coreference, Entity, Event, Normalized, Passage, Relation, Trigger};

    fn document(text: &str, mentions: &[&[(usize, usize)]]) -> Ie {
        let whole = CharSpan::new(0, text.chars().count());
        let index = TextIndex::new(text);
        let entity = |(at, spans): (usize, &&[(usize, usize)])| {
            let offsets: Vec<CharSpan> = spans.iter().map(|span| CharSpan::from(*span)).collect();
            let text = offsets.iter().map(|span| index.slice(*span).unwrap().to_owned()).collect();
            Entity { id: format!("e{at}"), kind: "Disease or 病".into(), text, offsets, normalized: vec![] }
        };
        Ie {
            passages: vec![Passage {
                id: "P".into(),
                kind: "text".into(),
                text: text.into(),
                offsets: whole,
            }],
            entities: mentions.iter().enumerate().map(entity).collect(),
            ..Ie::default()
        }
    }

    /// The mentions of an annotation file, each checked against the text.
    fn mentions(rendered: &Rendered) -> Vec<Vec<(usize, usize)>> {
        let characters: Vec<char> = rendered.text.chars().collect();
        let mut found = Vec::new();
        for line in rendered.annotations.split('\n').filter(|line| line.starts_with('T')) {
            let [_, place, surface] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let (kind, spans) = place.split_once(' ').unwrap();
            assert!(!kind.is_empty());
            let spans: Vec<(usize, usize)> = spans
                .split(';')
                .map(|span| span.split_once(' ').unwrap())
                .map(|(start, end)| (start.parse().unwrap(), end.parse().unwrap()))
                .collect();
            let slice = |(start, end): &(usize, usize)| {
                assert!(!characters[*start..*end].contains(&'\n'));
                characters[*start..*end]
                    .iter()
                    .map(|c| if c.is_control() { ' ' } else { *c })
                    .collect::<String>()
            };
            let sliced: Vec<String> = spans.iter().map(slice).collect();
            assert_eq!(sliced.join(" ").replace(['\u{2028}', '\u{2029}'], " "), surface);
            found.push(spans);
        }
        found
    }

    #[test]
    fn offsets_slice_to_the_mentions() {
        let text = "肾或肝衰竭\r\nrenal\tfailure";
        let ie = document(text, &[&[(0, 1), (3, 5)], &[(3, 12)], &[(7, 20)]]);
        let mut types = Types::default();
        let rendered = render(&ie, &mut types);
        assert_eq!(rendered.text, text);
        assert_eq!(mentions(&rendered), [vec![(0, 1), (3, 5)], vec![(3, 5), (7, 12)], vec![(7, 20)]]);
        assert_eq!(
            rendered.annotations,
            "T1\tDisease_or_病 0 1;3 5\t肾 衰竭\nT2\tDisease_or_病 3 5;7 12\t衰竭 renal\nT3\tDisease_or_病 7 20\trenal failure\n"
        );
        assert_eq!(rendered.losses, Losses { renamed: 3, ..Losses::default() });
        assert_eq!(
            types.configuration(),
            "[entities]\nDisease_or_病\n\n[relations]\n\n[events]\n\n[attributes]\n"
        );
    }

    #[test]
    fn relations_events_links_and_chains() {
        let mut ie = document("a b c", &[&[(0, 1)], &[(2, 3)], &[]]);
        ie.entities.iter_mut().for_each(|entity| entity.kind = "X".into());
        let concept = |id: &str| Normalized { db_name: "MESH".into(), db_id: id.into() };
        ie.entities[0].normalized = vec![concept("D1")];
        ie.entities[1].normalized = vec![concept("D2")];
        let relation = |arg1: &str, arg2: &str, level| Relation {
            id: "r".into(),
            kind: "rel".into(),
            arg1_id: arg1.into(),
            arg2_id: arg2.into(),
            level,
            normalized: vec![],
        };
        ie.relations = vec![
            relation("e0", "e1", RelationLevel::Mention),
            relation("D2", "D1", RelationLevel::Concept),
            relation("e0", "e2", RelationLevel::Mention),
        ];
        let argument = |role: &str, id: &str| Argument { role: role.into(), ref_id: id.into() };
        let event = |id: &str, offsets: &[(usize, usize)], arguments| Event {
            id: id.into(),
            kind: "Binding".into(),
            trigger: Trigger { text: vec![], offsets: offsets.iter().map(|&span| span.into()).collect() },
            arguments,
        };
        ie.events = vec![
            event(
                "v1",
                &[(4, 5)],
                vec![argument("Theme", "e0"), argument("Theme", "e1"), argument("Cause", "v2")],
            ),
            event("v2", &[(2, 3)], vec![argument("Theme", "gone")]),
            event("v3", &[], vec![]),
        ];
        ie.coreferences = vec![Coreference { id: "c".into(), entity_ids: vec!["e0".into(), "e1".into()] }];
        let mut types = Types::default();
        let rendered = render(&ie, &mut types);
        let expected = "T1\tX 0 1\ta\nT2\tX 2 3\tb\nR1\trel Arg1:T1 Arg2:T2\nR2\trel Arg1:T2 Arg2:T1\n\
            N1\tReference T1 MESH:D1\ta\nN2\tReference T2 MESH:D2\tb\n\
            T3\tBinding 4 5\tc\nT4\tBinding 2 3\tb\n\
            E1\tBinding:T3 Theme:T1 Theme2:T2 Cause:E2\nE2\tBinding:T4\n*\tCoreference T1 T2\n";
        assert_eq!(rendered.annotations, expected);
        assert_eq!(rendered.losses, Losses { unplaced: 1, left_out: 3, ..Losses::default() });
        assert!(types.configuration().contains("Binding\tCause*:<ANY>, Theme*:<ANY>\n"));
    }

    proptest! {
        #[test]
        fn any_mention_slices(
            text in "(\\PC|[\\n\\r\\t血压\u{2028}\u{85}]){0,30}",
            spans in prop::collection::vec(prop::collection::vec((0_usize..30, 0_usize..9), 0..3), 0..5),
        ) {
            let length = text.chars().count();
            let spans: Vec<Vec<(usize, usize)>> = spans
                .into_iter()
                .map(|spans| spans.into_iter().map(|(start, len)| (start, start + len)).filter(|span| span.1 <= length).collect())
                .collect();
            let ie = document(&text, &spans.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let rendered = render(&ie, &mut Types::default());
            prop_assert_eq!(&rendered.text, &text);
            prop_assert_eq!(mentions(&rendered).len() + rendered.losses.unplaced, ie.entities.len());
        }
    }
}
