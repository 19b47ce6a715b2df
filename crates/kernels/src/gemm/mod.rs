//! Products with a weight matrix, and their gradients.

pub(crate) mod block;
mod driver;
#[cfg(target_arch = "x86_64")]
mod few_avx512;
#[cfg(target_arch = "x86_64")]
mod nf4_avx512;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
mod tile;

use half::bf16;

use crate::nf4::Nf4;
use driver::Product;
use pack::Operand;

/// How products round their operands; sums are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands as they are, fused multiply-add in `f32`.
    F32,
    /// Operands rounded to bf16 (to nearest, ties to even) before they are multiplied.
    Bf16,
}

/// A weight matrix `(n, k)`, row-major, as stored: `n` outputs, `k` inputs.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// `f32` values.
    F32(&'a [f32]),
    /// bf16 values.
    Bf16(&'a [bf16]),
    /// 4-bit NormalFloat blocks; dequantised block by block inside the product, never as a whole.
    Nf4(&'a Nf4),
}

impl Weight<'_> {
    /// Elements of the matrix.
    pub fn len(&self) -> usize {
        match self {
            Weight::F32(values) => values.len(),
            Weight::Bf16(values) => values.len(),
            Weight::Nf4(matrix) => matrix.rows() * matrix.cols(),
        }
    }

    /// Whether the matrix has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the elements `from..from + out.len()` of the flattened matrix to `out`.
    ///
    /// # Panics
    ///
    /// When the range does not lie inside the matrix.
    pub fn read(&self, from: usize, out: &mut [f32]) {
        match self {
            Weight::F32(values) => out.copy_from_slice(&values[from..from + out.len()]),
            Weight::Bf16(values) => {
                crate::convert::widen(crate::level::level(), &values[from..from + out.len()], out)
            }
            Weight::Nf4(matrix) => matrix.read(from, out),
        }
    }
}

/// Computes `y = alpha * x W^T + beta * y` with `x (m, k)`, `W (n, k)`, `y (m, n)`.
///
/// `y` is not read when `beta` is 0. Each output sums over `k` in an order that depends on `k` alone.
///
/// # Panics
///
/// When a slice does not have the length of its shape.
pub fn linear(
    precision: Precision,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    x: &[f32],
    w: &Weight,
    beta: f32,
    y: &mut [f32],
) {
    check("linear", [("x", x.len(), m * k), ("w", w.len(), n * k), ("y", y.len(), m * n)]);
    let (level, format) = pack::choose(precision);
    let a = Operand { values: Weight::F32(x), stride: k, along_k: true };
    let b = Operand { values: *w, stride: k, along_k: true };
    Product { level, format, m, n, k, alpha, a, b, beta }.run(y);
}

/// Computes `dx = alpha * dy W + beta * dx` with `dy (m, n)`, `W (n, k)`, `dx (m, k)`: the gradient of [`linear`] for its input.
///
/// # Panics
///
/// When a slice does not have the length of its shape.
pub fn linear_input_gradient(
    precision: Precision,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    dy: &[f32],
    w: &Weight,
    beta: f32,
    dx: &mut [f32],
) {
    check("linear_input_gradient", [("dy", dy.len(), m * n), ("w", w.len(), n * k), ("dx", dx.len(), m * k)]);
    let (level, format) = pack::choose(precision);
    let a = Operand { values: Weight::F32(dy), stride: n, along_k: true };
    let b = Operand { values: *w, stride: k, along_k: false };
    Product { level, format, m, n: k, k: n, alpha, a, b, beta }.run(dx);
}

/// Computes `dw = alpha * dy^T x + beta * dw` with `dy (m, n)`, `x (m, k)`, `dw (n, k)`: the gradient of [`linear`] for its weight.
///
/// # Panics
///
/// When a slice does not have the length of its shape.
pub fn linear_weight_gradient(
    precision: Precision,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    dy: &[f32],
    x: &[f32],
    beta: f32,
    dw: &mut [f32],
) {
    check(
        "linear_weight_gradient",
        [("dy", dy.len(), m * n), ("x", x.len(), m * k), ("dw", dw.len(), n * k)],
    );
    let (level, format) = pack::choose(precision);
    let a = Operand { values: Weight::F32(dy), stride: n, along_k: false };
    let b = Operand { values: Weight::F32(x), stride: k, along_k: false };
    Product { level, format, m: n, n: k, k: m, alpha, a, b, beta }.run(dw);
}

/// Stops with the operation's name when a slice is not as long as its shape says.
pub(crate) fn check<const N: usize>(operation: &str, slices: [(&str, usize, usize); N]) {
    for (name, found, expected) in slices {
        assert!(found == expected, "{operation}: {name} has {found} elements, its shape says {expected}");
    }
}

#[cfg(test)]
mod tests;
