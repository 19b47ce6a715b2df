//! Readers, one per source format: bytes become an iterator of `Result<Document>`.
//!
//! A reader knows its format and the field names its card gives it; it knows nothing of datasets. What all have in
//! common, the dataset, split, language and a unique id, is filled in by [`Documents`].

use std::path::Path;

use rustc_hash::FxHashMap;
use serde::Deserialize;

use crate::card::{Card, FileEntry, IdSpace, Role};
use crate::error::Error;
use crate::schema::{Content, Document, Language};
use crate::source::{Encoding, Input, Source};

pub mod bioc_xml;
pub mod dialogue_json;
pub mod dialogue_text;
pub mod entity_json;
pub mod evidence_csv;
pub mod instruction_json;
mod json_records;
pub mod jsonl;
pub mod keyed_qa;
pub mod labelled_json;
pub mod labelled_sentences;
pub mod labelled_table;
pub mod medtag;
pub mod pair_json;
pub mod pair_table;
pub mod pubtator;
pub mod triples_json;

/// A format and its options, as a card gives them: `format = { name = "pubtator", terminology = "MESH" }`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Format {
    /// PubTator: `PMID|t|…`, `PMID|a|…`, tab-separated annotations.
    Pubtator(pubtator::Options),
    /// BioC XML collections.
    BiocXml(bioc_xml::Options),
    /// MedTag: `token/TAG` sentences with mentions in a file beside them.
    Medtag(medtag::Options),
    /// JSON records with text and entities at offsets.
    EntityJson(entity_json::Options),
    /// A JSON object of questions by id.
    KeyedQa(keyed_qa::Options),
    /// Evidence Inference: prompts and their annotations as CSV.
    EvidenceCsv(evidence_csv::Options),
    /// JSON records with text and triples without offsets.
    TriplesJson(triples_json::Options),
    /// JSON records with text and label.
    LabelledJson(labelled_json::Options),
    /// Tables with text and labels.
    LabelledTable(labelled_table::Options),
    /// An archive of sentences and, beside them, their labels.
    LabelledSentences(labelled_sentences::Options),
    /// JSON records of text pairs.
    PairJson(pair_json::Options),
    /// Tables of text pairs.
    PairTable(pair_table::Options),
    /// JSON records of instruction, input and output.
    InstructionJson(instruction_json::Options),
    /// Dialogues as JSON arrays of utterances.
    DialogueJson(dialogue_json::Options),
    /// Dialogues as plain text.
    DialogueText(dialogue_text::Options),
    /// Documents in this crate's schema, one per line.
    Jsonl(jsonl::Options),
}

/// What a reader returns.
pub type Reading = Box<dyn Iterator<Item = Result<Document, Error>> + Send>;

/// The opened files of one split, by role.
pub struct Files<'a> {
    source: &'a dyn Source,
    entries: &'a [FileEntry],
    encoding: Encoding,
}

impl Files<'_> {
    /// Opens the files of a role, in the order of the card.
    ///
    /// # Errors
    /// Where one of them cannot be opened.
    pub fn open(&self, role: Role) -> Result<Vec<Input>, Error> {
        self.entries
            .iter()
            .filter(|file| file.role == role)
            .map(|file| Input::open(self.source, &file.path, self.encoding))
            .collect()
    }

    /// Chains a reader over the files of documents.
    pub(crate) fn each(&self, read: impl Fn(Input) -> Reading) -> Result<Reading, Error> {
        let readings: Vec<Reading> = self.open(Role::Documents)?.into_iter().map(read).collect();
        Ok(Box::new(readings.into_iter().flatten()))
    }
}

/// A document with everything but what [`Documents`] fills in; an empty id means the source has none.
pub(crate) fn draft(document_id: impl Into<String>, content: Content) -> Document {
    Document {
        id: String::new(),
        document_id: document_id.into(),
        dataset: String::new(),
        split: String::new(),
        language: Language::En,
        content,
    }
}

/// Reads a split of a dataset from a folder that holds one folder per dataset.
///
/// # Errors
/// Where the card has no such variant or split, or a file cannot be opened. Bad records are errors of the iterator,
/// which goes on after them where [`Error::is_record`] says so.
pub fn read(card: &Card, variant: Option<&str>, split: &str, source_dir: &Path) -> Result<Documents, Error> {
    read_from(card, variant, split, source_dir)
}

