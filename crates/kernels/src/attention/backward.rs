//! The backward pass: one task for each key head of a sequence, so that no two tasks add to the same gradient.

use super::{AttentionShape, KEYS, Sequence, add_positions, cut, seen};
use crate::gemm::Precision;
use crate::gemm::block::{Block, BlockProduct};
use crate::scratch::{self, Slot};
use crate::simd::simd;
use crate::threads::{Parts, parallel};

pub(super) fn run(
    precision: Precision,
    shape: &AttentionShape,
    cu_q: &[u32],
    cu_k: &[u32],
    [q, k, v, out, lse, dout]: [&[f32]; 6],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let AttentionShape { heads, kv_heads, head_dim: d, scale, .. } = *shape;
    let product = BlockProduct::new(precision);
    let group = heads / kv_heads;
    let tokens = q.len() / (heads * d);
    let (dq, dk, dv) = (Parts::new(dq), Parts::new(dk), Parts::new(dv));
    let rows = product.rows();
    let (q_stride, k_stride) = (heads * d, kv_heads * d);

    // Packed blocks: keys twice and values; queries and output gradients, or probabilities, on either side.
    let right = product.words(KEYS.max(d), KEYS.max(d));
    let words = [right, right, right, product.words(KEYS.max(rows), d.max(rows)), product.words(d, rows)];

    parallel((cu_q.len() - 1) * kv_heads, |task| {
        let sequence = Sequence::new(shape, cu_q, cu_k, task / kv_heads);
        let key_head = task % kv_heads;
        let queries = sequence.queries.clone();
        let group_heads = key_head * group..(key_head + 1) * group;
        for token in queries.clone() {
            // SAFETY: these heads of this token belong to this task.
            unsafe { dq.part((token * heads + group_heads.start) * d, group * d) }.fill(0.0);
        }
        for key in sequence.keys.clone() {
            // SAFETY: this head of this key belongs to this task.
            unsafe {
                dk.part((key * kv_heads + key_head) * d, d).fill(0.0);
                dv.part((key * kv_heads + key_head) * d, d).fill(0.0);
            }
        }
        let floats = [rows * KEYS, rows * KEYS, group * queries.len(), KEYS];
        scratch::with::<u32, _>(Slot::OwnPack, words.iter().sum(), |packed| {
            let [right_k, right_k_across, right_v, left, right_q] = cut(packed, words);
            scratch::with::<f32, _>(Slot::Scores, floats.iter().sum(), |buffer| {
                let [scores, ds, delta, positions] = cut(buffer, floats);
                for (g, head) in group_heads.clone().enumerate() {
                    for (i, token) in queries.clone().enumerate() {
                        let at = (token * heads + head) * d;
                        delta[g * queries.len() + i] =
                            dot(product.level(), &out[at..at + d], &dout[at..at + d]);
                    }
                }
                for first in (0..sequence.keys.len()).step_by(KEYS) {
                    let count = KEYS.min(sequence.keys.len() - first);
                    let k_at = ((sequence.keys.start + first) * kv_heads + key_head) * d;
                    let along =
                        |values| Block { values, stride: k_stride, along_k: true, lines: count, k: d };
                    product.pack_right(along(&k[k_at..]), right_k);
                    product.pack_right(along(&v[k_at..]), right_v);
                    let across =
                        Block { values: &k[k_at..], stride: k_stride, along_k: false, lines: d, k: count };
                    product.pack_right(across, right_k_across);
                    for (g, head) in group_heads.clone().enumerate() {
                        for block in sequence.query_blocks(rows) {
                            if sequence.visible(block.end - 1) <= first {
                                continue;
                            }
                            let (m, at) = (block.len(), (block.start * heads + head) * d);
                            let scores = &mut scores[..m * KEYS];
                            let ds = &mut ds[..m * KEYS];
                            let along =
                                |values| Block { values, stride: q_stride, along_k: true, lines: m, k: d };
                            let across =
                                |values| Block { values, stride: q_stride, along_k: false, lines: d, k: m };
                            product.pack_left(along(&q[at..]), left);
                            let visible = sequence.visible_from(first, block.start);
                            // Which keys the rows of a tile see, and which rows see the keys of a tile.
                            let keys_of =
                                |i: usize, rows: usize| seen(sequence.causal, visible, i + rows - 1, count);
                            let rows_of = |key: usize| {
                                let from = if sequence.causal { key as isize + 1 - visible } else { 0 };
                                from.clamp(0, m as isize) as usize..m
                            };
                            let whole = |i: usize, rows: usize, j: usize| {
                                if j < keys_of(i, rows) { 0..d } else { 0..0 }
                            };
                            // SAFETY: the scores belong to this task.
                            unsafe {
                                let c = scores.as_mut_ptr();
                                product.multiply((m, count, d), scale, left, right_k, 0.0, c, KEYS, whole);
                            }
                            product.pack_left(along(&dout[at..]), left);
                            // SAFETY: so do their gradients.
                            unsafe {
                                let c = ds.as_mut_ptr();
                                product.multiply((m, count, d), 1.0, left, right_v, 0.0, c, KEYS, whole);
                            }
                            if let Some(slopes) = shape.alibi_slopes {
                                for row in scores.chunks_exact_mut(KEYS) {
                                    add_positions(slopes[head], first, count, positions, row);
                                }
                            }
                            let lse = &lse[head * tokens + block.start..][..m];
                            let delta = &delta[g * queries.len() + block.start - queries.start..][..m];
                            score_gradients(
                                product.level(),
                                sequence.causal,
                                visible,
                                count,
                                lse,
                                delta,
                                scores,
                                ds,
                            );

                            let columns =
                                |values| Block { values, stride: KEYS, along_k: false, lines: count, k: m };
                            // dv += p^T dout
                            product.pack_left(columns(scores), left);
                            product.pack_right(across(&dout[at..]), right_q);
                            // SAFETY: this head of these keys belongs to this task.
                            unsafe {
                                let c = dv.pointer(k_at);
                                product.multiply(
                                    (count, d, m),
                                    1.0,
                                    left,
                                    right_q,
                                    1.0,
                                    c,
                                    k_stride,
                                    |i, _, _| rows_of(i),
                                );
                            }
                            // dk += scale ds^T q
                            product.pack_left(columns(ds), left);
                            product.pack_right(across(&q[at..]), right_q);
                            // SAFETY: as above.
                            unsafe {
                                let c = dk.pointer(k_at);
                                product.multiply(
                                    (count, d, m),
                                    scale,
                                    left,
                                    right_q,
                                    1.0,
                                    c,
                                    k_stride,
                                    |i, _, _| rows_of(i),
                                );
                            }
                            // dq += scale ds k
                            let block = Block { values: ds, stride: KEYS, along_k: true, lines: m, k: count };
                            product.pack_left(block, left);
                            // SAFETY: this head of these tokens belongs to this task.
                            unsafe {
                                let c = dq.pointer(at);
                                let terms = |i, rows, _| 0..keys_of(i, rows);
                                product.multiply(
                                    (m, d, count),
                                    scale,
                                    left,
                                    right_k_across,
                                    1.0,
                                    c,
                                    q_stride,
                                    terms,
                                );
                            }
                        }
                    }
                }
            });
        });
    });
}

