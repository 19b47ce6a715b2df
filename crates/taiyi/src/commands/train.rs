//! `taiyi train`: continued pre-training, supervised tuning, and tuning of encoders, as a recipe says.

use std::path::{Path, PathBuf};

use clap::Args;
use taiyi_instruct::MentionCounts;
use taiyi_train::memory::human_bytes;
use taiyi_train::{Held, Next, Observer, Overrides, Recipe, Record, RunPlan, Summary};

use crate::failure::{CommandResult, Outcome};
use crate::terminal::{self, Progress};

/// Arguments of `taiyi train`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Training recipe (TOML).
    #[arg(long, value_name = "FILE")]
    recipe: PathBuf,
    /// Model folder, in place of the recipe's.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Adapter of an earlier stage to go on with, in place of the recipe's.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Training files, in place of the recipe's.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Option<Vec<PathBuf>>,
    /// Folder for everything the run writes, in place of the recipe's.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the newest checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Optimizer steps at most, in place of the recipe's.
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Samples (or windows) in a micro-batch, in place of the recipe's.
    #[arg(long, value_name = "N")]
    per_device_batch: Option<usize>,
    /// Micro-batches in an optimizer step, in place of the recipe's.
    #[arg(long, value_name = "N")]
    accumulation: Option<usize>,
    /// Seed, in place of the recipe's.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs `taiyi train`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let recipe = Recipe::load(&arguments.recipe)?;
    let overrides = Overrides {
        base: arguments.base,
        adapter: arguments.adapter,
        data: arguments.data,
        out: arguments.out,
        resume: arguments.resume,
        max_steps: arguments.max_steps,
        per_device_batch: arguments.per_device_batch,
        accumulation: arguments.accumulation,
        seed: arguments.seed,
        ..Overrides::default()
    };
    let mut watcher = Watcher::new(true);
    let summary = taiyi_train::train(&recipe, &overrides, &mut watcher)?;
    watcher.finish();
    report(&summary);
    Ok(Outcome::Fine)
}

/// Says what a run came to.
pub(crate) fn report(summary: &Summary) {
    terminal::note(&format!(
        "{}: {} steps, loss {:.4} -> {:.4}, {} tokens in {:.0} s ({:.0} tokens/s), peak memory {}",
        summary.stage,
        summary.steps,
        summary.first_loss,
        summary.last_loss,
        summary.tokens,
        summary.seconds,
        summary.tokens_per_second,
        summary.peak_memory_bytes.map_or_else(|| "unknown".into(), human_bytes),
    ));
}

/// Draws a run: the plan, a bar with the loss, and each step's JSON line on stdout where a program reads it.
pub(crate) struct Watcher {
    lines: bool,
    progress: Option<Progress>,
}

impl Watcher {
    /// A watcher that prints each step's JSON line to stdout if `lines`.
    pub(crate) fn new(lines: bool) -> Self {
        Self { lines, progress: None }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }

    fn note(&self, text: &str) {
        match &self.progress {
            Some(progress) => progress.note(text),
            None => terminal::note(text),
        }
    }
}

impl<L: ?Sized> Observer<L> for Watcher {
    fn starting(&mut self, plan: &RunPlan<'_>) {
        if self.lines {
            terminal::note(&format!("# the resolved recipe\n{}", plan.recipe.to_toml()));
        }
        for source in plan.data {
            let remarks = [
                (source.truncated, "cut at the longest length"),
                (source.unlabelled, "left out: nothing to learn"),
                (source.later_stage, "left for a later stage"),
            ];
            terminal::note(&format!(
                "{}: {} samples, {} tokens ({} learned), {} times an epoch{}",
                source.name,
                source.samples,
                source.tokens,
                source.labelled_tokens,
                source.repeats,
                counts(&remarks),
            ));
            let mentions = source.mentions;
            let remarks = [
                (mentions.overlapping, "left out: inside or across a longer one"),
                (mentions.discontinuous, "left out: in several pieces"),
                (mentions.unplaced, "left out: without a place in the text"),
                (mentions.widened, "begin or end inside a token"),
                (mentions.cut, "cut between windows"),
            ];
            if mentions != MentionCounts::default() {
                terminal::note(&format!(
                    "{}: {} entities labelled{}",
                    source.name,
                    mentions.kept,
                    counts(&remarks)
                ));
            }
        }
        if let Some(memory) = plan.memory {
            terminal::note(&memory.to_string());
        }
        terminal::note(&format!(
            "{} samples an epoch, {} steps ({} of warm-up), {} trainable numbers{}",
            plan.epoch_samples,
            plan.total_steps,
            plan.warmup_steps,
            plan.trainable,
            plan.resumed_from.map(|step| format!(", resumed from step {step}")).unwrap_or_default(),
        ));
        self.progress = Some(Progress::new(&plan.recipe.stage, plan.total_steps, "steps"));
    }

    fn step(&mut self, record: &Record, _total_steps: u64, _report: bool) -> Next {
        if self.lines
            && let Ok(line) = serde_json::to_string(record)
        {
            terminal::line(&line);
        }
        if let Some(progress) = &self.progress {
            progress.set(
                record.step,
                &format!("loss {:.3}, {:.0} tokens/s", record.loss, record.tokens_per_second),
            );
        }
        Next::Continue
    }

    fn validated(&mut self, held: &Held) {
        let loss = held.loss.map(|loss| format!(" loss {loss:.4}")).unwrap_or_default();
        let bits = held.bits_per_byte.map(|bits| format!(" {bits:.4} bits per byte")).unwrap_or_default();
        let scores: String = held.scores.iter().map(|(name, score)| format!(" {name} {score:.4}")).collect();
        self.note(&format!("step {}: held out {}:{loss}{bits}{scores}", held.step, held.name));
    }

    fn saved(&mut self, step: u64, folder: &Path) {
        if self.lines {
            self.note(&format!("step {step}: checkpoint {}", folder.display()));
        }
    }
}

/// What there is any of, behind commas.
fn counts(remarks: &[(u64, &str)]) -> String {
    let some = remarks.iter().filter(|(count, _)| *count > 0);
    some.map(|(count, what)| format!(", {count} {what}")).collect()
}
