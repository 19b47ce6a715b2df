//! What can go wrong in inference.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
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
    /// A prompt leaves no room for a reply.
    #[error("the prompt has {tokens} tokens, but the model holds {limit}; shorten the text or split it")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions the model has.
        limit: usize,
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
}
