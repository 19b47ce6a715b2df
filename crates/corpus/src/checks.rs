//! Checks: what is counted in a dataset, and what is wrong with it.
//!
//! Counts are of the source before any filtering, with types as the source spells them. A finding that the card
//! declares as known is still reported, and marked, but does not fail the check; one more than declared does.
//! After BigBIO's own checks (`tests/test_bigbio_hub.py` of <https://github.com/bigscience-workshop/biomedical>).

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::card::{Card, Expected, IdSpace, Label, Split, Variant};
use crate::error::{Error, quote};
use crate::leak::{fingerprint, texts};
use crate::offsets::TextIndex;
use crate::readers::read_from;
use crate::schema::{Content, Document, Ie, RelationLevel};
use crate::source::Source;

/// What `taiyi corpus check --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CheckReport {
    /// One row per source version.
    pub datasets: Vec<DatasetCheck>,
}

/// The check of one source version of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetCheck {
    /// The dataset's id.
    pub id: String,
    /// The source version.
    pub variant: String,
    /// Counts by split.
    pub splits: BTreeMap<String, Counts>,
    /// What is wrong, known errors included.
    pub findings: Vec<Finding>,
}

/// What is counted in a split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Documents read.
    pub documents: u64,
    /// Entities by type.
    pub entities: BTreeMap<String, u64>,
    /// Relations by type, causal ones included.
    pub relations: BTreeMap<String, u64>,
    /// Events by type.
    pub events: BTreeMap<String, u64>,
    /// Items: documents of classification, pairs, questions, dialogues, translation, text to text.
    pub items: u64,
    /// Items by label: labels of classification and pairs, correct choices of questions.
    pub labels: BTreeMap<String, u64>,
    /// Utterances of dialogues.
    pub utterances: u64,
    /// Records that could not be read.
    pub unreadable: u64,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing; never fails a check.
    Info,
    /// Doubtful data.
    Warning,
    /// Wrong data.
    Error,
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is: `text_mismatch`, `duplicate_text`, …
    pub code: &'static str,
    /// The split it is in.
    pub split: String,
    /// The file, or the document and the part of it.
    #[serde(rename = "where")]
    pub place: String,
    /// What was expected and what was found.
    pub message: String,
    /// Whether the card declares it.
    pub known: bool,
}

impl CheckReport {
    /// Whether nothing was found that the cards do not declare.
    pub fn is_clean(&self) -> bool {
        self.datasets.iter().all(DatasetCheck::is_clean)
    }
}

impl DatasetCheck {
    /// Whether nothing was found that the card does not declare.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.known || finding.level == Level::Info)
    }
}

impl Counts {
    /// Adds a document.
    pub fn add(&mut self, document: &Document) {
        self.documents += 1;
        let count = |map: &mut BTreeMap<String, u64>, key: &str| *map.entry(key.to_owned()).or_insert(0) += 1;
        if !matches!(document.content, Content::Ie(_)) {
            self.items += 1;
        }
        match &document.content {
            Content::Ie(ie) => {
                ie.entities.iter().for_each(|entity| count(&mut self.entities, &entity.kind));
                ie.relations.iter().for_each(|relation| count(&mut self.relations, &relation.kind));
                ie.causal_relations.iter().for_each(|relation| count(&mut self.relations, &relation.kind));
                ie.events.iter().for_each(|event| count(&mut self.events, &event.kind));
            }
            Content::Tc(tc) => tc.labels.iter().for_each(|label| count(&mut self.labels, label)),
            Content::Tp(tp) => count(&mut self.labels, &tp.label),
            Content::Qa(qa) if !qa.choices.is_empty() => {
                qa.answers.iter().for_each(|answer| count(&mut self.labels, answer));
            }
            Content::Mrd(mrd) => self.utterances += mrd.utterances.len() as u64,
            Content::Qa(_) | Content::Mt(_) | Content::Tt(_) => {}
        }
    }
}

