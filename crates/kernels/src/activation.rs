//! Gated and plain activation functions.

use crate::gemm::check;

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
    for i in 0..y.len() {
        y[i] = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
    }
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
    for i in 0..n {
        let s = 1.0 / (1.0 + (-gate[i]).exp());
        dup[i] = dy[i] * gate[i] * s;
        dgate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
    }
}

/// Computes `y = gelu(x)`, element by element.
///
/// # Panics
///
/// When the slices differ in length.
pub fn gelu(kind: Gelu, x: &[f32], y: &mut [f32]) {
    check("gelu", [("y", y.len(), x.len())]);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * cumulative(kind, x).0;
    }
}

/// Computes `dx = dy gelu'(x)`, element by element.
///
/// # Panics
///
/// When the slices differ in length.
pub fn gelu_gradient(kind: Gelu, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    check("gelu_gradient", [("dy", dy.len(), x.len()), ("dx", dx.len(), x.len())]);
    for i in 0..x.len() {
        let (p, dp) = cumulative(kind, x[i]);
        dx[i] = dy[i] * (p + x[i] * dp);
    }
}

/// The factor that GELU multiplies `x` with, and its derivative.
fn cumulative(kind: Gelu, x: f32) -> (f32, f32) {
    match kind {
        Gelu::Erf => {
            let density = (-0.5 * x * x).exp() * 0.398_942_3;
            (0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)), density)
        }
        Gelu::Tanh => {
            let c = 0.797_884_6_f32;
            let t = (c * (x + 0.044_715 * x * x * x)).tanh();
            (0.5 * (1.0 + t), 0.5 * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044_715 * x * x))
        }
    }
}

/// Abramowitz and Stegun 7.1.26 in f64 (absolute error 1.5e-7).
fn erf(x: f32) -> f32 {
    let a = f64::from(x).abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = t
        * (0.254_829_592
            + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    ((1.0 - p * (-a * a).exp()) as f32).copysign(x)
}
