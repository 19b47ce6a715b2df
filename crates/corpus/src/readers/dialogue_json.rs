//! A JSON array of dialogues, each an array of utterances that start with their speaker (COVID-Dialogue, Chinese).
//!
//! ```text
//! [["病人：医生您好，我头痛。", "医生：多久了？", "病人：三天。", "医生：建议来院检查。"]]
//! ```
//!
//! Specification: <https://github.com/UCSD-AI4H/COVID-Dialogue>.

use serde::Deserialize;
use serde_json::Value;

use super::json_records::{JsonRecords, Layout};
use super::{Reading, draft};
use crate::schema::{Content, Mrd, Speaker, Utterance};
use crate::source::Input;

/// Options of the format: what utterances start with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The mark of the patient, with its colon.
    pub patient: String,
    /// The mark of the doctor, with its colon.
    pub doctor: String,
}

/// Reads dialogues into documents.
pub fn read(input: Input, options: &Options) -> Reading {
    let options = options.clone();
    Box::new(JsonRecords::new(input, Layout::List).map(move |record| {
        let record = record?;
        let Value::Array(said) = &record.value else {
            return Err(record.expected("a dialogue: an array of utterances", &record.value));
        };
        let utterance = |said: &Value| {
            let text = said.as_str().unwrap_or_default();
            let (speaker, text) =
                match (text.strip_prefix(&options.patient), text.strip_prefix(&options.doctor)) {
                    (Some(text), _) => (Speaker::Patient, text),
                    (_, Some(text)) => (Speaker::Doctor, text),
                    _ => {
                        let expected = format!(
                            "an utterance that starts with {} or {}",
                            options.patient, options.doctor
                        );
                        return Err(record.expected(&expected, said));
                    }
                };
            Ok(Utterance { speaker, text: text.trim().to_owned() })
        };
        let utterances = said.iter().map(utterance).collect::<Result<Vec<_>, _>>()?;
        Ok(draft("", Content::Mrd(Mrd { context: None, utterances })))
    }))
}
