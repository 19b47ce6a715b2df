//! JSON records with a text and subject-predicate-object triples without offsets (CMeIE).
//!
//! ```text
//! {"text": "感冒@可引起头痛。", "spo_list": [{"predicate": "临床表现", "subject": "感冒", "subject_type": "疾病",
//!   "object": {"@value": "头痛"}, "object_type": {"@value": "症状"}}]}
//! ```
//!
//! An entity of a document is a distinct string and type, without spans: the source gives none, and a string often
//! stands in the text more than once. A triple that the source repeats is read as often. With a schema file, a JSON
//! list of the allowed types after a `#` line, a triple outside it is an error of its record.
//! Specification: the README of CBLUE's CMeIE-V2 and its `53_schemas.json`.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use serde::Deserialize;
use serde_json::Value;

use super::json_records::{JsonRecord, JsonRecords, Layout};
use super::{Files, Reading, draft};
use crate::card::Role;
use crate::error::{Error, quote};
use crate::offsets::CharSpan;
use crate::schema::{Content, Document, Entity, Ie, Passage, Relation, RelationLevel};

/// Options of the format: field names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The text.
    pub text: String,
    /// The list of triples.
    pub triples: String,
    /// A triple's predicate.
    pub predicate: String,
    /// Its subject.
    pub subject: String,
    /// The subject's type.
    pub subject_type: String,
    /// Its object.
    pub object: String,
    /// The object's type.
    pub object_type: String,
    /// The key under which objects and their types stand, where they are not plain texts.
    #[serde(default)]
    pub object_value: Option<String>,
}

/// Subject type, predicate and object type.
type Allowed = FxHashSet<[String; 3]>;

/// Reads records with triples into documents of one passage each.
///
/// # Errors
/// Where a file cannot be opened or the schema cannot be read.
pub fn read(files: &Files, options: &Options) -> Result<Reading, Error> {
    let mut allowed: Option<Allowed> = None;
    for input in files.open(Role::Schema)? {
        let allowed = allowed.get_or_insert_default();
        for record in JsonRecords::new(input, Layout::List) {
            let record = record?;
            let [subject, predicate, object] =
                [&options.subject_type, &options.predicate, &options.object_type]
                    .map(|field| record.text(field));
            allowed.insert([subject?, predicate?, object?]);
        }
    }
    let allowed = Arc::new(allowed);
    files.each(|input| {
        let (options, allowed) = (options.clone(), allowed.clone());
        let records = JsonRecords::new(input, Layout::List);
        Box::new(records.map(move |record| document(&record?, &options, allowed.as_ref().as_ref())))
    })
}

fn document(record: &JsonRecord, options: &Options, allowed: Option<&Allowed>) -> Result<Document, Error> {
    let text = record.text(&options.text)?;
    let mut ie = Ie::default();
    for triple in record.list(&options.triples)? {
        let plain = |field: &str| match &triple[field] {
            Value::String(text) => Ok(text.clone()),
            other => Err(record.expected(&format!("a text `{field}` in every triple"), other)),
        };
        let object = |field: &str| match &options.object_value {
            None => plain(field),
            Some(key) => match &triple[field][key] {
                Value::String(text) => Ok(text.clone()),
                other => Err(record.expected(&format!("a text `{field}.{key}` in every triple"), other)),
            },
        };
        let kind = plain(&options.predicate)?;
        let (subject, subject_type) = (plain(&options.subject)?, plain(&options.subject_type)?);
        let (object, object_type) = (object(&options.object)?, object(&options.object_type)?);
        let types = [subject_type, kind, object_type];
        if allowed.is_some_and(|allowed| !allowed.contains(&types)) {
            let found = quote(&types.join(" - "));
            return Err(record.at.record(
                "a triple of the schema",
                found,
                "repair the triple or the schema file",
            ));
        }
        let [subject_type, kind, object_type] = types;
        let arg1_id = mention(&mut ie.entities, subject_type, subject);
        let arg2_id = mention(&mut ie.entities, object_type, object);
        ie.relations.push(Relation {
            id: format!("R{}", ie.relations.len() + 1),
            kind,
            arg1_id,
            arg2_id,
            level: RelationLevel::Mention,
            normalized: Vec::new(),
        });
    }
    let offsets = CharSpan::new(0, text.chars().count());
    ie.passages.push(Passage { id: "text".into(), kind: "sentence".into(), text, offsets });
    Ok(draft("", Content::Ie(ie)))
}

/// The id of the entity with this type and text, added where it is new.
fn mention(entities: &mut Vec<Entity>, kind: String, text: String) -> String {
    if let Some(entity) = entities.iter().find(|entity| entity.kind == kind && entity.text[0] == text) {
        return entity.id.clone();
    }
    let id = format!("T{}", entities.len() + 1);
    entities.push(Entity {
        id: id.clone(),
        kind,
        text: vec![text],
        offsets: Vec::new(),
        normalized: Vec::new(),
    });
    id
}
