//! AdamW (Loshchilov and Hutter 2019), with the arithmetic of `torch.optim.AdamW`.

use std::io::Write as _;

use crate::dynamic_map::DynamicMap;
use crate::gemm::check;
use crate::level::level;
use crate::simd::simd;
use crate::threads::{Parts, parallel_elements, parallel_rows};

/// The numbers of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub step: u64,
    /// Factor of every gradient, for clipping.
    pub gradient_scale: f32,
}

/// Updates `parameter`, `first` and `second` moments with one gradient:
/// `p *= 1 - lr wd`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
/// `p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)`.
///
/// # Panics
///
/// When the slices differ in length.
pub fn adamw(
    options: &AdamW,
    parameter: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let n = parameter.len();
    check("adamw", [("gradient", gradient.len(), n), ("first", first.len(), n), ("second", second.len(), n)]);
    let (level, factors) = (level(), Factors::new(options));
    let (parameter, first, second) = (Parts::new(parameter), Parts::new(first), Parts::new(second));
    parallel_elements(n, |at| {
        // SAFETY: each task has its own range.
        let (parameter, first, second) = unsafe {
            (
                parameter.part(at.start, at.len()),
                first.part(at.start, at.len()),
                second.part(at.start, at.len()),
            )
        };
        adamw_part(level, options, &factors, parameter, &gradient[at], first, second);
    });
}

simd! {
    fn adamw_part(
        v,
        options: &AdamW,
        factors: &Factors,
        parameter: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let (beta1, other1) = (v.splat(options.beta1), v.splat(factors.other1));
        let (beta2, other2) = (v.splat(options.beta2), v.splat(factors.other2));
        let (scale, eps) = (v.splat(options.gradient_scale), v.splat(options.eps));
        let (decay, rate, root) = (v.splat(factors.decay), v.splat(-factors.rate), v.splat(factors.root));
        for i in (0..parameter.len()).step_by(V::N) {
            let g = v.load(&gradient[i..]).mul(scale);
            let m = v.load(&first[i..]).mul(beta1).add(g.mul(other1));
            let s = v.load(&second[i..]).mul(beta2).add(g.mul(g).mul(other2));
            m.store(&mut first[i..]);
            s.store(&mut second[i..]);
            let update = m.div(s.sqrt().mul_add(root, eps));
            update.mul_add(rate, v.load(&parameter[i..]).mul(decay)).store(&mut parameter[i..]);
        }
    }
}

/// What of a step does not depend on the element.
struct Factors {
    /// `1 - lr wd`.
    decay: f32,
    /// `lr / (1 - b1^t)`.
    rate: f32,
    /// `1 / sqrt(1 - b2^t)`.
    root: f32,
    /// `1 - b1`.
    other1: f32,
    /// `1 - b2`.
    other2: f32,
}

impl Factors {
    fn new(options: &AdamW) -> Self {
        let t = i32::try_from(options.step).unwrap_or(i32::MAX);
        let [lr, beta1, beta2] = [options.lr, options.beta1, options.beta2].map(decimal);
        Self {
            decay: (1.0 - lr * decimal(options.weight_decay)) as f32,
            rate: (lr / (1.0 - beta1.powi(t))) as f32,
            root: (1.0 / (1.0 - beta2.powi(t)).sqrt()) as f32,
            other1: (1.0 - beta1) as f32,
            other2: (1.0 - beta2) as f32,
        }
    }
}

/// The number that a person wrote for `x`: 0.999 rather than the `f32` nearest to it, whose difference to 1 is 1.3e-5 of
/// it off. Other implementations take these factors from f64 values.
fn decimal(x: f32) -> f64 {
    let mut text = [0_u8; 64];
    let mut rest = &mut text[..];
    let written = write!(rest, "{x:e}").map(|()| rest.len());
    let len = written.map_or(0, |rest| text.len() - rest);
    std::str::from_utf8(&text[..len]).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::from(x))
}

/// Both moments of [`adamw_8bit`], blocks of 256 elements with one scale each (Dettmers et al. 2022).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdamW8bitState {
    /// Codes of the first moment in the signed dynamic map.
    pub first: Vec<u8>,
    /// Codes of the second moment in the unsigned dynamic map.
    pub second: Vec<u8>,
    /// Scales of the first moment, one per block.
    pub first_absmax: Vec<f32>,
    /// Scales of the second moment, one per block.
    pub second_absmax: Vec<f32>,
}

impl AdamW8bitState {
    /// The state before the first step of a parameter of `len` elements.
    pub fn new(len: usize) -> Self {
        let blocks = len.div_ceil(BLOCK);
        Self {
            first: vec![0; len],
            second: vec![0; len],
            first_absmax: vec![0.0; blocks],
            second_absmax: vec![0.0; blocks],
        }
    }
}

