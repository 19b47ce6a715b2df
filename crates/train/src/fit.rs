//! The loop: samples of a step, packs, gradients, clipping, AdamW, metrics, checkpoints.
//!
//! Whatever a step needs follows from its number, the seed and the trainable state: the samples, their packing, the
//! dropout streams, the learning rate. A resumed run therefore takes the same steps, bit for bit.

use crate::checkpoint::{self, Manifest};
use crate::data::packing::{Pack, micro_batches};
use crate::data::{Dataset, Sample};
use crate::learner::Learner;
use crate::memory::peak_memory_bytes;
use crate::metrics::{Held, Log, Record};
use crate::observer::{Next, Observer, RunPlan, differing_keys};
use crate::optimizer::{GradientGuard, Optimizer, clip_factor, gradient_norm, not_finite};
use crate::plan::MemoryPlan;
use crate::recipe::{Precision, Recipe};
use crate::schedule::Schedule;
use crate::shuffle::SplitMix64;
use crate::validate::{TokenBytes, measure};
use crate::{TrainError, plot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;
use taiyi_model::{Checkpoint, StepOptions};

/// A held-out source, tokenised.
#[derive(Debug)]
pub struct HeldOut {
    /// Name in `validation.jsonl`.
    pub name: String,
    /// Its samples.
    pub data: Dataset,
}

/// Everything a run works with.
#[derive(Debug)]
pub struct Run<'a, L: ?Sized> {
    /// The recipe with the command line's changes.
    pub recipe: &'a Recipe,
    /// Folder for everything the run writes.
    pub out: &'a Path,
    /// The model, trainable tensors at their initial values.
    pub learner: &'a mut L,
    /// Training samples.
    pub data: Dataset,
    /// Held-out samples.
    pub held_out: Vec<HeldOut>,
    /// Bytes per token, for bits per byte; raw text only.
    pub token_bytes: Option<TokenBytes>,
    /// Where the memory goes.
    pub memory: Option<MemoryPlan>,
    /// What is kept for the backward pass.
    pub checkpointing: Checkpoint,
    /// Go on from the newest complete checkpoint.
    pub resume: bool,
}

/// What a run came to. Written to `OUT/manifest.json` when it is finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the stage.
    pub stage: String,
    /// Steps taken, those before a resumption included.
    pub steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Whether the last step was taken and the model written.
    pub finished: bool,
    /// Step of the checkpoint that this process went on from.
    pub resumed_from: Option<u64>,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Mean loss of the last 5 % of the steps, at least 5.
    pub last_loss: f64,
    /// Samples drawn.
    pub samples: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Wall-clock time of all steps.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_second: f64,
    /// Largest resident size of this process.
    pub peak_memory_bytes: Option<u64>,
    /// The last measurement of each held-out source.
    pub held_out: Vec<Held>,
    /// Version of this crate.
    pub version: String,
    /// Threads of the kernels.
    pub threads: usize,
}