/// Checks one source version, or all where none is asked for; `progress` is told the split and its documents so far.
///
/// # Errors
/// Where the card has no such version, or a file cannot be opened. Everything else is a finding.
pub fn check<S: Source + ?Sized>(
    card: &Card,
    variant: Option<&str>,
    source: &S,
    progress: &mut dyn FnMut(&str, u64),
) -> Result<CheckReport, Error> {
    let variants: Vec<&Variant> = match variant {
        Some(id) => vec![card.variant(Some(id))?],
        None => card.variants.iter().collect(),
    };
    let datasets = variants.into_iter().map(|variant| check_variant(card, variant, source, progress));
    Ok(CheckReport { datasets: datasets.collect::<Result<_, _>>()? })
}

/// What has been met so far, across the splits of a version.
#[derive(Default)]
struct Met {
    ids: FxHashSet<String>,
    document_ids: FxHashMap<String, String>,
    texts: FxHashMap<u64, (String, String)>,
}

fn check_variant<S: Source + ?Sized>(
    card: &Card,
    variant: &Variant,
    source: &S,
    progress: &mut dyn FnMut(&str, u64),
) -> Result<DatasetCheck, Error> {
    let mut result = DatasetCheck {
        id: card.id.clone(),
        variant: variant.id.clone(),
        splits: BTreeMap::new(),
        findings: Vec::new(),
    };
    let mut met = Met::default();
    for name in variant.split_names() {
        let split = &variant.splits[name];
        let mut findings = Findings { split: name.to_owned(), list: Vec::new() };
        check_files(split, source, &mut findings)?;
        let mut counts = Counts::default();
        for document in read_from(card, Some(&variant.id), name, source)? {
            match document {
                Ok(document) => {
                    counts.add(&document);
                    check_document(card, &document, &mut met, &mut findings);
                    if counts.documents.is_multiple_of(256) {
                        progress(name, counts.documents);
                    }
                }
                Err(error) => {
                    counts.unreadable += 1;
                    let code = if error.is_record() { "unreadable_record" } else { "unreadable_file" };
                    let message = error.to_string();
                    // Errors begin with their place; a finding has a field for it.
                    let (place, message) = message.split_once(": ").unwrap_or(("", &message));
                    findings.add(Level::Error, code, place.to_owned(), message.to_owned());
                }
            }
        }
        progress(name, counts.documents);
        if let Some(expected) = &split.expected {
            compare(expected, &counts, &mut findings);
        }
        mark_known(variant, name, &mut findings);
        result.splits.insert(name.to_owned(), counts);
        result.findings.append(&mut findings.list);
    }
    Ok(result)
}

struct Findings {
    split: String,
    list: Vec<Finding>,
}

impl Findings {
    fn add(
        &mut self,
        level: Level,
        code: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
    ) {
        let (place, message) = (place.into(), message.into());
        self.list.push(Finding { level, code, split: self.split.clone(), place, message, known: false });
    }
}

/// Marks as many findings of each declared code as the card declares; says so where there are fewer.
fn mark_known(variant: &Variant, split: &str, findings: &mut Findings) {
    for known in variant.known.iter().filter(|known| known.split == split) {
        let mut left = known.count;
        for finding in findings.list.iter_mut().filter(|finding| finding.code == known.code) {
            if left > 0 {
                finding.known = true;
                left -= 1;
            }
        }
        if left > 0 {
            let message = format!(
                "expected {} known findings `{}` ({}), found {}; correct the card",
                known.count,
                known.code,
                known.note,
                known.count - left
            );
            findings.add(Level::Warning, "known_count", "card", message);
        }
    }
}

fn check_files<S: Source + ?Sized>(split: &Split, source: &S, findings: &mut Findings) -> Result<(), Error> {
    for file in &split.files {
        if file.bytes.is_none() && file.sha256.is_none() {
            continue;
        }
        let mut reader = source.open(&file.path)?;
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = reader.read(&mut buffer);
            let length = length.map_err(|source| Error::Read { file: file.path.clone(), line: 0, source })?;
            if length == 0 {
                break;
            }
            bytes += length as u64;
            hash.update(&buffer[..length]);
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let changed = match (&file.bytes, &file.sha256) {
            (Some(expected), _) if *expected != bytes => {
                Some(format!("expected {expected} bytes, found {bytes}"))
            }
            (_, Some(expected)) if *expected != hash => {
                Some(format!("expected sha256 {expected}, found {hash}"))
            }
            _ => None,
        };
        if let Some(message) = changed {
            let message = format!("{message}; another release of the file, or a broken download");
            findings.add(Level::Warning, "file_changed", &file.path, message);
        }
    }
    Ok(())
}

