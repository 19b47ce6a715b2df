//! Writing documents in the formats that annotation tools and other programs read.
//!
//! A format that cannot hold something of a document says so: writers count what they changed or left out in
//! [`Losses`]. Every file appears whole or not at all.

pub mod brat;
pub mod pubtator;

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::error::Error;
use crate::offsets::CharSpan;
use crate::schema::{Content, Document};

/// A format that extracted documents are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DocumentFormat {
    /// One file with a document a line, in the schema of this crate; nothing is lost.
    #[default]
    Jsonl,
    /// One file in the format of [`pubtator`].
    Pubtator,
    /// A folder with two files a document, in the format of [`brat`].
    Brat,
}

/// What a format could not hold as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Characters of texts, mentions and names (line breaks, tabs, other control characters) written as blanks.
    pub characters: usize,
    /// Discontinuous mentions written as one, from their first character to their last.
    pub discontinuous: usize,
    /// Entities left out because they have no place in the text.
    pub unplaced: usize,
    /// Relations, events, coreferences and links to terminologies left out, or of which a part was.
    pub left_out: usize,
    /// Names of types, roles and documents spelt otherwise because the format does not allow their characters.
    pub renamed: usize,
    /// Documents left out because they are no extraction documents.
    pub documents: usize,
}

impl Losses {
    /// Whether everything was written as it was.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.characters += other.characters;
        self.discontinuous += other.discontinuous;
        self.unplaced += other.unplaced;
        self.left_out += other.left_out;
        self.renamed += other.renamed;
        self.documents += other.documents;
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Documents.
    pub documents: usize,
    /// What the format could not hold.
    pub losses: Losses,
}

/// Writes documents one at a time. A single file appears with [`DocumentWriter::finish`]; of a BRAT folder each document is
/// complete once it is written, the annotations after the text.
pub struct DocumentWriter {
    path: PathBuf,
    written: Written,
    target: Target,
}

enum Target {
    Jsonl(BufWriter<NamedTempFile>),
    Pubtator(BufWriter<NamedTempFile>),
    Brat { names: HashSet<String>, types: brat::Types },
}

impl DocumentWriter {
    /// Starts writing to `path`: a file, or for BRAT a folder, which is made where it is missing.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn create(path: &Path, format: DocumentFormat) -> Result<Self, Error> {
        let file = || Ok(BufWriter::new(temporary_beside(path).map_err(failed(path))?));
        let target = match format {
            DocumentFormat::Jsonl => Target::Jsonl(file()?),
            DocumentFormat::Pubtator => Target::Pubtator(file()?),
            DocumentFormat::Brat => {
                std::fs::create_dir_all(path).map_err(failed(path))?;
                Target::Brat { names: HashSet::new(), types: brat::Types::default() }
            }
        };
        Ok(Self { path: path.to_owned(), written: Written::default(), target })
    }

    /// Writes a document.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, document: &Document) -> Result<(), Error> {
        let fail = failed(&self.path);
        match &mut self.target {
            Target::Jsonl(file) => {
                serde_json::to_writer(&mut *file, document)
                    .map_err(std::io::Error::from)
                    .and_then(|()| file.write_all(b"\n"))
                    .map_err(fail)?;
            }
            Target::Pubtator(file) => {
                let Content::Ie(ie) = &document.content else {
                    self.written.losses.documents += 1;
                    return Ok(());
                };
                let rendered = pubtator::render(&document.id, ie);
                self.written.losses += rendered.losses;
                let blank = if self.written.documents > 0 { "\n" } else { "" };
                file.write_all(blank.as_bytes())
                    .and_then(|()| file.write_all(rendered.text.as_bytes()))
                    .map_err(fail)?;
            }
            Target::Brat { names, types } => {
                let Content::Ie(ie) = &document.content else {
                    self.written.losses.documents += 1;
                    return Ok(());
                };
                let rendered = brat::render(ie, types);
                self.written.losses += rendered.losses;
                let name = file_name(&document.id, names);
                self.written.losses.renamed += usize::from(name != document.id);
                write_whole(&self.path.join(format!("{name}.txt")), &rendered.text)?;
                write_whole(&self.path.join(format!("{name}.ann")), &rendered.annotations)?;
            }
        }
        self.written.documents += 1;
        Ok(())
    }

    /// Completes the output and says what was written.
    ///
    /// # Errors
    /// When it cannot be written; a single file is then as it was before.
    pub fn finish(self) -> Result<Written, Error> {
        match self.target {
            Target::Jsonl(file) | Target::Pubtator(file) => {
                let file = file.into_inner().map_err(|error| failed(&self.path)(error.into_error()))?;
                persist(file, &self.path)?;
            }
            Target::Brat { types, .. } => {
                write_whole(&self.path.join("annotation.conf"), &types.configuration())?
            }
        }
        Ok(self.written)
    }
}

