//! Where extracted documents go: stdout line by line, or files and folders that appear whole or not at all.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use taiyi_corpus::schema::{Content, Document};
use taiyi_corpus::writers::{DocumentFormat, DocumentWriter, Losses, pubtator};
use taiyi_infer::InferError;

use crate::failure::Failure;
use crate::terminal;

/// Formats of extracted documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A document of the corpus schema a line.
    Jsonl,
    /// Title, abstract, tab-separated annotations.
    Pubtator,
    /// A folder with a text and an annotation file for each document.
    Brat,
}

/// Where extracted documents go.
pub(super) enum Output {
    /// To stdout, and what the format could not hold.
    Stdout(Format, Losses),
    /// To a file.
    File(DocumentWriter),
    /// To a folder under a hidden name, which gets its own when it is whole.
    Folder(DocumentWriter, Partial),
}

impl Output {
    /// Checks that the place can be written.
    pub(super) fn create(format: Format, out: Option<&Path>) -> Result<Self, Failure> {
        let Some(out) = out else {
            return match format {
                Format::Brat => Err(Failure::new("--to brat: expected --out DIR, found none")),
                format => Ok(Self::Stdout(format, Losses::default())),
            };
        };
        if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(writing(folder))?;
        }
        let format = match format {
            Format::Jsonl => DocumentFormat::Jsonl,
            Format::Pubtator => DocumentFormat::Pubtator,
            Format::Brat => {
                let occupied = match std::fs::read_dir(out) {
                    Ok(mut entries) => entries.next().is_some(),
                    Err(_) => out.exists(),
                };
                if occupied {
                    let message =
                        format!("{}: expected a new or empty folder, found a full one", out.display());
                    return Err(Failure::new(message).hint("choose another --out, or empty it"));
                }
                let partial = Partial::beside(out)?;
                let writer = DocumentWriter::create(&partial.path, DocumentFormat::Brat)?;
                return Ok(Self::Folder(writer, partial));
            }
        };
        if out.is_dir() {
            return Err(Failure::new(format!("{}: expected a file to write, found a folder", out.display())));
        }
        Ok(Self::File(DocumentWriter::create(out, format)?))
    }

    /// Writes a document.
    pub(super) fn write(&mut self, document: &Document) -> Result<(), InferError> {
        match self {
            Self::Stdout(Format::Jsonl, _) => {
                let line = serde_json::to_string(document);
                terminal::line(&line.expect("a document holds texts and numbers only"));
            }
            Self::Stdout(_, losses) => match &document.content {
                // The lines end with a line end; another one parts documents.
                Content::Ie(ie) => {
                    let rendered = pubtator::render(&document.id, ie);
                    *losses += rendered.losses;
                    terminal::line(&rendered.text);
                }
                _ => losses.documents += 1,
            },
            Self::File(writer) | Self::Folder(writer, _) => writer.write(document)?,
        }
        Ok(())
    }

    /// Puts everything in its place, and says what the format could not hold.
    pub(super) fn finish(self) -> Result<Losses, Failure> {
        match self {
            Self::Stdout(_, losses) => Ok(losses),
            Self::File(writer) => Ok(writer.finish()?.losses),
            Self::Folder(writer, partial) => {
                let written = writer.finish()?;
                // An empty folder may stand there.
                let _ = std::fs::remove_dir(&partial.target);
                partial.place()?;
                Ok(written.losses)
            }
        }
    }
}

fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> taiyi_corpus::Error {
    let path = path.to_owned();
    move |source| taiyi_corpus::Error::Write { path, source }
}

/// A file or folder under a hidden name beside its own; gone when it is not put in its place.
pub(super) struct Partial {
    target: PathBuf,
    path: PathBuf,
}

impl Partial {
    fn beside(target: &Path) -> Result<Self, Failure> {
        let name = target.file_name().ok_or_else(|| {
            Failure::new(format!("{}: expected the name of a file or folder", target.display()))
        })?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        Ok(Self { target: target.to_owned(), path: target.with_file_name(hidden) })
    }

    fn place(self) -> Result<(), Failure> {
        Ok(std::fs::rename(&self.path, &self.target).map_err(writing(&self.target))?)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already when it was placed; what is not whole must not stay.
        let _ = std::fs::remove_file(&self.path).or_else(|_| std::fs::remove_dir_all(&self.path));
    }
}

/// A file of JSON lines.
pub(super) struct Lines {
    file: BufWriter<File>,
    partial: Partial,
}

impl Lines {
    /// Starts a file; its folder is made if it is not there.
    pub(super) fn create(target: &Path) -> Result<Self, Failure> {
        let partial = Partial::beside(target)?;
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(writing(folder))?;
        }
        let file = BufWriter::new(File::create(&partial.path).map_err(writing(target))?);
        Ok(Self { file, partial })
    }

    /// Writes a value as a line.
    pub(super) fn write(&mut self, value: &impl Serialize) -> Result<(), InferError> {
        let written = serde_json::to_writer(&mut self.file, value).map_err(std::io::Error::from);
        let written = written.and_then(|()| self.file.write_all(b"\n"));
        Ok(written.map_err(writing(&self.partial.target))?)
    }

    /// Puts the file in its place.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        written.map_err(writing(&self.partial.target))?;
        self.partial.place()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taiyi_corpus::offsets::CharSpan;
    use taiyi_corpus::schema::{Ie, Language, Passage};

    fn document(id: &str) -> Document {
        let passage = Passage {
            id: "P1".to_owned(),
            kind: "text".to_owned(),
            text: "flu".to_owned(),
            offsets: CharSpan::new(0, 3),
        };
        Document {
            id: id.to_owned(),
            document_id: id.to_owned(),
            dataset: "input".to_owned(),
            split: "input".to_owned(),
            language: Language::En,
            content: Content::Ie(Ie { passages: vec![passage], ..Ie::default() }),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_not_finished_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        for (format, name) in
            [(Format::Jsonl, "a.jsonl"), (Format::Pubtator, "a.txt"), (Format::Brat, "brat")]
        {
            let mut output = Output::create(format, Some(&below.join(name))).unwrap();
            output.write(&document("1")).unwrap();
            drop(output);
            assert_eq!(names(&below), [""; 0], "{format:?}");
        }
        let mut lines = Lines::create(&below.join("report.jsonl")).unwrap();
        lines.write(&1).unwrap();
        drop(lines);
        assert_eq!(names(&below), [""; 0]);
    }

    #[test]
    fn a_folder_appears_whole_and_a_full_one_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let brat = folder.path().join("brat");
        std::fs::create_dir(&brat).unwrap();
        let mut output = Output::create(Format::Brat, Some(&brat)).unwrap();
        output.write(&document("1")).unwrap();
        output.write(&document("2")).unwrap();
        assert_eq!(names(&brat), [""; 0]);
        assert!(output.finish().unwrap().is_none());
        assert_eq!(names(&brat), ["1.ann", "1.txt", "2.ann", "2.txt", "annotation.conf"]);
        assert_eq!(names(folder.path()), ["brat"]);
        for format in [Format::Brat, Format::Jsonl] {
            assert!(Output::create(format, Some(&brat)).is_err(), "{format:?}");
        }
    }
}