fn check_document(card: &Card, document: &Document, met: &mut Met, findings: &mut Findings) {
    let id = &document.id;
    if !met.ids.insert(id.clone()) {
        findings.add(
            Level::Error,
            "duplicate_id",
            id,
            "expected an id of its own, found one that another has",
        );
    }
    if let Some((base, _)) = id.rsplit_once('#').filter(|(base, _)| met.ids.contains(*base)) {
        let message = format!("expected one document `{base}`, found another");
        findings.add(Level::Warning, "repeated_id", id, message);
    }
    if card.document_ids != IdSpace::Split {
        let first =
            met.document_ids.entry(document.document_id.clone()).or_insert_with(|| findings.split.clone());
        if *first != findings.split {
            let message =
                format!("expected each document in one split, found `{}` in {first}", document.document_id);
            findings.add(Level::Warning, "shared_id", id, message);
        }
    }
    let texts = texts(document);
    if texts.iter().any(|text| text.trim().is_empty()) {
        findings.add(Level::Warning, "empty_text", id, "expected text, found none");
    }
    let parts: Vec<&str> = texts.iter().map(String::as_str).collect();
    if parts.iter().any(|part| !part.trim().is_empty()) {
        let first =
            met.texts.entry(fingerprint(&parts)).or_insert_with(|| (findings.split.clone(), id.clone()));
        if *first != (findings.split.clone(), id.clone()) {
            let (code, message) = if first.0 == findings.split {
                ("duplicate_text", format!("expected a text of its own, found that of {}", first.1))
            } else {
                (
                    "shared_text",
                    format!("expected each text in one split, found that of {} in {}", first.1, first.0),
                )
            };
            findings.add(Level::Warning, code, id, message);
        }
    }
    let known =
        |labels: &[Label], name: &str| labels.is_empty() || labels.iter().any(|label| label.name == name);
    let mut label = |labels: &[Label], what: &str, name: &str| {
        if !known(labels, name) {
            let message = format!("expected {what} of the card, found {}", quote(name));
            findings.add(Level::Error, "unknown_label", id, message);
        }
    };
    let labels = &card.labels;
    match &document.content {
        Content::Ie(ie) => {
            ie.entities.iter().for_each(|entity| label(&labels.entities, "an entity type", &entity.kind));
            ie.relations
                .iter()
                .for_each(|relation| label(&labels.relations, "a relation type", &relation.kind));
            ie.events.iter().for_each(|event| label(&labels.events, "an event type", &event.kind));
            check_ie(id, ie, findings);
        }
        Content::Tc(tc) => tc.labels.iter().for_each(|name| label(&labels.labels, "a label", name)),
        Content::Tp(tp) => label(&labels.labels, "a label", &tp.label),
        Content::Qa(qa) => {
            for answer in qa.answers.iter().filter(|_| !qa.choices.is_empty()) {
                label(&labels.labels, "a choice", answer);
                if !qa.choices.contains(answer) {
                    let message = format!("expected one of the choices, found {}", quote(answer));
                    findings.add(Level::Error, "answer_not_a_choice", id, message);
                    break;
                }
            }
        }
        Content::Mrd(_) | Content::Mt(_) | Content::Tt(_) => {}
    }
}

