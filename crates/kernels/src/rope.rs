//! Rotary position embedding (Su et al. 2021).

use crate::gemm::check;
use crate::level::level;
use crate::simd::simd;
use crate::threads::{Parts, parallel_rows};

/// Which elements of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Element `i` and element `i + rotary_dim / 2` (GPT-NeoX, LLaMA, Qwen).
    HalfSplit,
    /// Elements `2 i` and `2 i + 1` (GPT-J, GLM-4).
    Interleaved,
}

/// What [`rope`] rotates: elements `offset..offset + rotary_dim` of each head; the others stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeShape {
    /// How elements are paired.
    pub style: RopeStyle,
    /// Heads per token.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// First rotated element of a head.
    pub offset: usize,
    /// Rotated elements of a head; even.
    pub rotary_dim: usize,
}

/// Rotates `x (tokens, heads, head_dim)` in place: a pair `(a, b)` becomes `(a cos - b sin, a sin + b cos)`.
///
/// `cos` and `sin (positions, rotary_dim / 2)` hold the angles of each position; token `t` uses row `positions[t]`.
/// `inverse` rotates back, which is the gradient.
///
/// # Panics
///
/// When a slice does not have the length of its shape, a position is outside the tables, or `rotary_dim` is odd or does
/// not fit the head.
pub fn rope(shape: &RopeShape, positions: &[u32], cos: &[f32], sin: &[f32], inverse: bool, x: &mut [f32]) {
    let RopeShape { style, heads, head_dim, offset, rotary_dim } = *shape;
    let half = rotary_dim / 2;
    assert!(rotary_dim % 2 == 0 && offset + rotary_dim <= head_dim, "rope: {shape:?} does not fit a head");
    check("rope", [("x", x.len(), positions.len() * heads * head_dim), ("sin", sin.len(), cos.len())]);
    let known = cos.len() / half.max(1);
    if let Some(position) = positions.iter().find(|&&position| position as usize >= known) {
        panic!("rope: position {position} is outside the tables of {known} positions");
    }
    let (level, x) = (level(), Parts::new(x));
    let sign = if inverse { -1.0 } else { 1.0 };
    let token = heads * head_dim;
    parallel_rows(positions.len(), token, |first, count| {
        for t in first..first + count {
            let at = positions[t] as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            // SAFETY: each token belongs to one task.
            let x = unsafe { x.part(t * token, token) };
            for head in x.chunks_exact_mut(head_dim) {
                let head = &mut head[offset..offset + rotary_dim];
                match style {
                    RopeStyle::HalfSplit => {
                        let (a, b) = head.split_at_mut(half);
                        rotate_halves(level, cos, sin, sign, a, b);
                    }
                    RopeStyle::Interleaved => rotate_pairs(level, cos, sin, sign, head),
                }
            }
        }
    });
}

simd! {
    fn rotate_halves(v, cos: &[f32], sin: &[f32], sign: f32, a: &mut [f32], b: &mut [f32]) {
        let sign = v.splat(sign);
        for i in (0..cos.len()).step_by(V::N) {
            let (c, s) = (v.load(&cos[i..]), v.load(&sin[i..]).mul(sign));
            let (x, y) = (v.load(&a[i..]), v.load(&b[i..]));
            x.mul(c).sub(y.mul(s)).store(&mut a[i..]);
            x.mul_add(s, y.mul(c)).store(&mut b[i..]);
        }
    }

    // The compiler makes vectors of it.
    fn rotate_pairs(_v, cos: &[f32], sin: &[f32], sign: f32, x: &mut [f32]) {
        for ((pair, &c), &s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
            let (a, b, s) = (pair[0], pair[1], s * sign);
            pair[0] = a * c - b * s;
            pair[1] = a * s + b * c;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, at_every_level};

    #[test]
    fn both_styles_equal_the_formula_and_the_inverse_undoes_them() {
        let mut random = Random(31);
        let cases = [(64, 0, 64), (80, 0, 80), (24, 4, 12), (128, 64, 64), (6, 0, 2)];
        for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
            for (head_dim, offset, rotary_dim) in cases {
                let shape = RopeShape { style, heads: 3, head_dim, offset, rotary_dim };
                let (tokens, half, table) = (37, rotary_dim / 2, 50);
                let angle = |position: usize, i: usize| position as f64 * 0.7 / (i + 1) as f64;
                let tabulate = |f: fn(f64) -> f64| -> Vec<f32> {
                    (0..table * half).map(|at| f(angle(at / half, at % half)) as f32).collect()
                };
                let (cos, sin) = (tabulate(f64::cos), tabulate(f64::sin));
                let positions: Vec<u32> = (0..tokens).map(|_| random.below(table) as u32).collect();
                let x = random.vector(tokens * 3 * head_dim);
                let mut expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                for (row, head) in expected.chunks_mut(head_dim).enumerate() {
                    for i in 0..half {
                        let (first, second) = match style {
                            RopeStyle::HalfSplit => (offset + i, offset + i + half),
                            RopeStyle::Interleaved => (offset + 2 * i, offset + 2 * i + 1),
                        };
                        let (sin, cos) = angle(positions[row / 3] as usize, i).sin_cos();
                        let (a, b) = (head[first], head[second]);
                        (head[first], head[second]) = (a * cos - b * sin, a * sin + b * cos);
                    }
                }
                at_every_level(|level| {
                    let mut found = x.clone();
                    rope(&shape, &positions, &cos, &sin, false, &mut found);
                    assert_close(&format!("{level:?} {shape:?}"), &found, &expected, 1e-6);
                    rope(&shape, &positions, &cos, &sin, true, &mut found);
                    let before: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                    assert_close(&format!("{level:?} {shape:?} and back"), &found, &before, 1e-6);
                });
            }
        }
    }

    #[test]
    #[should_panic(expected = "rope: position 2 is outside the tables of 2 positions")]
    fn a_position_outside_the_tables_is_refused() {
        let shape =
            RopeShape { style: RopeStyle::HalfSplit, heads: 1, head_dim: 2, offset: 0, rotary_dim: 2 };
        rope(&shape, &[2], &[1.0; 2], &[0.0; 2], false, &mut [0.0; 2]);
    }
}
