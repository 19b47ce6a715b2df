//! Recipes: the TOML files that say how a model is trained.
//!
//! A recipe is read strictly (an unknown key is an error that names the nearest known one), checked as a whole, and
//! written back, resolved, beside the results. It knows nothing of models: whether a target layer exists is the
//! model's to say.

mod read;
mod source;

pub use source::{Source, TextUnit};

use crate::TrainError;
use crate::schedule::{Schedule, Shape};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a recipe trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Raw text, every token learned: from scratch, or continued.
    Pretrain,
    /// Conversations, answers learned.
    Sft,
    /// An encoder on documents with entities: a label for each token.
    TokenClassification,
    /// An encoder on classified texts and pairs: one label, or several, for each.
    SequenceClassification,
}

impl Kind {
    /// Whether what is trained is an encoder, on documents of the corpus schema.
    pub fn is_encoder(self) -> bool {
        matches!(self, Self::TokenClassification | Self::SequenceClassification)
    }
}

/// How frozen weights are stored, and a fully trained model is saved. Trainable numbers are f32 in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    Bf16,
    /// About half a byte a weight: NF4 with double quantisation (QLoRA).
    Nf4,
}

/// How matrix products round their operands; sums are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Operands are f32.
    F32,
    /// Operands are rounded to bf16.
    Bf16,
}

/// Whether a block's activations are kept for the backward pass or computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkpointing {
    /// `none` where the memory plan allows it, `every_block` where it does not.
    Auto,
    /// Keep everything: fastest.
    None,
    /// Keep only the input of each block and compute the rest again: about a third slower, far smaller.
    EveryBlock,
}

/// How gradients become steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// A scale for every number (Loshchilov and Hutter 2019).
    Adamw,
    /// Orthogonal steps for matrices (Jordan et al. 2024), AdamW for tables of tokens, norms and biases. Learns more from
    /// each token when a model is trained in full; costs a share of the step that falls as the batch grows.
    Muon,
}

/// Held-out data and how often its loss is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Optimizer steps between two measurements; one more is made after the last step.
    pub every: u64,
    /// Held-out files; each is measured on its own and named by its `name`.
    pub data: Vec<Source>,
    /// Samples (or windows) of each file to measure at most; all of them by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// One training stage. Field names are the keys of the TOML file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The file it was read from, for messages.
    #[serde(skip)]
    pub origin: PathBuf,
    /// What to train on.
    pub kind: Kind,
    /// Name of the stage, as it stands in every line of `metrics.jsonl`.
    pub stage: String,
    /// Checkpoint folder in the Hugging Face layout; only `config.json` is needed with `from_scratch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Start from random weights of the base's configuration.
    #[serde(default)]
    pub from_scratch: bool,
    /// PEFT adapter to go on with (of an earlier stage), in place of a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Folder with the tokenizer, where it is not the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Name of a chat format, where the base's own is not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_format: Option<String>,
    /// Training files.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "source::one_or_many")]
    pub data: Vec<Source>,
    /// Only conversations that this training stage learns: 1 leaves out questions and dialogue, 2 takes everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learn_stage: Option<u8>,
    /// Classification: a text may have several labels, or none, each decided on its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multi_label: bool,
    /// Folder for everything the run writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// Seed of the initial weights, the order of the samples and dropout.
    #[serde(default)]
    pub seed: u64,

    /// How frozen weights are stored.
    pub dtype: Dtype,
    /// How products round; bf16 unless `dtype` is f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Rank of the adapter; 0 trains every parameter.
    #[serde(default)]
    pub lora_rank: usize,
    /// Numerator of the adapter's scale, `lora_alpha / lora_rank`.
    #[serde(default = "default::lora_alpha")]
    pub lora_alpha: f32,
    /// Share of the adapter's inputs set to zero in training, 0 up to but not including 1.
    #[serde(default)]
    pub lora_dropout: f32,
    /// Layers that get an adapter, by the last part of their name, or `["all-linear"]`.
    #[serde(default = "default::lora_targets")]
    pub lora_targets: Vec<String>,
    /// Scale by `lora_alpha / sqrt(lora_rank)` (rank-stabilised LoRA).
    #[serde(default)]
    pub lora_rslora: bool,
    /// Train a magnitude for every row beside its direction (DoRA).
    #[serde(default)]
    pub lora_dora: bool,

    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate.
    #[serde(default = "default::schedule")]
    pub schedule: Shape,
    /// Warm-up as a share of all steps; not together with `warmup_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Warm-up in steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Share of all steps in which `warmup_stable_decay` falls.
    #[serde(default = "default::decay_ratio")]
    pub decay_ratio: f64,
    /// Learning rate at the end as a share of the peak (cosine, linear, warmup_stable_decay).
    #[serde(default)]
    pub final_learning_rate_ratio: f64,
    /// Which rule makes the steps.
    #[serde(default = "default::optimizer")]
    pub optimizer: Optimizer,
    /// Muon's decay of the momentum.
    #[serde(default = "default::momentum")]
    pub momentum: f64,
    /// Decoupled decay of matrices; norms and biases are never decayed.
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW's two decay rates of the moments.
    #[serde(default = "default::betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "default::eps")]
    pub eps: f64,
    /// Gradients are scaled down to this norm; 0 turns clipping off.
    #[serde(default = "default::max_grad_norm")]
    pub max_grad_norm: f64,

    /// Longest sample (or window of text) in tokens; longer samples are cut at their end.
    pub max_length: usize,
    /// Samples (or windows) in a micro-batch.
    pub per_device_batch: usize,
    /// Micro-batches in an optimizer step.
    #[serde(default = "default::one")]
    pub accumulation: usize,
    /// Merge the samples of a step into rows without padding; `false` runs micro-batches of `per_device_batch` samples.
    #[serde(default = "default::yes")]
    pub packing: bool,
    /// Tokens in a packed row, at least `max_length`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_batch: Option<usize>,
    /// Pre-training: let attention cross the borders of documents inside a window.
    #[serde(default)]
    pub attend_across_documents: bool,
    /// Passes over the data; optional where `max_steps` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Optimizer steps at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,

    /// Recomputation of activations.
    #[serde(default = "default::checkpointing")]
    pub checkpointing: Checkpointing,
    /// Optimizer steps between two checkpoints; 0 writes none before the end.
    #[serde(default = "default::save_every")]
    pub save_every: u64,
    /// Optimizer steps between two progress reports.
    #[serde(default = "default::log_every")]
    pub log_every: u64,
    /// Held-out data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

