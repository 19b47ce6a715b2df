//! The crate's errors: each says where, what was expected, what was found and what to do, in one line.

use std::path::PathBuf;

/// What went wrong while reading, checking or writing a corpus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened.
    #[error("{path}: expected a readable file, found {source}; check --source and the file list of the card")]
    Open {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Reading stopped in the middle of a file: a truncated archive, a broken disk. The rest of the file is lost.
    #[error(
        "{file}:{line}: expected more data, found {source}; fetch the file again and compare its sha256 with the card"
    )]
    Read {
        /// The file.
        file: String,
        /// The line reading had reached, from 1; 0 where lines mean nothing.
        line: usize,
        /// What the system or the decompressor said.
        source: std::io::Error,
    },
    /// Bytes that are not text in the card's encoding.
    #[error(
        "{file}:{line}: expected {expected} text, found byte 0x{byte:02X} at byte {column} of the line; {hint}"
    )]
    Encoding {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The encoding the card names.
        expected: &'static str,
        /// The first byte that does not belong.
        byte: u8,
        /// Its position in the line, from 1.
        column: usize,
        /// What to do.
        hint: &'static str,
        /// Whether the whole file is in another encoding, so that reading on is pointless.
        whole_file: bool,
    },
    /// A record that does not follow its format. The rest of the file can be read.
    #[error("{file}:{line}: expected {expected}, found {found}; {hint}")]
    Record {
        /// The file.
        file: String,
        /// The line the record starts on, or the bad line itself, from 1.
        line: usize,
        /// What the format asks for.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do.
        hint: String,
    },
    /// A file that does not follow its format from some place on. The rest of the file is lost.
    #[error("{file}:{line}: expected {expected}, found {found}; {hint}")]
    Format {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What the format asks for.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do.
        hint: String,
    },
    /// A card that is not one.
    #[error("{card}: expected a dataset card, found {found}; see the fields in data/datasets/bc5cdr.toml")]
    Card {
        /// The card's file or id.
        card: String,
        /// What is wrong with it.
        found: String,
    },
    /// No such dataset, variant or split.
    #[error("{what} `{found}`: expected one of {known}; see `taiyi corpus list`")]
    Unknown {
        /// `dataset`, `variant of bc5cdr`, `split of bc5cdr/pubtator`.
        what: String,
        /// What was asked for.
        found: String,
        /// What there is.
        known: String,
    },
    /// Output could not be written; nothing half-written is left.
    #[error("{}: expected to write, found {source}; check space and permissions", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A Parquet file could not be written or read.
    #[error("{}: expected Parquet in the layout of this crate, found {found}; build it again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the Parquet library or the layout check said.
        found: String,
    },
}

impl Error {
    /// Whether only one record is lost, so that the rest of the file can be read.
    pub fn is_record(&self) -> bool {
        match self {
            Self::Record { .. } => true,
            Self::Encoding { whole_file, .. } => !whole_file,
            _ => false,
        }
    }
}

/// Where a reader stands: builds the errors of one file.
#[derive(Clone, Debug)]
pub(crate) struct At {
    pub(crate) file: String,
    pub(crate) line: usize,
}

impl At {
    pub(crate) fn new(file: &str, line: usize) -> Self {
        Self { file: file.to_owned(), line }
    }

    /// A bad record; the rest can be read.
    pub(crate) fn record(&self, expected: impl Into<String>, found: impl Into<String>, hint: &str) -> Error {
        Error::Record {
            file: self.file.clone(),
            line: self.line,
            expected: one_line(expected.into()),
            found: one_line(found.into()),
            hint: hint.to_owned(),
        }
    }

    /// A file that cannot be read on.
    pub(crate) fn format(&self, expected: impl Into<String>, found: impl Into<String>, hint: &str) -> Error {
        Error::Format {
            file: self.file.clone(),
            line: self.line,
            expected: one_line(expected.into()),
            found: one_line(found.into()),
            hint: hint.to_owned(),
        }
    }
}

/// Ids and field names come from the file and may hold anything; an error stays one line.
fn one_line(text: String) -> String {
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

/// A short quotation of what was found, in backquotes, so that an error stays one line.
pub(crate) fn quote(text: &str) -> String {
    const LIMIT: usize = 60;
    let mut short: String = text.chars().take(LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LIMIT).is_some() {
        short.push('…');
    }
    format!("`{short}`")
}
