//! Softmax and cross-entropy over rows of logits.

use crate::gemm::check;

/// The label of a position that takes no part in the loss.
pub const IGNORED_LABEL: i32 = -100;

/// Sums `-log softmax(logits)[label]` over the rows whose label is not [`IGNORED_LABEL`]; logits are `(rows, vocabulary)`.
///
/// # Panics
///
/// When a label is neither ignored nor in `0..vocabulary`, or `logits` does not have the length of its shape.
pub fn cross_entropy(vocabulary: usize, labels: &[i32], logits: &[f32]) -> f64 {
    check("cross_entropy", [("logits", logits.len(), labels.len() * vocabulary)]);
    let mut sum = 0.0;
    for (row, &label) in logits.chunks_exact(vocabulary).zip(labels) {
        if label != IGNORED_LABEL {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = row.iter().map(|&x| (x - max).exp()).sum();
            sum += f64::from(max) + f64::from(total).ln() - f64::from(row[label_index(label, vocabulary)]);
        }
    }
    sum
}

/// As [`cross_entropy`], and replaces the logits by `scale` times the gradient of the sum: `scale (softmax - one_hot(label))`;
/// rows of ignored labels become 0.
///
/// # Panics
///
/// As [`cross_entropy`].
pub fn cross_entropy_gradient(vocabulary: usize, labels: &[i32], scale: f32, logits: &mut [f32]) -> f64 {
    let loss = cross_entropy(vocabulary, labels, logits);
    for (row, &label) in logits.chunks_exact_mut(vocabulary).zip(labels) {
        if label == IGNORED_LABEL {
            row.fill(0.0);
            continue;
        }
        softmax_rows(vocabulary, row);
        row[label_index(label, vocabulary)] -= 1.0;
        row.iter_mut().for_each(|x| *x *= scale);
    }
    loss
}

/// Replaces each row of `x (rows, cols)` by its softmax.
///
/// # Panics
///
/// When `x` is not a whole number of rows.
pub fn softmax_rows(cols: usize, x: &mut [f32]) {
    if cols == 0 {
        return;
    }
    check("softmax_rows", [("x", x.len(), x.len() / cols * cols)]);
    for row in x.chunks_exact_mut(cols) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = (*x - max).exp());
        let total: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= total);
    }
}

fn label_index(label: i32, vocabulary: usize) -> usize {
    match usize::try_from(label) {
        Ok(index) if index < vocabulary => index,
        _ => panic!(
            "cross_entropy: label {label} is neither {IGNORED_LABEL} nor below the vocabulary of {vocabulary}"
        ),
    }
}
