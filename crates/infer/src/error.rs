//! What can go wrong in inference.

use std::path::PathBuf;

/// An error of this crate: where, what was expected, what was found, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// A sampling value is outside its range.
    #[error("{what}: expected {expected}, found {found}")]
    Sampling {
        /// Which value.
        what: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// A prompt without a token.
    #[error("prompt {request}: expected at least one token, found none")]
    EmptyPrompt {
        /// Which prompt, from 0.
        request: usize,
    },
    /// A prompt leaves no room for a reply.
    #[error(
        "prompt {request}: expected fewer than the {limit} tokens that the model holds, found {tokens}; shorten the text or split it"
    )]
    PromptTooLong {
        /// Which prompt, from 0.
        request: usize,
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions the model has.
        limit: usize,
    },
    /// A grammar that the engine cannot read, or that is too large for it.
    #[error("the grammar of a reply was refused: {reason}")]
    Grammar {
        /// What the engine said.
        reason: String,
    },
    /// A path that no documents can be read from.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Input {
        /// The path.
        path: PathBuf,
        /// What can be read.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A replier gave another number of replies than it was asked for.
    #[error("expected {asked} replies, found {found}; this is a mistake of the replier")]
    Replies {
        /// Prompts.
        asked: usize,
        /// Replies.
        found: usize,
    },
    /// An encoder whose head is for something else.
    #[error("the encoder's head is for {found}; expected one for {expected}")]
    Head {
        /// What is wanted.
        expected: &'static str,
        /// What the encoder has.
        found: String,
    },
    /// An encoder has no label for an entity type.
    #[error("the encoder has no label for the type `{asked}`; it has {known}")]
    UnknownType {
        /// The type.
        asked: String,
        /// The types there are.
        known: String,
    },
    /// A replier that is no local model could not go on.
    #[error("the replier gave up: {reason}")]
    Replier {
        /// What it said.
        reason: String,
    },
    /// The engine refused.
    #[error(transparent)]
    Model(#[from] taiyi_model::Error),
    /// The tokenizer or the chat format refused.
    #[error(transparent)]
    Tokenizer(#[from] taiyi_model::tokenizer::TokenizerError),
    /// A prompt cannot be made.
    #[error(transparent)]
    Instruct(#[from] taiyi_instruct::Error),
    /// Documents cannot be read or written.
    #[error(transparent)]
    Corpus(#[from] taiyi_corpus::Error),
}
