//! What a run tells its caller. The library draws and prints nothing.

use crate::checkpoint::Manifest;
use crate::data::SourceReport;
use crate::metrics::{Held, Record};
use crate::plan::MemoryPlan;
use crate::recipe::Recipe;
use std::path::Path;

/// What is known before the first step.
#[derive(Debug, Clone)]
pub struct RunPlan<'a> {
    /// The recipe with the command line's changes.
    pub recipe: &'a Recipe,
    /// The training sources.
    pub data: &'a [SourceReport],
    /// Samples in an epoch, repeats counted.
    pub epoch_samples: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Step of the checkpoint that the run goes on from.
    pub resumed_from: Option<u64>,
    /// Trainable numbers.
    pub trainable: u64,
    /// Where the memory goes; `None` for a learner that cannot tell.
    pub memory: Option<&'a MemoryPlan>,
}

/// What to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Continue,
    /// Write a checkpoint and return.
    SaveAndStop,
    /// Return at once, as if killed: only earlier checkpoints remain.
    Abandon,
}

/// Hears of everything that happens in a run; every method has a default that does nothing.
pub trait Observer<L: ?Sized = crate::DecoderLearner> {
    /// Data, model and plan are ready; the first step follows.
    fn starting(&mut self, _plan: &RunPlan<'_>) {}

    /// A step has been taken and logged. `report` is true every `log_every` steps and at the last.
    fn step(&mut self, _record: &Record, _total_steps: u64, _report: bool) -> Next {
        Next::Continue
    }

    /// A held-out source has been measured.
    fn validated(&mut self, _held: &Held) {}

    /// A checkpoint is complete.
    fn saved(&mut self, _step: u64, _folder: &Path) {}

    /// Scores the model by task metrics, beside the held-out loss: (name, value) pairs.
    ///
    /// Metrics live above this crate; whoever has them implements this.
    fn score(&mut self, _step: u64, _learner: &mut L) -> Vec<(String, f64)> {
        Vec::new()
    }
}

/// The observer that watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl<L: ?Sized> Observer<L> for Silent {}

/// Names the keys of two recipes that differ in a way that a resumed run would feel.
pub(crate) fn differing_keys(manifest: &Manifest, recipe: &str) -> Vec<String> {
    // These say where files lie, how long to run and how to watch; none of them changes a step that both runs take. The
    // data are compared by their tokens, not by their paths.
    const FREE: [&str; 10] = [
        "tokenizer",
        "chat_format",
        "data",
        "out",
        "epochs",
        "max_steps",
        "checkpointing",
        "save_every",
        "log_every",
        "validation",
    ];
    let table = |text: &str| toml::from_str::<toml::Table>(text).unwrap_or_default();
    let (old, new) = (table(&manifest.recipe), table(recipe));
    let mut keys: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| !FREE.contains(&key.as_str()) && old.get(key) != new.get(key));
    keys
}
