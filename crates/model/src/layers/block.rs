//! One block: `x += attention(norm(x)); x += mlp(norm(x))`, forward and backward.

use taiyi_kernels::{self as kernels, AttentionShape};

use super::{
    linear::{InputGradient, Linear, LinearSaved, Run},
    rope::Sequences,
    tensor::Tensor,
    workspace::{Scratch, grow},
};
use crate::{config::DecoderConfig, decoder::KvCache};

/// Weights of one block.
pub(crate) struct Block {
    pub(crate) attention_norm: Tensor,
    pub(crate) attention_input: AttentionInput,
    pub(crate) attention_output: Linear,
    pub(crate) mlp_norm: Tensor,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// The projections that feed attention.
pub(crate) enum AttentionInput {
    /// One layer whose rows are q, then k, then v.
    Packed(Box<Linear>),
    /// q, k and v.
    Split(Box<[Linear; 3]>),
}

/// What the forward pass of a block keeps for its backward pass.
#[derive(Default)]
pub(crate) struct BlockSaved {
    /// (T).
    attention_inverse_rms: Vec<f32>,
    mlp_inverse_rms: Vec<f32>,
    /// (T, D).
    attention_normed: Vec<f32>,
    middle: Vec<f32>,
    mlp_normed: Vec<f32>,
    /// After rope; (T, H d), (T, G d), (T, G d).
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// (T, H d) and (H, T).
    attended: Vec<f32>,
    log_sum_exp: Vec<f32>,
    /// (T, F).
    gate: Vec<f32>,
    up: Vec<f32>,
    gated: Vec<f32>,
    input_linears: [LinearSaved; 3],
    output_linear: LinearSaved,
    gate_linear: LinearSaved,
    up_linear: LinearSaved,
    down_linear: LinearSaved,
}

impl BlockSaved {
    pub(crate) fn bytes(&self) -> usize {
        let own: usize = [
            &self.attention_inverse_rms,
            &self.mlp_inverse_rms,
            &self.attention_normed,
            &self.middle,
            &self.mlp_normed,
            &self.query,
            &self.key,
            &self.value,
            &self.attended,
            &self.log_sum_exp,
            &self.gate,
            &self.up,
            &self.gated,
        ]
        .into_iter()
        .map(|v| 4 * v.len())
        .sum();
        let linears = [&self.output_linear, &self.gate_linear, &self.up_linear, &self.down_linear];
        own + self.input_linears.iter().chain(linears).map(LinearSaved::bytes).sum::<usize>()
    }
}

/// A place in the network whose values can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Token embeddings, (T, D).
    Embedding,
    /// Output of the attention branch of a block, after the output projection, (T, D).
    Attention(usize),
    /// Output of the MLP branch of a block, (T, D).
    Mlp(usize),
    /// Output of a block, (T, D).
    Block(usize),
    /// Output of the final norm, (rows, D).
    FinalNorm,
}

/// A callback that sees intermediate values.
pub(crate) type Observer<'a> = dyn FnMut(Stage, &[f32]) + 'a;

/// Everything a block's pass needs beside its weights.
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a DecoderConfig,
    pub(crate) run: Run,
    pub(crate) sequences: &'a Sequences<'a>,
    pub(crate) layer: usize,
}

impl Pass<'_> {
    fn attention_shape(&self) -> AttentionShape<'static> {
        AttentionShape {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            causal: true,
            scale: 1.0 / (self.config.head_dim as f32).sqrt(),
            alibi_slopes: None,
        }
    }
}

