//! Corpora: the schema, the readers from source formats to it, the catalogue of cards, the checks.
//!
//! This crate knows nothing of prompts, tokens or models.
//!
//! ```no_run
//! use std::path::Path;
//! use taiyi_corpus::{Catalog, read};
//!
//! let catalog = Catalog::embedded();
//! let card = catalog.card("bc5cdr")?;
//! for document in read(card, Some("pubtator"), "test", Path::new("../shared/data"))? {
//!     let document = document?;
//! }
//! # Ok::<(), taiyi_corpus::Error>(())
//! ```
#![forbid(unsafe_code)]
// Several formats are tab-separated, and their samples in the docs must show it.
#![allow(clippy::tabs_in_doc_comments)]

pub mod card;
pub mod catalog;
pub mod checks;
pub mod error;
pub mod leak;
pub mod offsets;
pub mod parquet;
pub mod plain_text;
pub mod readers;
pub mod schema;
pub mod source;
pub mod write;
pub mod writers;

pub use card::Card;
pub use catalog::Catalog;
pub use checks::{CheckReport, check};
pub use error::Error;
pub use leak::LeakIndex;
pub use readers::{Documents, read, read_from};
pub use write::{Manifest, OutputFormat, Progress, build};
