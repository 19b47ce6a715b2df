//! JSON records with a text and a label, in an array or one per line (KUAKE-QIC, TCM-SD).
//!
//! ```text
//! [{"id": "s1", "query": "头痛挂什么科", "label": "就医建议"}]
//! ```
//!
//! The text may be spread over several fields; they are joined by a line break. A label field that holds a list
//! makes the record multi-label. Specification: the READMEs of CBLUE's KUAKE-QIC and of TCM-SD.

use serde::Deserialize;
use serde_json::Value;

use super::json_records::{JsonRecord, JsonRecords, Layout};
use super::{Reading, draft};
use crate::error::Error;
use crate::schema::{Content, Document, Tc};
use crate::source::Input;

/// Options of the format: field names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The record's id, if it has one.
    #[serde(default)]
    pub id: Option<String>,
    /// The fields of the text, in order.
    pub text: Vec<String>,
    /// The label, or the list of labels.
    pub label: String,
    /// Characters around a label that do not belong to it: CMID writes `"'病症'"`.
    #[serde(default)]
    pub strip: String,
}

/// Reads labelled records into documents.
pub fn read(input: Input, options: &Options) -> Reading {
    let options = options.clone();
    Box::new(JsonRecords::new(input, Layout::List).map(move |record| document(&record?, &options)))
}

fn document(record: &JsonRecord, options: &Options) -> Result<Document, Error> {
    let id = options.id.as_ref().map_or(Ok(String::new()), |field| record.text(field))?;
    let parts = options.text.iter().map(|field| record.text(field)).collect::<Result<Vec<_>, _>>()?;
    let bare = |label: String| match options.strip.as_str() {
        "" => label,
        strip => label.trim_matches(|c| strip.contains(c)).to_owned(),
    };
    let labels = match &record.value[&options.label] {
        Value::Array(labels) => {
            let label = |label: &Value| match label {
                Value::String(text) => Ok(bare(text.clone())),
                other => Err(record.expected(&format!("texts in `{}`", options.label), other)),
            };
            labels.iter().map(label).collect::<Result<Vec<_>, _>>()?
        }
        _ => vec![bare(record.text(&options.label)?)],
    };
    Ok(draft(id, Content::Tc(Tc { text: parts.join("\n"), labels })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_lose_the_quotation_marks_that_the_card_names() {
        let mut options = Options { id: None, text: vec!["t".into()], label: "l".into(), strip: "'".into() };
        let labels = |options: &Options| -> Vec<Vec<String>> {
            let input = Input::from_bytes(
                "x.json",
                concat!(r#"{"t": "a", "l": ["'b'", "c'd"]}"#, "\n", r#"{"t": "a", "l": "'b'"}"#),
            );
            let documents = read(input, options).map(|document| match document.unwrap().content {
                Content::Tc(tc) => tc.labels,
                other => panic!("{other:?}"),
            });
            documents.collect()
        };
        assert_eq!(labels(&options), [vec!["b", "c'd"], vec!["b"]]);
        options.strip.clear();
        assert_eq!(labels(&options), [vec!["'b'", "c'd"], vec!["'b'"]]);
    }
}
