//! Where a run's memory goes, worked out before the first step.

use crate::TrainError;
use crate::data::Dataset;
use crate::memory::{available_memory_bytes, human_bytes};
use crate::recipe::{Checkpointing, Dtype, Kind, Precision, Recipe};
use serde::{Deserialize, Serialize};
use taiyi_model::DecoderConfig;

/// Bytes by purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Weights that stay as they are.
    pub frozen: u64,
    /// Trainable weights, f32.
    pub trainable: u64,
    /// Their gradients, f32.
    pub gradients: u64,
    /// AdamW's two moments, f32.
    pub optimizer: u64,
    /// Activations and workspaces of the largest micro-batch.
    pub activations: u64,
    /// What the machine has left at the start; `None` where it does not tell.
    pub available: Option<u64>,
    /// Tokens of the largest micro-batch.
    pub tokens: u64,
    /// Whether blocks are computed again in the backward pass.
    pub every_block: bool,
    /// Why `every_block` is what it is, for people.
    pub reason: String,
}

impl MemoryPlan {
    /// Everything added up.
    pub fn total(&self) -> u64 {
        self.frozen + self.trainable + self.gradients + self.optimizer + self.activations
    }

    /// Whether the plan fits in what is available; true where that is unknown.
    pub fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.total() <= available)
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = [
            ("frozen weights", self.frozen),
            ("trainable weights", self.trainable),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
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

/// Works out the plan of a run, chooses the checkpointing where the recipe leaves it open, and refuses what cannot fit.
pub(crate) fn of(recipe: &Recipe, config: &DecoderConfig, data: &Dataset) -> Result<MemoryPlan, TrainError> {
    let plan = choose(recipe, config, tokens_at_once(recipe, data.longest()), available_memory_bytes());
    match plan.available {
        Some(available) if !plan.fits() => Err(TrainError::Memory {
            needed: human_bytes(plan.total()),
            available: human_bytes(available),
            hint: hint(recipe, config, &plan, available),
        }),
        _ => Ok(plan),
    }
}

/// Tokens of the largest micro-batch there can be.
fn tokens_at_once(recipe: &Recipe, longest: usize) -> usize {
    match recipe.kind {
        Kind::Pretrain => recipe.per_device_batch * longest,
        Kind::Sft if recipe.packing => recipe.tokens_per_batch.unwrap_or(recipe.max_length).max(longest),
        Kind::Sft => recipe.per_device_batch * longest,
    }
}

fn choose(recipe: &Recipe, config: &DecoderConfig, tokens: usize, available: Option<u64>) -> MemoryPlan {
    let plan = |every_block: bool, reason: &str| MemoryPlan {
        activations: activations(recipe, config, tokens, every_block),
        available,
        tokens: tokens as u64,
        every_block,
        reason: reason.to_owned(),
        ..weights(recipe, config)
    };
    match recipe.checkpointing {
        Checkpointing::None => plan(false, "the recipe says so"),
        Checkpointing::EveryBlock => plan(true, "the recipe says so"),
        Checkpointing::Auto => {
            let all = plan(false, "auto: everything fits in four fifths of the available memory");
            // The rest is for the page cache, which the token store and a checkpoint's write need, and for neighbours.
            if available.is_none_or(|available| all.total() <= available / 5 * 4) {
                all
            } else {
                plan(
                    true,
                    "auto: keeping everything would take more than four fifths of the available memory",
                )
            }
        }
    }
}

/// The plan of everything but activations.
fn weights(recipe: &Recipe, config: &DecoderConfig) -> MemoryPlan {
    let linears = linears(config);
    let in_blocks =
        config.num_hidden_layers * linears.iter().map(|&(_, input, output)| input * output).sum::<usize>();
    let tables = config.vocab_size * config.hidden_size * if config.tie_word_embeddings { 1 } else { 2 };
    // Norms and biases are f32 whatever the rest is.
    let small = (2 * config.num_hidden_layers + 1) * config.hidden_size;
    let (frozen, trainable) = if recipe.lora_rank == 0 {
        (0, in_blocks + tables + small)
    } else {
        let bytes = match recipe.dtype {
            Dtype::F32 => 4 * (in_blocks + tables),
            Dtype::Bf16 => 2 * (in_blocks + tables),
            Dtype::Nf4 => {
                let table = if recipe.compute_precision() == Precision::F32 { 4 } else { 2 };
                // Half a byte, a byte per 64 for the scale, four per 64 * 256 for the scale's scale.
                in_blocks / 2 + in_blocks / 64 + in_blocks / 4096 + table * tables
            }
        };
        let hit =
            |name: &str| recipe.lora_targets.iter().any(|target| target == "all-linear" || target == name);
        let pair = |&(name, input, output): &(&str, usize, usize)| {
            let magnitude = if recipe.lora_dora { output } else { 0 };
            if hit(name) { recipe.lora_rank * (input + output) + magnitude } else { 0 }
        };
        (bytes + 4 * small, config.num_hidden_layers * linears.iter().map(pair).sum::<usize>())
    };
    let trainable = 4 * trainable as u64;
    MemoryPlan {
        frozen: frozen as u64,
        trainable,
        gradients: trainable,
        optimizer: 2 * trainable,
        activations: 0,
        available: None,
        tokens: 0,
        every_block: false,
        reason: String::new(),
    }
}

/// Linear layers of a block: name, inputs, outputs.
fn linears(config: &DecoderConfig) -> Vec<(&'static str, usize, usize)> {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, kv) =
        (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
    // Qwen v1's names where query, key and value are one layer.
    let names = if config.packed_qkv {
        ["c_proj", "w2", "w1", "c_proj"]
    } else {
        ["o_proj", "gate_proj", "up_proj", "down_proj"]
    };
    let mut linears = if config.packed_qkv {
        vec![("c_attn", d, q + 2 * kv)]
    } else {
        vec![("q_proj", d, q), ("k_proj", d, kv), ("v_proj", d, kv)]
    };
    linears.extend([(names[0], q, d), (names[1], d, f), (names[2], d, f), (names[3], f, d)]);
    linears
}

/// Bytes of the decoder's workspace: what each block keeps, what all share, and the logits of a chunk of rows.
fn activations(recipe: &Recipe, config: &DecoderConfig, tokens: usize, every_block: bool) -> u64 {
    let (d, f, heads) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
    let (q, kv) = (heads * config.head_dim, config.num_key_value_heads * config.head_dim);
    let streams = (config.num_hidden_layers + 2) * d;
    let low_rank = 7 * recipe.lora_rank;
    let kept = 3 * d + 2 * q + 2 * kv + heads + 2 + 3 * f + low_rank;
    let blocks = if every_block { 1 } else { config.num_hidden_layers };
    let adapter = if recipe.lora_rank > 0 { 2 * d.max(f) + recipe.lora_rank } else { 0 };
    let scratch = d + 3 * q + 4 * kv + 3 * f + adapter;
    let head = 3 * d;
    let logits = config.vocab_size * tokens.min(((1 << 24) / config.vocab_size.max(1)).clamp(16, 1024));
    // Pack buffers of the products, code and the allocator's slack.
    const FIXED: u64 = 64 << 20;
    4 * (tokens * (streams + blocks * kept + scratch + head) + logits) as u64 + FIXED
}

/// Names changes that would fit, most effective first.
fn hint(recipe: &Recipe, config: &DecoderConfig, plan: &MemoryPlan, available: u64) -> String {
    let mut hints = Vec::new();
    let try_out = |changed: Recipe, tokens: usize| choose(&changed, config, tokens, Some(available)).fits();
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
        let key = if recipe.kind == Kind::Sft && recipe.packing {
            "max_length"
        } else {
            "per_device_batch * max_length"
        };
        hints.push(format!("{fewer} tokens in a micro-batch (`{key}`) would fit"));
    }
    if hints.is_empty() {
        let least = choose(&changed, config, 64, None).total();
        hints.push(format!("nothing in the recipe would: 64 tokens at a time need {}", human_bytes(least)));
    }
    hints.join("; ")
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
    fn weights_of_the_half_billion_model_are_counted_exactly() {
        let full = weights(&recipe("f32", 0), &qwen2_half_b());
        // 494,032,768 parameters in all, of which 27,648 biases are not in the plan.
        let difference = 494_032_768 - full.trainable / 4;
        assert_eq!(difference, 24 * (896 + 128 + 128));
        let lora = weights(&recipe("nf4", 64), &qwen2_half_b());
        // PEFT: trainable params: 35,192,832 at r = 64 on all linear layers.
        assert_eq!(lora.trainable / 4, 35_192_832);
        assert_eq!((lora.gradients, lora.optimizer), (lora.trainable, 2 * lora.trainable));
    }

    #[test]
    fn auto_keeps_everything_where_it_fits_and_recomputes_where_it_does_not() {
        let (recipe, config) = (recipe("nf4", 64), qwen2_half_b());
        let wide = choose(&recipe, &config, 1024, Some(64 << 30));
        assert!(!wide.every_block && wide.fits());
        let narrow = choose(&recipe, &config, 1024, Some(3 << 30));
        assert!(narrow.every_block && narrow.fits(), "{narrow}");
        assert!(narrow.activations < wide.activations / 4);
        assert!(!choose(&recipe, &config, 1 << 20, Some(3 << 30)).fits());
        let said = Recipe { checkpointing: Checkpointing::None, ..recipe };
        assert!(!choose(&said, &config, 1024, Some(3 << 30)).every_block);
    }

    #[test]
    fn what_cannot_fit_says_what_would() {
        let config = qwen2_half_b();
        let advice = |recipe: &Recipe, tokens, available| {
            let plan = choose(recipe, &config, tokens, Some(available));
            assert!(!plan.fits());
            hint(recipe, &config, &plan, available)
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
