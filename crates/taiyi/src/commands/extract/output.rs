//! Writing what was extracted: JSON Lines of the corpus schema, PubTator, BRAT. Files and folders appear whole or not at all.
//!
//! PubTator has a title and an abstract, a line each: the title is the first passage, or the first line of a text without
//! passages; line breaks behind it become blanks, so that offsets stay. Where relations were found, entities carry their
//! number in place of a concept and relations name these numbers.
//!
//! BRAT has a text and an annotation file for each document; an entity that runs over a line break becomes several spans.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use taiyi_corpus::offsets::CharSpan;
use taiyi_corpus::schema::{Content, Document, Ie};
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
    Stdout(Format),
    File(Format, Lines),
    Brat(BratFolder),
}

impl Output {
    /// Checks that the place can be written.
    pub(super) fn create(format: Format, out: Option<&Path>) -> Result<Self, Failure> {
        Ok(match (format, out) {
            (Format::Brat, Some(out)) => Self::Brat(BratFolder::create(out)?),
            (Format::Brat, None) => return Err(Failure::new("--to brat: expected --out DIR, found none")),
            (format, Some(out)) => Self::File(format, Lines::create(out)?),
            (format, None) => Self::Stdout(format),
        })
    }

    /// Writes a document.
    pub(super) fn write(&mut self, document: &Document) -> Result<(), InferError> {
        match self {
            Self::Stdout(format) => {
                if let Some(text) = lines(*format, document) {
                    terminal::line(&text);
                }
                Ok(())
            }
            Self::File(format, file) => lines(*format, document).map_or(Ok(()), |text| file.write(&text)),
            Self::Brat(folder) => folder.write(document),
        }
    }

    /// Puts everything in its place.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout(_) => Ok(()),
            Self::File(_, file) => file.finish(),
            Self::Brat(folder) => folder.finish(),
        }
    }
}

/// A document as text, without the last line end; `None` where the format has no place for it.
fn lines(format: Format, document: &Document) -> Option<String> {
    match (format, &document.content) {
        (Format::Jsonl, _) => {
            Some(serde_json::to_string(document).expect("a document holds texts and numbers only"))
        }
        (_, Content::Ie(ie)) => Some(pubtator(&document.id, ie)),
        _ => None,
    }
}

fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> taiyi_corpus::Error {
    let path = path.to_owned();
    move |source| taiyi_corpus::Error::Write { path, source }
}

/// The hidden name beside a target, under which it is written.
fn beside(target: &Path) -> Result<PathBuf, Failure> {
    let name = target.file_name().ok_or_else(|| {
        Failure::new(format!("{}: expected the name of a file or folder", target.display()))
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.partial", std::process::id()));
    Ok(target.with_file_name(hidden))
}

/// A file of lines that appears when it is whole.
pub(super) struct Lines {
    target: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
}

impl Lines {
    /// Starts a file; its folder is made if it is not there.
    pub(super) fn create(target: &Path) -> Result<Self, Failure> {
        let partial = beside(target)?;
        if target.is_dir() {
            return Err(Failure::new(format!(
                "{}: expected a file to write, found a folder",
                target.display()
            )));
        }
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(writing(folder))?;
        }
        let file = BufWriter::new(File::create(&partial).map_err(writing(target))?);
        Ok(Self { target: target.to_owned(), partial, file })
    }

    fn write(&mut self, text: &str) -> Result<(), InferError> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.write_all(b"\n"));
        Ok(written.map_err(writing(&self.target))?)
    }

    /// Writes a value as a line of JSON.
    pub(super) fn write_json(&mut self, value: &impl Serialize) -> Result<(), InferError> {
        let text = serde_json::to_string(value).map_err(std::io::Error::other);
        self.write(&text.map_err(writing(&self.target))?)
    }

    /// Puts the file in its place.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        let written = written.and_then(|()| std::fs::rename(&self.partial, &self.target));
        Ok(written.map_err(writing(&self.target))?)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Gone already when the file is finished; what is not whole must not stay.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// A folder of BRAT files that appears when it is whole.