impl<L: Learner + ?Sized> Run<'_, L> {
    /// Trains until the last step, or until the observer stops the run.
    ///
    /// # Errors
    ///
    /// [`TrainError::ZeroGradient`] and [`TrainError::NotFinite`] when training makes no sense, [`TrainError::Resume`]
    /// when a checkpoint belongs to another run, [`TrainError::Occupied`] when `out` holds a run and `resume` is not
    /// set, [`TrainError::File`] when a file cannot be read or written. Earlier checkpoints stay.
    pub fn fit(mut self, observer: &mut dyn Observer<L>) -> Result<Summary, TrainError> {
        let total_steps = self.total_steps();
        let schedule = self.recipe.schedule_for(total_steps);
        let checkpoints = self.out.join("checkpoints");
        check_unoccupied(self.out, self.resume)?;
        let found = checkpoint::newest(&checkpoints)?;
        fs::create_dir_all(self.out).map_err(TrainError::file(self.out, "cannot create"))?;
        let recipe_text = self.recipe.to_toml();
        let recipe_path = self.out.join("recipe.toml");
        let mut optimizer = Optimizer::new(self.recipe, &self.learner.parameters());
        let resumed_from = match &found {
            Some((folder, manifest)) => {
                self.check_same_run(folder, manifest, &recipe_text)?;
                checkpoint::restore(folder, manifest, self.learner, &mut optimizer)?;
                Some(manifest.step)
            }
            None => None,
        };
        fs::write(&recipe_path, &recipe_text).map_err(TrainError::file(&recipe_path, "cannot write"))?;
        let (mut metrics, mut records) = Log::open::<Record>(self.out.join("metrics.jsonl"), optimizer.step)?;
        let (mut held_log, mut held) = Log::open::<Held>(self.out.join("validation.jsonl"), optimizer.step)?;
        let parameters = self.learner.parameters();
        let trainable = parameters.iter().map(|parameter| parameter.data.len() as u64).sum();
        let mut guard = GradientGuard::new(&parameters);
        drop(parameters);
        observer.starting(&RunPlan {
            recipe: self.recipe,
            data: self.data.reports(),
            epoch_samples: self.data.epoch_samples(),
            total_steps,
            warmup_steps: schedule.warmup_steps,
            resumed_from,
            trainable,
            memory: self.memory.as_ref(),
        });

        let mut saved_at = resumed_from;
        while optimizer.step < total_steps {
            let record = self.step(&mut optimizer, &schedule, &mut guard)?;
            metrics.push(&record)?;
            let report = record.step.is_multiple_of(self.recipe.log_every) || record.step == total_steps;
            let next = observer.step(&record, total_steps, report);
            let step = record.step;
            records.push(record);
            if next == Next::Abandon {
                return Ok(self.summary(total_steps, resumed_from, &records, &held, false));
            }
            let last = step == total_steps;
            if self.recipe.validation.as_ref().is_some_and(|v| last || step.is_multiple_of(v.every)) {
                for measured in self.validate(step, observer)? {
                    held_log.push(&measured)?;
                    observer.validated(&measured);
                    held.push(measured);
                }
            }
            let stop = next == Next::SaveAndStop;
            let due = self.recipe.save_every > 0 && (last || step.is_multiple_of(self.recipe.save_every));
            if due || stop {
                let manifest = self.manifest(step, &recipe_text);
                let folder = checkpoint::write(&checkpoints, manifest, self.learner, &optimizer)?;
                observer.saved(step, &folder);
                saved_at = Some(step);
                plot::loss(&self.out.join("loss.svg"), &self.recipe.stage, &records, &held)?;
            }
            if stop && !last {
                return Ok(self.summary(total_steps, resumed_from, &records, &held, false));
            }
        }
        tracing::debug!(?saved_at, log = %metrics.path().display(), "finished");

        self.learner.save(self.out)?;
        plot::loss(&self.out.join("loss.svg"), &self.recipe.stage, &records, &held)?;
        let summary = self.summary(total_steps, resumed_from, &records, &held, true);
        let json = serde_json::to_vec_pretty(&summary).expect("a summary holds only numbers and names");
        replace(&self.out.join("manifest.json"), &json)?;
        Ok(summary)
    }

    fn total_steps(&self) -> u64 {
        let by_epochs = self.recipe.epochs.map(|epochs| {
            let samples = (self.data.epoch_samples() as f64 * epochs).round().max(1.0) as u64;
            samples.div_ceil(self.recipe.samples_per_step() as u64)
        });
        by_epochs.unwrap_or(u64::MAX).min(self.recipe.max_steps.unwrap_or(u64::MAX))
    }

    /// Samples before a step: every step takes as many as the recipe says, the last one of all epochs what is left.
    fn samples_of(&self, step: u64) -> (u64, usize) {
        let per_step = self.recipe.samples_per_step() as u64;
        let first = step * per_step;
        let end = self
            .recipe
            .epochs
            .map_or(u64::MAX, |epochs| (self.data.epoch_samples() as f64 * epochs).round().max(1.0) as u64);
        (first, end.saturating_sub(first).min(per_step) as usize)
    }

    fn step(
        &mut self,
        optimizer: &mut Optimizer,
        schedule: &Schedule,
        guard: &mut GradientGuard,
    ) -> Result<Record, TrainError> {
        let clock = Instant::now();
        let number = optimizer.step + 1;
        let (first, count) = self.samples_of(optimizer.step);
        let samples = self.data.draw(first, count)?;
        let packs = self.packs(&samples);
        let labelled: usize = packs.iter().map(Pack::labelled).sum();
        let loss_scale = 1.0 / labelled as f32;

        self.learner.zero_gradients();
        let mut sum = 0.0;
        for (index, pack) in packs.iter().enumerate() {
            let options = StepOptions {
                precision: kernel_precision(self.recipe.compute_precision()),
                loss_scale,
                dropout_seed: (self.recipe.lora_dropout > 0.0).then(|| self.dropout_seed(number, index)),
                checkpoint: self.checkpointing,
            };
            let loss = self.learner.loss_and_gradients(pack, &options)?;
            if !loss.sum.is_finite() {
                let inside = pack.samples.iter().map(|&number| &samples[number]);
                return Err(not_a_number(number, "the loss", loss.sum, inside));
            }
            sum += loss.sum;
        }
        let mut parameters = self.learner.parameters();
        let grad_norm = gradient_norm(&parameters);
        if !grad_norm.is_finite() {
            let (what, value) = not_finite(&parameters).map_or_else(
                || ("the norm of all gradients".to_owned(), grad_norm),
                |(name, value)| (format!("the gradient of `{name}`"), f64::from(value)),
            );
            return Err(not_a_number(number, &what, value, samples.iter()));
        }
        guard.check(number, &parameters)?;
        let learning_rate = schedule.rate(optimizer.step);
        optimizer.step(&mut parameters, learning_rate, clip_factor(grad_norm, self.recipe.max_grad_norm));

        let tokens: usize = packs.iter().map(|pack| pack.ids.len()).sum();
        let seconds = clock.elapsed().as_secs_f64();
        Ok(Record {
            step: number,
            stage: self.recipe.stage.clone(),
            loss: sum / labelled as f64,
            learning_rate,
            grad_norm,
            tokens: tokens as u64,
            labelled_tokens: labelled as u64,
            samples: samples.len() as u64,
            seconds,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            peak_memory_bytes: peak_memory_bytes(),
        })
    }

    fn packs(&self, samples: &[Sample]) -> Vec<Pack> {
        let capacity = self
            .recipe
            .packs_samples()
            .then(|| self.recipe.tokens_per_batch.unwrap_or(self.recipe.max_length));
        micro_batches(samples, capacity, self.recipe.per_device_batch)
    }

    /// A seed of its own for every micro-batch of the run.
    fn dropout_seed(&self, step: u64, micro_batch: usize) -> u64 {
        SplitMix64::new(self.recipe.seed ^ 0xD809_0A7E, (step << 16) + micro_batch as u64).next()
    }

    fn validate(&mut self, step: u64, observer: &mut dyn Observer<L>) -> Result<Vec<Held>, TrainError> {
        let precision = kernel_precision(self.recipe.compute_precision());
        let limit = self.recipe.validation.as_ref().and_then(|validation| validation.limit);
        let mut measured = Vec::new();
        for held_out in &mut self.held_out {
            let clock = Instant::now();
            let bytes = self.token_bytes.as_ref();
            let found =
                measure(self.learner, &mut held_out.data, limit, self.recipe.max_length, bytes, precision)?;
            measured.push(Held {
                step,
                stage: self.recipe.stage.clone(),
                name: held_out.name.clone(),
                loss: Some(found.mean()),
                labelled_tokens: found.labelled,
                bits_per_byte: bytes.map(|_| found.bits_per_byte().bits_per_byte),
                scores: BTreeMap::new(),
                seconds: clock.elapsed().as_secs_f64(),
            });
        }
        let clock = Instant::now();
        let scores: BTreeMap<String, f64> = observer.score(step, self.learner).into_iter().collect();
        if !scores.is_empty() {
            measured.push(Held {
                step,
                stage: self.recipe.stage.clone(),
                name: "scores".to_owned(),
                loss: None,
                labelled_tokens: 0,
                bits_per_byte: None,
                scores,
                seconds: clock.elapsed().as_secs_f64(),
            });
        }
        Ok(measured)
    }

    fn manifest(&self, step: u64, recipe: &str) -> Manifest {
        Manifest {
            format: checkpoint::FORMAT,
            step,
            data: format!("{:016x}", self.data.fingerprint()),
            recipe: recipe.to_owned(),
            files: BTreeMap::new(),
        }
    }

    fn check_same_run(&self, folder: &Path, manifest: &Manifest, recipe: &str) -> Result<(), TrainError> {
        let refuse = |message: String| Err(TrainError::Resume { path: folder.to_owned(), message });
        let here = self.manifest(manifest.step, recipe);
        if manifest.format != here.format {
            return refuse(format!("its format is {}; expected {}", manifest.format, here.format));
        }
        let keys = differing_keys(manifest, recipe);
        if !keys.is_empty() {
            return refuse(format!("the recipe has changed since: {}", keys.join(", ")));
        }
        if manifest.data != here.data {
            return refuse("the data, their repeats or the tokenizer have changed since".to_owned());
        }
        Ok(())
    }

    fn summary(
        &self,
        total_steps: u64,
        resumed_from: Option<u64>,
        records: &[Record],
        held: &[Held],
        finished: bool,
    ) -> Summary {
        let tail = &records[records.len() - (records.len() / 20).max(5).min(records.len())..];
        let tokens = records.iter().map(|record| record.tokens).sum();
        let seconds: f64 = records.iter().map(|record| record.seconds).sum();
        let latest: BTreeMap<&str, &Held> = held.iter().map(|held| (held.name.as_str(), held)).collect();
        Summary {
            stage: self.recipe.stage.clone(),
            steps: records.last().map_or(0, |record| record.step),
            total_steps,
            finished,
            resumed_from,
            first_loss: records.first().map_or(0.0, |record| record.loss),
            last_loss: tail.iter().map(|record| record.loss).sum::<f64>() / tail.len().max(1) as f64,
            samples: records.iter().map(|record| record.samples).sum(),
            tokens,
            seconds,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            peak_memory_bytes: peak_memory_bytes(),
            held_out: latest.into_values().cloned().collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            threads: taiyi_kernels::threads(),
        }
    }
}

