use super::*;
use crate::level::with_bf16_dot;
use crate::testing::{Random, assert_close, at_every_level};

struct Case<'a> {
    shape: AttentionShape<'a>,
    cu_q: &'a [u32],
    cu_k: &'a [u32],
}

impl Case<'_> {
    fn tokens(&self) -> usize {
        self.cu_q[self.cu_q.len() - 1] as usize
    }

    fn keys(&self) -> usize {
        self.cu_k[self.cu_k.len() - 1] as usize
    }

    fn inputs(&self, random: &mut Random) -> [Vec<f32>; 4] {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (q, k) = (self.tokens() * heads * head_dim, self.keys() * kv_heads * head_dim);
        [q, k, k, q].map(|len| random.vector(len).iter().map(|x| 2.0 * x).collect())
    }

    /// The output and the logarithms, by the formula, in f64.
    fn reference(&self, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let AttentionShape { heads, kv_heads, head_dim: d, causal, scale, alibi_slopes } = self.shape;
        let (mut out, mut lse) = (vec![0.0; q.len()], vec![f64::NEG_INFINITY; heads * self.tokens()]);
        for s in 0..self.cu_q.len() - 1 {
            let (q0, q1) = (self.cu_q[s] as usize, self.cu_q[s + 1] as usize);
            let (k0, k1) = (self.cu_k[s] as usize, self.cu_k[s + 1] as usize);
            for token in q0..q1 {
                for head in 0..heads {
                    let q = &q[(token * heads + head) * d..][..d];
                    let at = |key: usize| (key * kv_heads + head * kv_heads / heads) * d;
                    let sees = |key: usize| !causal || key + q1 <= token + k1;
                    let scores: Vec<f64> = (k0..k1)
                        .map(|key| {
                            let dot: f64 = q.iter().zip(&k[at(key)..]).map(|(q, k)| q * k).sum();
                            let bias = alibi_slopes
                                .map_or(0.0, |slopes| f64::from(slopes[head]) * (key - k0) as f64);
                            if sees(key) { f64::from(scale) * dot + bias } else { f64::NEG_INFINITY }
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    if max == f64::NEG_INFINITY {
                        continue;
                    }
                    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    lse[head * self.tokens() + token] = max + total.ln();
                    for (key, score) in (k0..k1).zip(&scores) {
                        let p = (score - max).exp() / total;
                        for j in 0..d {
                            out[(token * heads + head) * d + j] += p * v[at(key) + j];
                        }
                    }
                }
            }
        }
        (out, lse)
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, causal: bool) -> AttentionShape<'static> {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        causal,
        scale: 1.0 / (head_dim as f32).sqrt(),
        alibi_slopes: None,
    }
}

const SLOPES: [f32; 4] = [0.25, 0.062_5, -0.1, 0.0];

fn cases() -> Vec<Case<'static>> {
    let alibi = AttentionShape { alibi_slopes: Some(&SLOPES), ..shape(4, 2, 20, true) };
    let alibi_both_ways = AttentionShape { alibi_slopes: Some(&SLOPES), ..shape(4, 4, 20, false) };
    let alibi_one_query = AttentionShape { alibi_slopes: Some(&SLOPES), ..shape(4, 2, 20, true) };
    vec![
        Case { shape: alibi_both_ways, cu_q: &[0, 30, 31], cu_k: &[0, 30, 70] },
        Case { shape: alibi_one_query, cu_q: &[0, 1, 2], cu_k: &[0, 130, 140] },
        Case { shape: shape(1, 1, 1, true), cu_q: &[0, 1], cu_k: &[0, 1] },
        Case { shape: shape(3, 1, 5, true), cu_q: &[0, 7, 7, 20], cu_k: &[0, 7, 7, 20] },
        Case { shape: shape(4, 2, 32, true), cu_q: &[0, 150], cu_k: &[0, 150] },
        Case { shape: shape(2, 2, 64, false), cu_q: &[0, 33, 133], cu_k: &[0, 140, 150] },
        Case { shape: shape(4, 4, 16, true), cu_q: &[0, 1, 3, 8], cu_k: &[0, 300, 303, 333] },
        // More queries than keys: the first ones see nothing.
        Case { shape: shape(2, 1, 8, true), cu_q: &[0, 9], cu_k: &[0, 4] },
        Case { shape: shape(2, 1, 8, false), cu_q: &[0, 5], cu_k: &[0, 0] },
        Case { shape: alibi, cu_q: &[0, 30, 170], cu_k: &[0, 30, 170] },
    ]
}