/// As [`adamw`], with both moments stored in 8 bits; the update uses the moments before they are quantised again.
///
/// # Panics
///
/// When the slices differ in length.
pub fn adamw_8bit(options: &AdamW, parameter: &mut [f32], gradient: &[f32], state: &mut AdamW8bitState) {
    let n = parameter.len();
    let blocks = n.div_ceil(BLOCK);
    check(
        "adamw_8bit",
        [
            ("gradient", gradient.len(), n),
            ("first", state.first.len(), n),
            ("second", state.second.len(), n),
            ("first_absmax", state.first_absmax.len(), blocks),
            ("second_absmax", state.second_absmax.len(), blocks),
        ],
    );
    let (level, factors) = (level(), Factors::new(options));
    let (parameter, first, second) =
        (Parts::new(parameter), Parts::new(&mut state.first), Parts::new(&mut state.second));
    let (first_absmax, second_absmax) =
        (Parts::new(&mut state.first_absmax), Parts::new(&mut state.second_absmax));
    let (signed, unsigned) = (DynamicMap::signed(), DynamicMap::unsigned());
    parallel_rows(blocks, BLOCK, |from, count| {
        for block in from..from + count {
            let at = block * BLOCK..n.min((block + 1) * BLOCK);
            // SAFETY: each block belongs to one task.
            let (parameter, first, second, first_absmax, second_absmax) = unsafe {
                (
                    parameter.part(at.start, at.len()),
                    first.part(at.start, at.len()),
                    second.part(at.start, at.len()),
                    &mut first_absmax.part(block, 1)[0],
                    &mut second_absmax.part(block, 1)[0],
                )
            };
            let (mut m, mut v) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
            let (m, v) = (&mut m[..at.len()], &mut v[..at.len()]);
            restore(signed, first, *first_absmax, m);
            restore(unsigned, second, *second_absmax, v);
            adamw_part(level, options, &factors, parameter, &gradient[at], m, v);
            *first_absmax = store(signed, m, first);
            *second_absmax = store(unsigned, v, second);
        }
    });
}

/// Elements that share one scale.
const BLOCK: usize = 256;

fn restore(map: &DynamicMap, codes: &[u8], absmax: f32, values: &mut [f32]) {
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = map.values[usize::from(code)] * absmax;
    }
}

/// Writes the codes nearest to `values` and returns their scale.
fn store(map: &DynamicMap, values: &[f32], codes: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    for (code, &value) in codes.iter_mut().zip(values) {
        let scaled = if absmax > 0.0 { value / absmax } else { 0.0 };
        *code = map.nearest(scaled);
        // A first moment that lost its sign would push the parameter the wrong way.
        if map.values[usize::from(*code)].is_sign_negative() != scaled.is_sign_negative() {
            *code = if scaled > 0.0 { code.saturating_add(1) } else { code.saturating_sub(1) };
        }
    }
    absmax
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, at_every_level};

    const OPTIONS: AdamW = AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 1.0,
    };

    #[test]
    fn a_hand_computed_step_comes_out() {
        // p = 1, g = 2: m = 0.2, v = 0.004, both corrected to 2 and 4; p = 1 (1 - 0.001) - 0.01 * 2 / (2 + 1e-8).
        at_every_level(|level| {
            let (mut p, mut m, mut v) = ([1.0], [0.0], [0.0]);
            adamw(&OPTIONS, &mut p, &[2.0], &mut m, &mut v);
            assert_close(&format!("{level:?}"), &[p[0], m[0], v[0]], &[0.989, 0.2, 0.004], 1e-7);
        });
    }

    #[test]
    fn steps_equal_the_recurrence_in_f64() {
        let mut random = Random(41);
        let n = 20_011;
        let start = random.vector(n);
        let gradients: Vec<Vec<f32>> = (0..4).map(|_| random.vector(n)).collect();
        let (mut p64, mut m64, mut v64) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        let (b1, b2, lr, wd) = (0.9, 0.999, 1e-2, 0.1);
        for i in 0..n {
            p64[i] = f64::from(start[i]);
            for (t, gradient) in gradients.iter().enumerate() {
                let (g, t) = (0.5 * f64::from(gradient[i]), t as i32 + 1);
                p64[i] *= 1.0 - lr * wd;
                m64[i] = b1 * m64[i] + (1.0 - b1) * g;
                v64[i] = b2 * v64[i] + (1.0 - b2) * g * g;
                let (m, v) = (m64[i] / (1.0 - b1.powi(t)), v64[i] / (1.0 - b2.powi(t)));
                p64[i] -= lr * m / (v.sqrt() + f64::from(OPTIONS.eps));
            }
        }
        at_every_level(|level| {
            let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
            for (t, gradient) in gradients.iter().enumerate() {
                let options = AdamW { step: t as u64 + 1, gradient_scale: 0.5, ..OPTIONS };
                adamw(&options, &mut p, gradient, &mut m, &mut v);
            }
            assert_close(&format!("{level:?} parameter"), &p, &p64, 1e-6);
            assert_close(&format!("{level:?} first"), &m, &m64, 1e-6);
            assert_close(&format!("{level:?} second"), &v, &v64, 1e-6);
        });
    }
}
