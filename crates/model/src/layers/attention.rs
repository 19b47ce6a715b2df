//! The attention branch of a block: projections, rotary embedding, attention, output projection.

use taiyi_kernels::{self as kernels, AttentionShape};

use super::{
    block::Pass,
    linear::{InputGradient, Linear, LinearSaved},
    norm::{Norm, NormSaved},
    tensor::Tensor,
    workspace::{Scratch, grow},
};
use crate::{
    config::{BlockShape, QkvLayout},
    decoder::KvCache,
};

/// Weights of the branch.
pub(crate) struct Attention {
    pub(crate) input: AttentionInput,
    /// Norms of each query head and of each key head.
    pub(crate) head_norms: Option<Box<[Norm; 2]>>,
    pub(crate) output: Linear,
}

/// The projections that feed attention.
pub(crate) enum AttentionInput {
    /// One layer; [`BlockShape::qkv`] says in which order its rows are.
    Packed(Box<Linear>),
    /// q, k and v.
    Split(Box<[Linear; 3]>),
}

/// What the forward pass keeps for the backward pass.
#[derive(Default)]
pub(crate) struct AttentionSaved {
    /// As attention reads them; (T, H d), (T, G d), (T, G d).
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// Queries and keys before the norms of the heads, where there are such.
    raw_query: Vec<f32>,
    raw_key: Vec<f32>,
    head_norms: [NormSaved; 2],
    /// (T, H d) and (H, T), the latter segment by segment.
    attended: Vec<f32>,
    log_sum_exp: Vec<f32>,
    input_linears: [LinearSaved; 3],
    output_linear: LinearSaved,
}

impl AttentionSaved {
    pub(crate) fn bytes(&self) -> usize {
        let floats = [
            &self.query,
            &self.key,
            &self.value,
            &self.raw_query,
            &self.raw_key,
            &self.attended,
            &self.log_sum_exp,
        ];
        floats.into_iter().map(|v| 4 * v.len()).sum::<usize>()
            + self.head_norms.iter().map(NormSaved::bytes).sum::<usize>()
            + self.input_linears.iter().map(LinearSaved::bytes).sum::<usize>()
            + self.output_linear.bytes()
    }
}

