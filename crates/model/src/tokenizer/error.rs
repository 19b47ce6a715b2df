//! What can go wrong with tokenizers and chat formats.

use std::path::{Path, PathBuf};

/// Everything that can go wrong while a tokenizer or a chat format is read, trained, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The folder holds no tokenizer.
    #[error("{}: no tokenizer: expected tokenizer.json, a *.tiktoken rank list, tokenizer.model, ice_text.model, vocab.txt, vocab.json with merges.txt, or dict.txt with bpecodes", path.display())]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
    },
    /// A file that should be JSON of a certain shape is not.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        source: serde_json::Error,
    },
    /// A file breaks its own format.
    #[error("{}: {place}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file: a line, a token, a merge.
        place: String,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file is of a kind that is not read.
    #[error("{}: {what} is not supported: {hint}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A GGUF file breaks its format.
    #[error(transparent)]
    Weights(Box<crate::error::Error>),
    /// A pre-tokenisation pattern is not a regular expression this crate can run.
    #[error("{}: pre-tokenisation pattern: {reason}", path.display())]
    Pattern {
        /// The file.
        path: PathBuf,
        /// What the regular-expression compiler said.
        reason: String,
    },
    /// The tokenizer does not belong to the model.
    #[error("the tokenizer has {tokenizer} ids but the model has {model} embedding rows: {hint}")]
    DoesNotFit {
        /// One past the largest id of the tokenizer.
        tokenizer: usize,
        /// Rows of the model's embedding.
        model: usize,
        /// What is probably wrong.
        hint: &'static str,
    },
    /// The tokenizer cannot say which bytes of a text its tokens stand for.
    #[error(
        "this tokenizer does not say where its tokens stand in the text; encoders need WordPiece or byte-level BPE, and text in its normalisation form"
    )]
    NoOffsets,
    /// The tokenizer does not say how two texts are put together.
    #[error(
        "this tokenizer does not say how two texts are put together; pairs need the tokenizer of an encoder"
    )]
    NoFrame,
    /// The trainer was asked for something impossible.
    #[error("tokenizer training: {reason}")]
    Training {
        /// What is wrong and what to do.
        reason: String,
    },
    /// No chat format goes by this name.
    #[error("no chat format is called `{name}`: known are {known}")]
    UnknownFormat {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A chat format needs a special token that the tokenizer does not have.
    #[error("chat format `{format}` needs the special token `{token}`, which the tokenizer does not have")]
    NoSpecial {
        /// The format.
        format: String,
        /// The token.
        token: String,
    },
    /// A chat template does not compile or refuses the conversation.
    #[error("chat template `{format}`: {reason}")]
    Template {
        /// The format.
        format: String,
        /// What the template engine or the template said.
        reason: String,
    },
    /// A conversation cannot be laid out for training because the template does not show where an answer starts and ends.
    #[error("chat template `{format}`: cannot tell which tokens of answer {turn} are learned: {reason}")]
    NotLearnable {
        /// The format.
        format: String,
        /// Which message of the conversation, from 0.
        turn: usize,
        /// Why not.
        reason: String,
    },
}

impl TokenizerError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn weights(error: crate::error::Error) -> Self {
        Self::Weights(Box::new(error))
    }

    pub(crate) fn json(path: &Path, source: serde_json::Error) -> Self {
        Self::Json { path: path.to_owned(), source }
    }

    pub(crate) fn malformed(
        path: &Path,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            place: place.into(),
            expected: expected.into(),
            found: excerpt(&found.into()),
        }
    }
}

/// Shortens foreign text to what fits one line of a message.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}
