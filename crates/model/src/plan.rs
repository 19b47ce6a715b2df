//! Byte counts of a model before it is loaded and of a step before it is run, from the configuration alone.
//!
//! Counted is what this crate holds. Not counted are the kernels' pack buffers (a few MiB a thread), the program itself, and
//! what the trainer keeps.

use taiyi_kernels::{NF4_BLOCK, NF4_NESTED_BLOCK, Precision};

use crate::{
    adapters::LoraConfig,
    batch::Checkpoint,
    config::{DecoderConfig, MlpKind, NormKind, QkvLayout},
    decoder::{
        Dtype, KvCache, logits_chunk,
        skeleton::{self, Kind},
    },
    error::Error,
};

/// What is going to be run.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions<'a> {
    /// Storage of frozen weights.
    pub dtype: Dtype,
    /// Precision of products; with NF4 it decides how embedding and head are stored.
    pub precision: Precision,
    /// What is trained.
    pub training: Training<'a>,
    /// What the optimizer keeps.
    pub optimizer: OptimizerBytes,
    /// Tokens of the largest batch, `T`.
    pub tokens: usize,
    /// Tokens of the longest sequence in it.
    pub longest: usize,
    /// Labelled tokens of the largest batch.
    pub labelled: usize,
    /// What the forward pass keeps.
    pub checkpoint: Checkpoint,
    /// Tokens that caches hold in inference; 0 in training.
    pub cached_tokens: usize,
}

/// Bytes an optimizer needs for a trainable tensor of a name and shape.
#[derive(Debug, Clone, Copy)]
pub struct OptimizerBytes {
    /// Kept for the tensor from step to step.
    pub state: fn(name: &str, shape: &[usize]) -> usize,
    /// Needed while the tensor is updated; tensors are updated one after the other.
    pub scratch: fn(name: &str, shape: &[usize]) -> usize,
}

impl OptimizerBytes {
    /// Nothing is trained.
    pub const NONE: Self = Self { state: |_, _| 0, scratch: |_, _| 0 };

    /// AdamW's two moments in f32.
    pub const ADAMW: Self = Self { state: |_, shape| 8 * shape.iter().product::<usize>(), scratch: |_, _| 0 };
}

/// What a plan's step trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Training<'a> {
    /// Every weight, as f32 masters.
    Full,
    /// New adapters on frozen weights.
    Lora(&'a LoraConfig),
}

/// Bytes by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Weights, trainable or not.
    pub weights: usize,
    /// Adapters.
    pub adapters: usize,
    /// Gradients of what is trainable.
    pub gradients: usize,
    /// The optimizer's states and scratch.
    pub optimizer: usize,
    /// Activations and the gradients that pass through, without the head's.
    pub activations: usize,
    /// Inputs, logits and gradients of the output head.
    pub head: usize,
    /// Keys and values of cached tokens.
    pub cache: usize,
}

impl Plan {
    /// Everything together.
    pub fn total(&self) -> usize {
        self.weights
            + self.adapters
            + self.gradients
            + self.optimizer
            + self.activations
            + self.head
            + self.cache
    }
}