impl Attention {
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut all: Vec<&Linear> = match &self.input {
            AttentionInput::Packed(linear) => vec![linear],
            AttentionInput::Split(three) => three.iter().collect(),
        };
        all.push(&self.output);
        all
    }

    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = match &mut self.input {
            AttentionInput::Packed(linear) => vec![linear],
            AttentionInput::Split(three) => three.iter_mut().collect(),
        };
        all.push(&mut self.output);
        all
    }

    pub(crate) fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        match &mut self.input {
            AttentionInput::Packed(linear) => linear.visit(f),
            AttentionInput::Split(three) => three.iter_mut().for_each(|l| l.visit(f)),
        }
        if let Some(norms) = &mut self.head_norms {
            norms.iter_mut().for_each(|n| n.visit(f));
        }
        self.output.visit(f);
    }

    pub(crate) fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        match &self.input {
            AttentionInput::Packed(linear) => linear.tensors(f),
            AttentionInput::Split(three) => three.iter().for_each(|l| l.tensors(f)),
        }
        if let Some(norms) = &self.head_norms {
            norms.iter().for_each(|n| n.tensors(f));
        }
        self.output.tensors(f);
    }

    /// Whether anything in front of the attention itself learns.
    pub(crate) fn input_trains(&self) -> bool {
        let projections = match &self.input {
            AttentionInput::Packed(linear) => linear.is_trainable(),
            AttentionInput::Split(three) => three.iter().any(Linear::is_trainable),
        };
        projections || self.head_norms.as_ref().is_some_and(|n| n.iter().any(Norm::is_trainable))
    }

    /// Computes the branch's output `y` (T, D) from its normed input `x` (T, D).
    ///
    /// With `caches` the new keys and values are appended to the sequences' caches and attention reads those.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        caches: Option<&mut [(&[u32], &mut KvCache)]>,
        x: &[f32],
        y: &mut [f32],
        saved: &mut AttentionSaved,
        scratch: &mut Scratch,
    ) {
        self.project(pass, x, saved, scratch);
        attend(pass, caches, saved);
        let t = pass.sequences.tokens();
        let attended = &saved.attended[..t * pass.shape.query_size()];
        self.output.forward(&pass.run, t, attended, y, &mut saved.output_linear, &mut scratch.adapter);
    }

    /// Fills query, key and value from the normed input, rotated and scaled.
    fn project(&self, pass: &Pass<'_>, x: &[f32], saved: &mut AttentionSaved, scratch: &mut Scratch) {
        let Pass { shape, run, sequences, .. } = pass;
        let t = sequences.tokens();
        let (query_size, key_size) = (shape.query_size(), shape.key_size());
        let query = grow(&mut saved.query, t * query_size);
        let key = grow(&mut saved.key, t * key_size);
        let value = grow(&mut saved.value, t * key_size);
        match &self.input {
            AttentionInput::Packed(linear) => {
                let width = query_size + 2 * key_size;
                let packed = grow(&mut scratch.packed, t * width);
                linear.forward(run, t, x, packed, &mut saved.input_linears[0], &mut scratch.adapter);
                for (i, row) in packed.chunks(width).enumerate() {
                    unpack(
                        shape,
                        row,
                        &mut query[i * query_size..(i + 1) * query_size],
                        &mut key[i * key_size..(i + 1) * key_size],
                        &mut value[i * key_size..(i + 1) * key_size],
                    );
                }
            }
            AttentionInput::Split(three) => {
                let outputs = [&mut *query, &mut *key, &mut *value];
                for ((linear, output), saved) in three.iter().zip(outputs).zip(&mut saved.input_linears) {
                    linear.forward(run, t, x, output, saved, &mut scratch.adapter);
                }
            }
        }
        if let Some(norms) = &self.head_norms {
            let [of_query, of_key] = &mut saved.head_norms;
            let raw_query = grow(&mut saved.raw_query, t * query_size);
            raw_query.copy_from_slice(query);
            norms[0].forward(shape.norm_eps, raw_query, query, of_query);
            let raw_key = grow(&mut saved.raw_key, t * key_size);
            raw_key.copy_from_slice(key);
            norms[1].forward(shape.norm_eps, raw_key, key, of_key);
        }
        sequences.rotate(shape, shape.num_attention_heads, false, query);
        sequences.rotate(shape, shape.num_key_value_heads, false, key);
        sequences.scale_queries(query_size, query);
    }

    /// Adds to the gradients of what is trainable, given the gradient `dy` (T, D) of the branch's output, and sets `dx` (T, D), that
    /// of its normed input `x`, where `wants_input` says so. `wants_branch` tells whether anything in front of the output projection
    /// needs a gradient.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        wants_branch: bool,
        wants_input: bool,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        saved: &AttentionSaved,
        scratch: &mut Scratch,
    ) {
        let Pass { shape, run, sequences, .. } = pass;
        let t = sequences.tokens();
        let (query_size, key_size) = (shape.query_size(), shape.key_size());
        let d_attended = grow(&mut scratch.attended_gradient, t * query_size);
        let wanted = if wants_branch { InputGradient::Set(d_attended) } else { InputGradient::Unneeded };
        let attended = &saved.attended[..t * query_size];
        let adapter = &mut scratch.adapter;
        self.output.backward(run, t, attended, dy, wanted, &saved.output_linear, adapter);
        if !wants_branch {
            return;
        }
        attend_backward(pass, saved, scratch);
        let d_query = &mut scratch.query_gradient[..t * query_size];
        let d_key = &mut scratch.key_gradient[..t * key_size];
        let d_value = &scratch.value_gradient[..t * key_size];
        sequences.scale_queries(query_size, d_query);
        sequences.rotate(shape, shape.num_attention_heads, true, d_query);
        sequences.rotate(shape, shape.num_key_value_heads, true, d_key);
        if let Some(norms) = &mut self.head_norms {
            let raw = grow(&mut scratch.attended_gradient, t * query_size);
            raw.copy_from_slice(d_query);
            let raw_query = &saved.raw_query[..t * query_size];
            norms[0].backward_scaled(raw_query, &saved.head_norms[0], raw, 0.0, d_query);
            let raw = grow(&mut scratch.attended_gradient, t * key_size);
            raw.copy_from_slice(d_key);
            let raw_key = &saved.raw_key[..t * key_size];
            norms[1].backward_scaled(raw_key, &saved.head_norms[1], raw, 0.0, d_key);
        }
        match &mut self.input {
            AttentionInput::Packed(linear) => {
                let width = query_size + 2 * key_size;
                let packed = grow(&mut scratch.packed, t * width);
                for (i, row) in packed.chunks_mut(width).enumerate() {
                    pack(
                        shape,
                        &d_query[i * query_size..(i + 1) * query_size],
                        &d_key[i * key_size..(i + 1) * key_size],
                        &d_value[i * key_size..(i + 1) * key_size],
                        row,
                    );
                }
                let wanted = if wants_input { InputGradient::Set(dx) } else { InputGradient::Unneeded };
                linear.backward(run, t, x, packed, wanted, &saved.input_linears[0], &mut scratch.adapter);
            }
            AttentionInput::Split(three) => {
                for (i, (linear, dy)) in three.iter_mut().zip([&*d_query, &*d_key, d_value]).enumerate() {
                    let dx = &mut *dx;
                    let wanted = match (wants_input, i) {
                        (false, _) => InputGradient::Unneeded,
                        (true, 0) => InputGradient::Set(dx),
                        (true, _) => InputGradient::Add(dx),
                    };
                    linear.backward(run, t, x, dy, wanted, &saved.input_linears[i], &mut scratch.adapter);
                }
            }
        }
    }
}

