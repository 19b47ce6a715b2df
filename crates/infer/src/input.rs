//! Reading what people have into documents: text files, JSON Lines, PubTator, BioC XML, and folders of them, `.gz` too.
//!
//! Source readers are those of the corpus crate. Text is UTF-8 or, where the bytes are not, GB18030. A text file is one
//! document, its text kept as it is (without a byte order mark), so that offsets count in the file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use taiyi_corpus::Error as CorpusError;
use taiyi_corpus::plain_text::{decode_text, text_of};
use taiyi_corpus::readers::{bioc_xml, pubtator};
use taiyi_corpus::schema::{Content, Document};
use taiyi_corpus::source::{Encoding, Input};

use crate::error::InferError;
use crate::extract::whole_text;
use crate::language::language_of;

/// A format that documents are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InputFormat {
    /// One document, the whole file (`.txt`).
    Text,
    /// A document a line: `{"text": …}`, with an `id` if there is one, or the corpus schema (`.jsonl`, `.ndjson`).
    Jsonl,
    /// `id|t|…`, `id|a|…`, tab-separated annotations (`.pubtator`, or `.txt` that begins so).
    Pubtator,
    /// A BioC collection (`.xml`).
    BiocXml,
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it is.
    pub path: PathBuf,
    /// What its documents are called where the file names none: its path below the folder that was given, without
    /// the extension, parts joined by `/`.
    pub name: String,
    /// How it is read.
    pub format: InputFormat,
}

/// The files of some paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files to read: in the order of the paths, folders sorted by name.
    pub files: Vec<InputFile>,
    /// Files of folders that are of no known format, counted by extension (`.pdf`; empty for none).
    pub unsupported: BTreeMap<String, usize>,
}

impl Found {
    /// Files of folders that are of no known format.
    pub fn unsupported_count(&self) -> usize {
        self.unsupported.values().sum()
    }
}

const EXTENSIONS: &str =
    "a folder, or a .txt, .jsonl, .ndjson, .pubtator or BioC .xml file (also with .gz behind)";

/// Largest plain text file read, in bytes: it is held whole, and is one document.
const LARGEST_TEXT: u64 = 256 << 20;

/// Bytes looked at to tell the encoding of a file that is read line by line.
const HEAD: u64 = 1 << 20;

/// Finds the files of paths: files themselves, folders with everything below them. Hidden entries of folders are left
/// out; symbolic links to folders are not followed.
///
/// # Errors
/// When a path does not exist or cannot be listed, or a file given by name is of no known format.
pub fn find(paths: &[PathBuf]) -> Result<Found, InferError> {
    let mut found = Found::default();
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(|error| opening(path, error))?;
        if metadata.is_dir() {
            find_below(path, "", &mut found)?;
            continue;
        }
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        match recognise(path, &file_name) {
            Ok((format, name)) => found.files.push(InputFile { path: path.clone(), name, format }),
            Err(extension) => {
                let found =
                    if extension.is_empty() { "no extension".to_owned() } else { format!("`{extension}`") };
                return Err(InferError::Input { path: path.clone(), expected: EXTENSIONS, found });
            }
        }
    }
    Ok(found)
}

fn find_below(folder: &Path, prefix: &str, found: &mut Found) -> Result<(), InferError> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| opening(folder, error))? {
        let entry = entry.map_err(|error| opening(folder, error))?;
        let kind = entry.file_type().map_err(|error| opening(&entry.path(), error))?;
        entries.push((entry.file_name(), entry.path(), kind));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (file_name, path, kind) in entries {
        let file_name = file_name.to_string_lossy();
        if file_name.starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            find_below(&path, &format!("{prefix}{file_name}/"), found)?;
        } else if path.is_file() {
            match recognise(&path, &file_name) {
                Ok((format, name)) => {
                    found.files.push(InputFile { path, name: format!("{prefix}{name}"), format });
                }
                Err(extension) => *found.unsupported.entry(extension).or_default() += 1,
            }
        }
    }
    Ok(())
}

