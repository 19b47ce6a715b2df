//! Inference: generation, constrained decoding, chat, extraction; labels by an encoder.
//!
//! This crate does not know how replies are scored, nor who listens.
#![forbid(unsafe_code)]

pub mod chat;
pub mod constraint;
mod error;
pub mod extract;
pub mod generate;
pub mod input;
pub mod labels;
mod language;
pub mod model;
pub mod sampling;

pub use chat::{ChatOptions, ChatSession};
pub use constraint::{Constraint, Grammars};
pub use error::InferError;
pub use extract::{
    ExtractOptions, ExtractReport, Extracted, Extractor, LabelExtractor, ModelReplier, Replier, TextPrompt,
};
pub use generate::{BatchOptions, Event, Finish, Generation, Request, generate};
pub use input::{Found, InputDocuments, InputFile, InputFormat};
pub use labels::{LabelModel, TextMention, TextMentions};
pub use language::language_of;
pub use model::{LoadOptions, Prompt, Reply, ReplyModel, ReplyOptions, ReplyProgress};
pub use sampling::{Sampler, Sampling};