/// Works out where memory goes.
///
/// # Errors
/// When the configuration's `model_type` is unknown.
pub fn plan(config: &DecoderConfig, options: &PlanOptions<'_>) -> Result<Plan, Error> {
    let tensors = skeleton::of(config)?;
    let mut plan = Plan { cache: KvCache::planned_bytes(config, options.cached_tokens), ..Plan::default() };
    let (mut trainable, mut scratch) = (0, 0);
    let mut train = |plan: &mut Plan, name: &str, shape: &[usize]| {
        trainable += shape.iter().product::<usize>();
        plan.optimizer += (options.optimizer.state)(name, shape);
        scratch = scratch.max((options.optimizer.scratch)(name, shape));
    };
    // Per token and block: what adapters keep; over all linear layers: the largest sides of an adapted one.
    let (mut adapter_floats, mut widest_input, mut widest_output) = (0, 0, 0);
    for tensor in &tensors {
        let values = tensor.shape.iter().product::<usize>();
        plan.weights += match options.training {
            Training::Full => 4 * values,
            Training::Lora(_) => stored_bytes(tensor.kind, values, options),
        };
        match options.training {
            Training::Full => train(&mut plan, &tensor.name, &tensor.shape),
            Training::Lora(lora) if tensor.kind == Kind::Linear && lora.hits(tensor.module()) => {
                let (out, input) = (tensor.shape[0], tensor.shape[1]);
                let pair = lora.rank * (out + input) + if lora.dora { out } else { 0 };
                plan.adapters += 4 * pair;
                train(&mut plan, &format!("{}.lora_A.weight", tensor.module()), &[lora.rank, input]);
                train(&mut plan, &format!("{}.lora_B.weight", tensor.module()), &[out, lora.rank]);
                if lora.dora {
                    train(&mut plan, &format!("{}.lora_magnitude_vector", tensor.module()), &[out]);
                }
                adapter_floats += lora.rank + if lora.dora { out } else { 0 };
                widest_input = widest_input.max(input);
                widest_output = widest_output.max(out);
            }
            Training::Lora(_) => {}
        }
    }
    plan.gradients = 4 * trainable;
    plan.optimizer += scratch;

    let (t, layers) = (options.tokens, config.num_hidden_layers);
    let (d, f, h) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
    let (q, k) = (config.query_size(), config.key_size());
    let kept = if options.checkpoint == Checkpoint::None { layers } else { 1 };
    let statistics = match config.norm {
        NormKind::Rms => 2,
        NormKind::Layer => 4,
    };
    let head_norms = if config.head_norm { q + k + h + config.num_key_value_heads } else { 0 };
    let branches = if matches!(config.mlp, MlpKind::Plain(_)) { 2 } else { 3 };
    let block = statistics + 3 * d + 2 * q + 2 * k + h + head_norms + branches * f;
    let streams = (layers + 1) * d + d;
    let packed_qkv = if config.qkv == QkvLayout::Split { 0 } else { q + 2 * k };
    let packed_mlp = if config.mlp == MlpKind::GatedPacked { 2 * f } else { 0 };
    let scratch = d + packed_qkv.max(packed_mlp) + 2 * q + 2 * k + branches * f;
    let learns_embedding = options.training == Training::Full;
    let spare = config.longest().is_some() || config.embedding_norm && learns_embedding;
    let embedding = if spare { d } else { 0 } + if config.embedding_norm { d + 2 } else { 0 };
    let prefix = if config.prefix.is_some() { 2 * k * options.longest } else { 0 };
    let adapters = match options.training {
        Training::Full => 0,
        Training::Lora(lora) => {
            let dropout = if lora.dropout > 0.0 { 2 * widest_input } else { 0 };
            let magnitudes = if lora.dora { widest_output } else { 0 };
            kept * adapter_floats / layers + lora.rank + dropout + magnitudes
        }
    };
    let tables = options.longest.next_power_of_two() * config.rope().map_or(0, |rope| rope.rotary_dim);
    let once = streams + scratch + adapters + embedding;
    plan.activations = 4 * (t * (kept * block + once) + tables + prefix);
    let rows = options.labelled;
    plan.head =
        4 * (rows * (3 * d + statistics / 2) + rows.min(logits_chunk(config.vocab_size)) * config.vocab_size);
    Ok(plan)
}

fn stored_bytes(kind: Kind, values: usize, options: &PlanOptions<'_>) -> usize {
    match (kind, options.dtype) {
        (Kind::Small, _) | (_, Dtype::F32) => 4 * values,
        (Kind::Linear, Dtype::Nf4) => {
            let blocks = values.div_ceil(NF4_BLOCK);
            // A byte for each block's scale, and the 256 values and the offset that each matrix carries.
            values.div_ceil(2) + blocks + 4 * blocks.div_ceil(NF4_NESTED_BLOCK) + 4 * 257
        }
        (Kind::Table, Dtype::Nf4) if options.precision == Precision::F32 => 4 * values,
        (_, Dtype::Bf16 | Dtype::Nf4) => 2 * values,
    }
}