/// The format of a file and its name without the extension, or the extension that is not known. Where a file cannot be
/// looked into, its extension decides, and reading it says what is wrong.
fn recognise(path: &Path, file_name: &str) -> Result<(InputFormat, String), String> {
    let lower = file_name.to_ascii_lowercase();
    let plain = lower.strip_suffix(".gz").unwrap_or(&lower);
    let (stem, extension) = match plain.rfind('.') {
        Some(at) if at > 0 => plain.split_at(at),
        _ => (plain, ""),
    };
    let format = match extension {
        ".txt" if head(path).is_ok_and(|head| looks_like_pubtator(&head)) => InputFormat::Pubtator,
        ".txt" => InputFormat::Text,
        ".jsonl" | ".ndjson" => InputFormat::Jsonl,
        ".pubtator" => InputFormat::Pubtator,
        ".xml" if head(path).is_ok_and(|head| !head.contains("<collection")) => {
            return Err(".xml that is no BioC".to_owned());
        }
        ".xml" => InputFormat::BiocXml,
        _ => return Err(lower[stem.len()..].to_owned()),
    };
    // Lower-casing ASCII keeps byte positions.
    Ok((format, file_name[..stem.len()].to_owned()))
}

fn looks_like_pubtator(head: &str) -> bool {
    let first =
        head.lines().map(|line| line.trim_start_matches('\u{feff}')).find(|line| !line.trim().is_empty());
    first.is_some_and(|line| {
        let mut parts = line.splitn(3, '|');
        parts.next().is_some_and(|id| !id.is_empty() && !id.contains(char::is_whitespace))
            && parts.next() == Some("t")
            && parts.next().is_some()
    })
}

fn opening(path: &Path, source: std::io::Error) -> InferError {
    CorpusError::Open { path: path.display().to_string(), source }.into()
}

fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, InferError> {
    let file = File::open(path).map_err(|error| opening(path, error))?;
    let compressed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    Ok(if compressed {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(BufReader::new(file))
    })
}

fn reading(path: &Path, source: std::io::Error) -> InferError {
    CorpusError::Read { file: path.display().to_string(), line: 0, source }.into()
}

/// The first bytes as text, whatever they are.
fn head(path: &Path) -> Result<String, InferError> {
    let mut head = Vec::new();
    open(path)?.take(4096).read_to_end(&mut head).map_err(|error| reading(path, error))?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The documents of files, one at a time. A record that cannot be read is an error of its own, and the rest goes on; a file
/// that cannot be read on is one error, and the next file follows.
pub struct InputDocuments {
    files: std::vec::IntoIter<InputFile>,
    current: Option<Current>,
    ids: HashMap<String, usize>,
}

struct Current {
    file: InputFile,
    documents: Box<dyn Iterator<Item = Result<Document, InferError>> + Send>,
    count: usize,
}

/// Reads the documents of files. Each gets an id that no other has: its own, else the file's name, with `-<number>` where
/// a file holds several; a repeated one gets `#2`, `#3`, …. The language is that of the text, unless the record says it.
pub fn read(files: Vec<InputFile>) -> InputDocuments {
    InputDocuments { files: files.into_iter(), current: None, ids: HashMap::new() }
}

impl Iterator for InputDocuments {
    type Item = Result<Document, InferError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.current.is_none() {
                let file = self.files.next()?;
                match documents(&file) {
                    Ok(documents) => self.current = Some(Current { file, documents, count: 0 }),
                    Err(error) => return Some(Err(error)),
                }
            }
            let Some(current) = &mut self.current else { continue };
            match current.documents.next() {
                None => self.current = None,
                Some(Err(error)) => {
                    if !matches!(&error, InferError::Corpus(error) if error.is_record()) {
                        self.current = None;
                    }
                    return Some(Err(error));
                }
                Some(Ok(mut document)) => {
                    current.count += 1;
                    if document.id.is_empty() {
                        document.id = match (document.document_id.is_empty(), current.file.format) {
                            (false, _) => document.document_id.clone(),
                            (true, InputFormat::Text) => current.file.name.clone(),
                            (true, _) => format!("{}-{}", current.file.name, current.count),
                        };
                    }
                    if document.document_id.is_empty() {
                        document.document_id.clone_from(&document.id);
                    }
                    let repeats = self.ids.entry(document.id.clone()).or_insert(0);
                    *repeats += 1;
                    if *repeats > 1 {
                        document.id = format!("{}#{repeats}", document.id);
                    }
                    return Some(Ok(document));
                }
            }
        }
    }
}

