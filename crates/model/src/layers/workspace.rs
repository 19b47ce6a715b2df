//! The memory of a step: buffers that grow to the largest batch seen and are then used again, because first touching
//! memory costs more than the arithmetic done in it.

use super::{block::BlockSaved, embedding::EmbeddingSaved, norm::NormSaved, places::Places};

/// Buffers of forward and backward passes. One workspace serves one thread of work; it may be used with any decoder and
/// keeps the size of the largest batch.
#[derive(Default)]
pub struct Workspace {
    /// Inputs of the blocks and, last, the output of the last block: L + 1 of shape (T, D) in training, two in inference.
    pub(crate) streams: Vec<Vec<f32>>,
    /// What the blocks' backward passes need: L of them, or one with checkpointing.
    pub(crate) saved: Vec<BlockSaved>,
    pub(crate) scratch: Scratch,
    /// Gradient of the residual stream, (T, D).
    pub(crate) gradient: Vec<f32>,
    pub(crate) head: HeadBuffers,
    pub(crate) places: Places,
    pub(crate) embedding: EmbeddingSaved,
}

/// Buffers of the final norm, the output head and the loss; R rows, C of them at a time.
#[derive(Default)]
pub(crate) struct HeadBuffers {
    /// Which tokens are needed.
    pub(crate) rows: Vec<usize>,
    pub(crate) labels: Vec<i32>,
    /// (R, D) each.
    pub(crate) input: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    pub(crate) gradient: Vec<f32>,
    /// Output of the dense layer of a masked language model's head, (R, D).
    pub(crate) dense: Vec<f32>,
    pub(crate) norm: NormSaved,
    /// (C, V) in training, (R, V) in inference.
    pub(crate) logits: Vec<f32>,
}

/// Buffers that no pass needs to keep.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Output of a branch, or gradient of a norm's output, (T, D).
    pub(crate) branch: Vec<f32>,
    /// What a packed layer gives, and its gradient: (T, (H + 2G) d) for q, k, v, (T, 2F) for gate and up.
    pub(crate) packed: Vec<f32>,
    /// (T, H d).
    pub(crate) attended_gradient: Vec<f32>,
    pub(crate) query_gradient: Vec<f32>,
    /// (T, G d).
    pub(crate) key_gradient: Vec<f32>,
    pub(crate) value_gradient: Vec<f32>,
    /// Key and value gradients of a part of a sequence, up to (2 T, G d).
    pub(crate) prefix_gradient: Vec<f32>,
    /// (T, F).
    pub(crate) gated_gradient: Vec<f32>,
    pub(crate) gate_gradient: Vec<f32>,
    pub(crate) up_gradient: Vec<f32>,
    pub(crate) adapter: AdapterScratch,
}

/// Buffers of the low-rank adapters.
#[derive(Default)]
pub(crate) struct AdapterScratch {
    /// Input of an adapter after dropout, (T, in).
    pub(crate) dropped: Vec<f32>,
    /// Gradient of that input, (T, in).
    pub(crate) back: Vec<f32>,
    /// (T, r).
    pub(crate) low_rank_gradient: Vec<f32>,
    /// DoRA: the output's gradient times the magnitudes' factor, (T, out).
    pub(crate) scaled: Vec<f32>,
}

impl Workspace {
    /// An empty workspace.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let floats = |v: &Vec<f32>| 4 * v.len();
        let h = &self.head;
        self.streams.iter().map(floats).sum::<usize>()
            + self.saved.iter().map(BlockSaved::bytes).sum::<usize>()
            + self.scratch.bytes()
            + floats(&self.gradient)
            + [&h.input, &h.normed, &h.gradient, &h.dense, &h.logits].into_iter().map(floats).sum::<usize>()
            + h.norm.bytes()
            + self.embedding.bytes()
            + self.places.bytes()
    }

    /// Makes sure that there are `count` stream buffers.
    pub(crate) fn ensure_streams(&mut self, count: usize) {
        if self.streams.len() < count {
            self.streams.resize_with(count, Vec::new);
        }
    }

    /// Makes sure that there are `count` sets of saved activations.
    pub(crate) fn ensure_saved(&mut self, count: usize) {
        if self.saved.len() < count {
            self.saved.resize_with(count, BlockSaved::default);
        }
    }
}

impl Scratch {
    fn bytes(&self) -> usize {
        let a = &self.adapter;
        [
            &self.branch,
            &self.packed,
            &self.attended_gradient,
            &self.query_gradient,
            &self.key_gradient,
            &self.value_gradient,
            &self.prefix_gradient,
            &self.gated_gradient,
            &self.gate_gradient,
            &self.up_gradient,
            &a.dropped,
            &a.back,
            &a.low_rank_gradient,
            &a.scaled,
        ]
        .into_iter()
        .map(|v| 4 * v.len())
        .sum()
    }
}

/// The first `len` elements of a buffer, which grows when it is shorter. What it held is lost when it grows: a fresh zeroed
/// allocation is not touched until it is used, a copied one is.
pub(crate) fn grow(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        *buffer = vec![0.0; len];
    }
    &mut buffer[..len]
}
