//! JSON records with two texts and a label, in an array or one per line (CHIP-STS, KUAKE-QQR).
//!
//! ```text
//! [{"id": "s1", "query1": "头痛怎么办", "query2": "头疼如何处理", "label": "2"}]
//! ```
//!
//! Specification: the READMEs of CBLUE's CHIP-STS and KUAKE-QQR.

use serde::Deserialize;

use super::json_records::{JsonRecord, JsonRecords, Layout};
use super::{Reading, draft};
use crate::error::Error;
use crate::schema::{Content, Document, Tp, TpKind};
use crate::source::Input;

/// Options of the format: field names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The record's id, if it has one.
    #[serde(default)]
    pub id: Option<String>,
    /// The first text.
    pub text_1: String,
    /// The second text.
    pub text_2: String,
    /// The label.
    pub label: String,
    /// What the label says.
    pub kind: TpKind,
}

/// Reads records of pairs into documents.
pub fn read(input: Input, options: &Options) -> Reading {
    let options = options.clone();
    Box::new(JsonRecords::new(input, Layout::List).map(move |record| document(&record?, &options)))
}

fn document(record: &JsonRecord, options: &Options) -> Result<Document, Error> {
    let id = options.id.as_ref().map_or(Ok(String::new()), |field| record.text(field))?;
    let tp = Tp {
        text_1: record.text(&options.text_1)?,
        text_2: record.text(&options.text_2)?,
        label: record.text(&options.label)?,
        kind: options.kind,
    };
    Ok(draft(id, Content::Tp(tp)))
}
