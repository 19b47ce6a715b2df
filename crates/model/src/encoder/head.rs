//! The heads of the encoder.

use taiyi_kernels::{self as kernels, Gelu};

use super::{Encoder, EncoderBatch, Head, Labels};
use crate::{
    batch::{Loss, NOT_LEARNED},
    layers::{
        linear::{InputGradient, LinearSaved, Run},
        tensor::Tensor,
        workspace::{HeadBuffers, Workspace, grow},
    },
};

impl Encoder {
    /// Rows of logits: tokens or sequences.
    pub(super) fn head_rows(&self, batch: &EncoderBatch<'_>) -> usize {
        match self.head {
            Head::MaskedLm { .. } | Head::Token(_) => batch.ids.len(),
            Head::Sequence { .. } => batch.sequences(),
        }
    }

    /// Fills the logits, and keeps in the head's buffers what the backward pass needs.
    pub(super) fn head_forward(
        &self,
        run: &Run,
        batch: &EncoderBatch<'_>,
        output: &[f32],
        workspace: &mut Workspace,
    ) {
        let (rows, d, n) = (self.head_rows(batch), self.config.hidden_size, self.config.outputs());
        let Workspace { head, scratch, .. } = workspace;
        let HeadBuffers { input, dense, normed, norm: norm_saved, logits, .. } = head;
        let logits = grow(logits, rows * n);
        // The heads carry no adapters, so that there is nothing for the layers to remember.
        let (mut unused, adapter) = (LinearSaved::default(), &mut scratch.adapter);
        match &self.head {
            Head::Token(linear) => linear.forward(run, rows, output, logits, &mut unused, adapter),
            Head::MaskedLm { dense: layer, norm, bias } => {
                let before = grow(dense, rows * d);
                layer.forward(run, rows, output, before, &mut unused, adapter);
                let activated = grow(input, rows * d);
                kernels::gelu(Gelu::Erf, before, activated);
                let normed = grow(normed, rows * d);
                norm.forward(self.config.norm_eps, activated, normed, norm_saved);
                let table = self.embedding.tokens.weight();
                kernels::linear(run.precision, rows, n, d, 1.0, normed, &table, 0.0, logits);
                kernels::add_bias(bias.values(), logits);
            }
            Head::Sequence { dense: layer, output: last } => {
                let first = grow(input, rows * d);
                for (row, range) in first.chunks_mut(d).zip(batch.cu_seqlens.windows(2)) {
                    row.copy_from_slice(&output[range[0] as usize * d..][..d]);
                }
                let pooled = grow(normed, rows * d);
                layer.forward(run, rows, first, pooled, &mut unused, adapter);
                pooled.iter_mut().for_each(|x| *x = x.tanh());
                last.forward(run, rows, pooled, logits, &mut unused, adapter);
            }
        }
    }

    /// Turns the logits into their gradients, adds to the head's gradients and sets `workspace.gradient`, that of `output`.
    pub(super) fn head_backward(
        &mut self,
        run: &Run,
        batch: &EncoderBatch<'_>,
        labels: &Labels<'_>,
        scale: f32,
        output: &[f32],
        workspace: &mut Workspace,
    ) -> Loss {
        let (rows, d, n) = (self.head_rows(batch), self.config.hidden_size, self.config.outputs());
        let Workspace { head, scratch, gradient, .. } = workspace;
        let HeadBuffers { input, dense: before, normed, norm: norm_saved, logits, gradient: spare, .. } =
            head;
        let logits = &mut logits[..rows * n];
        let loss = loss_gradient(labels, n, scale, logits);
        let gradient = grow(gradient, output.len());
        let (unused, adapter) = (LinearSaved::default(), &mut scratch.adapter);
        match &mut self.head {
            Head::Token(linear) => {
                linear.backward(run, rows, output, logits, InputGradient::Set(gradient), &unused, adapter);
            }
            Head::MaskedLm { dense, norm, bias } => {
                let d_normed = grow(spare, rows * d);
                let table = &mut self.embedding.tokens;
                kernels::linear_input_gradient(
                    run.precision,
                    rows,
                    n,
                    d,
                    1.0,
                    logits,
                    &table.weight(),
                    0.0,
                    d_normed,
                );
                if let Some(grad) = table.grad() {
                    let normed = &normed[..rows * d];
                    kernels::linear_weight_gradient(
                        run.precision,
                        rows,
                        n,
                        d,
                        1.0,
                        logits,
                        normed,
                        1.0,
                        grad,
                    );
                }
                if let Some(grad) = Tensor::grad(bias) {
                    kernels::bias_gradient(logits, grad);
                }
                // The normed rows are not needed any more: their buffer takes the gradient of the activation.
                let d_activated = &mut normed[..rows * d];
                norm.backward_scaled(&input[..rows * d], norm_saved, d_normed, 0.0, d_activated);
                kernels::gelu_gradient(Gelu::Erf, &before[..rows * d], d_activated, d_normed);
                dense.backward(run, rows, output, d_normed, InputGradient::Set(gradient), &unused, adapter);
            }
            Head::Sequence { dense, output: last } => {
                let d_pooled = grow(spare, rows * d);
                let pooled = &normed[..rows * d];
                last.backward(run, rows, pooled, logits, InputGradient::Set(d_pooled), &unused, adapter);
                d_pooled.iter_mut().zip(pooled).for_each(|(g, y)| *g *= 1.0 - y * y);
                let d_first = &mut normed[..rows * d];
                let first = &input[..rows * d];
                dense.backward(run, rows, first, d_pooled, InputGradient::Set(d_first), &unused, adapter);
                gradient.fill(0.0);
                for (row, range) in normed[..rows * d].chunks(d).zip(batch.cu_seqlens.windows(2)) {
                    gradient[range[0] as usize * d..][..d].copy_from_slice(row);
                }
            }
        }
        loss
    }
}

/// Replaces logits (rows, n) by `scale *` the gradient of the sum of the losses.
pub(super) fn loss_gradient(labels: &Labels<'_>, n: usize, scale: f32, logits: &mut [f32]) -> Loss {
    match labels {
        Labels::Tokens(labels) | Labels::Classes(labels) => Loss {
            sum: kernels::cross_entropy_gradient(n, labels, scale, logits),
            labelled: labels.iter().filter(|&&l| l != NOT_LEARNED).count(),
        },
        Labels::Several(labels) => {
            let mut sum = 0.0;
            for (x, &y) in logits.iter_mut().zip(*labels) {
                let (logit, y) = (f64::from(*x), f64::from(y));
                // log(1 + e^-|x|) + max(x, 0) - x y: no exponential of a large number.
                sum += logit.max(0.0) - logit * y + (-logit.abs()).exp().ln_1p();
                *x = scale * (1.0 / (1.0 + (-logit).exp()) - y) as f32;
            }
            Loss { sum, labelled: labels.len() }
        }
    }
}
