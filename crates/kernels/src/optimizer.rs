//! AdamW (Loshchilov and Hutter 2019), with the arithmetic of `torch.optim.AdamW`.

use crate::gemm::check;
use crate::level::level;
use crate::simd::simd;
use crate::threads::{Parts, parallel_elements};

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
        let (beta1, other1) = (v.splat(options.beta1), v.splat(1.0 - options.beta1));
        let (beta2, other2) = (v.splat(options.beta2), v.splat(1.0 - options.beta2));
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
}

impl Factors {
    fn new(options: &AdamW) -> Self {
        let t = i32::try_from(options.step).unwrap_or(i32::MAX);
        let correction1 = 1.0 - f64::from(options.beta1).powi(t);
        let correction2 = 1.0 - f64::from(options.beta2).powi(t);
        Self {
            decay: (1.0 - f64::from(options.lr) * f64::from(options.weight_decay)) as f32,
            rate: (f64::from(options.lr) / correction1) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
        }
    }
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
        let blocks = len.div_ceil(256);
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
    let blocks = n.div_ceil(256);
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
    let (signed, unsigned) = (crate::nf4::signed_dynamic_map(), crate::nf4::unsigned_dynamic_map());
    for block in 0..blocks {
        let at = block * 256..n.min(block * 256 + 256);
        let len = at.len();
        let (mut m, mut v) = ([0.0_f32; 256], [0.0_f32; 256]);
        for (i, j) in at.clone().enumerate() {
            m[i] = signed[usize::from(state.first[j])] * state.first_absmax[block];
            v[i] = unsigned[usize::from(state.second[j])] * state.second_absmax[block];
        }
        adamw(options, &mut parameter[at.clone()], &gradient[at.clone()], &mut m[..len], &mut v[..len]);
        let largest = |x: &[f32]| x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let (m_max, v_max) = (largest(&m[..len]), largest(&v[..len]));
        (state.first_absmax[block], state.second_absmax[block]) = (m_max, v_max);
        for (i, j) in at.enumerate() {
            let mut code = crate::nf4::nearest(signed, if m_max == 0.0 { 0.0 } else { m[i] / m_max });
            // A first moment that lost its sign would push the parameter the wrong way.
            if signed[usize::from(code)].is_sign_negative() != m[i].is_sign_negative() {
                code = if m[i] > 0.0 { code.saturating_add(1) } else { code.saturating_sub(1) };
            }
            state.first[j] = code;
            state.second[j] = crate::nf4::nearest(unsigned, if v_max == 0.0 { 0.0 } else { v[i] / v_max });
        }
    }
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
        let (b1, b2) = (f64::from(OPTIONS.beta1), f64::from(OPTIONS.beta2));
        let lr = f64::from(OPTIONS.lr);
        for i in 0..n {
            p64[i] = f64::from(start[i]);
            for (t, gradient) in gradients.iter().enumerate() {
                let (g, t) = (0.5 * f64::from(gradient[i]), t as i32 + 1);
                p64[i] *= 1.0 - lr * f64::from(OPTIONS.weight_decay);
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