pub(super) struct BratFolder {
    target: PathBuf,
    partial: PathBuf,
    names: BTreeSet<String>,
    entities: BTreeSet<String>,
    relations: BTreeSet<String>,
}

impl BratFolder {
    fn create(target: &Path) -> Result<Self, Failure> {
        let occupied = match std::fs::read_dir(target) {
            Ok(mut entries) => entries.next().is_some(),
            Err(_) => target.exists(),
        };
        if occupied {
            return Err(Failure::new(format!(
                "{}: expected a new or empty folder, found a full one",
                target.display()
            ))
            .hint("choose another --out, or empty it"));
        }
        let partial = beside(target)?;
        std::fs::create_dir_all(&partial).map_err(writing(target))?;
        let target = target.to_owned();
        Ok(Self {
            target,
            partial,
            names: BTreeSet::new(),
            entities: BTreeSet::new(),
            relations: BTreeSet::new(),
        })
    }

    fn write(&mut self, document: &Document) -> Result<(), InferError> {
        let Content::Ie(ie) = &document.content else { return Ok(()) };
        let name = self.name(&document.id);
        self.entities.extend(ie.entities.iter().map(|entity| brat_type(&entity.kind)));
        self.relations.extend(ie.relations.iter().map(|relation| brat_type(&relation.kind)));
        for (extension, text) in [("txt", ie.text()), ("ann", brat(ie))] {
            let path = self.partial.join(format!("{name}.{extension}"));
            std::fs::write(&path, text).map_err(writing(&self.target))?;
        }
        Ok(())
    }

    /// A file name for a document that no other has.
    fn name(&mut self, id: &str) -> String {
        let kept = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
        // File systems end at 255 bytes; a character has up to four.
        let mut stem: String = id.chars().map(kept).take(50).collect();
        if stem.is_empty() || stem.starts_with('.') {
            stem.insert(0, '_');
        }
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        let free = std::iter::once(stem.clone()).chain(numbered).find(|name| !self.names.contains(name));
        let name = free.expect("numbers do not run out");
        self.names.insert(name.clone());
        name
    }

    fn finish(self) -> Result<(), Failure> {
        let entity_types: String = self.entities.iter().map(|kind| format!("{kind}\n")).collect();
        let relation_types: String =
            self.relations.iter().map(|kind| format!("{kind}\tArg1:<ENTITY>, Arg2:<ENTITY>\n")).collect();
        let configuration =
            format!("[entities]\n{entity_types}\n[relations]\n{relation_types}\n[events]\n\n[attributes]\n");
        let path = self.partial.join("annotation.conf");
        let placed = || {
            std::fs::write(&path, &configuration)?;
            // An empty folder may stand there.
            let _ = std::fs::remove_dir(&self.target);
            std::fs::rename(&self.partial, &self.target)
        };
        Ok(placed().map_err(writing(&self.target))?)
    }
}

impl Drop for BratFolder {
    fn drop(&mut self) {
        // Gone already when the folder is finished; what is not whole must not stay.
        let _ = std::fs::remove_dir_all(&self.partial);
    }
}