impl Block {
    /// The linear layers in the order in which they are visited.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut all: Vec<&Linear> = match &self.attention_input {
            AttentionInput::Packed(linear) => vec![linear],
            AttentionInput::Split(three) => three.iter().collect(),
        };
        all.extend([&self.attention_output, &self.gate, &self.up, &self.down]);
        all
    }

    /// As [`Block::linears`], for writing.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = match &mut self.attention_input {
            AttentionInput::Packed(linear) => vec![linear],
            AttentionInput::Split(three) => three.iter_mut().collect(),
        };
        all.extend([&mut self.attention_output, &mut self.gate, &mut self.up, &mut self.down]);
        all
    }

    pub(crate) fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        f(&mut self.attention_norm);
        match &mut self.attention_input {
            AttentionInput::Packed(linear) => linear.visit(f),
            AttentionInput::Split(three) => three.iter_mut().for_each(|l| l.visit(f)),
        }
        self.attention_output.visit(f);
        f(&mut self.mlp_norm);
        self.gate.visit(f);
        self.up.visit(f);
        self.down.visit(f);
    }

    pub(crate) fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        f(&self.attention_norm);
        match &self.attention_input {
            AttentionInput::Packed(linear) => linear.tensors(f),
            AttentionInput::Split(three) => three.iter().for_each(|l| l.tensors(f)),
        }
        self.attention_output.tensors(f);
        f(&self.mlp_norm);
        self.gate.tensors(f);
        self.up.tensors(f);
        self.down.tensors(f);
    }

    pub(crate) fn is_trainable(&self) -> bool {
        self.attention_norm.is_trainable()
            || self.mlp_norm.is_trainable()
            || self.linears().iter().any(|l| l.is_trainable())
    }

    /// Computes the block's output `y` (T, D) from its input `x` (T, D).
    ///
    /// With `caches` the new keys and values are appended to the sequences' caches and attention reads those. Without `y` only
    /// what the backward pass needs is computed (again).
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        caches: Option<&mut [(&[u32], &mut KvCache)]>,
        x: &[f32],
        y: Option<&mut [f32]>,
        saved: &mut BlockSaved,
        scratch: &mut Scratch,
        observe: &mut Option<&mut Observer<'_>>,
    ) {
        let Pass { config, run, sequences, layer } = pass;
        let (t, d, f) = (sequences.tokens(), config.hidden_size, config.intermediate_size);
        let query_size = config.query_size();

        let normed = grow(&mut saved.attention_normed, t * d);
        let inverse_rms = grow(&mut saved.attention_inverse_rms, t);
        kernels::rms_norm(config.norm_eps, x, self.attention_norm.values(), normed, inverse_rms);
        self.project(pass, saved, scratch);
        attend(pass, caches, saved);
        let branch = grow(&mut scratch.branch, t * d);
        let attended = &saved.attended[..t * query_size];
        self.attention_output.forward(
            run,
            t,
            attended,
            branch,
            &mut saved.output_linear,
            &mut scratch.adapter,
        );
        see(observe, Stage::Attention(*layer), branch);
        let middle = grow(&mut saved.middle, t * d);
        sum(x, branch, middle);

        let normed = grow(&mut saved.mlp_normed, t * d);
        let inverse_rms = grow(&mut saved.mlp_inverse_rms, t);
        kernels::rms_norm(config.norm_eps, middle, self.mlp_norm.values(), normed, inverse_rms);
        let gate = grow(&mut saved.gate, t * f);
        self.gate.forward(run, t, normed, gate, &mut saved.gate_linear, &mut scratch.adapter);
        let up = grow(&mut saved.up, t * f);
        self.up.forward(run, t, normed, up, &mut saved.up_linear, &mut scratch.adapter);
        let gated = grow(&mut saved.gated, t * f);
        kernels::swiglu(gate, up, gated);
        let Some(y) = y else {
            self.down.remember(run, t, gated, branch, &mut saved.down_linear, &mut scratch.adapter);
            return;
        };
        self.down.forward(run, t, gated, branch, &mut saved.down_linear, &mut scratch.adapter);
        see(observe, Stage::Mlp(*layer), branch);
        sum(middle, branch, y);
        see(observe, Stage::Block(*layer), y);
    }

    /// Fills query, key and value from the normed input, rotated and scaled.
    fn project(&self, pass: &Pass<'_>, saved: &mut BlockSaved, scratch: &mut Scratch) {
        let Pass { config, run, sequences, .. } = pass;
        let (t, d) = (sequences.tokens(), config.hidden_size);
        let (query_size, key_size) = (config.query_size(), config.key_size());
        let normed = &saved.attention_normed[..t * d];
        let query = grow(&mut saved.query, t * query_size);
        let key = grow(&mut saved.key, t * key_size);
        let value = grow(&mut saved.value, t * key_size);
        match &self.attention_input {
            AttentionInput::Packed(linear) => {
                let width = query_size + 2 * key_size;
                let packed = grow(&mut scratch.packed, t * width);
                linear.forward(run, t, normed, packed, &mut saved.input_linears[0], &mut scratch.adapter);
                for (i, row) in packed.chunks(width).enumerate() {
                    query[i * query_size..(i + 1) * query_size].copy_from_slice(&row[..query_size]);
                    key[i * key_size..(i + 1) * key_size]
                        .copy_from_slice(&row[query_size..query_size + key_size]);
                    value[i * key_size..(i + 1) * key_size].copy_from_slice(&row[query_size + key_size..]);
                }
            }
            AttentionInput::Split(three) => {
                let outputs = [&mut *query, &mut *key, &mut *value];
                for ((linear, output), saved) in three.iter().zip(outputs).zip(&mut saved.input_linears) {
                    linear.forward(run, t, normed, output, saved, &mut scratch.adapter);
                }
            }
        }
        sequences.rotate(config, config.num_attention_heads, false, query);
        sequences.rotate(config, config.num_key_value_heads, false, key);
        sequences.scale_queries(query_size, query);
    }

    /// Turns `gradient` (T, D) from that of the block's output into that of its input, and adds to the gradients of what is
    /// trainable. Nothing is computed that neither a trainable tensor here nor, where `below` says so, the layers below need.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        below: bool,
        x: &[f32],
        gradient: &mut [f32],
        saved: &BlockSaved,
        scratch: &mut Scratch,
    ) {
        let Pass { config, run, sequences, .. } = pass;
        let (t, d, f) = (sequences.tokens(), config.hidden_size, config.intermediate_size);
        let (query_size, key_size) = (config.query_size(), config.key_size());
        let input_trains = match &self.attention_input {
            AttentionInput::Packed(linear) => linear.is_trainable(),
            AttentionInput::Split(three) => three.iter().any(Linear::is_trainable),
        };
        let needs_attention_normed = below || self.attention_norm.is_trainable();
        let needs_attention = needs_attention_normed || input_trains;
        let needs_middle = needs_attention || self.attention_output.is_trainable();
        let needs_mlp_normed = needs_middle || self.mlp_norm.is_trainable();
        let needs_gated = needs_mlp_normed || self.gate.is_trainable() || self.up.is_trainable();

        let adapter = &mut scratch.adapter;
        let d_normed = grow(&mut scratch.branch, t * d);
        let d_gated = grow(&mut scratch.gated_gradient, t * f);
        let wanted = if needs_gated { InputGradient::Set(d_gated) } else { InputGradient::Unneeded };
        self.down.backward(run, t, &saved.gated[..t * f], gradient, wanted, &saved.down_linear, adapter);
        if !needs_gated {
            return;
        }
        let d_gate = grow(&mut scratch.gate_gradient, t * f);
        let d_up = grow(&mut scratch.up_gradient, t * f);
        kernels::swiglu_gradient(
            &saved.gate[..t * f],
            &saved.up[..t * f],
            &scratch.gated_gradient[..t * f],
            d_gate,
            d_up,
        );
        let normed = &saved.mlp_normed[..t * d];
        let wanted = if needs_mlp_normed { InputGradient::Set(d_normed) } else { InputGradient::Unneeded };
        self.gate.backward(run, t, normed, d_gate, wanted, &saved.gate_linear, adapter);
        let d_normed = &mut scratch.branch[..t * d];
        let wanted = if needs_mlp_normed { InputGradient::Add(d_normed) } else { InputGradient::Unneeded };
        self.up.backward(run, t, normed, d_up, wanted, &saved.up_linear, adapter);
        if !needs_mlp_normed {
            return;
        }
        let d_normed = &mut scratch.branch[..t * d];
        norm_backward(
            &mut self.mlp_norm,
            &saved.middle[..t * d],
            &saved.mlp_inverse_rms[..t],
            d_normed,
            gradient,
        );
        if !needs_middle {
            return;
        }

        let d_attended = grow(&mut scratch.attended_gradient, t * query_size);
        let wanted = if needs_attention { InputGradient::Set(d_attended) } else { InputGradient::Unneeded };
        let attended = &saved.attended[..t * query_size];
        self.attention_output.backward(run, t, attended, gradient, wanted, &saved.output_linear, adapter);
        if !needs_attention {
            return;
        }
        let d_query = grow(&mut scratch.query_gradient, t * query_size);
        let d_key = grow(&mut scratch.key_gradient, t * key_size);
        let d_value = grow(&mut scratch.value_gradient, t * key_size);
        kernels::attention_gradient(
            run.precision,
            &pass.attention_shape(),
            sequences.cu_seqlens,
            sequences.cu_seqlens,
            &saved.query[..t * query_size],
            &saved.key[..t * key_size],
            &saved.value[..t * key_size],
            attended,
            &saved.log_sum_exp[..config.num_attention_heads * t],
            &scratch.attended_gradient[..t * query_size],
            d_query,
            d_key,
            d_value,
        );
        sequences.scale_queries(query_size, d_query);
        sequences.rotate(config, config.num_attention_heads, true, d_query);
        sequences.rotate(config, config.num_key_value_heads, true, d_key);

        let normed = &saved.attention_normed[..t * d];
        match &mut self.attention_input {
            AttentionInput::Packed(linear) => {
                let width = query_size + 2 * key_size;
                let packed = grow(&mut scratch.packed, t * width);
                for (i, row) in packed.chunks_mut(width).enumerate() {
                    row[..query_size].copy_from_slice(&d_query[i * query_size..(i + 1) * query_size]);
                    row[query_size..query_size + key_size]
                        .copy_from_slice(&d_key[i * key_size..(i + 1) * key_size]);
                    row[query_size + key_size..].copy_from_slice(&d_value[i * key_size..(i + 1) * key_size]);
                }
                let wanted = if needs_attention_normed {
                    InputGradient::Set(d_normed)
                } else {
                    InputGradient::Unneeded
                };
                linear.backward(run, t, normed, packed, wanted, &saved.input_linears[0], adapter);
            }
            AttentionInput::Split(three) => {
                for (i, (linear, dy)) in three.iter_mut().zip([&*d_query, &*d_key, &*d_value]).enumerate() {
                    let d_normed = &mut *d_normed;
                    let wanted = match (needs_attention_normed, i) {
                        (false, _) => InputGradient::Unneeded,
                        (true, 0) => InputGradient::Set(d_normed),
                        (true, _) => InputGradient::Add(d_normed),
                    };
                    linear.backward(run, t, normed, dy, wanted, &saved.input_linears[i], adapter);
                }
            }
        }
        if needs_attention_normed {
            let d_normed = &scratch.branch[..t * d];
            norm_backward(&mut self.attention_norm, x, &saved.attention_inverse_rms[..t], d_normed, gradient);
        }
    }
}