/// Reads a split of a dataset from any [`Source`]; see [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_from<S: Source + ?Sized>(
    card: &Card,
    variant: Option<&str>,
    split: &str,
    source: &S,
) -> Result<Documents, Error> {
    let variant = card.variant(variant)?;
    let entry = variant.split(&card.id, split)?;
    let source: &dyn Source = &source;
    let files = Files { source, entries: &entry.files, encoding: variant.encoding };
    let reading = match &variant.format {
        Format::Pubtator(options) => files.each(|input| pubtator::read(input, options))?,
        Format::BiocXml(options) => files.each(|input| bioc_xml::read(input, options))?,
        Format::Medtag(options) => medtag::read(&files, options)?,
        Format::EntityJson(options) => files.each(|input| entity_json::read(input, options))?,
        Format::KeyedQa(options) => keyed_qa::read(&files, options)?,
        Format::EvidenceCsv(options) => evidence_csv::read(&files, options)?,
        Format::TriplesJson(options) => triples_json::read(&files, options)?,
        Format::LabelledJson(options) => files.each(|input| labelled_json::read(input, options))?,
        Format::LabelledTable(options) => files.each(|input| labelled_table::read(input, options))?,
        Format::LabelledSentences(options) => labelled_sentences::read(&files, options)?,
        Format::PairJson(options) => files.each(|input| pair_json::read(input, options))?,
        Format::PairTable(options) => files.each(|input| pair_table::read(input, options))?,
        Format::InstructionJson(options) => files.each(|input| instruction_json::read(input, options))?,
        Format::DialogueJson(options) => files.each(|input| dialogue_json::read(input, options))?,
        Format::DialogueText(options) => files.each(|input| dialogue_text::read(input, options))?,
        Format::Jsonl(_) => files.each(jsonl::read)?,
    };
    Ok(Documents {
        reading,
        dataset: card.id.clone(),
        split: split.to_owned(),
        language: card.language(),
        ids: card.document_ids,
        complete: matches!(variant.format, Format::Jsonl(_)),
        seen: FxHashMap::default(),
        count: 0,
        ended: false,
    })
}

impl<S: Source + ?Sized> Source for &S {
    fn open(&self, path: &str) -> Result<Box<dyn std::io::Read + Send>, Error> {
        (**self).open(path)
    }
}

/// The documents of a split: fills in dataset, split, language and an id that is unique within the dataset.
///
/// The id is the source's; where that means something within one split only it is `<split>-<id>`, where there is
/// none it is `<split>-<number>`, and a repeated one gets `#2`, `#3`, …
pub struct Documents {
    reading: Reading,
    dataset: String,
    split: String,
    language: Language,
    ids: IdSpace,
    /// The records are complete documents already.
    complete: bool,
    seen: FxHashMap<String, usize>,
    count: usize,
    ended: bool,
}

impl Iterator for Documents {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut document = match self.reading.next()? {
            Ok(document) => document,
            Err(error) => {
                self.ended = !error.is_record();
                return Some(Err(error));
            }
        };
        self.count += 1;
        if self.complete {
            return Some(Ok(document));
        }
        let base = match (document.document_id.is_empty(), self.ids) {
            // The reader knows an id of its own where the source's names a group of records, such as an article.
            _ if !document.id.is_empty() => std::mem::take(&mut document.id),
            (true, _) => format!("{}-{}", self.split, self.count),
            (false, IdSpace::Split) => format!("{}-{}", self.split, document.document_id),
            (false, _) => document.document_id.clone(),
        };
        if document.document_id.is_empty() {
            document.document_id.clone_from(&base);
        }
        let repeats = self.seen.entry(base.clone()).or_insert(0);
        *repeats += 1;
        document.id = if *repeats == 1 { base } else { format!("{base}#{repeats}") };
        document.dataset.clone_from(&self.dataset);
        document.split.clone_from(&self.split);
        document.language = self.language;
        Some(Ok(document))
    }
}
