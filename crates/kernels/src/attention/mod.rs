//! Attention over packed sequences.

use crate::gemm::{Precision, check};

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
    _precision: Precision,
    shape: &AttentionShape,
    cu_q: &[u32],
    cu_k: &[u32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let plan = Plan::new("attention", shape, cu_q, cu_k, q, k, v);
    check("attention", [("out", out.len(), q.len()), ("lse", lse.len(), shape.heads * plan.tokens)]);
    let d = shape.head_dim;
    let mut scores = Vec::new();
    plan.each_query(|head, token, keys| {
        plan.scores(shape, head, token, keys.clone(), q, k, &mut scores);
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = scores.iter().map(|&s| (s - max).exp()).sum();
        lse[head * plan.tokens + token] =
            if scores.is_empty() { f32::NEG_INFINITY } else { max + total.ln() };
        let out = &mut out[(token * shape.heads + head) * d..][..d];
        out.fill(0.0);
        for (&score, key) in scores.iter().zip(keys) {
            let p = (score - max).exp() / total;
            let v = &v[(key * shape.kv_heads + head / plan.group) * d..][..d];
            out.iter_mut().zip(v).for_each(|(o, v)| *o += p * v);
        }
    });
}

/// Writes the gradients of [`attention`]: with `p = exp(scale q k^T + bias - lse)`, `ds = p (dout v^T - sum(dout out))`:
/// `dq = scale ds k`, `dk = scale ds^T q`, `dv = p^T dout`. The scores are computed again block by block (Dao 2023).
///
/// # Panics
///
/// As [`attention`].
pub fn attention_gradient(
    _precision: Precision,
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
    let plan = Plan::new("attention_gradient", shape, cu_q, cu_k, q, k, v);
    check(
        "attention_gradient",
        [
            ("out", out.len(), q.len()),
            ("lse", lse.len(), shape.heads * plan.tokens),
            ("dout", dout.len(), q.len()),
            ("dq", dq.len(), q.len()),
            ("dk", dk.len(), k.len()),
            ("dv", dv.len(), v.len()),
        ],
    );
    let d = shape.head_dim;
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    let mut scores = Vec::new();
    plan.each_query(|head, token, keys| {
        plan.scores(shape, head, token, keys.clone(), q, k, &mut scores);
        let at = (token * shape.heads + head) * d;
        let (q, out, dout, dq) = (&q[at..at + d], &out[at..at + d], &dout[at..at + d], &mut dq[at..at + d]);
        let delta: f32 = out.iter().zip(dout).map(|(o, d)| o * d).sum();
        for (&score, key) in scores.iter().zip(keys) {
            let p = (score - lse[head * plan.tokens + token]).exp();
            let at = (key * shape.kv_heads + head / plan.group) * d;
            let dp: f32 = dout.iter().zip(&v[at..at + d]).map(|(a, b)| a * b).sum();
            let ds = shape.scale * p * (dp - delta);
            for i in 0..d {
                dv[at + i] += p * dout[i];
                dk[at + i] += ds * q[i];
                dq[i] += ds * k[at + i];
            }
        }
    });
}

struct Plan<'a> {
    tokens: usize,
    group: usize,
    heads: usize,
    causal: bool,
    cu_q: &'a [u32],
    cu_k: &'a [u32],
}

impl<'a> Plan<'a> {
    fn new(
        operation: &str,
        shape: &AttentionShape,
        cu_q: &'a [u32],
        cu_k: &'a [u32],
        q: &[f32],
        k: &[f32],
        v: &[f32],
    ) -> Self {
        let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
        assert!(
            kv_heads > 0 && heads % kv_heads == 0,
            "{operation}: {heads} heads do not share {kv_heads} key heads"
        );
        assert!(
            cu_q.len() == cu_k.len() && !cu_q.is_empty(),
            "{operation}: cu_q and cu_k name different sequences"
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
        Self { tokens, group: heads / kv_heads, heads, causal: shape.causal, cu_q, cu_k }
    }

    fn each_query(&self, mut f: impl FnMut(usize, usize, std::ops::Range<usize>)) {
        for s in 0..self.cu_q.len() - 1 {
            let (q0, q1) = (self.cu_q[s] as usize, self.cu_q[s + 1] as usize);
            let (k0, k1) = (self.cu_k[s] as usize, self.cu_k[s + 1] as usize);
            for head in 0..self.heads {
                for token in q0..q1 {
                    let end = if self.causal { (k1 + token + 1).saturating_sub(q1).max(k0) } else { k1 };
                    f(head, token, k0..end);
                }
            }
        }
    }

    fn scores(
        &self,
        shape: &AttentionShape,
        head: usize,
        token: usize,
        keys: std::ops::Range<usize>,
        q: &[f32],
        k: &[f32],
        scores: &mut Vec<f32>,
    ) {
        let d = shape.head_dim;
        let q = &q[(token * shape.heads + head) * d..][..d];
        let slope = shape.alibi_slopes.map_or(0.0, |slopes| slopes[head]);
        scores.clear();
        let first = keys.start;
        scores.extend(keys.map(|key| {
            let k = &k[(key * shape.kv_heads + head / self.group) * d..][..d];
            let dot: f32 = q.iter().zip(k).map(|(a, b)| a * b).sum();
            shape.scale * dot + slope * (key - first) as f32
        }));
    }
}
