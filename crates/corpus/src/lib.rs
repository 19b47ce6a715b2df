//! Corpora: the schema, the readers from source formats to it, the catalogue of cards, the checks.
//!
//! This crate knows nothing of prompts, tokens or models.
#![forbid(unsafe_code)]

pub mod offsets;
pub mod plain_text;
pub mod schema;
