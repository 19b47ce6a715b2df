//! The forward pass: one task for each block of queries of a head.

use super::{AttentionShape, KEYS, Sequence, seen};
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
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_dim: d, scale, .. } = *shape;
    let product = BlockProduct::new(precision);
    let tokens = q.len() / (heads * d);
    let (out, lse) = (Parts::new(out), Parts::new(lse));
    let block_of_head = |sequence: &Sequence, head: usize, queries: std::ops::Range<usize>| {
        let rows = queries.len();
        let key_head = head / (heads / kv_heads);
        let words =
            [product.words(rows, d), product.words(KEYS, d.max(KEYS)), product.words(d.max(rows), KEYS)];
        let floats = [rows * KEYS, rows * d, rows, rows, KEYS];
        scratch::with::<u32, _>(Slot::OwnPack, words.iter().sum(), |packed| {
            let [left_q, right, left_p] = cut(packed, words);
            scratch::with::<f32, _>(Slot::Scores, floats.iter().sum(), |buffer| {
                let [scores, sums, max, total, positions] = cut(buffer, floats);
                sums.fill(0.0);
                max.fill(f32::NEG_INFINITY);
                total.fill(0.0);
                let values = &q[(queries.start * heads + head) * d..];
                product
                    .pack_left(Block { values, stride: heads * d, along_k: true, lines: rows, k: d }, left_q);
                let last = sequence.visible(queries.end - 1);
                for first in (0..last).step_by(KEYS) {
                    let count = KEYS.min(last - first);
                    let at = ((sequence.keys.start + first) * kv_heads + key_head) * d;
                    let stride = kv_heads * d;
                    product.pack_right(
                        Block { values: &k[at..], stride, along_k: true, lines: count, k: d },
                        right,
                    );
                    // SAFETY: the scores belong to this task.
                    unsafe {
                        product.multiply(
                            (rows, count, d),
                            scale,
                            left_q,
                            right,
                            0.0,
                            scores.as_mut_ptr(),
                            KEYS,
                        );
                    }
                    if let Some(slopes) = shape.alibi_slopes {
                        add_positions(slopes[head], first, count, positions, scores);
                    }
                    let visible = sequence.visible_from(first, queries.start);
                    online_softmax(
                        product.level(),
                        sequence.causal,
                        visible,
                        count,
                        scores,
                        sums,
                        max,
                        total,
                    );
                    let block = Block { values: scores, stride: KEYS, along_k: true, lines: rows, k: count };
                    product.pack_left(block, left_p);
                    product.pack_right(
                        Block { values: &v[at..], stride, along_k: false, lines: d, k: count },
                        right,
                    );
                    // SAFETY: the sums belong to this task.
                    unsafe {
                        product.multiply((rows, d, count), 1.0, left_p, right, 1.0, sums.as_mut_ptr(), d)
                    };
                }
                for (i, token) in queries.clone().enumerate() {
                    // SAFETY: this head of this token belongs to this task.
                    let (out, lse) = unsafe {
                        (out.part((token * heads + head) * d, d), lse.part(head * tokens + token, 1))
                    };
                    lse[0] = max[i] + total[i].ln();
                    let inverse = if total[i] == 0.0 { 0.0 } else { 1.0 / total[i] };
                    out.iter_mut().zip(&sums[i * d..]).for_each(|(out, sum)| *out = sum * inverse);
                }
            });
        });
    };
    for_each_block(shape, cu_q, cu_k, product.rows(), block_of_head);
}

/// Runs `task(sequence, head, queries)` for every block of queries of every head.
fn for_each_block(
    shape: &AttentionShape,
    cu_q: &[u32],
    cu_k: &[u32],
    rows: usize,
    task: impl Fn(&Sequence, usize, std::ops::Range<usize>) + Sync,
) {
    let sequences = cu_q.len() - 1;
    let one = |index: usize| {
        let sequence = Sequence::new(shape, cu_q, cu_k, index / shape.heads);
        for queries in sequence.query_blocks(rows) {
            task(&sequence, index % shape.heads, queries);
        }
    };
    // A long sequence alone is divided by blocks; its last ones, which see most keys, come first.
    if sequences == 1 {
        let sequence = Sequence::new(shape, cu_q, cu_k, 0);
        let blocks = sequence.queries.len().div_ceil(rows);
        parallel(blocks * shape.heads, |index| {
            let from = sequence.queries.start + (blocks - 1 - index / shape.heads) * rows;
            task(&sequence, index % shape.heads, from..sequence.queries.end.min(from + rows));
        });
    } else {
        parallel(sequences * shape.heads, one);
    }
}

/// Adds `slope * position` to the scores of a block.
pub(super) fn add_positions(
    slope: f32,
    first: usize,
    count: usize,
    positions: &mut [f32],
    scores: &mut [f32],
) {
    for (j, position) in positions[..count].iter_mut().enumerate() {
        *position = slope * (first + j) as f32;
    }
    for row in scores.chunks_exact_mut(KEYS) {
        row[..count].iter_mut().zip(&*positions).for_each(|(score, bias)| *score += bias);
    }
}

/// Cuts a buffer into pieces of the given lengths.
pub(super) fn cut<T, const N: usize>(mut buffer: &mut [T], lengths: [usize; N]) -> [&mut [T]; N] {
    lengths.map(|length| {
        let (piece, rest) = std::mem::take(&mut buffer).split_at_mut(length);
        buffer = rest;
        piece
    })
}

simd! {
    /// Turns a block of scores into exponentials below the running maximum of each row, and brings what was summed up to
    /// now to that maximum (Milakov and Gimelshein 2018).
    ///
    /// Row `i` sees `visible + i` keys of this block of `count` where it is causal (cut to what the block has).
    fn online_softmax(
        v,
        causal: bool,
        visible: isize,
        count: usize,
        scores: &mut [f32],
        sums: &mut [f32],
        max: &mut [f32],
        total: &mut [f32],
    ) {
        let d = sums.len() / max.len();
        for (i, row) in scores.chunks_exact_mut(KEYS).enumerate() {
            let seen = seen(causal, visible, i, count);
            let (row, unseen) = row[..count].split_at_mut(seen);
            unseen.fill(0.0);
            let mut largest = v.splat(max[i]);
            for j in (0..seen).step_by(V::N) {
                largest = largest.max(v.load_or(&row[j..], f32::NEG_INFINITY));
            }
            let largest = largest.largest();
            if largest == f32::NEG_INFINITY {
                row.fill(0.0);
                continue;
            }
            let (centre, mut sum) = (v.splat(largest), v.splat(0.0));
            for j in (0..seen).step_by(V::N) {
                let e = v.load_or(&row[j..], f32::NEG_INFINITY).sub(centre).exp();
                sum = sum.add(e);
                e.store(&mut row[j..]);
            }
            let factor = (max[i] - largest).exp();
            total[i] = total[i] * factor + sum.sum();
            if factor != 1.0 {
                let sums = &mut sums[i * d..(i + 1) * d];
                for j in (0..d).step_by(V::N) {
                    v.load(&sums[j..]).mul(v.splat(factor)).store(&mut sums[j..]);
                }
            }
            max[i] = largest;
        }
    }
}
