//! Made-up documents for the tests of this crate.
#![allow(dead_code, unreachable_pub)] // each test binary is a crate of its own and uses some of them

use taiyi_corpus::offsets::CharSpan;
use taiyi_corpus::schema::{
    Content, Document, Entity, Ie, Language, Normalized, Passage, Qa, QaKind, Relation, RelationLevel, Tc,
};
use taiyi_instruct::{DatasetLabels, LabelName, LabelNames};

pub fn document(id: &str, language: Language, content: Content) -> Document {
    Document {
        id: id.to_owned(),
        document_id: id.to_owned(),
        dataset: "made_up".to_owned(),
        split: "test".to_owned(),
        language,
        content,
    }
}

/// A text with mentions: `(string, how many-th occurrence from 0, type, concept ids)`.
pub fn text(id: &str, language: Language, text: &str, mentions: &[(&str, usize, &str, &[&str])]) -> Document {
    let entities = mentions
        .iter()
        .enumerate()
        .map(|(at, (string, nth, kind, concepts))| {
            let byte = text.match_indices(string).nth(*nth).expect("the mention occurs").0;
            let start = text[..byte].chars().count();
            Entity {
                id: format!("T{at}"),
                kind: (*kind).to_owned(),
                text: vec![(*string).to_owned()],
                offsets: vec![CharSpan::new(start, start + string.chars().count())],
                normalized: concepts
                    .iter()
                    .map(|id| Normalized { db_name: "MESH".to_owned(), db_id: (*id).to_owned() })
                    .collect(),
            }
        })
        .collect();
    let passage = Passage {
        id: "p".to_owned(),
        kind: "abstract".to_owned(),
        text: text.to_owned(),
        offsets: CharSpan::new(0, text.chars().count()),
    };
    document(id, language, Content::Ie(Ie { passages: vec![passage], entities, ..Ie::default() }))
}

/// Adds relations between concepts.
pub fn with_concept_relations(mut document: Document, relations: &[(&str, &str, &str)]) -> Document {
    if let Content::Ie(ie) = &mut document.content {
        ie.relations = relations
            .iter()
            .enumerate()
            .map(|(at, (kind, head, tail))| Relation {
                id: format!("R{at}"),
                kind: (*kind).to_owned(),
                arg1_id: (*head).to_owned(),
                arg2_id: (*tail).to_owned(),
                level: RelationLevel::Concept,
                normalized: Vec::new(),
            })
            .collect();
    }
    document
}

pub fn classified(id: &str, text: &str, labels: &[&str]) -> Document {
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    document(id, Language::En, Content::Tc(Tc { text: text.to_owned(), labels }))
}

pub fn question(id: &str, question: &str, answer: &str) -> Document {
    let qa = Qa {
        question: question.to_owned(),
        contexts: vec!["Some context.".to_owned()],
        choices: ["yes", "no", "maybe"].map(str::to_owned).to_vec(),
        answers: vec![answer.to_owned()],
        kind: QaKind::MultipleChoice,
    };
    document(id, Language::En, Content::Qa(qa))
}

/// Names: `(source, English, Chinese)`.
pub fn names(names: &[(&str, &str, &str)]) -> LabelNames {
    let name = |(source, en, zh): &(&str, &str, &str)| LabelName {
        source: (*source).to_owned(),
        en: (*en).to_owned(),
        zh: (*zh).to_owned(),
    };
    LabelNames::new(names.iter().map(name).collect())
}

pub fn drug_labels() -> DatasetLabels {
    DatasetLabels {
        entities: names(&[("Chemical", "chemical", "化学物质"), ("Disease", "disease", "疾病")]),
        relations: names(&[("CID", "chemical-induced disease", "化学物质导致的疾病")]),
        ..DatasetLabels::default()
    }
}
