//! Sums, products with a number, biases.

use crate::gemm::check;
use crate::level::level;
use crate::scratch::{self, Slot};
use crate::simd::simd;
use crate::threads::{Parts, parallel, parallel_column_sums, parallel_elements, parallel_rows};

/// Computes `y += x`.
///
/// # Panics
///
/// When the slices differ in length.
pub fn add(x: &[f32], y: &mut [f32]) {
    add_scaled(1.0, x, y);
}

/// Computes `y += alpha * x`.
///
/// # Panics
///
/// When the slices differ in length.
pub fn add_scaled(alpha: f32, x: &[f32], y: &mut [f32]) {
    check("add_scaled", [("y", y.len(), x.len())]);
    let (level, y) = (level(), Parts::new(y));
    parallel_elements(x.len(), |at| {
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(at.start, at.len()) };
        add_scaled_part(level, alpha, &x[at], y);
    });
}

/// Computes `y *= alpha`.
pub fn scale(alpha: f32, y: &mut [f32]) {
    let (level, len, y) = (level(), y.len(), Parts::new(y));
    parallel_elements(len, |at| {
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(at.start, at.len()) };
        scale_part(level, alpha, y);
    });
}

/// Adds `bias (cols)` to every row of `y (rows, cols)`.
///
/// # Panics
///
/// When `y` is not a whole number of rows.
pub fn add_bias(bias: &[f32], y: &mut [f32]) {
    let cols = bias.len();
    if cols == 0 {
        return;
    }
    let rows = y.len() / cols;
    check("add_bias", [("y", y.len(), rows * cols)]);
    let (level, y) = (level(), Parts::new(y));
    parallel_rows(rows, cols, |first, count| {
        // SAFETY: each task has its own rows.
        let y = unsafe { y.part(first * cols, count * cols) };
        for row in y.chunks_exact_mut(cols) {
            add_scaled_part(level, 1.0, bias, row);
        }
    });
}

/// Adds the sum of the rows of `dy (rows, cols)` to `dbias (cols)`: the gradient of [`add_bias`].
///
/// # Panics
///
/// When `dy` is not a whole number of rows.
pub fn bias_gradient(dy: &[f32], dbias: &mut [f32]) {
    let cols = dbias.len();
    if cols == 0 {
        return;
    }
    let rows = dy.len() / cols;
    check("bias_gradient", [("dy", dy.len(), rows * cols)]);
    let level = level();
    parallel_column_sums(rows, dbias, |first, count, sums| {
        for row in dy[first * cols..(first + count) * cols].chunks_exact(cols) {
            add_scaled_part(level, 1.0, row, sums);
        }
    });
}

/// The sum of the squares of `x`; short pieces are summed in `f32`, the pieces in `f64`.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    const PIECE: usize = 16 * 1024;
    let level = level();
    let pieces = x.len().div_ceil(PIECE);
    scratch::with::<f64, _>(Slot::Partials, pieces, |sums| {
        let parts = Parts::new(sums);
        parallel(pieces, |piece| {
            let x = &x[piece * PIECE..x.len().min((piece + 1) * PIECE)];
            // SAFETY: each task has its own sum.
            let sum = unsafe { &mut parts.part(piece, 1)[0] };
            *sum = x.chunks(512).map(|x| f64::from(squares_part(level, x))).sum();
        });
        sums.iter().sum()
    })
}

simd! {
    /// `y += alpha x`.
    pub(crate) fn add_scaled_part(v, alpha: f32, x: &[f32], y: &mut [f32]) {
        let alpha = v.splat(alpha);
        for i in (0..y.len()).step_by(V::N) {
            v.load(&x[i..]).mul_add(alpha, v.load(&y[i..])).store(&mut y[i..]);
        }
    }

    /// `y *= alpha`.
    pub(crate) fn scale_part(v, alpha: f32, y: &mut [f32]) {
        let alpha = v.splat(alpha);
        for i in (0..y.len()).step_by(V::N) {
            v.load(&y[i..]).mul(alpha).store(&mut y[i..]);
        }
    }

    fn squares_part(v, x: &[f32]) -> f32 {
        let mut sum = v.splat(0.0);
        for i in (0..x.len()).step_by(V::N) {
            let x = v.load(&x[i..]);
            sum = x.mul_add(x, sum);
        }
        sum.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, at_every_level};

    #[test]
    fn sums_and_products_equal_the_formula() {
        let mut random = Random(3);
        for len in [1, 15, 17, 50_003] {
            let (x, y) = (random.vector(len), random.vector(len));
            let f = f64::from;
            let expected: Vec<f64> = x.iter().zip(&y).map(|(&x, &y)| (f(y) + 0.5 * f(x)) * -3.0).collect();
            let squares: f64 = x.iter().map(|&x| f(x) * f(x)).sum();
            at_every_level(|level| {
                let mut found = y.clone();
                add_scaled(0.5, &x, &mut found);
                scale(-3.0, &mut found);
                assert_close(&format!("{level:?} {len}"), &found, &expected, 1e-6);
                let sum = sum_of_squares(&x);
                assert!((sum - squares).abs() <= 3e-6 * squares, "{level:?} {len}: {sum} {squares}");
            });
        }
    }

    #[test]
    fn biases_are_added_to_rows_and_their_gradient_is_the_column_sum() {
        let mut random = Random(4);
        for (rows, cols) in [(1, 1), (3, 5), (700, 33), (129, 320)] {
            let (bias, y, old) = (random.vector(cols), random.vector(rows * cols), random.vector(cols));
            let expected: Vec<f64> =
                (0..rows * cols).map(|i| f64::from(y[i]) + f64::from(bias[i % cols])).collect();
            let sums: Vec<f64> = (0..cols)
                .map(|j| f64::from(old[j]) + (0..rows).map(|i| f64::from(y[i * cols + j])).sum::<f64>())
                .collect();
            at_every_level(|level| {
                let (mut found, mut gradient) = (y.clone(), old.clone());
                add_bias(&bias, &mut found);
                bias_gradient(&y, &mut gradient);
                assert_close(&format!("{level:?}"), &found, &expected, 1e-6);
                assert_close(&format!("{level:?} gradient"), &gradient, &sums, 1e-5);
            });
        }
    }
}
