//! Inference: generation, chat, extraction.
//!
//! This crate does not know how replies are scored, nor who listens.
#![forbid(unsafe_code)]

pub mod chat;
mod error;
pub mod extract;
pub mod generate;
pub mod input;
mod language;
pub mod model;
pub mod sampling;

pub use chat::{ChatOptions, ChatSession};
pub use error::InferError;
pub use extract::{ExtractOptions, ExtractReport, Extracted, Extractor, ModelReplier, Replier};
pub use generate::{BatchOptions, Event, Finish, Generation, Request, generate};
pub use input::{Found, InputDocuments, InputFile, InputFormat};
pub use language::language_of;
pub use model::{LoadOptions, Reply, ReplyModel, ReplyOptions, ReplyProgress};
pub use sampling::{Sampler, Sampling};
