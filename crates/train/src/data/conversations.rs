//! Conversations for supervised tuning: rendered, cut at `max_length`, with the learned tokens marked.

use super::files::Lines;
use super::store::StoreWriter;
use super::{Dataset, Item, SourceReport, store};
use crate::TrainError;
use crate::recipe::Source;
use rayon::prelude::*;
use std::path::Path;
use taiyi_instruct::Conversation;

/// A conversation as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedSample {
    /// Tokens; shape (tokens).
    pub ids: Vec<u32>,
    /// Whether the token is a target of the loss; shape (tokens).
    pub learned: Vec<bool>,
}

/// Renders a conversation to samples; nothing for one that is left out.
pub type Render<'a> = dyn Fn(&Conversation) -> Result<Option<Vec<RenderedSample>>, String> + Sync + 'a;

/// Lines rendered at a time, by all threads together.
const CHUNK: usize = 1024;

impl Dataset {
    /// Renders every conversation into a store at `store_path` (removed with the value).
    ///
    /// A conversation becomes one sample, or several where the chat format cannot show all its answers at once. A sample
    /// without a learned token after the cut adds nothing to the loss; it is left out and counted. So is a conversation that
    /// `render` has nothing for: one of a later stage.
    ///
    /// # Errors
    ///
    /// [`TrainError::File`] for files that cannot be read or written, [`TrainError::Data`] for a line that is no
    /// conversation, [`TrainError::Empty`] when no sample is left.
    pub fn from_conversations(
        sources: &[Source],
        store_path: &Path,
        max_length: usize,
        seed: u64,
        render: &Render<'_>,
    ) -> Result<Self, TrainError> {
        let mut writer = StoreWriter::create(store_path)?;
        let mut items = Vec::new();
        let mut reports = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let mut report = SourceReport {
                name: source.label(),
                path: source.path.clone(),
                records: 0,
                samples: 0,
                tokens: 0,
                labelled_tokens: 0,
                truncated: 0,
                unlabelled: 0,
                later_stage: 0,
                repeats: 1.0,
            };
            let mut lines = Lines::open(&source.path)?;
            loop {
                let mut chunk = Vec::new();
                while chunk.len() < CHUNK
                    && let Some((line, text)) = lines.next()?
                {
                    if !text.trim().is_empty() {
                        chunk.push((line, text.to_owned()));
                    }
                }
                if chunk.is_empty() {
                    break;
                }
                let rendered: Vec<Result<Option<Vec<RenderedSample>>, TrainError>> = chunk
                    .par_iter()
                    .map(|(line, text)| {
                        let refuse =
                            |message| TrainError::Data { path: source.path.clone(), line: *line, message };
                        let conversation = serde_json::from_str(text)
                            .map_err(|error| refuse(format!("expected a conversation: {error}")))?;
                        render(&conversation).map_err(refuse)
                    })
                    .collect();
                let mut samples = Vec::new();
                for ((line, _), rendered) in chunk.iter().zip(rendered) {
                    report.records += 1;
                    match rendered? {
                        Some(rendered) => samples.extend(rendered.into_iter().map(|sample| (*line, sample))),
                        None => report.later_stage += 1,
                    }
                }
                for (line, RenderedSample { ids, learned }) in samples {
                    let length = ids.len().min(max_length);
                    // The first token is never predicted, learned or not.
                    let labelled =
                        learned.iter().take(length).skip(1).filter(|&&learned| learned).count() as u64;
                    if labelled == 0 {
                        report.unlabelled += 1;
                        continue;
                    }
                    report.truncated += u64::from(ids.len() > max_length);
                    report.samples += 1;
                    report.tokens += length as u64;
                    report.labelled_tokens += labelled;
                    let tokens: Vec<u32> = ids
                        .iter()
                        .zip(&learned)
                        .take(length)
                        .map(|(&id, &learned)| store::stored(id, learned))
                        .collect();
                    items.push(Item {
                        start: writer.position(),
                        length: length as u32,
                        source: index as u32,
                        line: u32::try_from(line).unwrap_or(u32::MAX),
                    });
                    writer.push(&tokens)?;
                }
            }
            reports.push(report);
        }
        Dataset::assemble(writer.finish()?, items, reports, sources, None, seed)
    }
}