/// Type names of BRAT have no blanks and no punctuation but these two.
fn brat_type(kind: &str) -> String {
    kind.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

fn brat(ie: &Ie) -> String {
    let characters: Vec<char> = ie.text().chars().collect();
    let mut text = String::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for entity in &ie.entities {
        let parts: Vec<CharSpan> =
            entity.offsets.iter().flat_map(|span| between_breaks(&characters, *span)).collect();
        if parts.is_empty() {
            continue;
        }
        let number = numbers.len() + 1;
        numbers.insert(&entity.id, number);
        let spans: Vec<String> = parts.iter().map(|part| format!("{} {}", part.start, part.end)).collect();
        let strings: Vec<String> =
            parts.iter().map(|part| characters[part.start..part.end].iter().collect()).collect();
        text.push_str(&format!(
            "T{number}\t{} {}\t{}\n",
            brat_type(&entity.kind),
            spans.join(";"),
            strings.join(" ")
        ));
    }
    for (at, relation) in ie.relations.iter().enumerate() {
        let arguments = (numbers.get(relation.arg1_id.as_str()), numbers.get(relation.arg2_id.as_str()));
        if let (Some(head), Some(tail)) = arguments {
            text.push_str(&format!("R{}\t{} Arg1:T{head} Arg2:T{tail}\n", at + 1, brat_type(&relation.kind)));
        }
    }
    text
}

/// The parts of a span that lie between line breaks.
fn between_breaks(characters: &[char], span: CharSpan) -> Vec<CharSpan> {
    let mut parts = Vec::new();
    let end = span.end.min(characters.len());
    let mut start = span.start;
    for at in span.start..=end {
        if at == end || matches!(characters[at], '\n' | '\r') {
            if start < at {
                parts.push(CharSpan::new(start, at));
            }
            start = at + 1;
        }
    }
    parts
}

fn pubtator(id: &str, ie: &Ie) -> String {
    let text = ie.text();
    // Ids stand before a bar or a tab.
    let id: String = id.chars().map(|c| if c.is_whitespace() || c == '|' { '_' } else { c }).collect();
    let flat = |text: &str| -> String {
        text.chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c }).collect()
    };
    let (title, rest) = match ie.passages.as_slice() {
        [first, _, ..] => text.split_at(first.text.len()),
        _ => text.split_once('\n').map_or((text.as_str(), ""), |(title, _)| text.split_at(title.len())),
    };
    // Title and abstract are joined by one character.
    let rest = rest.chars().next().map_or("", |joint| &rest[joint.len_utf8()..]);
    let mut lines = vec![format!("{id}|t|{}", flat(title)), format!("{id}|a|{}", flat(rest))];
    let mut numbers: BTreeMap<&str, String> = BTreeMap::new();
    for (at, entity) in ie.entities.iter().enumerate() {
        let (Some(start), Some(end)) = (
            entity.offsets.iter().map(|span| span.start).min(),
            entity.offsets.iter().map(|span| span.end).max(),
        ) else {
            continue;
        };
        let mention: String = text.chars().skip(start).take(end - start).collect();
        let mut line = format!("{id}\t{start}\t{end}\t{}\t{}", flat(&mention), flat(&entity.kind));
        if !ie.relations.is_empty() {
            let number = format!("T{}", at + 1);
            line.push_str(&format!("\t{number}"));
            numbers.insert(&entity.id, number);
        }
        lines.push(line);
    }
    for relation in &ie.relations {
        let arguments = (numbers.get(relation.arg1_id.as_str()), numbers.get(relation.arg2_id.as_str()));
        if let (Some(head), Some(tail)) = arguments {
            lines.push(format!("{id}\t{}\t{head}\t{tail}", flat(&relation.kind)));
        }
    }
    // An empty line parts documents.
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use taiyi_corpus::readers::pubtator as reader;
    use taiyi_corpus::schema::{Entity, Language, Passage, Relation, RelationLevel};
    use taiyi_corpus::source::{Encoding, Input};

    fn document(passages: &[&str], entities: &[(usize, usize)]) -> Document {
        let mut ie = Ie::default();
        let mut start = 0;
        for (at, text) in passages.iter().enumerate() {
            let length = text.chars().count();
            ie.passages.push(Passage {
                id: format!("P{at}"),
                kind: "text".to_owned(),
                text: (*text).to_owned(),
                offsets: CharSpan::new(start, start + length),
            });
            start += length + 1;
        }
        let text: Vec<char> = ie.text().chars().collect();
        for (at, &(start, end)) in entities.iter().enumerate() {
            ie.entities.push(Entity {
                id: format!("E{at}"),
                kind: "disease name".to_owned(),
                text: vec![text[start..end].iter().collect()],
                offsets: vec![CharSpan::new(start, end)],
                normalized: Vec::new(),
            });
        }
        Document {
            id: "notes/一 1".to_owned(),
            document_id: "1".to_owned(),
            dataset: "input".to_owned(),
            split: "input".to_owned(),
            language: Language::Zh,
            content: Content::Ie(ie),
        }
    }

    fn ie(document: &mut Document) -> &mut Ie {
        match &mut document.content {
            Content::Ie(ie) => ie,
            _ => unreachable!("made above"),
        }
    }

    fn related(mut document: Document) -> Document {
        ie(&mut document).relations.push(Relation {
            id: "R1".to_owned(),
            kind: "leads to".to_owned(),
            arg1_id: "E0".to_owned(),
            arg2_id: "E1".to_owned(),
            level: RelationLevel::Mention,
            normalized: Vec::new(),
        });
        document
    }

    #[test]
    fn brat_counts_code_points_and_parts_lines() {
        let document = related(document(&["头痛\n发热 🧬", "flu"], &[(0, 2), (1, 5), (8, 11)]));
        let Content::Ie(ie) = &document.content else { panic!() };
        assert_eq!(
            brat(ie),
            "T1\tdisease_name 0 2\t头痛\nT2\tdisease_name 1 2;3 5\t痛 发热\nT3\tdisease_name 8 11\tflu\n\
             R1\tleads_to Arg1:T1 Arg2:T2\n"
        );
    }

    #[test]
    fn pubtator_keeps_offsets_and_reads_back() {
        for (passages, entities) in [
            (&["头痛。", "a | b\tflu"][..], &[(0, 2), (9, 12)][..]),
            (&["Title\nsecond line\r\nflu"][..], &[(0, 5), (19, 22)][..]),
            (&["only a title"][..], &[(5, 6), (7, 12)][..]),
        ] {
            let document = related(document(passages, entities));
            let Content::Ie(written) = &document.content else { panic!() };
            let text = pubtator(&document.id, written);
            assert!(text.starts_with("notes/一_1|t|"), "{text}");
            let input = Input {
                name: "out.pubtator".to_owned(),
                bytes: Box::new(std::io::Cursor::new(text.clone().into_bytes())),
                encoding: Encoding::Utf8,
            };
            let read: Vec<Document> =
                reader::read(input, &reader::Options::default()).collect::<Result<_, _>>().unwrap();
            let [read] = read.as_slice() else { panic!("{text}") };
            let Content::Ie(read) = &read.content else { panic!() };
            let spans =
                |ie: &Ie| -> Vec<CharSpan> { ie.entities.iter().flat_map(|e| e.offsets.clone()).collect() };
            assert_eq!(spans(read), spans(written), "{text}");
            assert_eq!(read.relations.len(), 1, "{text}");
        }
    }

    #[test]
    fn nothing_half_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (file, brat) = (folder.path().join("sub/out.jsonl"), folder.path().join("brat"));
        let mut lines = Output::create(Format::Jsonl, Some(&file)).unwrap();
        lines.write(&document(&["a"], &[])).unwrap();
        drop(lines);
        let mut dropped = Output::create(Format::Brat, Some(&brat)).unwrap();
        dropped.write(&document(&["a"], &[])).unwrap();
        drop(dropped);
        assert!(!brat.exists() && std::fs::read_dir(file.parent().unwrap()).unwrap().next().is_none());

        let mut whole = Output::create(Format::Brat, Some(&brat)).unwrap();
        whole.write(&document(&["a"], &[(0, 1)])).unwrap();
        whole.write(&document(&["b"], &[])).unwrap();
        whole.finish().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(&brat)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected =
            ["annotation.conf", "notes_一_1-2.ann", "notes_一_1-2.txt", "notes_一_1.ann", "notes_一_1.txt"];
        assert_eq!(names, expected);
        assert!(Output::create(Format::Brat, Some(&brat)).is_err(), "a full folder is not overwritten");
    }
}
