//! Where a run's memory goes, worked out before the first step.

use crate::TrainError;
use crate::data::Dataset;
use crate::decoder::{lora, model_dtype};
use crate::fit::kernel_precision;
use crate::memory::{available_memory_bytes, human_bytes};
use crate::optimizer::optimizer_bytes;
use crate::recipe::{Checkpointing, Dtype, Recipe};
use serde::{Deserialize, Serialize};
use taiyi_model::encoder::plan::{EncoderPlanOptions, plan as plan_encoder};
use taiyi_model::plan::{Plan, PlanOptions, Training, plan};
use taiyi_model::{Checkpoint, DecoderConfig, EncoderConfig};

/// Bytes by purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Weights, frozen or not.
    pub weights: u64,
    /// Adapters, f32.
    pub adapters: u64,
    /// Gradients of what is trainable, f32.
    pub gradients: u64,
    /// The optimizer's moments, f32, and what it works in.
    pub optimizer: u64,
    /// Activations of the largest micro-batch.
    pub activations: u64,
    /// Logits and what else the output head needs.
    pub head: u64,
    /// What the machine has left at the start; `None` where it does not tell.
    pub available: Option<u64>,
    /// Tokens of the largest micro-batch.
    pub tokens: u64,
    /// Whether blocks are computed again in the backward pass.
    pub every_block: bool,
    /// Why `every_block` is what it is, for people.
    pub reason: String,
}

/// The program itself, the kernels' pack buffers, the data's index.
const OTHER: u64 = 64 << 20;

impl MemoryPlan {
    /// Everything added up.
    pub fn total(&self) -> u64 {
        self.weights + self.adapters + self.gradients + self.optimizer + self.activations + self.head + OTHER
    }

    /// What the forward pass is to keep.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        if self.every_block { Checkpoint::EveryBlock } else { Checkpoint::None }
    }

    /// Whether the plan fits in what is available; true where that is unknown.
    pub fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.total() <= available)
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = [
            ("weights", self.weights),
            ("adapters", self.adapters),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("output head", self.head),
            ("program", OTHER),
            ("total", self.total()),
        ];
        for (name, bytes) in rows {
            writeln!(f, "{name:<18}{:>12}", human_bytes(bytes))?;
        }
        if let Some(available) = self.available {
            writeln!(f, "{:<18}{:>12}", "available", human_bytes(available))?;
        }
        let checkpointing = if self.every_block { "every_block" } else { "none" };
        write!(f, "checkpointing {checkpointing} ({}); {} tokens in a micro-batch", self.reason, self.tokens)
    }
}

/// The model that a plan is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Planned<'a> {
    Decoder(&'a DecoderConfig),
    Encoder(&'a EncoderConfig),
}

impl Planned<'_> {
    fn plan(self, recipe: &Recipe, tokens: usize, checkpoint: Checkpoint) -> Result<Plan, TrainError> {
        match self {
            Planned::Decoder(config) => {
                let lora = lora(recipe);
                let options = PlanOptions {
                    dtype: model_dtype(recipe.dtype),
                    precision: kernel_precision(recipe.compute_precision()),
                    training: if recipe.lora_rank == 0 { Training::Full } else { Training::Lora(&lora) },
                    optimizer: optimizer_bytes(recipe),
                    tokens,
                    longest: recipe.max_length.min(tokens),
                    // Any of them may be an answer.
                    labelled: tokens,
                    checkpoint,
                    cached_tokens: 0,
                };
                Ok(plan(config, &options)?)
            }
            // Texts may be as short as a word between its frame.
            Planned::Encoder(config) => {
                let sequences = recipe.samples_per_step().min(tokens);
                let options =
                    EncoderPlanOptions { optimizer: optimizer_bytes(recipe), tokens, sequences, checkpoint };
                Ok(plan_encoder(config, &options)?)
            }
        }
    }
}

