//! Products with a weight matrix, and their gradients.

use half::bf16;

use crate::nf4::Nf4;
use crate::threads::{Parts, parallel};

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
            Weight::Bf16(values) => crate::convert::bf16_to_f32(&values[from..from + out.len()], out),
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
    let parts = Parts::new(y);
    parallel(n, |j| {
        let mut row = vec![0.0; k];
        w.read(j * k, &mut row);
        for i in 0..m {
            let sum = (0..k).map(|l| round(precision, x[i * k + l]) * round(precision, row[l])).sum::<f32>();
            // SAFETY: column j belongs to this task.
            let y = unsafe { &mut parts.part(i * n + j, 1)[0] };
            *y = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *y };
        }
    });
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
    let mut dense = vec![0.0; n * k];
    w.read(0, &mut dense);
    let parts = Parts::new(dx);
    parallel(m, |i| {
        // SAFETY: row i belongs to this task.
        let dx = unsafe { parts.part(i * k, k) };
        for (l, dx) in dx.iter_mut().enumerate() {
            let sum = (0..n)
                .map(|j| round(precision, dy[i * n + j]) * round(precision, dense[j * k + l]))
                .sum::<f32>();
            *dx = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *dx };
        }
    });
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
    let parts = Parts::new(dw);
    parallel(n, |j| {
        // SAFETY: row j belongs to this task.
        let dw = unsafe { parts.part(j * k, k) };
        for (l, dw) in dw.iter_mut().enumerate() {
            let sum =
                (0..m).map(|i| round(precision, dy[i * n + j]) * round(precision, x[i * k + l])).sum::<f32>();
            *dw = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *dw };
        }
    });
}

fn round(precision: Precision, value: f32) -> f32 {
    match precision {
        Precision::F32 => value,
        Precision::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// Stops with the operation's name when a slice is not as long as its shape says.
pub(crate) fn check<const N: usize>(operation: &str, slices: [(&str, usize, usize); N]) {
    for (name, found, expected) in slices {
        assert!(found == expected, "{operation}: {name} has {found} elements, its shape says {expected}");
    }
}
