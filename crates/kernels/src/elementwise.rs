//! Sums, products with a number, biases.

use crate::gemm::check;

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
    for (y, &x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// Computes `y *= alpha`.
pub fn scale(alpha: f32, y: &mut [f32]) {
    for y in y {
        *y *= alpha;
    }
}

/// Adds `bias (cols)` to every row of `y (rows, cols)`.
///
/// # Panics
///
/// When `y` is not a whole number of rows.
pub fn add_bias(bias: &[f32], y: &mut [f32]) {
    if bias.is_empty() {
        return;
    }
    check("add_bias", [("y", y.len(), y.len() / bias.len() * bias.len())]);
    for row in y.chunks_exact_mut(bias.len()) {
        for (y, &b) in row.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

/// Adds the sum of the rows of `dy (rows, cols)` to `dbias (cols)`: the gradient of [`add_bias`].
///
/// # Panics
///
/// When `dy` is not a whole number of rows.
pub fn bias_gradient(dy: &[f32], dbias: &mut [f32]) {
    if dbias.is_empty() {
        return;
    }
    check("bias_gradient", [("dy", dy.len(), dy.len() / dbias.len() * dbias.len())]);
    for row in dy.chunks_exact(dbias.len()) {
        for (d, &y) in dbias.iter_mut().zip(row) {
            *d += y;
        }
    }
}

/// The sum of the squares of `x`, summed in `f64`.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}
