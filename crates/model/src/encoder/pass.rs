//! The encoder's passes: logits, and loss with explicit gradients.

use taiyi_kernels::Precision;

use super::{Encoder, EncoderBatch, Labels, config::PositionRule, head::loss_gradient};
use crate::{
    batch::{Checkpoint, Loss, StepOptions},
    error::Error,
    layers::{
        block::{Observer, Pass, Stage},
        embedding::EmbeddingShape,
        linear::Run,
        workspace::{Workspace, grow},
    },
};

impl Encoder {
    /// Computes logits: (T, V) for a masked language model, (T, labels) for token and (sequences, labels) for sequence
    /// classification.
    ///
    /// # Errors
    /// When the batch breaks a rule of [`EncoderBatch`].
    pub fn forward<'w>(
        &self,
        batch: &EncoderBatch<'_>,
        workspace: &'w mut Workspace,
    ) -> Result<&'w [f32], Error> {
        self.forward_observed(batch, workspace, None)
    }

    /// As [`Encoder::forward`], and shows every intermediate value to `observe`.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn forward_with<'w>(
        &self,
        batch: &EncoderBatch<'_>,
        workspace: &'w mut Workspace,
        observe: &mut dyn FnMut(Stage, &[f32]),
    ) -> Result<&'w [f32], Error> {
        self.forward_observed(batch, workspace, Some(observe))
    }

    fn forward_observed<'w>(
        &self,
        batch: &EncoderBatch<'_>,
        workspace: &'w mut Workspace,
        mut observe: Option<&mut Observer<'_>>,
    ) -> Result<&'w [f32], Error> {
        batch.check(&self.config)?;
        let n = batch.ids.len() * self.config.hidden_size;
        workspace.ensure_streams(2);
        workspace.ensure_saved(1);
        self.place(batch, workspace);
        let run = Run { precision: self.precision, dropout: None };
        let Workspace { streams, saved, scratch, embedding, places, .. } = workspace;
        let sequences = places.sequences(batch.cu_seqlens);
        let rows = places.rows(batch.ids);
        let input = grow(&mut streams[0], n);
        self.embedding.forward(&self.embedding_shape(), rows, input, embedding, &mut observe);
        let shape = self.config.block();
        for (layer, block) in self.blocks.iter().enumerate() {
            let pass = Pass { shape, run, sequences: &sequences, layer };
            let (left, right) = streams.split_at_mut(1);
            let y = grow(&mut right[0], n);
            block.forward(&pass, None, &left[0][..n], Some(y), &mut saved[0], scratch, &mut observe);
            streams.swap(0, 1);
        }
        let output = std::mem::take(&mut workspace.streams[0]);
        self.head_forward(&run, batch, &output[..n], workspace);
        workspace.streams[0] = output;
        let outputs = self.head_rows(batch) * self.config.outputs();
        Ok(&workspace.head.logits[..outputs])
    }

    /// Runs one forward and backward pass and adds to the gradients of the trainable tensors those of `loss_scale *` the sum of
    /// the losses: cross entropy of every labelled token or sequence, or binary cross entropy of every entry where several labels
    /// may hold.
    ///
    /// # Errors
    /// When batch or labels do not fit the model; nothing is changed then.
    pub fn loss_and_gradients(
        &mut self,
        batch: &EncoderBatch<'_>,
        labels: &Labels<'_>,
        options: &StepOptions,
        workspace: &mut Workspace,
    ) -> Result<Loss, Error> {
        batch.check(&self.config)?;
        labels.check(&self.config, batch)?;
        let (layers, n) = (self.blocks.len(), batch.ids.len() * self.config.hidden_size);
        let every = options.checkpoint == Checkpoint::None;
        let run = Run { precision: options.precision, dropout: options.dropout_seed };
        workspace.ensure_streams(layers + 1);
        workspace.ensure_saved(if every { layers } else { 1 });
        self.place(batch, workspace);
        let slot = |layer: usize| if every { layer } else { 0 };
        let shape = self.config.block();
        {
            let Workspace { streams, saved, scratch, embedding, places, .. } = &mut *workspace;
            let sequences = places.sequences(batch.cu_seqlens);
            let rows = places.rows(batch.ids);
            let input = grow(&mut streams[0], n);
            self.embedding.forward(&self.embedding_shape(), rows, input, embedding, &mut None);
            for (layer, block) in self.blocks.iter().enumerate() {
                let pass = Pass { shape, run, sequences: &sequences, layer };
                let (left, right) = streams.split_at_mut(layer + 1);
                let y = grow(&mut right[0], n);
                let saved = &mut saved[slot(layer)];
                block.forward(&pass, None, &left[layer][..n], Some(y), saved, scratch, &mut None);
            }
        }
        let output = std::mem::take(&mut workspace.streams[layers]);
        self.head_forward(&run, batch, &output[..n], workspace);
        let loss = self.head_backward(&run, batch, labels, options.loss_scale, &output[..n], workspace);
        workspace.streams[layers] = output;
        if loss.labelled == 0 {
            return Ok(loss);
        }
        let Workspace { streams, saved, scratch, gradient, embedding, places, .. } = workspace;
        let sequences = places.sequences(batch.cu_seqlens);
        let gradient = &mut gradient[..n];
        for layer in (0..layers).rev() {
            let pass = Pass { shape, run, sequences: &sequences, layer };
            let x = &streams[layer][..n];
            let saved = &mut saved[slot(layer)];
            if !every && layer + 1 < layers {
                self.blocks[layer].forward(&pass, None, x, None, saved, scratch, &mut None);
            }
            let below = layer > 0 || self.embedding.is_trainable();
            self.blocks[layer].backward(&pass, below, x, gradient, saved, scratch);
        }
        if self.embedding.is_trainable() {
            let shape = self.embedding_shape();
            let rows = places.rows(batch.ids);
            self.embedding.backward(&shape, rows, gradient, embedding);
        }
        Ok(loss)
    }

    /// Runs one forward pass at the encoder's own precision and adds up the losses of [`Encoder::loss_and_gradients`].
    ///
    /// # Errors
    /// As [`Encoder::loss_and_gradients`].
    pub fn loss(
        &self,
        batch: &EncoderBatch<'_>,
        labels: &Labels<'_>,
        workspace: &mut Workspace,
    ) -> Result<Loss, Error> {
        batch.check(&self.config)?;
        labels.check(&self.config, batch)?;
        let logits = self.forward(batch, workspace)?.len();
        Ok(loss_gradient(labels, self.config.outputs(), 0.0, &mut workspace.head.logits[..logits]))
    }

    /// Sets the precision of products in [`Encoder::forward`].
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    fn embedding_shape(&self) -> EmbeddingShape {
        let behind = self.config.position_rule == PositionRule::BehindPadding;
        EmbeddingShape {
            hidden_size: self.config.hidden_size,
            scale: 1.0,
            norm_eps: self.config.norm_eps,
            padding_id: Some(self.config.pad_token_id),
            padding_position: behind.then_some(self.config.pad_token_id),
        }
    }

    /// Fills the rows of positions and token types.
    fn place(&self, batch: &EncoderBatch<'_>, workspace: &mut Workspace) {
        let pad = self.config.pad_token_id;
        let places = &mut workspace.places;
        places.clear(None);
        for range in batch.cu_seqlens.windows(2) {
            let mut counted = pad;
            for (i, &id) in batch.ids[range[0] as usize..range[1] as usize].iter().enumerate() {
                places.positions.push(i as u32);
                places.position_rows.push(match self.config.position_rule {
                    PositionRule::FromZero => i as u32,
                    PositionRule::BehindPadding if id == pad => pad,
                    PositionRule::BehindPadding => {
                        counted += 1;
                        counted
                    }
                });
            }
        }
        places.token_types.extend_from_slice(batch.token_types);
        places.token_types.resize(batch.ids.len(), 0);
    }
}