/// Takes a row of a packed projection apart.
fn unpack(shape: &BlockShape, row: &[f32], query: &mut [f32], key: &mut [f32], value: &mut [f32]) {
    if shape.qkv == QkvLayout::PackedByHead {
        let d = shape.head_dim;
        let heads = query.chunks_mut(d).zip(key.chunks_mut(d)).zip(value.chunks_mut(d));
        for (((q, k), v), row) in heads.zip(row.chunks(3 * d)) {
            q.copy_from_slice(&row[..d]);
            k.copy_from_slice(&row[d..2 * d]);
            v.copy_from_slice(&row[2 * d..]);
        }
        return;
    }
    let (q, rest) = row.split_at(query.len());
    let (k, v) = rest.split_at(key.len());
    query.copy_from_slice(q);
    key.copy_from_slice(k);
    value.copy_from_slice(v);
}

/// Puts a row of a packed projection together.
fn pack(shape: &BlockShape, query: &[f32], key: &[f32], value: &[f32], row: &mut [f32]) {
    if shape.qkv == QkvLayout::PackedByHead {
        let d = shape.head_dim;
        let heads = query.chunks(d).zip(key.chunks(d)).zip(value.chunks(d));
        for (((q, k), v), row) in heads.zip(row.chunks_mut(3 * d)) {
            row[..d].copy_from_slice(q);
            row[d..2 * d].copy_from_slice(k);
            row[2 * d..].copy_from_slice(v);
        }
        return;
    }
    let (q, rest) = row.split_at_mut(query.len());
    let (k, v) = rest.split_at_mut(key.len());
    q.copy_from_slice(query);
    k.copy_from_slice(key);
    v.copy_from_slice(value);
}

impl Pass<'_> {
    fn attention_shape(&self, causal: bool) -> AttentionShape<'_> {
        AttentionShape {
            heads: self.shape.num_attention_heads,
            kv_heads: self.shape.num_key_value_heads,
            head_dim: self.shape.head_dim,
            causal,
            scale: 1.0 / (self.shape.head_dim as f32).sqrt(),
            alibi_slopes: self.sequences.slopes,
        }
    }
}

/// A run of queries of one sequence that see the same way: the tokens of the queries, and how many of the sequence's keys there
/// are for them.
struct Segment {
    begin: usize,
    end: usize,
    keys: usize,
    causal: bool,
}

/// The segments of a sequence whose new tokens are `begin..end` and stand behind `held` others: the rest of its prefix, which sees
/// all of the prefix, and what follows, which sees everything before itself.
fn segments(begin: usize, end: usize, held: usize, prefix: usize) -> impl Iterator<Item = Segment> {
    let cut = begin + prefix.saturating_sub(held).min(end - begin);
    let inside = Segment { begin, end: cut, keys: prefix, causal: false };
    let behind = Segment { begin: cut, end, keys: held + end - begin, causal: true };
    [inside, behind].into_iter().filter(|s| s.begin < s.end)
}

