//! Gated and plain activation functions.

use crate::gemm::check;
use crate::level::level;
use crate::simd::{Lanes, simd};
use crate::threads::{Parts, parallel_elements};

/// Which form of the Gaussian error linear unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gelu {
    /// `x / 2 (1 + erf(x / sqrt 2))`.
    Erf,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    Tanh,
}

/// Computes `y = gate / (1 + exp(-gate)) * up`, element by element.
///
/// # Panics
///
/// When the slices differ in length.
pub fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    check("swiglu", [("up", up.len(), gate.len()), ("y", y.len(), gate.len())]);
    let (level, y) = (level(), Parts::new(y));
    parallel_elements(gate.len(), |at| {
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(at.start, at.len()) };
        swiglu_part(level, &gate[at.clone()], &up[at], y);
    });
}

/// Writes the gradients of [`swiglu`] for both inputs:
/// `s = 1 / (1 + exp(-gate))`, `dup = dy gate s`, `dgate = dy up s (1 + gate (1 - s))`.
///
/// # Panics
///
/// When the slices differ in length.
pub fn swiglu_gradient(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = gate.len();
    check(
        "swiglu_gradient",
        [("up", up.len(), n), ("dy", dy.len(), n), ("dgate", dgate.len(), n), ("dup", dup.len(), n)],
    );
    let (level, dgate, dup) = (level(), Parts::new(dgate), Parts::new(dup));
    parallel_elements(n, |at| {
        // SAFETY: each task has its own range.
        let (dgate, dup) = unsafe { (dgate.part(at.start, at.len()), dup.part(at.start, at.len())) };
        swiglu_gradient_part(level, &gate[at.clone()], &up[at.clone()], &dy[at], dgate, dup);
    });
}

/// Computes `y = gelu(x)`, element by element.
///
/// # Panics
///
/// When the slices differ in length.
pub fn gelu(kind: Gelu, x: &[f32], y: &mut [f32]) {
    check("gelu", [("y", y.len(), x.len())]);
    let (level, y) = (level(), Parts::new(y));
    parallel_elements(x.len(), |at| {
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(at.start, at.len()) };
        gelu_part(level, kind, &x[at], y);
    });
}

/// Computes `dx = dy gelu'(x)`, element by element.
///
/// # Panics
///
/// When the slices differ in length.
pub fn gelu_gradient(kind: Gelu, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    check("gelu_gradient", [("dy", dy.len(), x.len()), ("dx", dx.len(), x.len())]);
    let (level, dx) = (level(), Parts::new(dx));
    parallel_elements(x.len(), |at| {
        // SAFETY: each task has its own range.
        let dx = unsafe { dx.part(at.start, at.len()) };
        gelu_gradient_part(level, kind, &x[at.clone()], &dy[at], dx);
    });
}

simd! {
    fn swiglu_part(v, gate: &[f32], up: &[f32], y: &mut [f32]) {
        for i in (0..y.len()).step_by(V::N) {
            let gate = v.load(&gate[i..]);
            gate.mul(gate.sigmoid()).mul(v.load(&up[i..])).store(&mut y[i..]);
        }
    }

    fn swiglu_gradient_part(v, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let one = v.splat(1.0);
        for i in (0..dy.len()).step_by(V::N) {
            let (gate, up, dy) = (v.load(&gate[i..]), v.load(&up[i..]), v.load(&dy[i..]));
            let s = gate.sigmoid();
            dy.mul(gate.mul(s)).store(&mut dup[i..]);
            let slope = s.mul(gate.mul_add(one.sub(s), one));
            dy.mul(up).mul(slope).store(&mut dgate[i..]);
        }
    }

    fn gelu_part(v, kind: Gelu, x: &[f32], y: &mut [f32]) {
        for i in (0..y.len()).step_by(V::N) {
            let x = v.load(&x[i..]);
            x.mul(gate(kind, x).0).store(&mut y[i..]);
        }
    }

    fn gelu_gradient_part(v, kind: Gelu, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for i in (0..dx.len()).step_by(V::N) {
            let x = v.load(&x[i..]);
            let (p, dp) = gate(kind, x);
            v.load(&dy[i..]).mul(x.mul_add(dp, p)).store(&mut dx[i..]);
        }
    }
}

/// The factor that GELU multiplies `x` with, and its derivative.
#[inline(always)]
fn gate<V: Lanes>(kind: Gelu, x: V) -> (V, V) {
    let (one, half) = (x.splat(1.0), x.splat(0.5));
    match kind {
        Gelu::Erf => {
            let density = x.mul(x).mul(x.splat(-0.5)).exp().mul(x.splat(0.398_942_3));
            let tail = half.mul(complementary_error(x.abs().mul(x.splat(std::f32::consts::FRAC_1_SQRT_2))));
            (x.if_less(x.splat(0.0), tail, one.sub(tail)), density)
        }
        Gelu::Tanh => {
            // (1 + tanh(u)) / 2 is the sigmoid of 2 u.
            let c = x.splat(2.0 * 0.797_884_6);
            let square = x.mul(x);
            let s = c.mul(x).mul(square.mul_add(x.splat(0.044_715), one)).sigmoid();
            let inner = c.mul(square.mul_add(x.splat(3.0 * 0.044_715), one));
            (s, s.mul(one.sub(s)).mul(inner))
        }
    }
}

