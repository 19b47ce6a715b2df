//! The forward pass: one task for a block of queries and the heads that share a key head.

use std::ops::Range;

use super::{AttentionShape, KEYS, Sequence, add_positions, cut, seen};
use crate::elementwise::scale_part;
use crate::gemm::Precision;
use crate::gemm::block::{Block, BlockProduct};
use crate::scratch::{self, Slot};
use crate::simd::simd;
use crate::threads::{Parts, parallel};

/// What the tasks read and write.
struct Call<'a> {
    product: BlockProduct,
    shape: &'a AttentionShape<'a>,
    tokens: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: Parts<'a, f32>,
    lse: Parts<'a, f32>,
}

pub(super) fn run(
    precision: Precision,
    shape: &AttentionShape,
    cu_q: &[u32],
    cu_k: &[u32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let product = BlockProduct::new(precision);
    let tokens = q.len() / (shape.heads * shape.head_dim);
    let call = Call { product, shape, tokens, q, k, v, out: Parts::new(out), lse: Parts::new(lse) };
    let (rows, kv_heads, sequences) = (product.rows(), shape.kv_heads, cu_q.len() - 1);
    if sequences == 1 {
        // A sequence alone is divided by blocks, the last ones, which see most keys, first.
        let sequence = Sequence::new(shape, cu_q, cu_k, 0);
        let blocks = sequence.queries.len().div_ceil(rows);
        parallel(blocks * kv_heads, |task| {
            let from = sequence.queries.start + (blocks - 1 - task / kv_heads) * rows;
            call.block(&sequence, task % kv_heads, from..sequence.queries.end.min(from + rows));
        });
    } else {
        parallel(sequences * kv_heads, |task| {
            let sequence = Sequence::new(shape, cu_q, cu_k, task / kv_heads);
            for queries in sequence.query_blocks(rows) {
                call.block(&sequence, task % kv_heads, queries);
            }
        });
    }
}

/// Rows of scores that are computed together: the queries of one head, or, when there is only one query, that query in all
/// heads of a key head.
#[derive(Clone, Copy)]
struct Lines {
    count: usize,
    /// Distance of two lines in `q` and `out`.
    stride: usize,
    /// Whether a line sees one key more than the line before it.
    staggered: bool,
    /// Whether each line is another head.
    of_heads: bool,
}

impl Call<'_> {
    /// The queries of one block in the heads of one key head.
    fn block(&self, sequence: &Sequence, key_head: usize, queries: Range<usize>) {
        let AttentionShape { heads, kv_heads, head_dim: d, causal, .. } = *self.shape;
        let (product, group) = (&self.product, heads / kv_heads);
        let (lines, sets) = if queries.len() == 1 {
            (Lines { count: group, stride: d, staggered: false, of_heads: true }, 1)
        } else {
            (Lines { count: queries.len(), stride: heads * d, staggered: causal, of_heads: false }, group)
        };
        let m = lines.count;
        // The heads of set s start here in q and out.
        let start = |set: usize| (queries.start * heads + key_head * group + set) * d;

        let left_q = product.words(m, d);
        let words = [sets * left_q, product.words(KEYS, d), product.words(d, KEYS), product.words(m, KEYS)];
        let floats = [m * KEYS, sets * m * d, sets * m, sets * m, m, KEYS];
        scratch::with::<u32, _>(Slot::OwnPack, words.iter().sum(), |packed| {
            let [left_qs, right_k, right_v, left_p] = cut(packed, words);
            scratch::with::<f32, _>(Slot::Scores, floats.iter().sum(), |buffer| {
                let [scores, sums, max, total, factors, positions] = cut(buffer, floats);
                sums.fill(0.0);
                max.fill(f32::NEG_INFINITY);
                total.fill(0.0);
                for (set, left_q) in left_qs.chunks_exact_mut(left_q).enumerate() {
                    let values = &self.q[start(set)..];
                    product.pack_left(
                        Block { values, stride: lines.stride, along_k: true, lines: m, k: d },
                        left_q,
                    );
                }
                let last = sequence.visible(queries.end - 1);
                for first in (0..last).step_by(KEYS) {
                    let count = KEYS.min(last - first);
                    let at = ((sequence.keys.start + first) * kv_heads + key_head) * d;
                    let stride = kv_heads * d;
                    let values = &self.k[at..];
                    product.pack_right(Block { values, stride, along_k: true, lines: count, k: d }, right_k);
                    let values = &self.v[at..];
                    product.pack_right(Block { values, stride, along_k: false, lines: d, k: count }, right_v);
                    let visible = sequence.visible_from(first, queries.start);
                    for set in 0..sets {
                        let state = State {
                            scores: &mut *scores,
                            sums: &mut sums[set * m * d..][..m * d],
                            max: &mut max[set * m..][..m],
                            total: &mut total[set * m..][..m],
                            factors: &mut *factors,
                        };
                        let left_q = &left_qs[set * left_q..][..left_q];
                        // SAFETY: the scores belong to this task.
                        unsafe {
                            let c = state.scores.as_mut_ptr();
                            product.multiply(
                                (m, count, d),
                                self.shape.scale,
                                left_q,
                                right_k,
                                0.0,
                                c,
                                KEYS,
                                |i, rows, j| {
                                    if j < seen(lines.staggered, visible, i + rows - 1, count) {
                                        0..d
                                    } else {
                                        0..0
                                    }
                                },
                            );
                        }
                        if let Some(slopes) = self.shape.alibi_slopes {
                            for (line, row) in state.scores.chunks_exact_mut(KEYS).enumerate() {
                                let head = key_head * group + if lines.of_heads { line } else { set };
                                add_positions(slopes[head], first, count, positions, row);
                            }
                        }
                        self.sum_block(lines, visible, count, state, right_v, left_p);
                    }
                }
                for set in 0..sets {
                    for line in 0..m {
                        let (row, at) = (set * m + line, start(set) + line * lines.stride);
                        let (token, head) = (at / (heads * d), at / d % heads);
                        // SAFETY: this head of this token belongs to this task.
                        let (out, lse) =
                            unsafe { (self.out.part(at, d), self.lse.part(head * self.tokens + token, 1)) };
                        lse[0] = max[row] + total[row].ln();
                        out.copy_from_slice(&sums[row * d..][..d]);
                        let inverse = if total[row] == 0.0 { 0.0 } else { 1.0 / total[row] };
                        scale_part(product.level(), inverse, out);
                    }
                }
            });
        });
    }

    /// Adds the values of one block of keys, given its scores.
    fn sum_block(
        &self,
        lines: Lines,
        visible: isize,
        count: usize,
        state: State,
        right_v: &[u32],
        left_p: &mut [u32],
    ) {
        let State { scores, sums, max, total, factors } = state;
        let (product, m, d) = (&self.product, lines.count, self.shape.head_dim);
        online_softmax(product.level(), lines.staggered, visible, count, scores, sums, max, total, factors);
        product.pack_left(Block { values: scores, stride: KEYS, along_k: true, lines: m, k: count }, left_p);
        // SAFETY: the sums belong to this task.
        unsafe {
            product.multiply((m, d, count), 1.0, left_p, right_v, 1.0, sums.as_mut_ptr(), d, |i, rows, _| {
                0..seen(lines.staggered, visible, i + rows - 1, count)
            });
        }
    }
}

