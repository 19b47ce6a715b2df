//! Tables of text pairs with a label, by column number (MQP).
//!
//! ```text
//! 1,Can I drink with aspirin?,Is alcohol safe with aspirin?,1
//! 1,Can I drink with aspirin?,How is aspirin made?,0
//! ```
//!
//! Specification: RFC 4180; columns count from 0.

use serde::Deserialize;

use super::labelled_table::rows;
use super::{Reading, draft};
use crate::schema::{Content, Tp, TpKind};
use crate::source::Input;

/// Options of the format.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// What separates columns: one ASCII character.
    pub delimiter: char,
    /// Whether quotation marks around a field are part of the format.
    pub quoted: bool,
    /// Whether the first row names the columns.
    pub heading: bool,
    /// The column of the first text.
    pub text_1: usize,
    /// The column of the second text.
    pub text_2: usize,
    /// The column of the label.
    pub label: usize,
    /// What the label says.
    pub kind: TpKind,
}

/// Reads the rows of a table into documents.
pub fn read(input: Input, options: &Options) -> Reading {
    let options = options.clone();
    Box::new(rows(input, options.delimiter, options.quoted, options.heading).map(move |row| {
        let (at, _, fields) = row?;
        let column = |number: usize| {
            fields.get(number).cloned().ok_or_else(|| {
                let expected = format!("a column {number}, counted from 0");
                at.record(expected, format!("{} columns", fields.len()), "check the columns of the card")
            })
        };
        let tp = Tp {
            text_1: column(options.text_1)?,
            text_2: column(options.text_2)?,
            label: column(options.label)?.trim().to_owned(),
            kind: options.kind,
        };
        Ok(draft("", Content::Tp(tp)))
    }))
}
