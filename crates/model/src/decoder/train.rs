//! The training pass: forward over packed sequences, loss on the labelled rows, backward with explicit gradients.

use taiyi_kernels::Precision;

use super::Decoder;
use crate::{
    batch::{Checkpoint, Loss, PackedBatch, StepOptions},
    error::Error,
    layers::{
        block::Pass,
        linear::Run,
        workspace::{Workspace, grow},
    },
};

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
        self.check_batch(batch)?;
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
        workspace.places.clear(self.slopes.as_deref());
        let mut longest = 0;
        for range in batch.cu_seqlens.windows(2) {
            longest = longest.max(workspace.places.place_whole(&self.config, batch.ids, range)?);
        }
        workspace.places.span(&self.config, 1, 0, t, longest);
        let Workspace { streams, saved, scratch, gradient, head, places, embedding, .. } = workspace;
        let sequences = places.sequences(batch.cu_seqlens);
        let shape = self.config.block();
        let slot = |layer: usize| if every { layer } else { 0 };

        let input = grow(&mut streams[0], t * d);
        let rows = places.rows(batch.ids);
        self.embedding.forward(&self.embedding_shape(), rows, input, embedding, &mut None);
        for (layer, block) in self.blocks.iter().enumerate() {
            let pass = Pass { shape, run, sequences: &sequences, layer };
            let (x, y) = neighbours(streams, layer, t * d);
            block.forward(&pass, None, x, Some(y), &mut saved[slot(layer)], scratch, &mut None);
        }

        head.select(batch.labels);
        let mut gradient = lowest.map(|_| grow(gradient, t * d));
        let output = &streams[layers][..t * d];
        let sum = self.head_pass(run.precision, options.loss_scale, output, gradient.as_deref_mut(), head);
        let loss = Loss { sum, labelled };
        let Some(lowest) = lowest else { return Ok(loss) };
        let gradient = gradient.expect("a trainable tensor below the head asked for it");

        let embedding_trains = self.embedding.is_trainable();
        for layer in (lowest..layers).rev() {
            let pass = Pass { shape, run, sequences: &sequences, layer };
            let x = &streams[layer][..t * d];
            let saved = &mut saved[slot(layer)];
            // With checkpoints the buffer holds the last block's values; those of the others are computed again, in place.
            if !every && layer + 1 < layers {
                self.blocks[layer].forward(&pass, None, x, None, saved, scratch, &mut None);
            }
            let below = embedding_trains || layer > lowest;
            self.blocks[layer].backward(&pass, below, x, gradient, saved, scratch);
        }
        if embedding_trains {
            let shape = self.embedding_shape();
            self.embedding.backward(&shape, rows, gradient, embedding);
        }
        Ok(loss)
    }

    /// Checks a batch, before anything is changed.
    fn check_batch(&self, batch: &PackedBatch<'_>) -> Result<(), Error> {
        batch.check(self.config.vocab_size)?;
        for (i, range) in batch.cu_seqlens.windows(2).enumerate() {
            self.config.check_length(i, (range[1] - range[0]) as usize)?;
            if let Some(marks) = &self.config.prefix {
                marks.find(&batch.ids[range[0] as usize..range[1] as usize], i)?;
            }
        }
        Ok(())
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
        self.check_batch(batch)?;
        let (t, d) = (batch.ids.len(), self.config.hidden_size);
        workspace.ensure_streams(2);
        workspace.ensure_saved(1);
        workspace.places.clear(self.slopes.as_deref());
        for range in batch.cu_seqlens.windows(2) {
            let positions = workspace.places.place_whole(&self.config, batch.ids, range)?;
            let (begin, end) = (range[0] as usize, range[1] as usize);
            workspace.places.span(&self.config, self.config.alpha(end - begin), begin, end, positions);
        }
        workspace.places.fill_query_scale(&self.config);
        let Workspace { streams, saved, scratch, head, places, embedding, .. } = workspace;
        let sequences = places.sequences(batch.cu_seqlens);
        let run = Run { precision, dropout: None };
        let shape = self.config.block();
        let input = grow(&mut streams[0], t * d);
        let rows = places.rows(batch.ids);
        self.embedding.forward(&self.embedding_shape(), rows, input, embedding, &mut None);
        for (layer, block) in self.blocks.iter().enumerate() {
            let pass = Pass { shape, run, sequences: &sequences, layer };
            let (x, y) = neighbours(streams, 0, t * d);
            block.forward(&pass, None, x, Some(y), &mut saved[0], scratch, &mut None);
            streams.swap(0, 1);
        }
        head.select(batch.labels);
        let sum = self.head_loss(precision, &streams[0][..t * d], head);
        Ok(Loss { sum, labelled: head.rows.len() })
    }
}

/// The input and the output of a block.
pub(super) fn neighbours(streams: &mut [Vec<f32>], layer: usize, len: usize) -> (&[f32], &mut [f32]) {
    let (left, right) = streams.split_at_mut(layer + 1);
    (&left[layer][..len], grow(&mut right[0], len))
}
