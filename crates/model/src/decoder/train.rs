//! The training pass: forward over packed sequences, loss on the labelled rows, backward with explicit gradients.

use taiyi_kernels::{self as kernels, Precision};

use super::Decoder;
use crate::{
    batch::{Checkpoint, Loss, NOT_LEARNED, PackedBatch, StepOptions},
    error::Error,
    layers::{
        block::{Pass, norm_backward},
        linear::Run,
        rope::{Sequences, Span},
        tensor::Tensor,
        workspace::{HeadBuffers, Workspace, grow},
    },
};

/// Logits of a training pass are computed for as many rows at a time as fit in this many values (128 MiB): enough rows that
/// packing a large head for each product costs little.
pub(crate) const LOGITS_AT_ONCE: usize = 1 << 25;

/// Rows of logits computed at a time, for a vocabulary; never so few that the product becomes a matrix-vector product.
pub(crate) fn logits_chunk(vocab_size: usize) -> usize {
    (LOGITS_AT_ONCE / vocab_size).clamp(16, 1024)
}

impl Decoder {
    /// Runs one forward and backward pass in training mode and adds to the gradients of the trainable tensors those of
    /// `loss_scale *` the sum of the token losses.
    ///
    /// In training mode Qwen v1's dynamic NTK and logn are off. A batch without labelled tokens has loss 0 and no gradients.
    ///
    /// # Errors
    /// When the batch breaks a rule of [`PackedBatch`]; nothing is changed then.
    pub fn loss_and_gradients(
        &mut self,
        batch: &PackedBatch<'_>,
        options: &StepOptions,
        workspace: &mut Workspace,
    ) -> Result<Loss, Error> {
        batch.check(self.config.vocab_size)?;
        let labelled = batch.labelled();
        if labelled == 0 {
            return Ok(Loss { sum: 0.0, labelled: 0 });
        }
        let layers = self.blocks.len();
        let (t, d) = (batch.ids.len(), self.config.hidden_size);
        let every = options.checkpoint == Checkpoint::None;
        let run = Run { precision: options.precision, dropout: options.dropout_seed };
        // Blocks below the first trainable one need no gradient, and with a frozen embedding neither does that one's input.
        let lowest = if self.embedding.is_trainable() {
            Some(0)
        } else {
            self.blocks.iter().position(|b| b.is_trainable())
        };

        workspace.ensure_streams(layers + 1);
        workspace.ensure_saved(if every { layers } else { 1 });
        workspace.positions_of(batch.cu_seqlens);
        let longest = batch.cu_seqlens.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0) as usize;
        let table = workspace.tables.table(&self.config.rope, 1, longest);
        workspace.spans.clear();
        workspace.spans.push(Span { begin: 0, end: t, table });
        let Workspace { streams, saved, scratch, gradient, head, tables, positions, spans, .. } = workspace;
        let sequences =
            Sequences { cu_seqlens: batch.cu_seqlens, positions, spans, tables, query_scale: None };
        let slot = |layer: usize| if every { layer } else { 0 };

        kernels::embedding(batch.ids, d, &self.embedding.weight(), grow(&mut streams[0], t * d));
        for (layer, block) in self.blocks.iter().enumerate() {
            let pass = Pass { config: &self.config, run, sequences: &sequences, layer };
            let (x, y) = neighbours(streams, layer, t * d);
            block.forward(&pass, None, x, Some(y), &mut saved[slot(layer)], scratch, &mut None);
        }

        head.select(batch.labels);
        let gradient = lowest.map(|_| grow(gradient, t * d));
        let output = &streams[layers][..t * d];
        let sum = self.head_pass(run.precision, options.loss_scale, output, gradient, head);
        let loss = Loss { sum, labelled };
        let Some(lowest) = lowest else { return Ok(loss) };
        let gradient = &mut workspace.gradient[..t * d];

