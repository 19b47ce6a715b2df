//! Attention over packed sequences.
//!
//! Queries and keys are processed in blocks whose scores stay in the cache (Dao et al. 2022). Blocks of keys start at the
//! first key of their sequence whatever the queries are, so that the output of a query does not depend on the other
//! queries computed with it.

mod backward;
mod forward;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::gemm::{Precision, check};

/// Keys in a block.
const KEYS: usize = 128;

/// What [`attention`] computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple. Query head `h` reads head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Whether query `i` of a sequence with `Lq` queries and `Lk` keys sees only the keys `0..=i + Lk - Lq`.
    pub causal: bool,
    /// Factor of the scores, mostly `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// ALiBi (Press et al. 2022): `slope[head] * (position of the key in its sequence)` is added to the scaled score; `(heads)`.
    pub alibi_slopes: Option<&'a [f32]>,
}

/// Computes `out = softmax(scale q k^T + bias) v` for each head within each sequence.
///
/// `q, out (tokens, heads, head_dim)`, `k, v (keys, kv_heads, head_dim)`; sequence `s` has the tokens
/// `cu_q[s]..cu_q[s + 1]` and the keys `cu_k[s]..cu_k[s + 1]`. `lse (heads, tokens)` receives the logarithm of the sum of
/// the exponentials, for the gradient. A query that sees no key gets 0 and a `lse` of minus infinity.
///
/// # Panics
///
/// When a slice does not have the length of its shape or `cu_q`, `cu_k` do not ascend from 0 to the end.
pub fn attention(
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
    let tokens = check_shape("attention", shape, cu_q, cu_k, q, k, v);
    check("attention", [("out", out.len(), q.len()), ("lse", lse.len(), shape.heads * tokens)]);
    forward::run(precision, shape, cu_q, cu_k, q, k, v, out, lse);
}

/// Writes the gradients of [`attention`]: with `p = exp(scale q k^T + bias - lse)`, `ds = p (dout v^T - sum(dout out))`:
/// `dq = scale ds k`, `dk = scale ds^T q`, `dv = p^T dout`. The scores are computed again block by block (Dao 2023).
///
/// # Panics
///
/// As [`attention`].
pub fn attention_gradient(
    precision: Precision,
    shape: &AttentionShape,
    cu_q: &[u32],
    cu_k: &[u32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let tokens = check_shape("attention_gradient", shape, cu_q, cu_k, q, k, v);
    check(
        "attention_gradient",
        [
            ("out", out.len(), q.len()),
            ("lse", lse.len(), shape.heads * tokens),
            ("dout", dout.len(), q.len()),
            ("dq", dq.len(), q.len()),
            ("dk", dk.len(), k.len()),
            ("dv", dv.len(), v.len()),
        ],
    );
    backward::run(precision, shape, cu_q, cu_k, [q, k, v, out, lse, dout], [dq, dk, dv]);
}

/// Returns the number of tokens.
fn check_shape(
    operation: &str,
    shape: &AttentionShape,
    cu_q: &[u32],
    cu_k: &[u32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> usize {
    let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
    assert!(
        kv_heads > 0 && head_dim > 0 && heads % kv_heads == 0,
        "{operation}: {heads} heads of {head_dim} elements do not share {kv_heads} key heads"
    );
    assert!(
        cu_q.len() == cu_k.len() && !cu_q.is_empty(),
        "{operation}: cu_q has {} entries and cu_k {}; both need one more than there are sequences",
        cu_q.len(),
        cu_k.len()
    );
    for cu in [cu_q, cu_k] {
        assert!(cu[0] == 0 && cu.is_sorted(), "{operation}: sequence starts must ascend from 0");
    }
    let (tokens, keys) = (cu_q[cu_q.len() - 1] as usize, cu_k[cu_k.len() - 1] as usize);
    check(
        operation,
        [
            ("q", q.len(), tokens * heads * head_dim),
            ("k", k.len(), keys * kv_heads * head_dim),
            ("v", v.len(), keys * kv_heads * head_dim),
            ("alibi_slopes", shape.alibi_slopes.map_or(heads, <[f32]>::len), heads),
        ],
    );
    tokens
}

/// Adds `slope * position` to the scores of one query and a block of `count` keys; `positions` is room for a block.
fn add_positions(slope: f32, first: usize, count: usize, positions: &mut [f32], scores: &mut [f32]) {
    for (j, position) in positions[..count].iter_mut().enumerate() {
        *position = slope * (first + j) as f32;
    }
    scores[..count].iter_mut().zip(&*positions).for_each(|(score, bias)| *score += bias);
}

/// Cuts a buffer into pieces of the given lengths.
fn cut<T, const N: usize>(mut buffer: &mut [T], lengths: [usize; N]) -> [&mut [T]; N] {
    lengths.map(|length| {
        let (piece, rest) = std::mem::take(&mut buffer).split_at_mut(length);
        buffer = rest;
        piece
    })
}

/// How many of `count` keys row `i` sees, when the first row would see `visible` if that were possible.
fn seen(causal: bool, visible: isize, i: usize, count: usize) -> usize {
    if causal { (visible + i as isize).clamp(0, count as isize) as usize } else { count }
}

/// One sequence of a packed batch.
#[derive(Clone)]
struct Sequence {
    queries: Range<usize>,
    keys: Range<usize>,
    causal: bool,
}

impl Sequence {
    fn new(shape: &AttentionShape, cu_q: &[u32], cu_k: &[u32], index: usize) -> Self {
        Self {
            queries: cu_q[index] as usize..cu_q[index + 1] as usize,
            keys: cu_k[index] as usize..cu_k[index + 1] as usize,
            causal: shape.causal,
        }
    }

    /// How many keys the query `token` sees.
    fn visible(&self, token: usize) -> usize {
        if self.causal {
            (self.keys.len() + token + 1).saturating_sub(self.queries.end)
        } else {
            self.keys.len()
        }
    }

    /// How many keys of the block from `first` the query `token` sees, before it is cut to the block: negative for a query
    /// that sees none of the keys before the block either.
    fn visible_from(&self, first: usize, token: usize) -> isize {
        self.keys.len() as isize + token as isize + 1 - self.queries.end as isize - first as isize
    }

    /// The blocks of queries, of `rows` each.
    fn query_blocks(&self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        let end = self.queries.end;
        self.queries.clone().step_by(rows).map(move |from| from..end.min(from + rows))
    }
}