/// Attention of the new queries over the packed keys, or over the caches after the new keys are appended to them.
fn attend(pass: &Pass<'_>, caches: Option<&mut [(&[u32], &mut KvCache)]>, saved: &mut BlockSaved) {
    let Pass { config, run, sequences, layer } = pass;
    let t = sequences.tokens();
    let (query_size, key_size, heads) = (config.query_size(), config.key_size(), config.num_attention_heads);
    let shape = pass.attention_shape();
    let query = &saved.query[..t * query_size];
    let (key, value) = (&saved.key[..t * key_size], &saved.value[..t * key_size]);
    let attended = grow(&mut saved.attended, t * query_size);
    let log_sum_exp = grow(&mut saved.log_sum_exp, heads * t);
    let Some(caches) = caches else {
        let cu = sequences.cu_seqlens;
        kernels::attention(run.precision, &shape, cu, cu, query, key, value, attended, log_sum_exp);
        return;
    };
    for ((_, cache), range) in caches.iter_mut().zip(sequences.cu_seqlens.windows(2)) {
        let (begin, end) = (range[0] as usize, range[1] as usize);
        let keys = begin * key_size..end * key_size;
        let (all_keys, all_values, held) = cache.append(*layer, &key[keys.clone()], &value[keys]);
        let new = end - begin;
        kernels::attention(
            run.precision,
            &shape,
            &[0, new as u32],
            &[0, (held + new) as u32],
            &query[begin * query_size..end * query_size],
            all_keys,
            all_values,
            &mut attended[begin * query_size..end * query_size],
            &mut log_sum_exp[..heads * new],
        );
    }
}

/// Adds the gradient of a norm's input to `gradient` and that of its weight to the weight's gradient.
pub(crate) fn norm_backward(
    norm: &mut Tensor,
    x: &[f32],
    inverse_rms: &[f32],
    dy: &[f32],
    gradient: &mut [f32],
) {
    match norm.parameter() {
        Some(p) => kernels::rms_norm_gradient(x, p.data, inverse_rms, dy, 1.0, gradient, Some(p.grad)),
        None => kernels::rms_norm_gradient(x, norm.values(), inverse_rms, dy, 1.0, gradient, None),
    }
}

/// `y = a + b`.
fn sum(a: &[f32], b: &[f32], y: &mut [f32]) {
    y.copy_from_slice(a);
    kernels::add(b, y);
}

pub(crate) fn see(observe: &mut Option<&mut Observer<'_>>, stage: Stage, values: &[f32]) {
    if let Some(observe) = observe {
        observe(stage, values);
    }
}