/// Writes documents to a file, or for BRAT a folder.
///
/// # Errors
/// When it cannot be written.
pub fn write_documents<'a>(
    path: &Path,
    format: DocumentFormat,
    documents: impl IntoIterator<Item = &'a Document>,
) -> Result<Written, Error> {
    let mut writer = DocumentWriter::create(path, format)?;
    for document in documents {
        writer.write(document)?;
    }
    writer.finish()
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Write { path: path.clone(), source }
}

/// A temporary file in the folder of `path`, with the rights that an ordinary new file gets.
pub(crate) fn temporary_beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

fn persist(file: NamedTempFile, path: &Path) -> Result<(), Error> {
    file.as_file().sync_all().map_err(failed(path))?;
    file.persist(path).map_err(|error| failed(path)(error.error))?;
    Ok(())
}

fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let mut file = temporary_beside(path).map_err(failed(path))?;
    let handle: &mut File = file.as_file_mut();
    handle.write_all(text.as_bytes()).map_err(failed(path))?;
    persist(file, path)
}

/// Longest file name made of an id, in bytes; with an extension it stays under the 255 that file systems allow.
const LONGEST_NAME: usize = 180;

/// A file name for a document's id that no other document has, on systems that do not tell capitals apart either.
fn file_name(id: &str, taken: &mut HashSet<String>) -> String {
    let kept = |c: char| if c.is_alphanumeric() || "-_.#+~".contains(c) { c } else { '_' };
    let mut name: String = id.chars().map(kept).collect();
    name.truncate(name.floor_char_boundary(LONGEST_NAME));
    if name.is_empty() || name.starts_with('.') {
        name.insert_str(0, "document");
    }
    let mut unique = name.clone();
    let mut number = 1;
    while !taken.insert(unique.to_lowercase()) {
        number += 1;
        unique = format!("{name}~{number}");
    }
    unique
}

/// Whether a character would end a line or a column in some program that reads lines and columns.
fn breaks(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A text whose breaking characters are blanks, so that offsets stay, and how many there were.
fn without_breaks(text: &str) -> (String, usize) {
    let mut count = 0;
    let replace = |c: char| {
        let bad = breaks(c);
        count += usize::from(bad);
        if bad { ' ' } else { c }
    };
    let text = text.chars().map(replace).collect();
    (text, count)
}

/// From the first code point of some spans to the last; `None` without a span that holds anything.
fn hull(offsets: &[CharSpan]) -> Option<CharSpan> {
    let start = offsets.iter().map(|span| span.start).min()?;
    let end = offsets.iter().map(|span| span.end).max()?;
    (start < end).then(|| CharSpan::new(start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_safe_and_unique() {
        let mut taken = HashSet::new();
        let mut name = |id: &str| file_name(id, &mut taken);
        assert_eq!(name("PMC123"), "PMC123");
        assert_eq!(name("pmc123"), "pmc123~2");
        assert_eq!(name("../../etc/passwd"), "document.._.._etc_passwd");
        assert_eq!(name("病历/一.1"), "病历_一.1");
        assert_eq!(name(""), "document");
        assert_eq!(name("con\u{0}\n:"), "con___");
        let long = name(&"病".repeat(300));
        assert!(long.len() <= LONGEST_NAME && long.starts_with("病病"));
    }
}
