//! JSON Lines in this crate's own schema: what [`crate::write`] writes and what the shipped samples are in.
//!
//! ```text
//! {"id":"1","document_id":"1","dataset":"made_up","split":"test","language":"zh","schema":"TC","text":"头痛","labels":["症状"]}
//! ```
//!
//! Specification: [`crate::schema`].

use serde::Deserialize;

use super::Reading;
use crate::error::{At, Error};
use crate::schema::Document;
use crate::source::Input;

/// Options of the format: none.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {}

/// Reads documents, one per line; blank lines are skipped.
pub fn read(input: Input) -> Reading {
    let name = input.name.clone();
    Box::new(input.lines().filter_map(move |line| match line {
        Ok((_, line)) if line.trim().is_empty() => None,
        Ok((number, line)) => Some(parse(&line).map_err(|found| {
            At::new(&name, number).record(
                "a document in the schema of taiyi-corpus",
                found,
                "see crates/corpus/src/schema.rs for the fields",
            )
        })),
        Err(error) => Some(Err(error)),
    }))
}

fn parse(line: &str) -> Result<Document, String> {
    serde_json::from_str(line).map_err(|error| error.to_string())
}

/// Reads documents from text at hand; `name` is for messages.
pub fn from_text(name: &str, text: &str) -> impl Iterator<Item = Result<Document, Error>> + use<> {
    read(Input::from_bytes(name, text))
}
