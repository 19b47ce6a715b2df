//! JSON records with a text and entities at offsets (CMeEE and its like).
//!
//! ```text
//! [{"text": "患者头痛三天。", "entities": [{"start_idx": 2, "end_idx": 3, "type": "sym", "entity": "头痛"}]}]
//! ```
//!
//! Offsets count code points; whether the end is the last one or one past it is an option, because CMeEE's is
//! inclusive and most others' is not. Entities may nest. Specification: the README of CBLUE's CMeEE-V2.

use serde::Deserialize;
use serde_json::Value;

use super::json_records::{JsonRecord, JsonRecords, Layout};
use super::{Reading, draft};
use crate::error::Error;
use crate::offsets::{CharSpan, TextIndex};
use crate::schema::{Content, Document, Entity, Ie, Passage};
use crate::source::Input;

/// Options of the format: field names and the meaning of the end.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The document's id, if it has one.
    #[serde(default)]
    pub id: Option<String>,
    /// The text.
    pub text: String,
    /// The list of entities.
    pub entities: String,
    /// An entity's first code point.
    pub start: String,
    /// An entity's last code point, or one past it.
    pub end: String,
    /// Whether `end` is the last code point itself.
    pub end_inclusive: bool,
    /// An entity's type.
    pub kind: String,
    /// An entity's text, if it is given; otherwise it is what stands at the offsets (CMID).
    #[serde(default)]
    pub surface: Option<String>,
}

/// Reads records with entities into documents of one passage each.
pub fn read(input: Input, options: &Options) -> Reading {
    let options = options.clone();
    Box::new(JsonRecords::new(input, Layout::List).map(move |record| document(&record?, &options)))
}

fn document(record: &JsonRecord, options: &Options) -> Result<Document, Error> {
    let id = options.id.as_ref().map_or(Ok(String::new()), |field| record.text(field))?;
    let text = record.text(&options.text)?;
    let index = TextIndex::new(&text);
    let mut entities = Vec::new();
    for (number, entity) in record.list(&options.entities)?.iter().enumerate() {
        let place = |field: &str| {
            let found = &entity[field];
            let place = found.as_u64().or_else(|| found.as_str().and_then(|text| text.parse().ok()));
            place
                .and_then(|place| usize::try_from(place).ok())
                .ok_or_else(|| record.expected(&format!("a position `{field}` in every entity"), found))
        };
        let words = |field: &str| match &entity[field] {
            Value::String(text) => Ok(text.clone()),
            other => Err(record.expected(&format!("a text `{field}` in every entity"), other)),
        };
        let (start, end) = (place(&options.start)?, place(&options.end)?);
        let span = CharSpan::new(start, end.saturating_add(usize::from(options.end_inclusive)));
        let found = index.slice(span).ok_or_else(|| {
            record.at.record(
                format!("offsets within the {} characters of the text", index.chars()),
                format!("`{start}..{end}`"),
                "repair or remove the entity; check `end_inclusive` in the card",
            )
        })?;
        let surface = options.surface.as_ref().map_or_else(|| Ok(found.to_owned()), |field| words(field))?;
        entities.push(Entity {
            id: format!("T{}", number + 1),
            kind: words(&options.kind)?,
            text: vec![surface],
            offsets: vec![span],
            normalized: Vec::new(),
        });
    }
    let offsets = CharSpan::new(0, index.chars());
    let passages = vec![Passage { id: "text".into(), kind: "sentence".into(), text, offsets }];
    Ok(draft(id, Content::Ie(Ie { passages, entities, ..Ie::default() })))
}
