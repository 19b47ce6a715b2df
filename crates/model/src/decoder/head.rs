//! Final norm, output head and loss of the rows that are asked for, with their gradients.

use taiyi_kernels::{self as kernels, Precision};

use super::Decoder;
use crate::{
    batch::NOT_LEARNED,
    layers::workspace::{HeadBuffers, grow},
};

/// Logits of a training pass are computed for as many rows at a time as fit in this many values (128 MiB): enough rows that
/// packing a large head for each product costs little.
const LOGITS_AT_ONCE: usize = 1 << 25;

/// Rows of logits computed at a time, for a vocabulary; never so few that the product becomes a matrix-vector product.
pub(crate) fn logits_chunk(vocab_size: usize) -> usize {
    (LOGITS_AT_ONCE / vocab_size).clamp(16, 1024)
}

impl Decoder {
    /// Norms the selected rows of `output` (T, D) into `head.normed`.
    pub(super) fn norm_rows(&self, output: &[f32], head: &mut HeadBuffers) {
        let d = self.config.hidden_size;
        let rows = head.rows.len();
        let input = grow(&mut head.input, rows * d);
        for (row, &token) in input.chunks_mut(d).zip(&head.rows) {
            row.copy_from_slice(&output[token * d..(token + 1) * d]);
        }
        let normed = grow(&mut head.normed, rows * d);
        self.final_norm.forward(self.config.norm_eps, input, normed, &mut head.norm);
    }

    /// Logits (rows, V) of normed rows (rows, D).
    pub(super) fn logits_of(&self, precision: Precision, normed: &[f32], logits: &mut [f32]) {
        let (v, d) = (self.config.vocab_size, self.config.hidden_size);
        kernels::linear(precision, normed.len() / d, v, d, 1.0, normed, &self.head().weight(), 0.0, logits);
        if let Some(lengths) = self.head_lengths() {
            scale_columns(lengths, logits);
        }
    }

    /// One over the length of each row of the head (V), where the model divides by them. As `F.normalize`, lengths are at least
    /// 1e-12.
    fn head_lengths(&self) -> Option<&[f32]> {
        if !self.config.normalised_head {
            return None;
        }
        Some(self.head_lengths.get_or_init(|| {
            let d = self.config.hidden_size;
            let mut row = vec![0.0; d];
            let table = self.head().weight();
            (0..self.config.vocab_size)
                .map(|i| {
                    table.read(i * d, &mut row);
                    (1.0 / kernels::sum_of_squares(&row).sqrt().max(1e-12)) as f32
                })
                .collect()
        }))
    }

    /// Final norm, output head and loss of the selected rows, and the gradients of all three; `gradient` (T, D) becomes the
    /// gradient of the last block's output.
    pub(super) fn head_pass(
        &mut self,
        precision: Precision,
        scale: f32,
        output: &[f32],
        gradient: Option<&mut [f32]>,
        head: &mut HeadBuffers,
    ) -> f64 {
        let (v, d) = (self.config.vocab_size, self.config.hidden_size);
        self.norm_rows(output, head);
        let rows = head.rows.len();
        let wanted = gradient.is_some() || self.final_norm.is_trainable();
        let chunk = logits_chunk(v).min(rows);
        grow(&mut head.gradient, rows * d);
        let mut sum = 0.0;
        for begin in (0..rows).step_by(chunk) {
            let end = (begin + chunk).min(rows);
            let n = end - begin;
            let normed = &head.normed[begin * d..end * d];
            let logits = grow(&mut head.logits, n * v);
            self.logits_of(precision, normed, logits);
            let trains = self.head().is_trainable();
            let kept = (self.config.normalised_head && trains).then(|| logits.to_vec());
            sum += kernels::cross_entropy_gradient(v, &head.labels[begin..end], scale, logits);
            let turned = kept.map(|kept| self.turned(&kept, logits));
            if let Some(lengths) = self.head_lengths() {
                scale_columns(lengths, logits);
            }
            let table = self.head.as_mut().unwrap_or(&mut self.embedding.tokens);
            if wanted {
                let dx = &mut head.gradient[begin * d..end * d];
                kernels::linear_input_gradient(precision, n, v, d, 1.0, logits, &table.weight(), 0.0, dx);
            }
            if let Some((values, grad)) = table.values_if_trainable() {
                kernels::linear_weight_gradient(precision, n, v, d, 1.0, logits, normed, 1.0, grad);
                for ((grad, values), turned) in
                    grad.chunks_mut(d).zip(values.chunks(d)).zip(turned.iter().flatten())
                {
                    grad.iter_mut().zip(values).for_each(|(g, w)| *g -= turned * w);
                }
            }
        }
        if wanted {
            // The normed rows are not needed any more: their buffer takes the gradient of the rows before the norm.
            let HeadBuffers { input, normed, gradient, norm, .. } = &mut *head;
            let d_rows = &mut normed[..rows * d];
            let dy = &gradient[..rows * d];
            self.final_norm.backward_scaled(&input[..rows * d], norm, dy, 0.0, d_rows);
        }
        if let Some(gradient) = gradient {
            gradient.fill(0.0);
            for (row, &token) in head.normed.chunks(d).zip(&head.rows) {
                gradient[token * d..(token + 1) * d].copy_from_slice(row);
            }
        }
        sum
    }

    /// With `y = x (w / |w|)`, the part of the gradient of `w` that its division takes away: `(sum of dy y) / |w|^2`, for each row
    /// of the head, to be multiplied by `w`.
    fn turned(&self, logits: &[f32], gradient: &[f32]) -> Vec<f32> {
        let lengths = self.head_lengths().unwrap_or_default();
        let mut sums = vec![0f64; lengths.len()];
        for (logits, gradient) in logits.chunks(lengths.len()).zip(gradient.chunks(lengths.len())) {
            for ((sum, l), g) in sums.iter_mut().zip(logits).zip(gradient) {
                *sum += f64::from(*l) * f64::from(*g);
            }
        }
        sums.iter().zip(lengths).map(|(sum, &inverse)| (sum * f64::from(inverse).powi(2)) as f32).collect()
    }

    pub(super) fn head_loss(&self, precision: Precision, output: &[f32], head: &mut HeadBuffers) -> f64 {
        let (v, d) = (self.config.vocab_size, self.config.hidden_size);
        self.norm_rows(output, head);
        let rows = head.rows.len();
        let chunk = logits_chunk(v).min(rows.max(1));
        let mut sum = 0.0;
        for begin in (0..rows).step_by(chunk) {
            let n = chunk.min(rows - begin);
            let logits = grow(&mut head.logits, n * v);
            self.logits_of(precision, &head.normed[begin * d..(begin + n) * d], logits);
            sum += kernels::cross_entropy(v, &head.labels[begin..begin + n], logits);
        }
        sum
    }
}

/// Multiplies each column of `x` (rows, n) by its factor.
fn scale_columns(factors: &[f32], x: &mut [f32]) {
    for row in x.chunks_mut(factors.len()) {
        row.iter_mut().zip(factors).for_each(|(x, f)| *x *= f);
    }
}

impl HeadBuffers {
    /// Selects the labelled tokens.
    pub(super) fn select(&mut self, labels: &[i32]) {
        self.rows.clear();
        self.labels.clear();
        for (token, &label) in labels.iter().enumerate() {
            if label != NOT_LEARNED {
                self.rows.push(token);
                self.labels.push(label);
            }
        }
    }
}