/// Attention of the new queries over the packed keys, or over the caches after the new keys are appended to them.
fn attend(pass: &Pass<'_>, caches: Option<&mut [(&[u32], &mut KvCache)]>, saved: &mut AttentionSaved) {
    let Pass { shape, run, sequences, layer } = pass;
    let t = sequences.tokens();
    let (query_size, key_size, heads) = (shape.query_size(), shape.key_size(), shape.num_attention_heads);
    let query = &saved.query[..t * query_size];
    let (key, value) = (&saved.key[..t * key_size], &saved.value[..t * key_size]);
    let attended = grow(&mut saved.attended, t * query_size);
    let log_sum_exp = grow(&mut saved.log_sum_exp, heads * t);
    if caches.is_none() && sequences.prefixes.is_empty() {
        let cu = sequences.cu_seqlens;
        let shape = pass.attention_shape(shape.causal);
        kernels::attention(run.precision, &shape, cu, cu, query, key, value, attended, log_sum_exp);
        return;
    }
    let mut caches = caches;
    for (i, range) in sequences.cu_seqlens.windows(2).enumerate() {
        let (begin, end) = (range[0] as usize, range[1] as usize);
        let rows = begin * key_size..end * key_size;
        let (all_keys, all_values, held) = match &mut caches {
            Some(caches) => caches[i].1.append(*layer, &key[rows.clone()], &value[rows]),
            None => (&key[rows.clone()], &value[rows], 0),
        };
        let prefix = sequences.prefixes.get(i).map_or(0, |&n| n as usize);
        for Segment { begin, end, keys, causal } in segments(begin, end, held, prefix) {
            kernels::attention(
                run.precision,
                &pass.attention_shape(causal),
                &[0, (end - begin) as u32],
                &[0, keys as u32],
                &query[begin * query_size..end * query_size],
                &all_keys[..keys * key_size],
                &all_values[..keys * key_size],
                &mut attended[begin * query_size..end * query_size],
                &mut log_sum_exp[heads * begin..heads * end],
            );
        }
    }
}

/// The gradients of query, key and value from that of what was attended, all in the scratch.
fn attend_backward(pass: &Pass<'_>, saved: &AttentionSaved, scratch: &mut Scratch) {
    let Pass { shape, run, sequences, .. } = pass;
    let t = sequences.tokens();
    let (query_size, key_size, heads) = (shape.query_size(), shape.key_size(), shape.num_attention_heads);
    let Scratch { attended_gradient, query_gradient, key_gradient, value_gradient, prefix_gradient, .. } =
        scratch;
    let d_attended = &attended_gradient[..t * query_size];
    let d_query = grow(query_gradient, t * query_size);
    let d_key = grow(key_gradient, t * key_size);
    let d_value = grow(value_gradient, t * key_size);
    if sequences.prefixes.is_empty() {
        kernels::attention_gradient(
            run.precision,
            &pass.attention_shape(shape.causal),
            sequences.cu_seqlens,
            sequences.cu_seqlens,
            &saved.query[..t * query_size],
            &saved.key[..t * key_size],
            &saved.value[..t * key_size],
            &saved.attended[..t * query_size],
            &saved.log_sum_exp[..heads * t],
            d_attended,
            d_query,
            d_key,
            d_value,
        );
        return;
    }
    d_key.fill(0.0);
    d_value.fill(0.0);
    for (range, &prefix) in sequences.cu_seqlens.windows(2).zip(sequences.prefixes) {
        let first = range[0] as usize;
        for Segment { begin, end, keys, causal } in segments(first, range[1] as usize, 0, prefix as usize) {
            let queries = begin * query_size..end * query_size;
            let seen = first * key_size..(first + keys) * key_size;
            // Both segments reach the keys of the prefix, so that their gradients are added up.
            let (dk, dv) = grow(prefix_gradient, 2 * keys * key_size).split_at_mut(keys * key_size);
            kernels::attention_gradient(
                run.precision,
                &pass.attention_shape(causal),
                &[0, (end - begin) as u32],
                &[0, keys as u32],
                &saved.query[queries.clone()],
                &saved.key[seen.clone()],
                &saved.value[seen.clone()],
                &saved.attended[queries.clone()],
                &saved.log_sum_exp[heads * begin..heads * end],
                &d_attended[queries.clone()],
                &mut d_query[queries],
                dk,
                dv,
            );
            kernels::add(dk, &mut d_key[seen.clone()]);
            kernels::add(dv, &mut d_value[seen]);
        }
    }
}
