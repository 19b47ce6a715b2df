//! What can go wrong between files and conversations. A reply that does not parse is no error: see
//! [`Unparsable`](crate::answers::Unparsable).

use std::path::{Path, PathBuf};

/// Everything this crate reports. Each variant says where, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened, read, written or renamed.
    #[error("{}: could not {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `open`, `read`, `write`, `rename`.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a conversation file is no conversation.
    #[error("{}:{line}: expected a conversation {{conversation_id, category, language, conversation}}, found: {found}", path.display())]
    Conversation {
        /// The file.
        path: PathBuf,
        /// 1-based line number.
        line: u64,
        /// What is wrong with it.
        found: String,
    },
    /// A template file is not what it must be.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// What the file must hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A recipe of a mix is not what it must be.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What the recipe must hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A source file is broken or of another format than its card says.
    #[error(transparent)]
    Corpus(#[from] taiyi_corpus::Error),
    /// A file of what must not be learned is broken or of another layout than the recipe says.
    #[error(transparent)]
    Text(#[from] taiyi_corpus::plain_text::TextError),
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