        let Workspace { streams, saved, scratch, .. } = workspace;
        let embedding_trains = self.embedding.is_trainable();
        for layer in (lowest..layers).rev() {
            let pass = Pass { config: &self.config, run, sequences: &sequences, layer };
            let x = &streams[layer][..t * d];
            let saved = &mut saved[slot(layer)];
            // With checkpoints the buffer holds the last block's values; those of the others are computed again, in place.
            if !every && layer + 1 < layers {
                self.blocks[layer].forward(&pass, None, x, None, saved, scratch, &mut None);
            }
            let below = embedding_trains || layer > lowest;
            self.blocks[layer].backward(&pass, below, x, gradient, saved, scratch);
        }
        if let Some(grad) = self.embedding.grad() {
            kernels::embedding_gradient(batch.ids, d, gradient, grad);
        }
        Ok(loss)
    }

    /// Sums the token losses in evaluation mode, without gradients.
    ///
    /// # Errors
    /// When the batch breaks a rule of [`PackedBatch`].
    pub fn loss(
        &self,
        batch: &PackedBatch<'_>,
        precision: Precision,
        workspace: &mut Workspace,
    ) -> Result<Loss, Error> {
        batch.check(self.config.vocab_size)?;
        let (t, d) = (batch.ids.len(), self.config.hidden_size);
        workspace.ensure_streams(2);
        workspace.ensure_saved(1);
        workspace.positions_of(batch.cu_seqlens);
        workspace.spans.clear();
        for range in batch.cu_seqlens.windows(2) {
            let (begin, end) = (range[0] as usize, range[1] as usize);
            let alpha = self.config.rope.alpha(end - begin);
            let table = workspace.tables.table(&self.config.rope, alpha, end - begin);
            workspace.spans.push(Span { begin, end, table });
        }
        workspace.fill_query_scale(&self.config);
        let Workspace { streams, saved, scratch, head, tables, positions, spans, query_scale, .. } =
            workspace;
        let query_scale = (!query_scale.is_empty()).then_some(&query_scale[..]);
        let sequences = Sequences { cu_seqlens: batch.cu_seqlens, positions, spans, tables, query_scale };
        let run = Run { precision, dropout: None };
        kernels::embedding(batch.ids, d, &self.embedding.weight(), grow(&mut streams[0], t * d));
        for (layer, block) in self.blocks.iter().enumerate() {
            let pass = Pass { config: &self.config, run, sequences: &sequences, layer };
            let (x, y) = neighbours(streams, 0, t * d);
            block.forward(&pass, None, x, Some(y), &mut saved[0], scratch, &mut None);
            streams.swap(0, 1);
        }
        head.select(batch.labels);
        let sum = self.head_loss(precision, &streams[0][..t * d], head);
        Ok(Loss { sum, labelled: head.rows.len() })
    }

    /// Final norm, output head and loss of the selected rows, and the gradients of all three; `gradient` (T, D) becomes the
    /// gradient of the last block's output.
    fn head_pass(
        &mut self,
        precision: Precision,
        scale: f32,
        output: &[f32],
        gradient: Option<&mut [f32]>,
        head: &mut HeadBuffers,
    ) -> f64 {
        let (v, d) = (self.config.vocab_size, self.config.hidden_size);
        head.norm_rows(&self.final_norm, self.config.norm_eps, d, output);
        let rows = head.rows.len();
        let wanted = gradient.is_some() || self.final_norm.is_trainable();
        let chunk = logits_chunk(v).min(rows);
        let table = self.head.as_mut().unwrap_or(&mut self.embedding);
        grow(&mut head.gradient, rows * d);
        let mut sum = 0.0;
        for begin in (0..rows).step_by(chunk) {
            let end = (begin + chunk).min(rows);
            let n = end - begin;
            let normed = &head.normed[begin * d..end * d];
            let logits = grow(&mut head.logits, n * v);
            kernels::linear(precision, n, v, d, 1.0, normed, &table.weight(), 0.0, logits);
            sum += kernels::cross_entropy_gradient(v, &head.labels[begin..end], scale, logits);
            if wanted {
                let dx = &mut head.gradient[begin * d..end * d];
                kernels::linear_input_gradient(precision, n, v, d, 1.0, logits, &table.weight(), 0.0, dx);
            }
            if let Some(grad) = table.grad() {
                kernels::linear_weight_gradient(precision, n, v, d, 1.0, logits, normed, 1.0, grad);
            }
        }
        if wanted {
            // The normed rows are not needed any more: their buffer takes the gradient of the rows before the norm.
            let HeadBuffers { input, normed, gradient, inverse_rms, .. } = &mut *head;
            let d_rows = &mut normed[..rows * d];
            d_rows.fill(0.0);
            let dy = &gradient[..rows * d];
            norm_backward(&mut self.final_norm, &input[..rows * d], &inverse_rms[..rows], dy, d_rows);
        }
        if let Some(gradient) = gradient {
            gradient.fill(0.0);
            for (row, &token) in head.normed.chunks(d).zip(&head.rows) {
                gradient[token * d..(token + 1) * d].copy_from_slice(row);
            }
        }
        sum
    }

    fn head_loss(&self, precision: Precision, output: &[f32], head: &mut HeadBuffers) -> f64 {
        let (v, d) = (self.config.vocab_size, self.config.hidden_size);
        head.norm_rows(&self.final_norm, self.config.norm_eps, d, output);
        let rows = head.rows.len();
        let chunk = logits_chunk(v).min(rows.max(1));
        let mut sum = 0.0;
        for begin in (0..rows).step_by(chunk) {
            let n = chunk.min(rows - begin);
            let normed = &head.normed[begin * d..(begin + n) * d];
            let logits = grow(&mut head.logits, n * v);
            kernels::linear(precision, n, v, d, 1.0, normed, &self.head().weight(), 0.0, logits);
            sum += kernels::cross_entropy(v, &head.labels[begin..begin + n], logits);
        }
        sum
    }
}

impl HeadBuffers {
    /// Selects the labelled tokens.
    fn select(&mut self, labels: &[i32]) {
        self.rows.clear();
        self.labels.clear();
        for (token, &label) in labels.iter().enumerate() {
            if label != NOT_LEARNED {
                self.rows.push(token);
                self.labels.push(label);
            }
        }
    }

    /// Gathers the selected rows of `output` (T, D) and norms them.
    pub(super) fn norm_rows(&mut self, norm: &Tensor, eps: f32, d: usize, output: &[f32]) {
        let rows = self.rows.len();
        let input = grow(&mut self.input, rows * d);
        for (row, &token) in input.chunks_mut(d).zip(&self.rows) {
            row.copy_from_slice(&output[token * d..(token + 1) * d]);
        }
        let normed = grow(&mut self.normed, rows * d);
        kernels::rms_norm(eps, input, norm.values(), normed, grow(&mut self.inverse_rms, rows));
    }
}

/// The input and the output of a block.
pub(super) fn neighbours(streams: &mut [Vec<f32>], layer: usize, len: usize) -> (&[f32], &mut [f32]) {
    let (left, right) = streams.split_at_mut(layer + 1);
    (&left[layer][..len], grow(&mut right[0], len))
}

impl Workspace {
    /// Positions that restart at 0 in each sequence.
    fn positions_of(&mut self, cu_seqlens: &[u32]) {
        self.positions.clear();
        for range in cu_seqlens.windows(2) {
            self.positions.extend(0..range[1] - range[0]);
        }
    }
}
