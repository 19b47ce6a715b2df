//! Conversations to token ids: one renderer for training and serving.
//!
//! A format is a Jinja template and a few facts about it. What a person or a document wrote is never taken for structure:
//! special strings inside the content of a message are encoded as ordinary text, whatever the template does with it.
//!
//! This module does not know how tokens are predicted or trained; it says which ids go in, and which of them are learned.

mod encode;
mod folder;
mod format;
mod render;
mod shield;
mod template;

use serde::{Deserialize, Serialize};

pub use format::ChatFormat;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the scene; at most the first message.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message that sets the scene.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: Role::System, content: content.into() }
    }

    /// A message of the person.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: Role::Assistant, content: content.into() }
    }
}

/// A conversation as the model sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The ids, `T`.
    pub ids: Vec<u32>,
    /// For each id whether it is a target of the loss: answers and the mark that ends each. All false when rendered to
    /// generate.
    pub learned: Vec<bool>,
}