mod default {
    use super::{Checkpointing, Optimizer, Shape};

    pub(super) fn lora_alpha() -> f32 {
        16.0
    }
    pub(super) fn lora_targets() -> Vec<String> {
        vec!["all-linear".to_owned()]
    }
    pub(super) fn schedule() -> Shape {
        Shape::ConstantWithWarmup
    }
    pub(super) fn decay_ratio() -> f64 {
        0.2
    }
    pub(super) fn optimizer() -> Optimizer {
        Optimizer::Adamw
    }
    pub(super) fn momentum() -> f64 {
        0.95
    }
    pub(super) fn betas() -> [f64; 2] {
        [0.9, 0.999]
    }
    pub(super) fn eps() -> f64 {
        1e-8
    }
    pub(super) fn max_grad_norm() -> f64 {
        1.0
    }
    pub(super) fn one() -> usize {
        1
    }
    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn checkpointing() -> Checkpointing {
        Checkpointing::Auto
    }
    pub(super) fn save_every() -> u64 {
        500
    }
    pub(super) fn log_every() -> u64 {
        1
    }
}

/// What the command line changes in a recipe.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// In place of `base`.
    pub base: Option<PathBuf>,
    /// In place of `adapter`.
    pub adapter: Option<PathBuf>,
    /// In place of `tokenizer`.
    pub tokenizer: Option<PathBuf>,
    /// In place of `data`.
    pub data: Option<Vec<PathBuf>>,
    /// In place of `out`.
    pub out: Option<PathBuf>,
    /// In place of `max_steps`.
    pub max_steps: Option<u64>,
    /// In place of `seed`.
    pub seed: Option<u64>,
    /// In place of `per_device_batch`.
    pub per_device_batch: Option<usize>,
    /// In place of `accumulation`.
    pub accumulation: Option<usize>,
    /// Go on from the newest complete checkpoint in `out`; from the start, where there is none.
    pub resume: bool,
}

