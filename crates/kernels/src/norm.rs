//! Normalisation of rows.

use crate::gemm::check;
use crate::level::level;
use crate::simd::{Lanes, simd};
use crate::threads::{Parts, parallel_column_sums, parallel_rows};

/// Computes `y = x r w` with `r = 1 / sqrt(mean(x^2) + eps)` per row; `x, y (rows, dim)`, `w (dim)`, `inverse_rms (rows)` keeps
/// `r` for the gradient.
///
/// Zhang and Sennrich 2019, equation 4.
///
/// # Panics
///
/// When a slice does not have the length of its shape.
pub fn rms_norm(eps: f32, x: &[f32], weight: &[f32], y: &mut [f32], inverse_rms: &mut [f32]) {
    let (rows, dim) = (inverse_rms.len(), weight.len());
    check("rms_norm", [("x", x.len(), rows * dim), ("y", y.len(), rows * dim)]);
    let (level, y, inverse_rms) = (level(), Parts::new(y), Parts::new(inverse_rms));
    parallel_rows(rows, dim, |first, count| {
        for i in first..first + count {
            // SAFETY: each row belongs to one task.
            let (y, inverse_rms) = unsafe { (y.part(i * dim, dim), inverse_rms.part(i, 1)) };
            inverse_rms[0] = rms_norm_row(level, eps, &x[i * dim..][..dim], weight, y);
        }
    });
}

/// The gradient of [`rms_norm`]: `dx = r (w dy - x r^2 mean(w dy x)) + beta dx`, and, where asked for, `dweight += sum over rows of
/// dy x r`.
///
/// `dx` is not read when `beta` is 0.
///
/// # Panics
///
/// When a slice does not have the length of its shape.
pub fn rms_norm_gradient(
    x: &[f32],
    weight: &[f32],
    inverse_rms: &[f32],
    dy: &[f32],
    beta: f32,
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let (rows, dim) = (inverse_rms.len(), weight.len());
    let n = rows * dim;
    check("rms_norm_gradient", [("x", x.len(), n), ("dy", dy.len(), n), ("dx", dx.len(), n)]);
    let (level, dx) = (level(), Parts::new(dx));
    parallel_rows(rows, dim, |first, count| {
        for i in first..first + count {
            // SAFETY: each row belongs to one task.
            let dx = unsafe { dx.part(i * dim, dim) };
            let (x, dy) = (&x[i * dim..][..dim], &dy[i * dim..][..dim]);
            rms_norm_gradient_row(level, x, weight, inverse_rms[i], dy, beta, dx);
        }
    });
    if let Some(dweight) = dweight {
        check("rms_norm_gradient", [("dweight", dweight.len(), dim)]);
        parallel_column_sums(rows, dweight, |first, count, sums| {
            for i in first..first + count {
                scaled_product_sum(
                    level,
                    0.0,
                    inverse_rms[i],
                    &x[i * dim..][..dim],
                    &dy[i * dim..][..dim],
                    sums,
                );
            }
        });
    }
}

/// Computes `y = (x - mean) r w + b` with `r = 1 / sqrt(variance + eps)` per row (biased variance); `x, y (rows, dim)`,
/// `w, b (dim)`; `mean` and `inverse_deviation (rows)` keep the statistics for the gradient.
///
/// # Panics
///
/// When a slice does not have the length of its shape.
pub fn layer_norm(
    eps: f32,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    mean: &mut [f32],
    inverse_deviation: &mut [f32],
) {
    let (rows, dim) = (mean.len(), weight.len());
    check(
        "layer_norm",
        [
            ("x", x.len(), rows * dim),
            ("y", y.len(), rows * dim),
            ("bias", bias.map_or(dim, <[f32]>::len), dim),
            ("inverse_deviation", inverse_deviation.len(), rows),
        ],
    );
    let (level, y) = (level(), Parts::new(y));
    let (mean, inverse_deviation) = (Parts::new(mean), Parts::new(inverse_deviation));
    parallel_rows(rows, dim, |first, count| {
        for i in first..first + count {
            // SAFETY: each row belongs to one task.
            let (y, mean, r) =
                unsafe { (y.part(i * dim, dim), mean.part(i, 1), inverse_deviation.part(i, 1)) };
            let x = &x[i * dim..][..dim];
            (mean[0], r[0]) = moments_row(level, eps, x);
            layer_norm_row(level, x, mean[0], r[0], weight, bias, y);
        }
    });
}