/// Works out the plan of a run, chooses the checkpointing where the recipe leaves it open, and refuses what cannot fit.
pub(crate) fn of(recipe: &Recipe, model: Planned<'_>, data: &Dataset) -> Result<MemoryPlan, TrainError> {
    let plan = choose(recipe, model, tokens_at_once(recipe, data.longest()), available_memory_bytes())?;
    match plan.available {
        Some(available) if !plan.fits() => Err(TrainError::Memory {
            needed: human_bytes(plan.total()),
            available: human_bytes(available),
            hint: hint(recipe, model, &plan, available)?,
        }),
        _ => Ok(plan),
    }
}

/// Tokens of the largest micro-batch there can be.
fn tokens_at_once(recipe: &Recipe, longest: usize) -> usize {
    if recipe.packs_samples() {
        recipe.tokens_per_batch.unwrap_or(recipe.max_length).max(longest)
    } else {
        recipe.per_device_batch * longest
    }
}

fn choose(
    recipe: &Recipe,
    model: Planned<'_>,
    tokens: usize,
    available: Option<u64>,
) -> Result<MemoryPlan, TrainError> {
    let with = |every_block: bool, reason: &str| {
        let checkpoint = if every_block { Checkpoint::EveryBlock } else { Checkpoint::None };
        let plan = model.plan(recipe, tokens, checkpoint)?;
        Ok(MemoryPlan {
            weights: plan.weights as u64,
            adapters: plan.adapters as u64,
            gradients: plan.gradients as u64,
            optimizer: plan.optimizer as u64,
            activations: plan.activations as u64,
            head: plan.head as u64,
            available,
            tokens: tokens as u64,
            every_block,
            reason: reason.to_owned(),
        })
    };
    match recipe.checkpointing {
        Checkpointing::None => with(false, "the recipe says so"),
        Checkpointing::EveryBlock => with(true, "the recipe says so"),
        Checkpointing::Auto => {
            let all = with(false, "auto: everything fits in four fifths of the available memory")?;
            // The rest is for the page cache, which the token store and a checkpoint's write need, and for neighbours.
            if available.is_none_or(|available| all.total() <= available / 5 * 4) {
                Ok(all)
            } else {
                with(
                    true,
                    "auto: keeping everything would take more than four fifths of the available memory",
                )
            }
        }
    }
}