impl Recipe {
    /// Reads and checks a recipe file.
    ///
    /// # Errors
    ///
    /// [`TrainError::Recipe`] names file, line and key; [`TrainError::Value`] names a value outside its range.
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::file(path, "cannot read the recipe"))?;
        Self::parse(path, &text)
    }

    /// Reads and checks a recipe from TOML text; `origin` is what errors call it.
    ///
    /// # Errors
    ///
    /// As [`Recipe::load`].
    pub fn parse(origin: &Path, text: &str) -> Result<Self, TrainError> {
        let mut recipe = read::parse(origin, text)?;
        recipe.origin = origin.to_owned();
        recipe.check()?;
        Ok(recipe)
    }

    /// Returns the recipe with the command line's changes.
    pub fn with(&self, overrides: &Overrides) -> Self {
        let mut recipe = self.clone();
        let replace = |place: &mut Option<PathBuf>, by: &Option<PathBuf>| {
            if by.is_some() {
                place.clone_from(by);
            }
        };
        replace(&mut recipe.base, &overrides.base);
        replace(&mut recipe.adapter, &overrides.adapter);
        replace(&mut recipe.tokenizer, &overrides.tokenizer);
        replace(&mut recipe.out, &overrides.out);
        if let Some(files) = &overrides.data {
            recipe.data = files.iter().map(|path| Source::from_path(path.clone())).collect();
        }
        recipe.max_steps = overrides.max_steps.or(recipe.max_steps);
        recipe.seed = overrides.seed.unwrap_or(recipe.seed);
        recipe.per_device_batch = overrides.per_device_batch.unwrap_or(recipe.per_device_batch);
        recipe.accumulation = overrides.accumulation.unwrap_or(recipe.accumulation);
        recipe
    }

    /// Writes the recipe as TOML, every default spelled out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds only values that TOML can express")
    }

    /// Samples (or windows) in an optimizer step.
    pub fn samples_per_step(&self) -> usize {
        self.per_device_batch * self.accumulation
    }

    /// Whether samples of a step share rows.
    pub(crate) fn packs_samples(&self) -> bool {
        self.packing && self.kind != Kind::Pretrain
    }

    /// Returns how products round: as asked, or bf16 unless the weights are f32.
    pub fn compute_precision(&self) -> Precision {
        self.precision.unwrap_or(match self.dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 | Dtype::Nf4 => Precision::Bf16,
        })
    }

    /// Returns the learning-rate schedule for a run of `total_steps`.
    pub fn schedule_for(&self, total_steps: u64) -> Schedule {
        let ratio = self.warmup_ratio.unwrap_or(0.0);
        // transformers rounds the ratio up; a float product such as 0.1 * 30 may exceed the integer by an ulp.
        let by_ratio = (total_steps as f64 * ratio - 1e-9).ceil().max(0.0) as u64;
        Schedule {
            shape: self.schedule,
            peak: self.learning_rate,
            warmup_steps: self.warmup_steps.unwrap_or(by_ratio),
            total_steps,
            decay_ratio: self.decay_ratio,
            final_ratio: self.final_learning_rate_ratio,
        }
    }

    pub(crate) fn wrong(&self, key: &'static str, found: String, expected: &str) -> TrainError {
        TrainError::Value { file: self.origin.clone(), key, found, expected: expected.to_owned() }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] for the first value outside its range.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |key, found: String, expected: &str| Err(self.wrong(key, found, expected));
        let zero = [
            ("max_length", self.max_length),
            ("per_device_batch", self.per_device_batch),
            ("accumulation", self.accumulation),
            ("log_every", self.log_every as usize),
            ("max_steps", self.max_steps.unwrap_or(1) as usize),
            ("validation.every", self.validation.as_ref().map_or(1, |v| v.every as usize)),
        ];
        if let Some((key, _)) = zero.into_iter().find(|&(_, value)| value == 0) {
            return wrong(key, "0".to_owned(), "at least 1");
        }
        let shares = [
            ("warmup_ratio", self.warmup_ratio.unwrap_or(0.0)),
            ("decay_ratio", self.decay_ratio),
            ("final_learning_rate_ratio", self.final_learning_rate_ratio),
        ];
        if let Some((key, value)) = shares.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return wrong(key, value.to_string(), "0 to 1");
        }
        let below_one = [
            ("lora_dropout", f64::from(self.lora_dropout)),
            ("momentum", self.momentum),
            ("betas", self.betas[0]),
            ("betas", self.betas[1]),
        ];
        if let Some((key, value)) = below_one.into_iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            return wrong(key, value.to_string(), "0 up to, but not including, 1");
        }
        let not_negative = [
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
            ("eps", self.eps),
            ("max_grad_norm", self.max_grad_norm),
            ("lora_alpha", f64::from(self.lora_alpha)),
        ];
        let negative = |value: f64| !value.is_finite() || value < 0.0;
        if let Some((key, value)) = not_negative.into_iter().find(|&(_, value)| negative(value)) {
            return wrong(key, value.to_string(), "a finite number, at least 0");
        }
        if self.warmup_ratio.is_some() && self.warmup_steps.is_some() {
            return wrong("warmup_steps", "given beside `warmup_ratio`".to_owned(), "one of the two");
        }
        match (self.epochs, self.max_steps) {
            (None, None) => return wrong("epochs", "missing".to_owned(), "`epochs`, `max_steps`, or both"),
            (Some(epochs), _) if !epochs.is_finite() || epochs <= 0.0 => {
                return wrong("epochs", epochs.to_string(), "a number above 0");
            }
            _ => {}
        }
        if let Some(tokens) = self.tokens_per_batch
            && tokens < self.max_length
        {
            return wrong("tokens_per_batch", tokens.to_string(), "at least `max_length`");
        }
        if self.kind.is_encoder() {
            if self.lora_rank > 0 {
                return wrong("lora_rank", self.lora_rank.to_string(), "0: encoders are trained in full");
            }
            let of_decoders = [
                ("chat_format", self.chat_format.is_some()),
                ("learn_stage", self.learn_stage.is_some()),
                ("attend_across_documents", self.attend_across_documents),
            ];
            if let Some((key, _)) = of_decoders.into_iter().find(|(_, given)| *given) {
                return wrong(key, "given for an encoder".to_owned(), "nothing: it is for language models");
            }
        }
        if self.multi_label && self.kind != Kind::SequenceClassification {
            return wrong(
                "multi_label",
                "true".to_owned(),
                "it in `kind = \"sequence_classification\"` only",
            );
        }
        if self.lora_rank == 0 && self.dtype == Dtype::Nf4 {
            return wrong(
                "dtype",
                "nf4 with `lora_rank` 0".to_owned(),
                "f32 or bf16: NF4 weights cannot be trained",
            );
        }
        if self.lora_rank > 0 && self.from_scratch {
            return wrong(
                "from_scratch",
                "true with an adapter".to_owned(),
                "`lora_rank = 0`: random weights need all of it",
            );
        }
        if self.lora_rank == 0 && self.adapter.is_some() {
            return wrong(
                "adapter",
                "given with `lora_rank` 0".to_owned(),
                "the adapter's rank in `lora_rank`",
            );
        }
        if self.lora_rank > 0 && self.lora_targets.is_empty() {
            return wrong("lora_targets", "[]".to_owned(), "names of layers, or [\"all-linear\"]");
        }
        let held_out = self.validation.iter().flat_map(|validation| &validation.data);
        for source in self.data.iter().chain(held_out) {
            if self.kind != Kind::Pretrain && source.echo.is_some() {
                let what = if self.kind == Kind::Sft { "conversations" } else { "documents" };
                return wrong("data.echo", format!("given for {what}"), "`kind = \"pretrain\"`");
            }
            if let Some((key, found, expected)) = source.problem() {
                return wrong(key, found, expected);
            }
        }
        let weighted = self.data.iter().filter(|source| source.weight.is_some()).count();
        if weighted != 0 && weighted != self.data.len() {
            return wrong(
                "data.weight",
                format!("on {weighted} of {} sources", self.data.len()),
                "on all of them, or none",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        kind = "sft"
        stage = "stage1"
        data = "samples.jsonl"
        dtype = "nf4"
        lora_rank = 8
        learning_rate = 2e-4
        warmup_ratio = 0.1
        max_length = 64
        per_device_batch = 4
        epochs = 1
    "#;

    fn parse(text: &str) -> Result<Recipe, TrainError> {
        Recipe::parse(Path::new("small.toml"), text)
    }

    fn message(text: &str) -> String {
        parse(text).expect_err("the recipe is wrong").to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_its_neighbour() {
        let text = SMALL.replace("learning_rate", "lerning_rate");
        assert_eq!(message(&text), "small.toml:7: unknown key `lerning_rate`; did you mean `learning_rate`?");
        let text = format!("{SMALL}\n[validation]\nevry = 5\ndata = []\n");
        assert_eq!(message(&text), "small.toml:14: unknown key `evry`; did you mean `every`?");
        let text = SMALL.replace("\"samples.jsonl\"", "[{ path = \"a.jsonl\", repeat = 2 }]");
        assert_eq!(message(&text), "small.toml:4: unknown key `repeat`; did you mean `repeats`?");
    }

    #[test]
    fn a_key_like_no_other_lists_nothing_absurd() {
        let found = message(&format!("{SMALL}\nfavourite_colour = 1\n"));
        assert!(found.starts_with("small.toml:13: unknown key `favourite_colour`; known keys: "), "{found}");
    }

    #[test]
    fn wrong_types_missing_keys_and_broken_toml_name_the_line() {
        assert!(
            message(&SMALL.replace("= 64", "= \"long\""))
                .starts_with("small.toml:9: `max_length`: invalid type")
        );
        assert!(message(&SMALL.replace("dtype = \"nf4\"", "")).contains("missing key `dtype`"));
        assert!(message(&SMALL.replace("stage = ", "stage ")).starts_with("small.toml:3: "));
        let found = message(&SMALL.replace("nf4", "nf5"));
        assert_eq!(found, "small.toml:5: `dtype` is `nf5`; did you mean `nf4`?");
    }

    #[test]
    fn values_outside_their_range_are_refused() {
        let cases = [
            ("max_length = 64", "max_length = 0", "`max_length` is 0; expected at least 1"),
            ("warmup_ratio = 0.1", "warmup_ratio = 1.5", "`warmup_ratio` is 1.5; expected 0 to 1"),
            ("epochs = 1", "", "`epochs` is missing"),
            ("epochs = 1", "epochs = 0", "`epochs` is 0; expected a number above 0"),
            ("lora_rank = 8", "lora_rank = 0", "NF4 weights cannot be trained"),
            ("warmup_ratio = 0.1", "warmup_ratio = 0.1\nwarmup_steps = 3", "expected one of the two"),
            ("epochs = 1", "epochs = 1\ntokens_per_batch = 32", "expected at least `max_length`"),
            ("2e-4", "nan", "`learning_rate` is NaN"),
            ("\"samples.jsonl\"", "[{ path = \"a\", echo = 9 }]", "`data.echo` is given for conversations"),
            ("\"samples.jsonl\"", "[\"a\", { path = \"b\", weight = 1 }]", "on 1 of 2 sources"),
        ];
        for (old, new, expected) in cases {
            let found = message(&SMALL.replace(old, new));
            assert!(found.contains(expected), "{new}: {found}");
        }
    }

    #[test]
    fn an_encoder_is_trained_in_full_and_knows_no_chat() {
        let encoder = SMALL
            .replace("kind = \"sft\"", "kind = \"sequence_classification\"\nmulti_label = true")
            .replace("nf4", "f32")
            .replace("lora_rank = 8", "schedule = \"linear\"");
        let recipe = parse(&encoder).unwrap();
        assert!(recipe.kind.is_encoder() && recipe.multi_label);
        assert_eq!(parse(&recipe.to_toml()).unwrap(), recipe);
        let cases = [
            (
                "schedule = \"linear\"",
                "lora_rank = 4",
                "`lora_rank` is 4; expected 0: encoders are trained in full",
            ),
            ("epochs = 1", "epochs = 1\nchat_format = \"chatml\"", "`chat_format` is given for an encoder"),
            (
                "sequence_c",
                "token_c",
                "`multi_label` is true; expected it in `kind = \"sequence_classification\"`",
            ),
            ("\"samples.jsonl\"", "[{ path = \"a\", echo = 9 }]", "`data.echo` is given for documents"),
        ];
        for (old, new, expected) in cases {
            let found = message(&encoder.replace(old, new));
            assert!(found.contains(expected), "{new}: {found}");
        }
    }

    #[test]
    fn the_resolved_recipe_reads_back_as_itself() {
        let recipe = parse(SMALL).unwrap();
        let overrides = Overrides {
            base: Some("b".into()),
            data: Some(vec!["x.jsonl".into(), "y.jsonl".into()]),
            max_steps: Some(20),
            seed: Some(9),
            ..Overrides::default()
        };
        let resolved = recipe.with(&overrides);
        assert_eq!((resolved.max_steps, resolved.seed, resolved.data.len()), (Some(20), 9, 2));
        assert_eq!(parse(&resolved.to_toml()).unwrap(), resolved);
    }

    #[test]
    fn warm_up_is_rounded_up_but_not_by_rounding_noise() {
        let recipe = parse(SMALL).unwrap();
        assert_eq!(recipe.schedule_for(30).warmup_steps, 3);
        assert_eq!(recipe.schedule_for(31).warmup_steps, 4);
        assert_eq!(recipe.schedule_for(1).warmup_steps, 1);
    }
}
