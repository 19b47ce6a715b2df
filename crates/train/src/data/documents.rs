//! Documents for encoders: tokens with what is to be answered about them, a label each or labels of the whole.

use super::files::each_line;
use super::store::StoreWriter;
use super::{Dataset, IGNORED, Item, Layout, SourceReport, store};
use crate::TrainError;
use crate::recipe::Source;
use std::path::Path;
use taiyi_corpus::schema::Document;
use taiyi_instruct::MentionCounts;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What is to be answered about a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// A label for each token.
    Tokens,
    /// One label for the whole.
    Class,
    /// Any of so many labels for the whole.
    Several(usize),
}

/// What an encoder reads of a document, or of a window of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelledSample {
    /// Tokens, those that frame the text included; shape (tokens).
    pub ids: Vec<u32>,
    /// Which of two texts each token counts to, 0 or 1; shape (tokens).
    pub token_types: Vec<u32>,
    /// Numbers of labels: one for each token, or [`IGNORED`]; the one label of the whole; or those of several that hold.
    pub labels: Vec<i32>,
    /// Whether text was cut off.
    pub truncated: bool,
}

/// Hands on the documents of a source with their lines, in the order of the file.
///
/// # Errors
///
/// [`TrainError::File`] when the file cannot be read, [`TrainError::Data`] for a line that is no document, and whatever `sink`
/// returns.
pub fn each_document(
    source: &Source,
    sink: &mut dyn FnMut(u64, Document) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    each_line(&source.path, &document, sink)
}

fn document(line: &str) -> Result<Document, String> {
    serde_json::from_str(line).map_err(|error| {
        format!("expected a document of the corpus schema, as `taiyi corpus build` writes: {error}")
    })
}

impl Targets {
    /// Numbers that are stored for a sample of so many tokens.
    pub(super) fn stored(self, tokens: usize) -> usize {
        match self {
            Self::Tokens => tokens,
            Self::Class => 1,
            Self::Several(labels) => labels,
        }
    }

    /// Labels of tokens, shape (tokens), and those of a whole that may have several.
    pub(super) fn read(self, stored: &[u32], tokens: usize) -> (Vec<i32>, Vec<f32>) {
        let labels = || stored.iter().map(|&label| label.cast_signed());
        match self {
            Self::Tokens => (labels().collect(), Vec::new()),
            Self::Class => {
                let rest = std::iter::repeat_n(IGNORED, tokens.saturating_sub(1));
                (labels().chain(rest).collect(), Vec::new())
            }
            Self::Several(_) => (vec![IGNORED; tokens], labels().map(|label| label as f32).collect()),
        }
    }

    /// What is stored of a sample's labels, and how many answers they are.
    fn write(self, sample: &LabelledSample) -> Result<(Vec<u32>, u64), String> {
        let stored = |labels: &[i32]| labels.iter().map(|label| label.cast_unsigned()).collect::<Vec<u32>>();
        match self {
            Self::Tokens if sample.labels.len() == sample.ids.len() => {
                let learned = sample.labels.iter().filter(|&&label| label != IGNORED).count();
                Ok((stored(&sample.labels), learned as u64))
            }
            Self::Class if sample.labels.len() == 1 => Ok((stored(&sample.labels), 1)),
            Self::Several(labels) => {
                let mut row = vec![0; labels];
                for &label in &sample.labels {
                    let place = usize::try_from(label).ok().and_then(|label| row.get_mut(label));
                    *place.ok_or_else(|| format!("label number {label} of {labels}"))? = 1;
                }
                Ok((row, labels as u64))
            }
            Self::Tokens | Self::Class => {
                let (tokens, labels) = (sample.ids.len(), sample.labels.len());
                Err(format!("{labels} labels of a sample of {tokens} tokens"))
            }
        }
    }
}

/// Turns a document into samples, and counts its mentions; a reason where it is refused.
pub(crate) type Encode<'a> =
    dyn Fn(&Document) -> Result<(Vec<LabelledSample>, MentionCounts), String> + Sync + 'a;

impl Dataset {
    /// Turns every document into samples in a store at `store_path` (removed with the value). `labels` are the names behind the
    /// numbers; they are part of the [`fingerprint`](Dataset::fingerprint).
    ///
    /// A sample without anything to learn is left out and counted.
    ///
    /// # Errors
    ///
    /// [`TrainError::File`] for files that cannot be read or written, [`TrainError::Data`] for a line that is no document or
    /// that `encode` refuses, [`TrainError::Empty`] when no sample is left.
    pub fn from_documents(
        sources: &[Source],
        store_path: &Path,
        targets: Targets,
        labels: &[String],
        seed: u64,
        encode: &Encode<'_>,
    ) -> Result<Self, TrainError> {
        let mut writer = StoreWriter::create(store_path)?;
        let mut items = Vec::new();
        let mut reports = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let mut report = SourceReport::of(source);
            let read = |line: &str| encode(&document(line)?);
            each_line(&source.path, &read, &mut |line, (samples, mentions)| {
                report.records += 1;
                report.mentions += mentions;
                for sample in samples {
                    let refuse = |message| TrainError::Data { path: source.path.clone(), line, message };
                    let (answers, learned) = targets.write(&sample).map_err(refuse)?;
                    report.truncated += u64::from(sample.truncated);
                    if learned == 0 {
                        report.unlabelled += 1;
                        continue;
                    }
                    report.samples += 1;
                    report.tokens += sample.ids.len() as u64;
                    report.labelled_tokens += learned;
                    items.push(Item {
                        start: writer.position(),
                        length: sample.ids.len() as u32,
                        source: index as u32,
                        line: u32::try_from(line).unwrap_or(u32::MAX),
                    });
                    let types = sample.token_types.iter().copied().chain(std::iter::repeat(0));
                    let mut record: Vec<u32> =
                        sample.ids.iter().zip(types).map(|(&id, kind)| store::stored(id, kind > 0)).collect();
                    record.extend(answers);
                    writer.push(&record)?;
                }
                Ok(())
            })?;
            reports.push(report);
        }
        let layout = Layout::Labelled(targets);
        let mut dataset = Dataset::assemble(writer.finish()?, items, reports, sources, layout, seed)?;
        for label in labels {
            dataset.fingerprint = xxh3_64_with_seed(label.as_bytes(), dataset.fingerprint);
        }
        Ok(dataset)
    }
}