#[test]
fn the_output_equals_the_formula() {
    let mut random = Random(51);
    for case in cases() {
        let [q, k, v, _] = case.inputs(&mut random);
        let (out64, lse64) = case.reference(&wide(&q), &wide(&k), &wide(&v));
        at_every_level(|level| {
            for (precision, dot, tolerance) in
                [(Precision::F32, false, 3e-6), (Precision::Bf16, false, 3e-2), (Precision::Bf16, true, 3e-2)]
            {
                with_bf16_dot(dot, || {
                    let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; lse64.len()]);
                    attention(precision, &case.shape, case.cu_q, case.cu_k, &q, &k, &v, &mut out, &mut lse);
                    let what = format!("{level:?} {precision:?} {:?}", case.shape);
                    assert_close(&what, &out, &out64, tolerance);
                    for (found, expected) in lse.iter().zip(&lse64) {
                        let equal = f64::from(*found) == *expected;
                        assert!(
                            equal || (f64::from(*found) - expected).abs() < tolerance,
                            "{what}: {found} {expected}"
                        );
                    }
                });
            }
        });
    }
}

#[test]
fn the_gradients_equal_the_slopes_of_the_formula() {
    let mut random = Random(52);
    for case in cases() {
        let [q, k, v, dout] = case.inputs(&mut random);
        let inputs = [wide(&q), wide(&k), wide(&v)];
        let dout64 = wide(&dout);
        let value = |inputs: &[Vec<f64>; 3]| -> f64 {
            let (out, _) = case.reference(&inputs[0], &inputs[1], &inputs[2]);
            out.iter().zip(&dout64).map(|(out, dout)| out * dout).sum()
        };
        // All slopes of the small cases, a few of the large ones.
        let slope = |which: usize, i: usize| {
            let (mut up, mut down) = (inputs.clone(), inputs.clone());
            up[which][i] += 1e-4;
            down[which][i] -= 1e-4;
            (value(&up) - value(&down)) / 2e-4
        };
        let chosen: Vec<(usize, usize, f64)> = (0..3)
            .flat_map(|which| {
                let len = inputs[which].len();
                let step = (len / 10).max(1);
                (0..len).step_by(step).map(move |i| (which, i))
            })
            .map(|(which, i)| (which, i, slope(which, i)))
            .collect();
        at_every_level(|level| {
            for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 8e-2)] {
                let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; case.shape.heads * case.tokens()]);
                attention(precision, &case.shape, case.cu_q, case.cu_k, &q, &k, &v, &mut out, &mut lse);
                let mut found = [vec![f32::NAN; q.len()], vec![f32::NAN; k.len()], vec![f32::NAN; v.len()]];
                let [dq, dk, dv] = &mut found;
                let (cu_q, cu_k) = (case.cu_q, case.cu_k);
                attention_gradient(
                    precision,
                    &case.shape,
                    cu_q,
                    cu_k,
                    &q,
                    &k,
                    &v,
                    &out,
                    &lse,
                    &dout,
                    dq,
                    dk,
                    dv,
                );
                assert!(found.iter().flatten().all(|x| x.is_finite()));
                for &(which, i, expected) in &chosen {
                    let what = format!("{level:?} {precision:?} {:?} input {which} element {i}", case.shape);
                    assert_close(&what, &found[which][i..=i], &[expected], tolerance);
                }
            }
        });
    }
}

#[test]
fn a_query_does_not_depend_on_the_queries_beside_it() {
    let mut random = Random(53);
    let shape = shape(4, 2, 32, true);
    let length = 333;
    let case = Case { shape, cu_q: &[0, length as u32], cu_k: &[0, length as u32] };
    let [q, k, v, _] = case.inputs(&mut random);
    at_every_level(|level| {
        for precision in [Precision::F32, Precision::Bf16] {
            let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; 4 * length]);
            attention(precision, &shape, case.cu_q, case.cu_k, &q, &k, &v, &mut out, &mut lse);
            for token in [0, 1, 127, 128, 200, 332] {
                // As in decoding: one new query, and the keys up to it.
                let keys = token + 1;
                let (mut one, mut one_lse) = (vec![0.0; 128], vec![0.0; 4]);
                let (q, k, v) = (&q[token * 128..][..128], &k[..keys * 64], &v[..keys * 64]);
                attention(precision, &shape, &[0, 1], &[0, keys as u32], q, k, v, &mut one, &mut one_lse);
                assert!(
                    one == out[token * 128..][..128],
                    "{level:?} {precision:?}: token {token} differs alone"
                );
            }
        }
    });
}

#[test]
#[should_panic(expected = "attention: sequence starts must ascend from 0")]
fn sequences_that_go_backwards_are_refused() {
    let (q, mut out, mut lse) = ([0.0; 2], [0.0; 2], [0.0; 2]);
    attention(Precision::F32, &shape(1, 1, 1, true), &[0, 3, 2], &[0, 3, 2], &q, &q, &q, &mut out, &mut lse);
}
