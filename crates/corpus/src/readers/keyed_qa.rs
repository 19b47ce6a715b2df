//! A JSON object of multiple-choice questions keyed by id (PubMedQA).
//!
//! ```text
//! {"1234567": {"QUESTION": "Does it?", "CONTEXTS": ["It was seen."], "final_decision": "yes", "LONG_ANSWER": "It does."}}
//! ```
//!
//! Which questions belong to a split is said by a file beside it: a JSON object whose keys are ids, or a text with
//! one id per line. Fields that would give the answer away (a long answer, predictions) are not read.
//! Specification: <https://github.com/pubmedqa/pubmedqa>.

use rustc_hash::FxHashSet;
use serde::Deserialize;
use serde_json::Value;

use super::json_records::{JsonRecord, JsonRecords, Layout};
use super::{Files, Reading, draft};
use crate::card::Role;
use crate::error::Error;
use crate::schema::{Content, Document, Qa, QaKind};
use crate::source::Input;

/// Options of the format: field names and the choices.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The question.
    pub question: String,
    /// The list of contexts.
    pub contexts: String,
    /// The correct choice.
    pub answer: String,
    /// The choices of every question, in order.
    pub choices: Vec<String>,
}

/// Reads the questions of a split.
///
/// # Errors
/// Where a file cannot be opened or a list of ids cannot be read.
pub fn read(files: &Files, options: &Options) -> Result<Reading, Error> {
    let include = ids(files, Role::Include)?;
    let exclude = ids(files, Role::Exclude)?.unwrap_or_default();
    let options = options.clone();
    files.each(move |input| {
        let (include, exclude, options) = (include.clone(), exclude.clone(), options.clone());
        let records = JsonRecords::new(input, Layout::Keyed).filter(move |record| match record {
            Ok(JsonRecord { key: Some(key), .. }) => {
                include.as_ref().is_none_or(|ids| ids.contains(key)) && !exclude.contains(key)
            }
            _ => true,
        });
        Box::new(records.map(move |record| document(&record?, &options)))
    })
}

/// The ids listed in the files of a role; `None` where the split has no such file.
pub(crate) fn ids(files: &Files, role: Role) -> Result<Option<FxHashSet<String>>, Error> {
    let inputs = files.open(role)?;
    if inputs.is_empty() {
        return Ok(None);
    }
    let mut ids = FxHashSet::default();
    for input in inputs {
        if input.name.trim_end_matches(".gz").ends_with(".json") {
            for record in JsonRecords::new(input, Layout::Keyed) {
                ids.extend(record?.key);
            }
        } else {
            list(input, &mut ids)?;
        }
    }
    Ok(Some(ids))
}

/// Ids one per line; of a table, the first column, without its heading.
fn list(input: Input, ids: &mut FxHashSet<String>) -> Result<(), Error> {
    for line in input.lines() {
        let (number, line) = line?;
        let id = line.split('\t').next().unwrap_or_default().trim();
        let heading = number == 1 && line.contains('\t') && !id.bytes().any(|byte| byte.is_ascii_digit());
        if !id.is_empty() && !heading {
            ids.insert(id.to_owned());
        }
    }
    Ok(())
}

fn document(record: &JsonRecord, options: &Options) -> Result<Document, Error> {
    let mut contexts = Vec::new();
    for context in record.list(&options.contexts)? {
        match context {
            Value::String(text) => contexts.push(text.clone()),
            other => return Err(record.expected(&format!("texts in `{}`", options.contexts), other)),
        }
    }
    let answer = record.text(&options.answer)?;
    if !options.choices.contains(&answer) {
        let choices = options.choices.join(", ");
        return Err(
            record.expected(&format!("one of {choices} as `{}`", options.answer), &Value::from(answer))
        );
    }
    let qa = Qa {
        question: record.text(&options.question)?,
        contexts,
        choices: options.choices.clone(),
        answers: vec![answer],
        kind: QaKind::MultipleChoice,
    };
    Ok(draft(record.key.clone().unwrap_or_default(), Content::Qa(qa)))
}
