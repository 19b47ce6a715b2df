//! What goes into a training step and what comes out of it.

use crate::error::Error;
use taiyi_kernels::Precision;

/// The label of a position that is not learned.
pub const NOT_LEARNED: i32 = -100;

/// Sequences packed one after the other. Attention stays inside a sequence and positions start at 0 in each.
#[derive(Debug, Clone, Copy)]
pub struct PackedBatch<'a> {
    /// Token ids of all sequences, shape (T).
    pub ids: &'a [u32],
    /// Where each sequence begins, and `T` at the end: shape (sequences + 1), starting with 0, rising.
    pub cu_seqlens: &'a [u32],
    /// Already shifted: the token that position `t` must predict, or [`NOT_LEARNED`]; shape (T).
    pub labels: &'a [i32],
}

impl PackedBatch<'_> {
    /// Checks lengths, boundaries and ranges against a vocabulary.
    ///
    /// # Errors
    /// Says which position breaks which rule.
    pub fn check(&self, vocab_size: usize) -> Result<(), Error> {
        check_boundaries(self.cu_seqlens, self.ids.len())?;
        check_ids(self.ids, vocab_size)?;
        if self.labels.len() != self.ids.len() {
            return Err(Error::input(
                "labels",
                format!("{} labels", self.ids.len()),
                self.labels.len().to_string(),
            ));
        }
        for (t, &label) in self.labels.iter().enumerate() {
            if label != NOT_LEARNED && usize::try_from(label).map_or(true, |l| l >= vocab_size) {
                return Err(Error::input(
                    format!("label {t}"),
                    format!("{NOT_LEARNED} or a token id under {vocab_size}"),
                    label.to_string(),
                ));
            }
        }
        Ok(())
    }

    /// How many positions are learned.
    pub fn labelled(&self) -> usize {
        self.labels.iter().filter(|&&l| l != NOT_LEARNED).count()
    }
}

pub(crate) fn check_boundaries(cu_seqlens: &[u32], tokens: usize) -> Result<(), Error> {
    let rising = cu_seqlens.windows(2).all(|w| w[0] < w[1]);
    let whole = cu_seqlens.first() == Some(&0) && cu_seqlens.last().map(|&n| n as usize) == Some(tokens);
    if rising && whole && tokens > 0 {
        return Ok(());
    }
    Err(Error::input(
        "cu_seqlens",
        format!("boundaries that rise from 0 to {tokens}, with at least one token"),
        format!("{} boundaries ending at {:?}", cu_seqlens.len(), cu_seqlens.last()),
    ))
}

pub(crate) fn check_ids(ids: &[u32], vocab_size: usize) -> Result<(), Error> {
    match ids.iter().position(|&id| id as usize >= vocab_size) {
        Some(t) => Err(Error::input(
            format!("token {t}"),
            format!("an id under the model's vocabulary size {vocab_size}"),
            ids[t].to_string(),
        )),
        None => Ok(()),
    }
}

/// How a training step is run.
#[derive(Debug, Clone, Copy)]
pub struct StepOptions {
    /// How products round their operands.
    pub precision: Precision,
    /// Gradients are those of `loss_scale *` the *sum* of the token losses: pass one over the number of labelled tokens of
    /// the whole accumulated batch.
    pub loss_scale: f32,
    /// Seed of the adapters' dropout, a new one for each step; `None` turns dropout off.
    pub dropout_seed: Option<u64>,
    /// What is kept for the backward pass.
    pub checkpoint: Checkpoint,
}

/// What the forward pass keeps for the backward pass. Both give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// Every activation.
    None,
    /// The input of every block; the rest is computed again, which costs about a third more time.
    EveryBlock,
}

/// The loss of one packed batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Sum of the token losses in nats, not multiplied by any scale.
    pub sum: f64,
    /// Number of tokens in the sum.
    pub labelled: usize,
}

impl Loss {
    /// Nats per labelled token; 0 when there is none.
    pub fn mean(&self) -> f64 {
        if self.labelled == 0 { 0.0 } else { self.sum / self.labelled as f64 }
    }
}

/// Which rows of logits a forward pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// One row for each sequence: the prediction after its last token.
    Last,
    /// One row for each token.
    All,
}

/// A trainable tensor, seen by an optimizer.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Name in a Hugging Face or PEFT file.
    pub name: &'a str,
    /// Shape, outermost first.
    pub shape: &'a [usize],
    /// Values, row-major.
    pub data: &'a mut [f32],
    /// Gradient, accumulated since the last [`crate::Decoder::zero_gradients`].
    pub grad: &'a mut [f32],
}
