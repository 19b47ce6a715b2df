//! Conversations for supervised tuning: rendered, cut at `max_length`, with the learned tokens marked.

use super::files::each_line;
use super::store::StoreWriter;
use super::{Dataset, Item, Layout, SourceReport, store};
use crate::TrainError;
use crate::recipe::Source;
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
            let mut report = SourceReport::of(source);
            let read = |text: &str| {
                let conversation = serde_json::from_str(text)
                    .map_err(|error| format!("expected a conversation: {error}"))?;
                render(&conversation)
            };
            each_line(&source.path, &read, &mut |line, samples| {
                report.records += 1;
                report.later_stage += u64::from(samples.is_none());
                for RenderedSample { ids, learned } in samples.into_iter().flatten() {
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
                Ok(())
            })?;
            reports.push(report);
        }
        Dataset::assemble(writer.finish()?, items, reports, sources, Layout::Conversations, seed)
    }
}