/// `1 - erf(z)` for `z >= 0`; relative error below 1.2e-7 in exact arithmetic (Numerical Recipes in C, 2nd edition, 6.2).
#[inline(always)]
fn complementary_error<V: Lanes>(z: V) -> V {
    #[rustfmt::skip]
    const COEFFICIENTS: [f32; 10] = [
        0.170_872_77, -0.822_152_23, 1.488_515_9, -1.135_204, 0.278_868_07,
        -0.186_288_06, 0.096_784_18, 0.374_091_96, 1.000_023_7, -1.265_512_2,
    ];
    let one = z.splat(1.0);
    let t = one.div(z.mul_add(z.splat(0.5), one));
    let mut p = z.splat(COEFFICIENTS[0]);
    for &coefficient in &COEFFICIENTS[1..] {
        p = p.mul_add(t, z.splat(coefficient));
    }
    t.mul(p.sub(z.mul(z)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, at_every_level};

    fn swish(gate: f64, up: f64) -> f64 {
        gate / (1.0 + (-gate).exp()) * up
    }

    /// The error function by its Taylor series, which converges everywhere.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn gelu_f64(kind: Gelu, x: f64) -> f64 {
        match kind {
            Gelu::Erf => 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt())),
            Gelu::Tanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
        }
    }

    fn slope(f: impl Fn(f64) -> f64, x: f32) -> f64 {
        let (x, h) = (f64::from(x), 1e-5);
        (f(x + h) - f(x - h)) / (2.0 * h)
    }

    #[test]
    fn swiglu_and_its_gradient_equal_the_formula() {
        let mut random = Random(1);
        for len in [1, 7, 16, 33, 40_001] {
            let gate: Vec<f32> = random.vector(len).iter().map(|x| x * 20.0).collect();
            let (up, dy) = (random.vector(len), random.vector(len));
            let f = |i: usize| f64::from(gate[i]);
            let y: Vec<f64> = (0..len).map(|i| swish(f(i), f64::from(up[i]))).collect();
            let dgate: Vec<f64> =
                (0..len).map(|i| f64::from(dy[i]) * slope(|g| swish(g, f64::from(up[i])), gate[i])).collect();
            let dup: Vec<f64> = (0..len).map(|i| f64::from(dy[i]) * swish(f(i), 1.0)).collect();
            at_every_level(|level| {
                let (mut a, mut b, mut c) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
                swiglu(&gate, &up, &mut a);
                swiglu_gradient(&gate, &up, &dy, &mut b, &mut c);
                assert_close(&format!("y {level:?}"), &a, &y, 5e-7);
                assert_close(&format!("dgate {level:?}"), &b, &dgate, 2e-6);
                assert_close(&format!("dup {level:?}"), &c, &dup, 5e-7);
            });
        }
    }

    #[test]
    fn gelu_and_its_gradient_equal_the_formula() {
        let x: Vec<f32> = (0..1_201).map(|i| (i as f32 - 600.0) / 120.0).collect();
        let dy = Random(2).vector(x.len());
        for kind in [Gelu::Erf, Gelu::Tanh] {
            let y: Vec<f64> = x.iter().map(|&x| gelu_f64(kind, f64::from(x))).collect();
            let dx: Vec<f64> =
                x.iter().zip(&dy).map(|(&x, &dy)| f64::from(dy) * slope(|x| gelu_f64(kind, x), x)).collect();
            at_every_level(|level| {
                let (mut a, mut b) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                gelu(kind, &x, &mut a);
                gelu_gradient(kind, &x, &dy, &mut b);
                assert_close(&format!("{kind:?} {level:?}"), &a, &y, 5e-7);
                assert_close(&format!("{kind:?} gradient {level:?}"), &b, &dx, 1e-6);
            });
        }
    }

    #[test]
    fn extreme_inputs_stay_finite() {
        at_every_level(|level| {
            let x = [-1e30, -200.0, 200.0, 1e30];
            let mut y = [0.0; 4];
            swiglu(&x, &[1.0; 4], &mut y);
            assert_eq!(y, [0.0_f32, 0.0, 200.0, 1e30], "{level:?}");
            for kind in [Gelu::Erf, Gelu::Tanh] {
                gelu(kind, &x[1..3], &mut y[..2]);
                assert_eq!(y[..2], [0.0, 200.0], "{kind:?} {level:?}");
            }
        });
    }
}