/// What one set of lines has summed up.
struct State<'a> {
    /// Scores of the block, then their exponentials: `(lines, KEYS)`.
    scores: &'a mut [f32],
    /// Sums of the values: `(lines, head_dim)`.
    sums: &'a mut [f32],
    /// Largest score of each line.
    max: &'a mut [f32],
    /// Sum of the exponentials of each line.
    total: &'a mut [f32],
    /// Room for one number for each line.
    factors: &'a mut [f32],
}

simd! {
    /// Turns a block of scores into exponentials below the running maximum of each row, and brings what was summed up to
    /// now to that maximum (Milakov and Gimelshein 2018).
    ///
    /// Row `i` sees `visible + i` keys of this block of `count` where rows are staggered (cut to what the block has). What a row
    /// does not see becomes 0.
    fn online_softmax(
        v,
        staggered: bool,
        visible: isize,
        count: usize,
        scores: &mut [f32],
        sums: &mut [f32],
        max: &mut [f32],
        total: &mut [f32],
        factors: &mut [f32],
    ) {
        let d = sums.len() / max.len();
        // In passes over all rows, so that the latencies of one row hide behind the next ones.
        for (i, row) in scores.chunks_exact_mut(KEYS).enumerate() {
            let row = &row[..seen(staggered, visible, i, count)];
            let mut largest = v.splat(max[i]);
            for j in (0..row.len()).step_by(V::N) {
                largest = largest.max(v.load_or(&row[j..], f32::NEG_INFINITY));
            }
            factors[i] = largest.largest();
        }
        for i in (0..max.len()).step_by(V::N) {
            let largest = v.load(&factors[i..]);
            // A row without keys keeps its minus infinity, but nothing is subtracted from itself.
            let factor = v.load(&max[i..]).sub(largest.max(v.splat(f32::MIN))).exp();
            v.load(&total[i..]).mul(factor).store(&mut total[i..]);
            largest.store(&mut max[i..]);
            factor.store(&mut factors[i..]);
        }
        for (i, row) in scores.chunks_exact_mut(KEYS).enumerate() {
            let seen = seen(staggered, visible, i, count);
            let (centre, mut sum) = (v.splat(max[i].max(f32::MIN)), v.splat(0.0));
            for j in (0..seen).step_by(V::N) {
                let e = v.load_or(&row[j..seen], f32::NEG_INFINITY).sub(centre).exp();
                sum = sum.add(e);
                e.store(&mut row[j..count]);
            }
            for j in (seen.next_multiple_of(V::N)..count).step_by(V::N) {
                v.splat(0.0).store(&mut row[j..count]);
            }
            total[i] += sum.sum();
        }
        for (sums, &factor) in sums.chunks_exact_mut(d).zip(&*factors) {
            if factor != 1.0 {
                for j in (0..d).step_by(V::N) {
                    v.load(&sums[j..]).mul(v.splat(factor)).store(&mut sums[j..]);
                }
            }
        }
    }
}