/// The gradient of [`layer_norm`]: with `h = (x - mean) r` and `g = w dy`, `dx = r (g - mean(g) - h mean(g h)) + beta dx`;
/// where asked for, `dweight += sum of dy h` and `dbias += sum of dy`.
///
/// `dx` is not read when `beta` is 0.
///
/// # Panics
///
/// When a slice does not have the length of its shape.
pub fn layer_norm_gradient(
    x: &[f32],
    weight: &[f32],
    mean: &[f32],
    inverse_deviation: &[f32],
    dy: &[f32],
    beta: f32,
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    let (rows, dim) = (mean.len(), weight.len());
    let n = rows * dim;
    check(
        "layer_norm_gradient",
        [
            ("x", x.len(), n),
            ("dy", dy.len(), n),
            ("dx", dx.len(), n),
            ("inverse_deviation", inverse_deviation.len(), rows),
        ],
    );
    let (level, dx) = (level(), Parts::new(dx));
    parallel_rows(rows, dim, |first, count| {
        for i in first..first + count {
            // SAFETY: each row belongs to one task.
            let dx = unsafe { dx.part(i * dim, dim) };
            let (x, dy) = (&x[i * dim..][..dim], &dy[i * dim..][..dim]);
            layer_norm_gradient_row(level, x, mean[i], inverse_deviation[i], weight, dy, beta, dx);
        }
    });
    if let Some(dweight) = dweight {
        check("layer_norm_gradient", [("dweight", dweight.len(), dim)]);
        parallel_column_sums(rows, dweight, |first, count, sums| {
            for i in first..first + count {
                let (x, dy) = (&x[i * dim..][..dim], &dy[i * dim..][..dim]);
                scaled_product_sum(level, mean[i], inverse_deviation[i], x, dy, sums);
            }
        });
    }
    if let Some(dbias) = dbias {
        check("layer_norm_gradient", [("dbias", dbias.len(), dim)]);
        crate::elementwise::bias_gradient(dy, dbias);
    }
}

/// `value + beta * old`, without a look at `old` when `beta` is 0.
#[inline(always)]
fn with_old<V: Lanes>(value: V, beta: f32, old: &[f32]) -> V {
    if beta == 0.0 { value } else { value.load(old).mul_add(value.splat(beta), value) }
}