fn check_ie(id: &str, ie: &Ie, findings: &mut Findings) {
    let text = ie.text();
    let index = TextIndex::new(&text);
    for passage in &ie.passages {
        if index.slice(passage.offsets) != Some(&passage.text) {
            let message = "expected the passage's text at its offsets in the passages joined by one space";
            findings.add(Level::Error, "passage_mismatch", format!("{id}/{}", passage.id), message);
        }
    }
    let mut ids: FxHashSet<&str> = FxHashSet::default();
    let all = (ie.passages.iter().map(|part| &part.id))
        .chain(ie.entities.iter().map(|part| &part.id))
        .chain(ie.relations.iter().map(|part| &part.id))
        .chain(ie.causal_relations.iter().map(|part| &part.id))
        .chain(ie.events.iter().map(|part| &part.id))
        .chain(ie.coreferences.iter().map(|part| &part.id));
    for part in all {
        if !ids.insert(part) {
            let message = "expected an id of its own within the document, found one that another part has";
            findings.add(Level::Error, "duplicate_part_id", format!("{id}/{part}"), message);
        }
    }
    for entity in &ie.entities {
        let place = format!("{id}/{}", entity.id);
        if !entity.offsets.is_empty() && entity.offsets.len() != entity.text.len() {
            let message = format!(
                "expected a text for each of {} spans, found {}",
                entity.offsets.len(),
                entity.text.len()
            );
            findings.add(Level::Error, "text_mismatch", &place, message);
        }
        for (span, words) in entity.offsets.iter().zip(&entity.text) {
            match index.slice(*span) {
                None => {
                    let message = format!(
                        "expected offsets within {} characters, found {}..{}",
                        index.chars(),
                        span.start,
                        span.end
                    );
                    findings.add(Level::Error, "offset_range", &place, message);
                }
                Some(found) if found != words => {
                    let message = format!(
                        "expected {} at {}..{}, found {}",
                        quote(words),
                        span.start,
                        span.end,
                        quote(found)
                    );
                    findings.add(Level::Error, "text_mismatch", &place, message);
                }
                Some(_) => {}
            }
        }
    }
    let concepts: FxHashSet<&str> = ie
        .entities
        .iter()
        .flat_map(|entity| &entity.normalized)
        .map(|concept| concept.db_id.as_str())
        .collect();
    let mut resolve = |place: &str, reference: &str, level: RelationLevel| {
        let found = match level {
            RelationLevel::Mention => ids.contains(reference),
            RelationLevel::Concept => concepts.contains(reference),
        };
        if !found {
            let what = if level == RelationLevel::Concept { "a concept of a mention" } else { "a part" };
            let message = format!("expected {what} of the document, found {}", quote(reference));
            findings.add(Level::Error, "unresolved_reference", format!("{id}/{place}"), message);
        }
    };
    for relation in &ie.relations {
        resolve(&relation.id, &relation.arg1_id, relation.level);
        resolve(&relation.id, &relation.arg2_id, relation.level);
    }
    for relation in &ie.causal_relations {
        resolve(&relation.id, &relation.head_id, RelationLevel::Mention);
        resolve(&relation.id, &relation.tail_id, RelationLevel::Mention);
    }
    for event in &ie.events {
        event
            .arguments
            .iter()
            .for_each(|argument| resolve(&event.id, &argument.ref_id, RelationLevel::Mention));
    }
    for chain in &ie.coreferences {
        chain.entity_ids.iter().for_each(|entity| resolve(&chain.id, entity, RelationLevel::Mention));
    }
}

fn compare(expected: &Expected, counts: &Counts, findings: &mut Findings) {
    let mut number = |what: &str, expected: Option<u64>, found: u64| {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let message = format!("expected {expected} {what}, found {found}");
            findings.add(Level::Error, "split_size", "card", message);
        }
    };
    number("documents", expected.documents, counts.documents);
    number("items", expected.items, counts.items);
    let maps = [
        ("entities", &expected.entities, &counts.entities),
        ("relations", &expected.relations, &counts.relations),
        ("events", &expected.events, &counts.events),
        ("labels", &expected.labels, &counts.labels),
    ];
    for (what, expected, found) in maps {
        let Some(expected) = expected else { continue };
        let kinds: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
        for kind in kinds {
            let of = |map: &BTreeMap<String, u64>| map.get(kind).copied().unwrap_or(0);
            number(&format!("{what} {kind}"), Some(of(expected)), of(found));
        }
    }
}
