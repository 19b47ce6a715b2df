//! Plain text of source files, for pre-training: whatever a file says in sentences, without its annotation.
//!
//! A [`TextRecipe`] (TOML) lists files and how text is laid out in them ([`Layout`]); [`read_text`] yields one
//! [`TextDocument`] a record. Nothing is dropped here but records without text: leaks and duplicates are judged by
//! the caller, who knows the test sets.

mod archive;
mod collect;
mod layouts;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::schema::{Content, Document, Language};

pub use archive::decode_text;
pub use collect::{TextProgress, TextReport, TextSplit, collect, exclude};

/// Which files pre-training text comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecipe {
    /// Shortest text kept, in code points.
    pub min_chars: usize,
    /// Longest run kept as one document, in code points; longer texts are cut at paragraph or sentence ends.
    pub max_chars: usize,
    /// One document in this many goes to the held-out file.
    pub held_out_one_in: u64,
    /// Test and development sets no document of which may occur: by id, exact text, near-duplicate or containment.
    pub exclude: Vec<TextSource>,
    /// The files.
    pub source: Vec<TextSource>,
}

/// Some files of one dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSource {
    /// Dataset id: the folder under the source folder.
    pub dataset: String,
    /// Language of the text.
    pub language: Language,
    /// Files relative to the dataset's folder, `.gz` and `.tar.gz` read in place; empty for [`Layout::Card`].
    #[serde(default)]
    pub files: Vec<String>,
    /// How text is laid out in them.
    pub layout: Layout,
}

/// How text is laid out in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layout {
    /// PubTator: `ID|t|title` and `ID|a|abstract`.
    Pubtator {},
    /// Archive members whose names end so, each a document.
    Members {
        /// End of the name, such as `.txt`.
        suffix: String,
    },
    /// XML: each element `record` is a document; the text of its elements `fields` (`name`, or `name@attribute`
    /// for text kept in an attribute), in the order of the file, one a line.
    Xml {
        /// Element that holds a record.
        record: String,
        /// Elements inside it that hold text.
        fields: Vec<String>,
    },
    /// JSON: an array of records, an object of records, or one record a line; the strings under `fields`, at any
    /// depth, in the order of the file. With no `fields`, every string of the record.
    Json {
        /// Keys whose strings are text.
        #[serde(default)]
        fields: Vec<String>,
    },
    /// Separated values with a header line or without one; the text of the columns, one a line.
    Table {
        /// `,` or a tab.
        delimiter: char,
        /// Whether the first line names the columns.
        header: bool,
        /// Columns that hold text, from 0.
        columns: Vec<usize>,
    },
    /// Python literals, one a line: the quoted string after this key.
    Literal {
        /// The key, such as `text`.
        field: String,
    },
    /// One token a line, its tag behind a tab or space, an empty line between sentences; each sentence is a document.
    Tokens {},
    /// One PubMed id a line and no text; for what is excluded.
    Ids {},
    /// The documents of a split as the card's reader gives them.
    Card {
        /// Splits to take.
        splits: Vec<String>,
    },
}

/// A piece of running text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextDocument {
    /// Dataset id.
    pub dataset: String,
    /// Id in the source, or `file:record`.
    pub id: String,
    /// The PubMed id, where the source gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pmid: Option<String>,
    /// Language.
    pub language: Language,
    /// The text.
    pub text: String,
}

/// Why a text source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file cannot be opened or read.
    #[error("{path}: cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what its layout says.
    #[error("{path}: expected {expected}, found {found}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// What the layout asks for.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The catalogue cannot give the documents.
    #[error(transparent)]
    Corpus(#[from] crate::Error),
    /// The recipe cannot be read.
    #[error("{path}: {message}")]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl TextRecipe {
    /// Loads a recipe; unknown keys are refused.
    ///
    /// # Errors
    /// When the file cannot be read or is not a text recipe.
    pub fn load(path: &Path) -> Result<Self, TextError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| TextError::Io { path: path.into(), source })?;
        toml::from_str(&text).map_err(|error| TextError::Recipe {
            path: path.into(),
            message: error.to_string().trim().to_owned(),
        })
    }
}

/// Reads the texts of one source that is laid out in files ([`Layout::Card`] is read through the catalogue).
///
/// # Errors
/// When a file is missing, damaged, or not what its layout says.
pub fn read_text(source: &TextSource, folder: &Path) -> Result<Vec<TextDocument>, TextError> {
    let mut documents = Vec::new();
    for file in &source.files {
        let path = folder.join(&source.dataset).join(file);
        layouts::read(source, file, &path, &mut documents)?;
    }
    Ok(documents)
}

/// The running text of a document of the schema: what a person would read, without annotation.
pub fn text_of(document: &Document) -> String {
    let lines = |parts: &[&str]| {
        parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
    };
    match &document.content {
        Content::Ie(ie) => ie.text(),
        Content::Tc(tc) => tc.text.clone(),
        Content::Qa(qa) => {
            let mut parts: Vec<&str> = vec![&qa.question];
            parts.extend(qa.contexts.iter().map(String::as_str));
            if qa.choices.is_empty() {
                parts.extend(qa.answers.iter().map(String::as_str));
            }
            lines(&parts)
        }
        Content::Mrd(mrd) => {
            let mut parts: Vec<&str> = mrd.context.iter().map(String::as_str).collect();
            parts.extend(mrd.utterances.iter().map(|utterance| utterance.text.as_str()));
            lines(&parts)
        }
        Content::Mt(mt) => lines(&[&mt.source, &mt.target]),
        Content::Tp(tp) => lines(&[&tp.text_1, &tp.text_2]),
        Content::Tt(tt) => lines(&[&tt.source, &tt.target]),
    }
}

/// Cuts a text into pieces of at most `max_chars` code points, at paragraph ends, else at sentence ends, else at
/// spaces, else anywhere.
pub fn cut(text: &str, max_chars: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text.trim();
    while rest.chars().count() > max_chars {
        let limit = rest.char_indices().nth(max_chars).map_or(rest.len(), |(byte, _)| byte);
        let head = &rest[..limit];
        let at = (head.rfind('\n').map(|at| at + 1))
            .or_else(|| head.rfind(['。', '！', '？']).map(|at| at + '。'.len_utf8()))
            .or_else(|| head.rfind(". ").map(|at| at + 2))
            .or_else(|| head.rfind(' ').map(|at| at + 1))
            .filter(|&at| at > 0)
            .unwrap_or(limit);
        pieces.push(rest[..at].trim_end());
        rest = rest[at..].trim_start();
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_every_character_and_the_limit() {
        let text = "血压高。".repeat(30) + "\n" + &"Blood pressure was high. ".repeat(20);
        let pieces = cut(&text, 50);
        assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.chars().count() <= 50));
        let squeeze = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        assert_eq!(squeeze(&pieces.concat()), squeeze(&text));
    }
}
