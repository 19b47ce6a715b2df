//! Softmax and cross-entropy over rows of logits.

use crate::elementwise::scale_part;
use crate::gemm::check;
use crate::level::{Level, level};
use crate::scratch::{self, Slot};
use crate::simd::simd;
use crate::threads::{Parts, parallel_rows};

/// The label of a position that takes no part in the loss.
pub const IGNORED_LABEL: i32 = -100;

/// Sums `-log softmax(logits)[label]` over the rows whose label is not [`IGNORED_LABEL`]; logits are `(rows, vocabulary)`.
///
/// # Panics
///
/// When a label is neither ignored nor in `0..vocabulary`, or `logits` does not have the length of its shape.
pub fn cross_entropy(vocabulary: usize, labels: &[i32], logits: &[f32]) -> f64 {
    check_rows("cross_entropy", vocabulary, labels, logits.len());
    rows_loss(vocabulary, labels, |level, row, label| {
        let logits = &logits[row * vocabulary..][..vocabulary];
        let label = label? as usize;
        let max = largest(level, logits);
        Some(f64::from(max) + f64::from(exp_sum(level, max, logits)).ln() - f64::from(logits[label]))
    })
}

/// As [`cross_entropy`], and replaces the logits by `scale` times the gradient of the sum: `scale (softmax - one_hot(label))`;
/// rows of ignored labels become 0.
///
/// # Panics
///
/// As [`cross_entropy`].
pub fn cross_entropy_gradient(vocabulary: usize, labels: &[i32], scale: f32, logits: &mut [f32]) -> f64 {
    check_rows("cross_entropy_gradient", vocabulary, labels, logits.len());
    let logits = Parts::new(logits);
    rows_loss(vocabulary, labels, |level, row, label| {
        // SAFETY: each row belongs to one task.
        let logits = unsafe { logits.part(row * vocabulary, vocabulary) };
        let Some(label) = label else {
            logits.fill(0.0);
            return None;
        };
        let label = label as usize;
        let at_label = logits[label];
        let max = largest(level, logits);
        let total = exp_all(level, max, logits);
        scale_part(level, scale / total, logits);
        logits[label] -= scale;
        Some(f64::from(max) + f64::from(total).ln() - f64::from(at_label))
    })
}

fn check_rows(operation: &str, vocabulary: usize, labels: &[i32], logits: usize) {
    check(operation, [("logits", logits, labels.len() * vocabulary)]);
    let known =
        |&label: &i32| label == IGNORED_LABEL || usize::try_from(label).is_ok_and(|label| label < vocabulary);
    if let Some(row) = labels.iter().position(|label| !known(label)) {
        let label = labels[row];
        panic!(
            "{operation}: label {label} of row {row} is neither {IGNORED_LABEL} nor below the vocabulary of {vocabulary}"
        );
    }
}

/// Adds up `loss(level, row, label)` over the rows, in their order; the label is `None` where it is ignored.
fn rows_loss(
    vocabulary: usize,
    labels: &[i32],
    loss: impl Fn(Level, usize, Option<i32>) -> Option<f64> + Sync,
) -> f64 {
    let level = level();
    scratch::with::<f64, _>(Slot::Partials, labels.len(), |losses| {
        let parts = Parts::new(losses);
        parallel_rows(labels.len(), vocabulary, |first, count| {
            for row in first..first + count {
                let label = Some(labels[row]).filter(|&label| label != IGNORED_LABEL);
                // SAFETY: each row belongs to one task.
                let target = unsafe { &mut parts.part(row, 1)[0] };
                *target = loss(level, row, label).unwrap_or(0.0);
            }
        });
        losses.iter().sum()
    })
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
    let (level, rows, x) = (level(), x.len() / cols, Parts::new(x));
    parallel_rows(rows, cols, |first, count| {
        // SAFETY: each task has its own rows.
        let x = unsafe { x.part(first * cols, count * cols) };
        for row in x.chunks_exact_mut(cols) {
            let total = exp_all(level, largest(level, row), row);
            scale_part(level, 1.0 / total, row);
        }
    });
}