fn documents(
    file: &InputFile,
) -> Result<Box<dyn Iterator<Item = Result<Document, InferError>> + Send>, InferError> {
    let path = &file.path;
    if file.format == InputFormat::Text {
        let mut bytes = Vec::new();
        open(path)?.take(LARGEST_TEXT + 1).read_to_end(&mut bytes).map_err(|error| reading(path, error))?;
        let wrong = |expected, found: &str| InferError::Input {
            path: path.clone(),
            expected,
            found: found.to_owned(),
        };
        if bytes.len() as u64 > LARGEST_TEXT {
            return Err(wrong("a text of at most 256 MiB", "a larger one"));
        }
        let text =
            decode_text(&bytes).ok_or_else(|| wrong("text in UTF-8 or GB18030", "bytes of neither"))?;
        return Ok(Box::new(std::iter::once(Ok(plain(&text)))));
    }
    let input = input(path)?;
    Ok(match file.format {
        InputFormat::Jsonl => {
            let name = input.name.clone();
            Box::new(input.lines().filter_map(move |line| match line {
                Ok((_, line)) if line.trim().is_empty() => None,
                Ok((number, line)) => Some(record(&name, number, &line).map_err(InferError::from)),
                Err(error) => Some(Err(error.into())),
            }))
        }
        InputFormat::Pubtator => Box::new(
            pubtator::read(input, &pubtator::Options::default()).map(|document| Ok(located(document?))),
        ),
        _ => Box::new(
            bioc_xml::read(input, &bioc_xml::Options::default()).map(|document| Ok(located(document?))),
        ),
    })
}

/// Opens a file that is read record by record; whether it is UTF-8 shows in its first bytes.
fn input(path: &Path) -> Result<Input, InferError> {
    let mut bytes = open(path)?;
    let mut head = Vec::new();
    (&mut bytes).take(HEAD).read_to_end(&mut head).map_err(|error| reading(path, error))?;
    let utf8 = match std::str::from_utf8(&head) {
        Ok(_) => true,
        // The end may be cut inside a character.
        Err(error) => error.error_len().is_none() && head.len() as u64 == HEAD,
    };
    let encoding = if utf8 || decode_text(&head).is_none() { Encoding::Utf8 } else { Encoding::Gb18030 };
    Ok(Input { name: path.display().to_string(), bytes: Box::new(Cursor::new(head).chain(bytes)), encoding })
}

/// A line of JSON that is not in the corpus schema.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    id: Option<Id>,
    text: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

fn record(file: &str, number: usize, line: &str) -> Result<Document, CorpusError> {
    let wrong = |found: String| CorpusError::Record {
        file: file.to_owned(),
        line: number,
        expected: "{\"text\": \"…\"} or a document in the corpus schema".to_owned(),
        found,
        hint: "repair the line or leave it out".to_owned(),
    };
    let value: serde_json::Value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
    if value.get("schema").is_some() {
        return serde_json::from_value(value).map_err(|error| wrong(error.to_string()));
    }
    let line: Line = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
    let mut document = plain(&line.text);
    document.document_id = match line.id {
        Some(Id::Text(id)) => id,
        Some(Id::Number(id)) => id.to_string(),
        None => String::new(),
    };
    Ok(document)
}

fn plain(text: &str) -> Document {
    Document {
        id: String::new(),
        document_id: String::new(),
        dataset: DATASET.to_owned(),
        split: DATASET.to_owned(),
        language: language_of(text),
        content: Content::Ie(whole_text(text)),
    }
}

/// What documents that belong to no dataset say.
const DATASET: &str = "input";

/// Fills in what a reader leaves to its caller.
fn located(mut document: Document) -> Document {
    document.dataset = DATASET.to_owned();
    document.split = DATASET.to_owned();
    document.language = language_of(&text_of(&document));
    document
}