simd! {
    /// Returns `r`.
    fn rms_norm_row(v, eps: f32, x: &[f32], weight: &[f32], y: &mut [f32]) -> f32 {
        let mut squares = v.splat(0.0);
        for i in (0..x.len()).step_by(V::N) {
            let x = v.load(&x[i..]);
            squares = x.mul_add(x, squares);
        }
        let r = 1.0 / (squares.sum() / x.len() as f32 + eps).sqrt();
        let factor = v.splat(r);
        for i in (0..x.len()).step_by(V::N) {
            v.load(&x[i..]).mul(factor).mul(v.load(&weight[i..])).store(&mut y[i..]);
        }
        r
    }

    fn rms_norm_gradient_row(v, x: &[f32], weight: &[f32], r: f32, dy: &[f32], beta: f32, dx: &mut [f32]) {
        let mut dot = v.splat(0.0);
        for i in (0..x.len()).step_by(V::N) {
            dot = v.load(&weight[i..]).mul(v.load(&dy[i..])).mul_add(v.load(&x[i..]), dot);
        }
        let mean = v.splat(-(dot.sum() / x.len() as f32) * r * r);
        let r = v.splat(r);
        for i in (0..x.len()).step_by(V::N) {
            let g = v.load(&weight[i..]).mul(v.load(&dy[i..]));
            let value = r.mul(v.load(&x[i..]).mul_add(mean, g));
            with_old(value, beta, &dx[i..]).store(&mut dx[i..]);
        }
    }

    /// `sums += dy (x - mean) r`.
    fn scaled_product_sum(v, mean: f32, r: f32, x: &[f32], dy: &[f32], sums: &mut [f32]) {
        let (mean, r) = (v.splat(mean), v.splat(r));
        for i in (0..x.len()).step_by(V::N) {
            let h = v.load(&x[i..]).sub(mean).mul(r);
            v.load(&dy[i..]).mul_add(h, v.load(&sums[i..])).store(&mut sums[i..]);
        }
    }

    /// The mean and the inverse of the deviation.
    fn moments_row(v, eps: f32, x: &[f32]) -> (f32, f32) {
        let mut sum = v.splat(0.0);
        for i in (0..x.len()).step_by(V::N) {
            sum = sum.add(v.load(&x[i..]));
        }
        let mean = sum.sum() / x.len() as f32;
        let centre = v.splat(mean);
        let mut squares = v.splat(0.0);
        for i in (0..x.len()).step_by(V::N) {
            // Lanes past the end hold the mean, so that they add nothing.
            let h = v.load_or(&x[i..], mean).sub(centre);
            squares = h.mul_add(h, squares);
        }
        (mean, 1.0 / (squares.sum() / x.len() as f32 + eps).sqrt())
    }

    fn layer_norm_row(v, x: &[f32], mean: f32, r: f32, weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let (mean, r) = (v.splat(mean), v.splat(r));
        for i in (0..x.len()).step_by(V::N) {
            let h = v.load(&x[i..]).sub(mean).mul(r);
            let bias = bias.map_or(v.splat(0.0), |bias| v.load(&bias[i..]));
            h.mul_add(v.load(&weight[i..]), bias).store(&mut y[i..]);
        }
    }

    fn layer_norm_gradient_row(
        v,
        x: &[f32],
        mean: f32,
        r: f32,
        weight: &[f32],
        dy: &[f32],
        beta: f32,
        dx: &mut [f32],
    ) {
        let (mean, factor) = (v.splat(mean), v.splat(r));
        let (mut sum_g, mut sum_gh) = (v.splat(0.0), v.splat(0.0));
        for i in (0..x.len()).step_by(V::N) {
            let g = v.load(&weight[i..]).mul(v.load(&dy[i..]));
            let h = v.load(&x[i..]).sub(mean).mul(factor);
            sum_g = sum_g.add(g);
            sum_gh = g.mul_add(h, sum_gh);
        }
        let mean_g = v.splat(sum_g.sum() / x.len() as f32);
        let mean_gh = v.splat(-sum_gh.sum() / x.len() as f32);
        for i in (0..x.len()).step_by(V::N) {
            let g = v.load(&weight[i..]).mul(v.load(&dy[i..]));
            let h = v.load(&x[i..]).sub(mean).mul(factor);
            let value = factor.mul(h.mul_add(mean_gh, g.sub(mean_g)));
            with_old(value, beta, &dx[i..]).store(&mut dx[i..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, at_every_level};

    const EPS: f32 = 1e-5;

    fn rms(x: &[f64], w: &[f64]) -> Vec<f64> {
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + f64::from(EPS)).sqrt();
        x.iter().zip(w).map(|(x, w)| x * r * w).collect()
    }

    fn layer(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let r = 1.0 / (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + f64::from(EPS)).sqrt();
        (0..x.len()).map(|j| (x[j] - mean) * r * w[j] + b[j]).collect()
    }

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| f64::from(x)).collect()
    }

    /// The slopes of `sum(dy f(x))` for every element of `x`.
    fn slopes(x: &[f64], dy: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let value = |x: &[f64]| -> f64 { f(x).iter().zip(dy).map(|(y, dy)| y * dy).sum() };
        (0..x.len())
            .map(|i| {
                let (mut up, mut down) = (x.to_vec(), x.to_vec());
                up[i] += 1e-5;
                down[i] -= 1e-5;
                (value(&up) - value(&down)) / 2e-5
            })
            .collect()
    }

    fn by_rows(x: &[f64], dim: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        x.chunks(dim).flat_map(f).collect()
    }

    #[test]
    fn rms_norm_and_its_gradient_equal_the_formula_and_its_slopes() {
        let mut random = Random(21);
        for (rows, dim) in [(1, 1), (3, 7), (5, 64), (300, 5)] {
            let (x, w) = (random.vector(rows * dim), random.vector(dim));
            let (dy, old, old_w) = (random.vector(rows * dim), random.vector(rows * dim), random.vector(dim));
            let (x64, w64, dy64) = (wide(&x), wide(&w), wide(&dy));
            let y64 = by_rows(&x64, dim, |x| rms(x, &w64));
            let dx64 = slopes(&x64, &dy64, |x| by_rows(x, dim, |x| rms(x, &w64)));
            let dw64 = slopes(&w64, &dy64, |w| by_rows(&x64, dim, |x| rms(x, w)));
            let dx64: Vec<f64> = dx64.iter().zip(&old).map(|(dx, &old)| dx + 0.5 * f64::from(old)).collect();
            let dw64: Vec<f64> = dw64.iter().zip(&old_w).map(|(dw, &old)| dw + f64::from(old)).collect();
            at_every_level(|level| {
                let (mut y, mut r) = (vec![0.0; rows * dim], vec![0.0; rows]);
                let (mut dx, mut dw) = (old.clone(), old_w.clone());
                rms_norm(EPS, &x, &w, &mut y, &mut r);
                rms_norm_gradient(&x, &w, &r, &dy, 0.5, &mut dx, Some(&mut dw));
                assert_close(&format!("{level:?} y"), &y, &y64, 1e-6);
                assert_close(&format!("{level:?} dx"), &dx, &dx64, 2e-5);
                assert_close(&format!("{level:?} dw"), &dw, &dw64, 2e-5);
            });
        }
    }

    #[test]
    fn layer_norm_and_its_gradient_equal_the_formula_and_its_slopes() {
        let mut random = Random(22);
        for (rows, dim) in [(3, 7), (5, 64), (300, 5)] {
            let x: Vec<f32> = random.vector(rows * dim).iter().map(|x| x + 3.0).collect();
            let (w, b, dy) = (random.vector(dim), random.vector(dim), random.vector(rows * dim));
            let (x64, w64, b64, dy64) = (wide(&x), wide(&w), wide(&b), wide(&dy));
            let y64 = by_rows(&x64, dim, |x| layer(x, &w64, &b64));
            let dx64 = slopes(&x64, &dy64, |x| by_rows(x, dim, |x| layer(x, &w64, &b64)));
            let dw64 = slopes(&w64, &dy64, |w| by_rows(&x64, dim, |x| layer(x, w, &b64)));
            let db64 = slopes(&b64, &dy64, |b| by_rows(&x64, dim, |x| layer(x, &w64, b)));
            at_every_level(|level| {
                let mut y = vec![0.0; rows * dim];
                let (mut mean, mut r) = (vec![0.0; rows], vec![0.0; rows]);
                let (mut dx, mut dw, mut db) = (vec![f32::NAN; rows * dim], vec![0.0; dim], vec![0.0; dim]);
                layer_norm(EPS, &x, &w, Some(&b), &mut y, &mut mean, &mut r);
                layer_norm_gradient(&x, &w, &mean, &r, &dy, 0.0, &mut dx, Some(&mut dw), Some(&mut db));
                assert_close(&format!("{level:?} y"), &y, &y64, 5e-6);
                assert_close(&format!("{level:?} dx"), &dx, &dx64, 5e-5);
                assert_close(&format!("{level:?} dw"), &dw, &dw64, 5e-5);
                assert_close(&format!("{level:?} db"), &db, &db64, 2e-5);
            });
        }
    }
}
