//! Normalisation of rows.

use crate::gemm::check;

/// Computes `y = x r w` with `r = 1 / sqrt(mean(x^2) + eps)` per row; `x, y (rows, dim)`, `w (dim)`, `inverse_rms (rows)` keeps `r` for the gradient.
///
/// Zhang and Sennrich 2019, equation 4.
///
/// # Panics
///
/// When a slice does not have the length of its shape.
pub fn rms_norm(eps: f32, x: &[f32], weight: &[f32], y: &mut [f32], inverse_rms: &mut [f32]) {
    let (rows, dim) = (inverse_rms.len(), weight.len());
    check("rms_norm", [("x", x.len(), rows * dim), ("y", y.len(), rows * dim)]);
    for i in 0..rows {
        let x = &x[i * dim..(i + 1) * dim];
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() / dim as f32 + eps).sqrt();
        inverse_rms[i] = r;
        for j in 0..dim {
            y[i * dim + j] = x[j] * r * weight[j];
        }
    }
}

/// The gradient of [`rms_norm`]: `dx = r (w dy - x r^2 mean(w dy x)) + beta dx`, and, where asked for, `dweight += sum over rows of dy x r`.
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
    for i in 0..rows {
        let at = i * dim..(i + 1) * dim;
        let (x, dy, dx, r) = (&x[at.clone()], &dy[at.clone()], &mut dx[at], inverse_rms[i]);
        let mean = (0..dim).map(|j| weight[j] * dy[j] * x[j]).sum::<f32>() / dim as f32;
        for j in 0..dim {
            let old = if beta == 0.0 { 0.0 } else { beta * dx[j] };
            dx[j] = r * (weight[j] * dy[j] - x[j] * r * r * mean) + old;
        }
    }
    if let Some(dweight) = dweight {
        check("rms_norm_gradient", [("dweight", dweight.len(), dim)]);
        for i in 0..n {
            dweight[i % dim] += dy[i] * x[i] * inverse_rms[i / dim];
        }
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
    for i in 0..rows {
        let x = &x[i * dim..(i + 1) * dim];
        let centre = x.iter().sum::<f32>() / dim as f32;
        let variance = x.iter().map(|x| (x - centre) * (x - centre)).sum::<f32>() / dim as f32;
        let r = 1.0 / (variance + eps).sqrt();
        (mean[i], inverse_deviation[i]) = (centre, r);
        for j in 0..dim {
            y[i * dim + j] = (x[j] - centre) * r * weight[j] + bias.map_or(0.0, |b| b[j]);
        }
    }
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
    for i in 0..rows {
        let at = i * dim..(i + 1) * dim;
        let (x, dy, dx, r) = (&x[at.clone()], &dy[at.clone()], &mut dx[at], inverse_deviation[i]);
        let g = |j: usize| weight[j] * dy[j];
        let h = |j: usize| (x[j] - mean[i]) * r;
        let mean_g = (0..dim).map(g).sum::<f32>() / dim as f32;
        let mean_gh = (0..dim).map(|j| g(j) * h(j)).sum::<f32>() / dim as f32;
        for j in 0..dim {
            let old = if beta == 0.0 { 0.0 } else { beta * dx[j] };
            dx[j] = r * (g(j) - mean_g - h(j) * mean_gh) + old;
        }
    }
    if let Some(dweight) = dweight {
        check("layer_norm_gradient", [("dweight", dweight.len(), dim)]);
        for i in 0..n {
            dweight[i % dim] += dy[i] * (x[i] - mean[i / dim]) * inverse_deviation[i / dim];
        }
    }
    if let Some(dbias) = dbias {
        crate::elementwise::bias_gradient(dy, dbias);
    }
}
