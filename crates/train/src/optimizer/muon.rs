//! Muon: the momentum of a matrix, made orthogonal (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>).

use taiyi_kernels::{Precision, Weight, linear, linear_input_gradient};

/// Newton-Schulz iterations; five bring every singular value to 0.7 .. 1.2.
const ITERATIONS: usize = 5;

/// Coefficients of the quintic `a x + b x^3 + c x^5`, chosen by Jordan et al. for the steepest slope at zero.
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// Root mean square of an update before the learning rate: that of AdamW, so that one rate and one weight decay serve
/// both (Liu et al. 2025, "Muon is Scalable for LLM Training", equation 4).
const UPDATE_RMS: f32 = 0.2;

/// Buffers that every matrix uses in turn.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    update: Vec<f32>,
    next: Vec<f32>,
    gram: Vec<f32>,
    polynomial: Vec<f32>,
}

/// Bytes of the buffers for a matrix.
pub(super) fn scratch_bytes(shape: &[usize]) -> usize {
    let smaller = shape.iter().copied().min().unwrap_or(0);
    4 * (2 * shape.iter().product::<usize>() + 2 * smaller * smaller)
}

/// The numbers of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Muon {
    pub(super) lr: f32,
    pub(super) momentum: f32,
    pub(super) weight_decay: f32,
    pub(super) gradient_scale: f32,
}

impl Muon {
    /// Updates a matrix `(rows, cols)`, row-major: `m = u m + (1 - u) g`;
    /// `p = (1 - lr wd) p - lr 0.2 sqrt(max(rows, cols)) NS((1 - u) g + u m)` (Nesterov).
    pub(super) fn step(
        &self,
        (rows, cols): (usize, usize),
        parameter: &mut [f32],
        gradient: &[f32],
        momentum: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (keep, take) = (self.momentum, 1.0 - self.momentum);
        scratch.update.clear();
        scratch.update.extend(gradient.iter().zip(momentum).map(|(&gradient, momentum)| {
            let gradient = take * self.gradient_scale * gradient;
            *momentum = keep * *momentum + gradient;
            gradient + keep * *momentum
        }));
        // The iteration multiplies matrices of the smaller side: a tall matrix is worked on as its transpose.
        let tall = rows > cols;
        if tall {
            transpose(rows, cols, &scratch.update, &mut scratch.next);
            std::mem::swap(&mut scratch.update, &mut scratch.next);
        }
        orthogonalize(rows.min(cols), rows.max(cols), scratch);
        if tall {
            transpose(cols, rows, &scratch.update, &mut scratch.next);
            std::mem::swap(&mut scratch.update, &mut scratch.next);
        }
        let decay = 1.0 - self.lr * self.weight_decay;
        let rate = self.lr * UPDATE_RMS * (rows.max(cols) as f32).sqrt();
        for (parameter, update) in parameter.iter_mut().zip(&scratch.update) {
            *parameter = decay * *parameter - rate * update;
        }
    }
}

/// Replaces `scratch.update (n, k)`, `n <= k`, by nearly `U V^T` of its singular value decomposition `U S V^T`.
fn orthogonalize(n: usize, k: usize, scratch: &mut Scratch) {
    let Scratch { update: x, next, gram, polynomial } = scratch;
    let norm = x.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt() as f32;
    let scale = 1.0 / (norm + 1e-7);
    x.iter_mut().for_each(|value| *value *= scale);
    let [a, b, c] = QUINTIC;
    gram.resize(n * n, 0.0);
    for _ in 0..ITERATIONS {
        // A = X X^T; X <- a X + (b A + c A A) X; A is symmetric.
        linear(Precision::F32, n, n, k, 1.0, x, &Weight::F32(x), 0.0, gram);
        polynomial.clone_from(gram);
        linear(Precision::F32, n, n, n, c, gram, &Weight::F32(gram), b, polynomial);
        next.clone_from(x);
        linear_input_gradient(Precision::F32, n, n, k, 1.0, polynomial, &Weight::F32(x), a, next);
        std::mem::swap(x, next);
    }
}

/// Writes the transpose `(cols, rows)` of `from (rows, cols)`.
fn transpose(rows: usize, cols: usize, from: &[f32], into: &mut Vec<f32>) {
    into.clear();
    into.extend((0..cols).flat_map(|col| (0..rows).map(move |row| from[row * cols + col])));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix without structure: fractions of multiples of the golden ratio, about zero.
    fn matrix(len: usize) -> Vec<f32> {
        (1..=len).map(|i| ((i as f64 * 0.618_033_988_75).fract() - 0.5) as f32).collect()
    }

    fn product(rows: usize, cols: usize, x: &[f32], vector: &[f64]) -> Vec<f64> {
        (0..rows).map(|r| (0..cols).map(|c| f64::from(x[r * cols + c]) * vector[c]).sum()).collect()
    }

    #[test]
    fn every_direction_is_stretched_about_equally() {
        let (n, k) = (6, 10);
        // Scaled rows make the singular values differ by a factor of over 10.
        let mut update = matrix(n * k);
        update.chunks_mut(k).enumerate().for_each(|(row, values)| {
            values.iter_mut().for_each(|value| *value *= 1.0 + 3.0 * row as f32);
        });
        let mut scratch = Scratch { update, ..Scratch::default() };
        orthogonalize(n, k, &mut scratch);
        let x = scratch.update;
        let mut transposed = Vec::new();
        transpose(n, k, &x, &mut transposed);
        // For unit vectors v of the row space, |X^T v| lies between the smallest and the largest singular value.
        for row in 0..n {
            let unit: Vec<f64> = (0..n).map(|i| if i == row { 1.0 } else { 0.0 }).collect();
            let length =
                product(k, n, &transposed, &unit).iter().map(|value| value * value).sum::<f64>().sqrt();
            assert!((0.65..1.25).contains(&length), "row {row}: {length}");
        }
    }

    #[test]
    fn tall_and_wide_matrices_take_the_same_step() {
        let (rows, cols) = (9, 4);
        let options = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.5, gradient_scale: 1.0 };
        let (start, gradient) = (matrix(2 * rows * cols).split_off(rows * cols), matrix(rows * cols));
        let mut tall = start.clone();
        let mut scratch = Scratch::default();
        options.step((rows, cols), &mut tall, &gradient, &mut vec![0.0; rows * cols], &mut scratch);

        let (mut wide, mut wide_gradient) = (Vec::new(), Vec::new());
        transpose(rows, cols, &start, &mut wide);
        transpose(rows, cols, &gradient, &mut wide_gradient);
        options.step((cols, rows), &mut wide, &wide_gradient, &mut vec![0.0; rows * cols], &mut scratch);
        let mut back = Vec::new();
        transpose(cols, rows, &wide, &mut back);
        for (tall, wide) in tall.iter().zip(&back) {
            assert!((tall - wide).abs() < 1e-5, "{tall} {wide}");
        }
    }

    #[test]
    fn a_zero_gradient_only_decays() {
        let options = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.5, gradient_scale: 1.0 };
        let mut parameter = vec![1.0; 6];
        options.step((2, 3), &mut parameter, &[0.0; 6], &mut [0.0; 6], &mut Scratch::default());
        assert_eq!(parameter, vec![0.95; 6]);
    }
}
