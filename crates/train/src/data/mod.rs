//! Training data: files to token store to the samples of a step.
//!
//! Every file is read once at the start and tokenised into a store on disk (four bytes a token), so that the corpus
//! may be larger than memory, the length of the run is known before the first step, and the samples of any step can
//! be found again from its number alone: that is what resuming rests on.
//!
//! Nothing here knows the model; tokenising, rendering and labelling are handed in as functions.

mod conversations;
mod documents;
mod files;
mod order;
pub mod packing;
mod store;
mod text;

pub use conversations::{Render, RenderedSample};
pub use documents::{LabelledSample, Targets, each_document};
pub use packing::Pack;
pub use text::{Documents, TextItem, TextWindows};

use crate::TrainError;
use crate::recipe::Source;
use order::Order;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use store::Store;
use taiyi_instruct::MentionCounts;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Label of a position that is not learned.
pub const IGNORED: i32 = -100;

/// What one source came to after tokenising.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The source's name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Lines or documents read.
    pub records: u64,
    /// Samples (or windows) that can be drawn.
    pub samples: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Positions that are learned.
    pub labelled_tokens: u64,
    /// Samples that were longer than `max_length` and lost their end.
    pub truncated: u64,
    /// Samples left out because no learned token is left in them.
    pub unlabelled: u64,
    /// Conversations left out because a later stage is the first to learn them.
    pub later_stage: u64,
    /// What became of the entities of documents, for labels of tokens.
    #[serde(default)]
    pub mentions: MentionCounts,
    /// Times an epoch shows the source.
    pub repeats: f64,
}

impl SourceReport {
    /// Nothing read of a source yet.
    fn of(source: &Source) -> Self {
        Self { name: source.label(), path: source.path.clone(), repeats: 1.0, ..Self::default() }
    }
}

/// One draw of the data: a conversation, a window of text, or what an encoder reads of a document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Inputs; shape (tokens).
    pub ids: Vec<u32>,
    /// For each input the token it must predict, or [`IGNORED`]; shape (tokens). For an encoder the number of the token's
    /// label; of a classified text the first token has the number of the text's one label.
    pub labels: Vec<i32>,
    /// Which of two texts each input counts to; shape (tokens), or empty where all count to one.
    pub token_types: Vec<u32>,
    /// Of a text that may have several labels, 1 for each that holds and 0 for the others; shape (labels), else empty.
    pub several: Vec<f32>,
    /// Starts of the sequences inside the sample that do not see each other; begins with 0, ascending.
    pub starts: Vec<u32>,
    /// Where it comes from, for messages: "samples.jsonl:12".
    pub origin: String,
}

/// A place in the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    start: u64,
    length: u32,
    source: u32,
    /// Line of a conversation; number of a window.
    line: u32,
}

/// All samples of a run, tokenised, and the order in which epochs show them.
#[derive(Debug)]
pub struct Dataset {
    store: Store,
    items: Vec<Item>,
    reports: Vec<SourceReport>,
    order: Order,
    layout: Layout,
    fingerprint: u64,
}

/// How samples lie in the store.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// A conversation after another, its learned tokens marked.
    Conversations,
    /// One stream that is cut into windows, borders of documents marked.
    Windows(TextWindows),
    /// The tokens of a sample, those of a second text marked, and then what is to be answered.
    Labelled(Targets),
}

impl Dataset {
    fn assemble(
        store: Store,
        items: Vec<Item>,
        mut reports: Vec<SourceReport>,
        sources: &[Source],
        layout: Layout,
        seed: u64,
    ) -> Result<Self, TrainError> {
        if items.is_empty() || u32::try_from(items.len()).is_err() {
            let records: u64 = reports.iter().map(|report| report.records).sum();
            let unlabelled: u64 = reports.iter().map(|report| report.unlabelled).sum();
            return Err(TrainError::Empty {
                path: sources.first().map_or_else(PathBuf::new, |source| source.path.clone()),
                message: format!(
                    "{} samples from {records} records ({unlabelled} without a learned token within `max_length`); \
                     expected 1 to {}",
                    items.len(),
                    u32::MAX
                ),
            });
        }
        set_repeats(&mut reports, sources);
        let mut first = 0;
        let mut fingerprint = store.fingerprint();
        let spans = reports.iter().map(|report| {
            let span = (first, report.samples as u32, report.repeats);
            first += report.samples as u32;
            fingerprint = xxh3_64_with_seed(&report.repeats.to_le_bytes(), fingerprint);
            span
        });
        let order = Order::new(seed, spans.collect());
        Ok(Self { store, items, reports, order, layout, fingerprint })
    }