pub(crate) fn kernel_precision(precision: Precision) -> taiyi_kernels::Precision {
    match precision {
        Precision::F32 => taiyi_kernels::Precision::F32,
        Precision::Bf16 => taiyi_kernels::Precision::Bf16,
    }
}

/// Refuses a folder that holds a run, unless the run is to go on.
pub(crate) fn check_unoccupied(out: &Path, resume: bool) -> Result<(), TrainError> {
    let occupied =
        out.join("manifest.json").exists() || checkpoint::newest(&out.join("checkpoints"))?.is_some();
    if occupied && !resume {
        return Err(TrainError::Occupied { path: out.to_owned() });
    }
    Ok(())
}

fn not_a_number<'a>(
    step: u64,
    what: &str,
    value: f64,
    samples: impl Iterator<Item = &'a Sample>,
) -> TrainError {
    let origins: Vec<&str> = samples.map(|sample| sample.origin.as_str()).collect();
    TrainError::NotFinite {
        step,
        what: what.to_owned(),
        found: if value.is_nan() { "NaN".to_owned() } else { value.to_string() },
        samples: origins.join(", "),
    }
}

/// Writes a sibling and renames it.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), TrainError> {
    let partial = path.with_extension("partial");
    fs::write(&partial, content)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(TrainError::file(path, "cannot write"))
}