simd! {
    fn dot(v, x: &[f32], y: &[f32]) -> f32 {
        let mut sum = v.splat(0.0);
        for i in (0..x.len()).step_by(V::N) {
            sum = v.load(&x[i..]).mul_add(v.load(&y[i..]), sum);
        }
        sum.sum()
    }

    /// Replaces scores by probabilities `p = exp(score - lse)` and `dp` by `ds = p (dp - delta)`; both 0 for keys that a row does
    /// not see. Rows and keys are counted as in the forward pass.
    fn score_gradients(
        v,
        causal: bool,
        visible: isize,
        count: usize,
        lse: &[f32],
        delta: &[f32],
        scores: &mut [f32],
        dp: &mut [f32],
    ) {
        for (i, (row, dp)) in scores.chunks_exact_mut(KEYS).zip(dp.chunks_exact_mut(KEYS)).enumerate() {
            let seen = seen(causal, visible, i, count);
            let (row, row_unseen) = row[..count].split_at_mut(seen);
            let (dp, dp_unseen) = dp[..count].split_at_mut(seen);
            row_unseen.fill(0.0);
            dp_unseen.fill(0.0);
            let (lse, delta) = (v.splat(lse[i]), v.splat(delta[i]));
            for j in (0..seen).step_by(V::N) {
                let p = v.load(&row[j..]).sub(lse).exp();
                p.mul(v.load(&dp[j..]).sub(delta)).store(&mut dp[j..]);
                p.store(&mut row[j..]);
            }
        }
    }
}
