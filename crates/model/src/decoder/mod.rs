//! The one decoder: embedding, blocks, final norm and output head, with explicit forward and backward passes.
//!
//! The decoder knows nothing about text, conversations, optimizers or sampling. Its switches come from
//! [`DecoderConfig`]; what differs between model families is in `architectures/`.

use std::sync::OnceLock;

use taiyi_kernels::Precision;

use crate::{
    adapters::AdapterSettings,
    batch::Parameter,
    config::DecoderConfig,
    error::Error,
    layers::{
        block::Block,
        embedding::{Embedding, EmbeddingShape},
        norm::Norm,
        tensor::Tensor,
    },
};

mod build;
mod cache;
mod export;
mod head;
mod infer;
pub(crate) mod random;
pub(crate) mod save;
pub(crate) mod skeleton;
mod source;
mod train;

pub use cache::KvCache;
pub(crate) use head::logits_chunk;

/// How frozen weights are stored. Trainable tensors, norms and biases are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    Bf16,
    /// The linear layers of the blocks as bitsandbytes' NF4 with double quantisation, about 0.516 bytes a weight; embedding
    /// and output head in bf16, or in f32 when products are to be exact.
    Nf4,
}

impl Dtype {
    /// The precision of products that suits this storage: exact for f32, bf16 operands for the others.
    pub fn precision(self) -> Precision {
        match self {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 | Dtype::Nf4 => Precision::Bf16,
        }
    }
}

/// A causal language model: weights, and adapters if there are any.
pub struct Decoder {
    pub(crate) config: DecoderConfig,
    /// Precision of products in [`Decoder::forward`].
    pub(crate) precision: Precision,
    pub(crate) embedding: Embedding,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Norm,
    /// Shape (V, D); absent when tied to the embedding.
    pub(crate) head: Option<Tensor>,
    /// One over the lengths of the head's rows (V), where the model divides by them; they hold until a parameter is handed out for
    /// writing.
    pub(crate) head_lengths: OnceLock<Vec<f32>>,
    /// ALiBi's slopes (H), where the model has them.
    pub(crate) slopes: Option<Vec<f32>>,
    pub(crate) adapter: Option<AdapterSettings>,
}

impl Decoder {
    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Precision of products in inference.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets the precision of products in inference.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// The trainable tensors, always in the same order: embedding, blocks from the first to the last, final norm, head; in a
    /// block norm, linear layers (weight, bias, `A`, `B`, magnitude), norm, linear layers.
    pub fn parameters(&mut self) -> Vec<Parameter<'_>> {
        let mut found = Vec::new();
        self.visit(&mut |tensor| found.extend(tensor.parameter()));
        found
    }

    /// Number of trainable values.
    pub fn trainable_count(&self) -> usize {
        let mut count = 0;
        self.tensors(&mut |t| count += if t.is_trainable() { t.len() } else { 0 });
        count
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&mut self) {
        self.visit(&mut |tensor| {
            if let Some(grad) = tensor.grad() {
                grad.fill(0.0);
            }
        });
    }

    /// Makes every weight trainable, as f32 masters.
    ///
    /// # Errors
    /// When there are adapters: merge them first.
    pub fn train_all(&mut self) -> Result<(), Error> {
        if self.adapter.is_some() {
            return Err(Error::input(
                "training of all weights",
                "a model without adapters",
                "a model with adapters; merge them first",
            ));
        }
        self.visit(&mut Tensor::train);
        Ok(())
    }

    /// Makes nothing trainable and drops the gradients.
    pub fn freeze(&mut self) {
        self.visit(&mut Tensor::freeze);
    }

    /// Reads a weight, bias, norm or adapter tensor by its name in a file, as f32.
    pub fn tensor(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let mut found = None;
        self.tensors(&mut |t| {
            if t.name == name {
                found = Some((t.shape.clone(), t.dense()));
            }
        });
        found
    }

    /// Bytes held by weights (adapters included) and by gradients.
    pub fn bytes(&self) -> (usize, usize) {
        let mut total = (0, 0);
        self.tensors(&mut |t| {
            let (values, grad) = t.bytes();
            total = (total.0 + values, total.1 + grad);
        });
        total
    }

    pub(crate) fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        // The caller may write: what was computed from the values no longer holds.
        self.head_lengths = OnceLock::new();
        self.embedding.visit(f);
        self.blocks.iter_mut().for_each(|b| b.visit(f));
        self.final_norm.visit(f);
        if let Some(head) = &mut self.head {
            f(head);
        }
    }

    pub(crate) fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.embedding.tensors(f);
        self.blocks.iter().for_each(|b| b.tensors(f));
        self.final_norm.tensors(f);
        self.head.iter().for_each(f);
    }

    fn embedding_shape(&self) -> EmbeddingShape {
        let config = &self.config;
        EmbeddingShape {
            hidden_size: config.hidden_size,
            scale: config.embedding_scale,
            norm_eps: config.norm_eps,
            padding_id: config.padding_id,
            padding_position: None,
        }
    }

    /// The output matrix (V, D).
    pub(crate) fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding.tokens)
    }
}
