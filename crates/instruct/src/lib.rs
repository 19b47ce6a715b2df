//! A document becomes a conversation; a reply becomes a prediction.
//!
//! The way down: a [`Question`] is cut from a document, a [`Template`] words it,
//! its [`AnswerSpec`] renders the answer that is learned; [`build()`] does so for a whole
//! [`MixRecipe`] and writes [`Conversation`]s. The way back: the same
//! [`AnswerSpec`] parses a reply, so what is asked, what is learned and what is read cannot drift apart.
//!
//! For a classifier in place of a language model: [`tagging`] turns entities into a label for each token and back,
//! [`Classified`] says which texts have which labels.
//!
//! This crate knows nothing of vocabularies, models or scores.
#![forbid(unsafe_code)]

pub mod answers;
mod atomic;
pub mod build;
pub mod classified;
pub mod conversation;
mod draw;
mod error;
pub mod labels;
pub mod mix;
pub mod projection;
pub mod prompt;
pub mod question;
pub mod roundtrip;
pub mod show;
pub mod source;
mod spool;
pub mod tagging;
pub mod template;
pub mod units;

pub use answers::{Answer, AnswerFormat, AnswerSpec, Triple, Unparsable, Unrenderable};
pub use build::{BuildReport, build};
pub use classified::Classified;
pub use conversation::{Conversation, ConversationReader, ConversationWriter, Turn};
pub use error::Error;
pub use labels::{DatasetLabels, LabelName, LabelNames};
pub use mix::MixRecipe;
pub use prompt::{Ask, AskOptions, Asked, Prompt, PromptBuilder, Skip};
pub use question::{PromptTask, Question};
pub use source::{CardSource, DocumentSource};
pub use tagging::{Mention, MentionCounts, TagSet};
pub use template::{Template, Templates};
pub use units::Unit;