simd! {
    /// The largest element; minus infinity of none.
    pub(crate) fn largest(v, x: &[f32]) -> f32 {
        let mut max = v.splat(f32::NEG_INFINITY);
        for i in (0..x.len()).step_by(V::N) {
            max = max.max(v.load_or(&x[i..], f32::NEG_INFINITY));
        }
        max.largest()
    }

    /// The sum of `exp(x - max)`.
    fn exp_sum(v, max: f32, x: &[f32]) -> f32 {
        let (max, mut sum) = (v.splat(max), v.splat(0.0));
        for i in (0..x.len()).step_by(V::N) {
            sum = sum.add(v.load_or(&x[i..], f32::NEG_INFINITY).sub(max).exp());
        }
        sum.sum()
    }

    /// Replaces `x` by `exp(x - max)` and returns the sum.
    pub(crate) fn exp_all(v, max: f32, x: &mut [f32]) -> f32 {
        let (max, mut sum) = (v.splat(max), v.splat(0.0));
        for i in (0..x.len()).step_by(V::N) {
            let e = v.load_or(&x[i..], f32::NEG_INFINITY).sub(max).exp();
            sum = sum.add(e);
            e.store(&mut x[i..]);
        }
        sum.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, at_every_level};

    fn loss_f64(row: &[f64], label: usize) -> f64 {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - row[label]
    }

    #[test]
    fn the_loss_and_its_gradient_equal_the_formula() {
        let mut random = Random(12);
        for (rows, vocabulary) in [(1, 1), (5, 3), (7, 1_003), (40, 517)] {
            let logits: Vec<f32> = random.vector(rows * vocabulary).iter().map(|x| x * 30.0).collect();
            let labels: Vec<i32> = (0..rows)
                .map(|row| if row % 4 == 2 { IGNORED_LABEL } else { random.below(vocabulary) as i32 })
                .collect();
            let wide: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
            let mut expected = 0.0;
            let mut gradient = vec![0.0; wide.len()];
            for (row, &label) in labels.iter().enumerate() {
                if label != IGNORED_LABEL {
                    let logits = &wide[row * vocabulary..(row + 1) * vocabulary];
                    let loss = loss_f64(logits, label as usize);
                    expected += loss;
                    for j in 0..vocabulary {
                        let p = (logits[j] - logits[label as usize] - loss).exp();
                        gradient[row * vocabulary + j] =
                            0.25 * (p - f64::from(u8::from(j == label as usize)));
                    }
                }
            }
            at_every_level(|level| {
                let loss = cross_entropy(vocabulary, &labels, &logits);
                assert!((loss - expected).abs() <= 2e-6 * (1.0 + expected), "{level:?}: {loss} {expected}");
                let mut found = logits.clone();
                assert_eq!(cross_entropy_gradient(vocabulary, &labels, 0.25, &mut found), loss, "{level:?}");
                assert_close(&format!("{level:?}"), &found, &gradient, 1e-6);
            });
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let mut random = Random(13);
        let labels = [4, IGNORED_LABEL, 0];
        let logits: Vec<f64> = random.vector(27).iter().map(|&x| f64::from(x) * 3.0).collect();
        let total = |x: &[f64]| loss_f64(&x[..9], 4) + loss_f64(&x[18..], 0);
        let slopes: Vec<f64> = (0..27)
            .map(|i| {
                let (mut up, mut down) = (logits.clone(), logits.clone());
                up[i] += 1e-6;
                down[i] -= 1e-6;
                (total(&up) - total(&down)) / 2e-6
            })
            .collect();
        let mut found: Vec<f32> = logits.iter().map(|&x| x as f32).collect();
        cross_entropy_gradient(9, &labels, 1.0, &mut found);
        assert_close("gradient", &found, &slopes, 1e-6);
    }

    #[test]
    fn softmax_rows_sum_to_one_even_at_the_ends_of_the_range() {
        at_every_level(|level| {
            let mut x = vec![1e30, -1e30, 1e30, f32::NEG_INFINITY, 0.0, 80.0, -200.0, 80.0];
            softmax_rows(4, &mut x);
            let expected = [0.5, 0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.5];
            for (x, expected) in x.iter().zip(expected) {
                assert!((x - expected).abs() < 1e-30, "{level:?}: {x} {expected}");
            }
        });
    }

    #[test]
    #[should_panic(
        expected = "cross_entropy: label -1 of row 1 is neither -100 nor below the vocabulary of 3"
    )]
    fn a_label_outside_the_vocabulary_is_refused() {
        cross_entropy(3, &[0, -1], &[0.0; 6]);
    }
}