/// Names changes that would fit, most effective first.
fn hint(
    recipe: &Recipe,
    model: Planned<'_>,
    plan: &MemoryPlan,
    available: u64,
) -> Result<String, TrainError> {
    let mut hints = Vec::new();
    let try_out = |changed: Recipe, tokens: usize| {
        choose(&changed, model, tokens, Some(available)).is_ok_and(|plan| plan.fits())
    };
    let tokens = plan.tokens as usize;
    if !plan.every_block {
        let changed = Recipe { checkpointing: Checkpointing::EveryBlock, ..recipe.clone() };
        if try_out(changed, tokens) {
            hints.push("`checkpointing = \"every_block\"` would fit".to_owned());
        }
    }
    if recipe.lora_rank > 0 && recipe.dtype != Dtype::Nf4 {
        let changed =
            Recipe { dtype: Dtype::Nf4, checkpointing: Checkpointing::EveryBlock, ..recipe.clone() };
        if try_out(changed, tokens) {
            hints.push("`dtype = \"nf4\"` would fit".to_owned());
        }
    }
    let changed = Recipe { checkpointing: Checkpointing::EveryBlock, ..recipe.clone() };
    let mut fewer = tokens / 2;
    while fewer >= 64 && !try_out(changed.clone(), fewer) {
        fewer /= 2;
    }
    if fewer >= 64 {
        let key = if recipe.packs_samples() { "max_length" } else { "per_device_batch * max_length" };
        hints.push(format!("{fewer} tokens in a micro-batch (`{key}`) would fit"));
    }
    if hints.is_empty() {
        let least = choose(&changed, model, 64, None)?.total();
        hints.push(format!("nothing in the recipe would: 64 tokens at a time need {}", human_bytes(least)));
    }
    Ok(hints.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn qwen2_half_b() -> DecoderConfig {
        let json = serde_json::json!({
            "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151_936, "hidden_size": 896,
            "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true,
            "hidden_act": "silu", "initializer_range": 0.02
        });
        DecoderConfig::from_json(&json, Path::new("config.json")).unwrap()
    }

    fn recipe(dtype: &str, rank: usize) -> Recipe {
        let text = format!(
            "kind = \"sft\"\nstage = \"s\"\ndtype = \"{dtype}\"\nlora_rank = {rank}\nlearning_rate = 1e-4\n\
             max_length = 1024\nper_device_batch = 12\nepochs = 1\n"
        );
        Recipe::parse(Path::new("plan.toml"), &text).unwrap()
    }

    #[test]
    fn trainable_numbers_of_the_half_billion_model() {
        let full = choose(&recipe("f32", 0), Planned::Decoder(&qwen2_half_b()), 64, None).unwrap();
        assert_eq!(full.weights / 4, 494_032_768);
        assert_eq!((full.gradients, full.optimizer), (full.weights, 2 * full.weights));
        // Muon keeps one moment of each matrix but the table of tokens, and works in copies of the largest.
        let muon = Recipe { optimizer: crate::recipe::Optimizer::Muon, ..recipe("f32", 0) };
        let muon = choose(&muon, Planned::Decoder(&qwen2_half_b()), 64, None).unwrap();
        let norms = 896 * (2 * 24 + 1) + (896 + 2 * 128) * 24;
        let table = 151_936 * 896;
        let scratch = 4 * (2 * 4864 * 896 + 2 * 896 * 896);
        assert_eq!(muon.optimizer, full.weights + 4 * (table + norms) + scratch);
        assert_eq!(muon.gradients, full.gradients);
        // PEFT's count at r = 64 on all linear layers.
        let lora = choose(&recipe("nf4", 64), Planned::Decoder(&qwen2_half_b()), 64, None).unwrap();
        assert_eq!(lora.adapters / 4, 35_192_832);
        assert!(lora.weights < full.weights / 4, "{lora}");
    }

    #[test]
    fn auto_keeps_everything_where_it_fits_and_recomputes_where_it_does_not() {
        let (recipe, config) = (recipe("nf4", 64), qwen2_half_b());
        let config = Planned::Decoder(&config);
        let wide = choose(&recipe, config, 1024, Some(64 << 30)).unwrap();
        assert!(!wide.every_block && wide.fits());
        let narrow = choose(&recipe, config, 1024, Some(3 << 30)).unwrap();
        assert!(narrow.every_block && narrow.fits(), "{narrow}");
        assert!(narrow.activations < wide.activations / 4);
        assert!(!choose(&recipe, config, 1 << 20, Some(3 << 30)).unwrap().fits());
        let said = Recipe { checkpointing: Checkpointing::None, ..recipe };
        assert!(!choose(&said, config, 1024, Some(3 << 30)).unwrap().every_block);
    }

    #[test]
    fn what_cannot_fit_says_what_would() {
        let config = qwen2_half_b();
        let config = Planned::Decoder(&config);
        let advice = |recipe: &Recipe, tokens, available| {
            let plan = choose(recipe, config, tokens, Some(available)).unwrap();
            assert!(!plan.fits(), "{plan}");
            hint(recipe, config, &plan, available).unwrap()
        };
        let f32_base = Recipe { checkpointing: Checkpointing::None, ..recipe("f32", 64) };
        let found = advice(&f32_base, 4096, 4 << 30);
        assert!(found.contains("`checkpointing = \"every_block\"` would fit"), "{found}");
        let found = advice(&recipe("bf16", 64), 1024, 1600 << 20);
        assert!(found.contains("nf4"), "{found}");
        let found = advice(&recipe("nf4", 64), 1 << 18, 3 << 30);
        assert!(found.contains("tokens in a micro-batch (`max_length`) would fit"), "{found}");
        let found = advice(&recipe("f32", 0), 1024, 1 << 30);
        assert!(found.starts_with("nothing in the recipe would"), "{found}");
    }
}
