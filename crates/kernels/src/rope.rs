//! Rotary position embedding (Su et al. 2021).

use crate::gemm::check;

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
    for (t, &position) in positions.iter().enumerate() {
        let at = position as usize * half..(position as usize + 1) * half;
        let (cos, sin) = (&cos[at.clone()], &sin[at]);
        for head in 0..heads {
            let x = &mut x[(t * heads + head) * head_dim + offset..][..rotary_dim];
            for i in 0..half {
                let (first, second) = match style {
                    RopeStyle::HalfSplit => (i, i + half),
                    RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                };
                let (a, b, c) = (x[first], x[second], cos[i]);
                let s = if inverse { -sin[i] } else { sin[i] };
                x[first] = a * c - b * s;
                x[second] = a * s + b * c;
            }
        }
    }
}