    /// What each source came to.
    pub fn reports(&self) -> &[SourceReport] {
        &self.reports
    }

    /// Samples in an epoch, repeats counted.
    pub fn epoch_samples(&self) -> u64 {
        self.order.epoch_length()
    }

    /// Samples in the store, each counted once.
    pub fn samples(&self) -> u64 {
        self.items.len() as u64
    }

    /// Length of the longest sample in tokens.
    pub fn longest(&self) -> usize {
        self.items.iter().map(|item| item.length as usize).max().unwrap_or(0)
    }

    /// A hash of every token in its place, and so of files, tokenizer, format and `max_length` together, and of the
    /// repeats.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Returns the samples numbered `first..first + count` of the endless sequence of epochs.
    ///
    /// # Errors
    ///
    /// [`TrainError::File`] when the token store cannot be read.
    pub fn draw(&mut self, first: u64, count: usize) -> Result<Vec<Sample>, TrainError> {
        let indices: Vec<u32> = (first..first + count as u64).map(|place| self.order.at(place)).collect();
        indices.into_iter().map(|index| self.sample(index as usize)).collect()
    }

    /// Returns the samples in file order, each once: for validation.
    pub fn in_file_order(&mut self) -> impl Iterator<Item = Result<Sample, TrainError>> + '_ {
        (0..self.items.len()).map(|index| self.sample(index))
    }

    fn sample(&mut self, index: usize) -> Result<Sample, TrainError> {
        let item = self.items[index];
        let report = &self.reports[item.source as usize];
        let length = item.length as usize;
        let line = format!("{}:{}", report.path.display(), item.line);
        match self.layout {
            Layout::Conversations => {
                let stored = self.store.read(item.start, length)?;
                let mut labels: Vec<i32> = stored.iter().skip(1).map(|&token| store::label(token)).collect();
                labels.push(IGNORED);
                let ids = stored.into_iter().map(store::id).collect();
                Ok(Sample { ids, labels, starts: vec![0], origin: line, ..Sample::default() })
            }
            Layout::Windows(windows) => {
                let stored = self.store.read(item.start, length + 1)?;
                let labels = stored[1..].iter().map(|&token| store::id(token) as i32).collect();
                let ids = stored[..length].iter().map(|&token| store::id(token)).collect();
                let mut starts = vec![0];
                if !windows.attend_across_documents {
                    let borders =
                        (1..length as u32).filter(|&place| store::is_marked(stored[place as usize]));
                    starts.extend(borders);
                }
                let origin = format!("{} window {}", report.path.display(), item.line);
                Ok(Sample { ids, labels, starts, origin, ..Sample::default() })
            }
            Layout::Labelled(targets) => {
                let stored = self.store.read(item.start, length + targets.stored(length))?;
                let (tokens, answers) = stored.split_at(length);
                let (labels, several) = targets.read(answers, length);
                let token_types = tokens.iter().map(|&token| u32::from(store::is_marked(token))).collect();
                let ids = tokens.iter().map(|&token| store::id(token)).collect();
                Ok(Sample { ids, labels, token_types, several, starts: vec![0], origin: line })
            }
        }
    }
}

/// Turns weights into repeats: an epoch keeps its number of tokens and gets the wanted shares.
fn set_repeats(reports: &mut [SourceReport], sources: &[Source]) {
    let tokens: u64 = reports.iter().map(|report| report.tokens).sum();
    let weights: f64 = sources.iter().filter_map(|source| source.weight).sum();
    for (report, source) in reports.iter_mut().zip(sources) {
        report.repeats = match source.weight {
            Some(weight) if report.tokens > 0 => weight / weights * tokens as f64 / report.tokens as f64,
            _ => source.repeats.unwrap_or(1.0),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(tokens: u64) -> SourceReport {
        SourceReport { tokens, ..SourceReport::default() }
    }

    #[test]
    fn weights_are_shares_of_an_epochs_tokens() {
        let mut reports = [report(300), report(100)];
        let source = |weight| Source { weight: Some(weight), ..Source::from_path(PathBuf::new()) };
        set_repeats(&mut reports, &[source(1.0), source(1.0)]);
        // 400 tokens in halves: 200 of 300, and 100 twice.
        assert!((reports[0].repeats - 2.0 / 3.0).abs() < 1e-12);
        assert!((reports[1].repeats - 2.0).abs() < 1e-12);
    }
}
