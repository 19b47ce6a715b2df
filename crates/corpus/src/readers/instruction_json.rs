//! JSON records of an instruction, an input and an output, in an array or one per line (BenTsao).
//!
//! ```text
//! {"instruction": "感冒了怎么办？", "input": "", "output": "注意休息，多喝水。"}
//! ```
//!
//! The question is the instruction, and the input on the next line where there is one. Specification: the Alpaca
//! format, <https://github.com/tatsu-lab/stanford_alpaca>.

use serde::Deserialize;

use super::json_records::{JsonRecords, Layout};
use super::{Reading, draft};
use crate::schema::{Content, Qa, QaKind};
use crate::source::Input;

/// Options of the format: field names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The instruction.
    pub instruction: String,
    /// The input, which may be empty.
    pub input: String,
    /// The output.
    pub output: String,
}

/// Reads instruction records into simple questions.
pub fn read(input: Input, options: &Options) -> Reading {
    let options = options.clone();
    Box::new(JsonRecords::new(input, Layout::List).map(move |record| {
        let record = record?;
        let mut question = record.text(&options.instruction)?;
        let more = record.text(&options.input)?;
        if !more.trim().is_empty() {
            question = format!("{question}\n{more}");
        }
        let answers = vec![record.text(&options.output)?];
        let qa = Qa { question, contexts: Vec::new(), choices: Vec::new(), answers, kind: QaKind::Simple };
        Ok(draft("", Content::Qa(qa)))
    }))
}
