//! One block: an attention branch and an MLP branch, each with its norm, joined to the residual stream.
//!
//! ```text
//! Residual::Input    m = x + attention(norm1(x));               y = m + mlp(norm2(m))
//! Residual::Normed   u = norm1(x); m = alpha u + attention(u);  v = norm2(m); y = alpha v + mlp(v)
//! Residual::Post     m = x + attention(x);                      v = norm1(m); y = norm2(v + mlp(v))
//! ```

use taiyi_kernels as kernels;

use super::{
    attention::{Attention, AttentionSaved},
    linear::{Linear, Run},
    mlp::{Mlp, MlpSaved},
    norm::{Norm, NormSaved},
    rope::Sequences,
    tensor::Tensor,
    workspace::{Scratch, grow},
};
use crate::{
    config::{BlockShape, Residual},
    decoder::KvCache,
};

/// Weights of one block.
pub(crate) struct Block {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: Attention,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp: Mlp,
}

/// What the forward pass of a block keeps for its backward pass.
#[derive(Default)]
pub(crate) struct BlockSaved {
    attention_norm: NormSaved,
    mlp_norm: NormSaved,
    /// Inputs of the branches, (T, D). With [`Residual::Post`] the attention's is the block's own.
    attention_input: Vec<f32>,
    mlp_input: Vec<f32>,
    /// The stream between the branches, `m`, (T, D).
    middle: Vec<f32>,
    /// `v + mlp(v)` of [`Residual::Post`], (T, D).
    last: Vec<f32>,
    attention: AttentionSaved,
    mlp: MlpSaved,
}

impl BlockSaved {
    pub(crate) fn bytes(&self) -> usize {
        let own = [&self.attention_input, &self.mlp_input, &self.middle, &self.last];
        own.into_iter().map(|v| 4 * v.len()).sum::<usize>()
            + self.attention_norm.bytes()
            + self.mlp_norm.bytes()
            + self.attention.bytes()
            + self.mlp.bytes()
    }
}

/// A place in the network whose values can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Token embeddings, (T, D): scaled where the model scales them, before positions and norm.
    Embedding,
    /// The input of the first block where a norm stands behind the embeddings, (T, D).
    EmbeddingNorm,
    /// Output of the attention branch of a block, after the output projection, (T, D).
    Attention(usize),
    /// The stream between the branches of a block, (T, D); with the norm behind the branch (BERT) after that norm.
    Middle(usize),
    /// Output of the MLP branch of a block, (T, D).
    Mlp(usize),
    /// Output of a block, (T, D).
    Block(usize),
    /// Output of the final norm, (rows, D).
    FinalNorm,
}

/// A callback that sees intermediate values.
pub(crate) type Observer<'a> = dyn FnMut(Stage, &[f32]) + 'a;

/// Everything a block's pass needs beside its weights.
pub(crate) struct Pass<'a> {
    pub(crate) shape: BlockShape,
    pub(crate) run: Run,
    pub(crate) sequences: &'a Sequences<'a>,
    pub(crate) layer: usize,
}

impl Block {
    /// The linear layers in the order in which they are visited.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut all = self.attention.linears();
        all.extend(self.mlp.linears());
        all
    }

    /// As [`Block::linears`], for writing.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = self.attention.linears_mut();
        all.extend(self.mlp.linears_mut());
        all
    }

    pub(crate) fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        self.attention_norm.visit(f);
        self.attention.visit(f);
        self.mlp_norm.visit(f);
        self.mlp.visit(f);
    }

    pub(crate) fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.attention_norm.tensors(f);
        self.attention.tensors(f);
        self.mlp_norm.tensors(f);
        self.mlp.tensors(f);
    }

    pub(crate) fn is_trainable(&self) -> bool {
        let mut any = false;
        self.tensors(&mut |t| any |= t.is_trainable());
        any
    }

    /// Computes the block's output `y` (T, D) from its input `x` (T, D).
    ///
    /// With `caches` the new keys and values are appended to the sequences' caches and attention reads those. Without `y` only
    /// what the backward pass needs is computed (again).
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        caches: Option<&mut [(&[u32], &mut KvCache)]>,
        x: &[f32],
        y: Option<&mut [f32]>,
        saved: &mut BlockSaved,
        scratch: &mut Scratch,
        observe: &mut Option<&mut Observer<'_>>,
    ) {
        let Pass { shape, layer, .. } = pass;
        let n = pass.sequences.tokens() * shape.hidden_size;
        let post = shape.residual == Residual::Post;
        let mut branch = std::mem::take(&mut scratch.branch);
        let output = grow(&mut branch, n);

        let input = match post {
            true => x,
            false => {
                let input = grow(&mut saved.attention_input, n);
                self.attention_norm.forward(shape.norm_eps, x, input, &mut saved.attention_norm);
                &*input
            }
        };
        self.attention.forward(pass, caches, input, output, &mut saved.attention, scratch);
        see(observe, Stage::Attention(*layer), output);
        let middle = grow(&mut saved.middle, n);
        join(shape.residual, x, input, output, middle);

        let input = grow(&mut saved.mlp_input, n);
        let (norm, norm_saved) = match post {
            true => (&self.attention_norm, &mut saved.attention_norm),
            false => (&self.mlp_norm, &mut saved.mlp_norm),
        };
        norm.forward(shape.norm_eps, middle, input, norm_saved);
        see(observe, Stage::Middle(*layer), if post { input } else { middle });
        // Behind the last branch only a norm of [`Residual::Post`] has something to remember.
        let remember = y.is_none() && !post;
        self.mlp.forward(pass, remember, input, output, &mut saved.mlp, scratch);
        if post {
            see(observe, Stage::Mlp(*layer), output);
            let last = grow(&mut saved.last, n);
            join(shape.residual, input, input, output, last);
            let y = y.unwrap_or(output);
            self.mlp_norm.forward(shape.norm_eps, last, y, &mut saved.mlp_norm);
            see(observe, Stage::Block(*layer), y);
        } else if let Some(y) = y {
            see(observe, Stage::Mlp(*layer), output);
            join(shape.residual, middle, input, output, y);
            see(observe, Stage::Block(*layer), y);
        }
        scratch.branch = branch;
    }

    /// Turns `gradient` (T, D) from that of the block's output into that of its input, and adds to the gradients of what is
    /// trainable. Nothing is computed that neither a trainable tensor here nor, where `below` says so, the layers below need.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        below: bool,
        x: &[f32],
        gradient: &mut [f32],
        saved: &BlockSaved,
        scratch: &mut Scratch,
    ) {
        let mut branch = std::mem::take(&mut scratch.branch);
        let n = pass.sequences.tokens() * pass.shape.hidden_size;
        let d_branch = grow(&mut branch, n);
        match pass.shape.residual {
            Residual::Post => self.backward_post(pass, below, x, gradient, d_branch, saved, scratch),
            residual => self.backward_pre(pass, residual, below, x, gradient, d_branch, saved, scratch),
        }
        scratch.branch = branch;
    }

    fn backward_pre(
        &mut self,
        pass: &Pass<'_>,
        residual: Residual,
        below: bool,
        x: &[f32],
        gradient: &mut [f32],
        d_branch: &mut [f32],
        saved: &BlockSaved,
        scratch: &mut Scratch,
    ) {
        let n = gradient.len();
        let needs_attention_input = below || self.attention_norm.is_trainable();
        let needs_attention = needs_attention_input || self.attention.input_trains();
        let needs_middle = needs_attention || self.attention.output.is_trainable();
        let needs_mlp_input = needs_middle || self.mlp_norm.is_trainable();
        let needs_mlp = needs_mlp_input || self.mlp.input_trains();

        let input = &saved.mlp_input[..n];
        self.mlp.backward(pass, needs_mlp, needs_mlp_input, input, gradient, d_branch, &saved.mlp, scratch);
        if !needs_mlp_input {
            return;
        }
        through_norm(residual, &mut self.mlp_norm, &saved.middle[..n], &saved.mlp_norm, d_branch, gradient);
        if !needs_middle {
            return;
        }
        let input = &saved.attention_input[..n];
        self.attention.backward(
            pass,
            needs_attention,
            needs_attention_input,
            input,
            gradient,
            d_branch,
            &saved.attention,
            scratch,
        );
        if needs_attention_input {
            through_norm(residual, &mut self.attention_norm, x, &saved.attention_norm, d_branch, gradient);
        }
    }

    fn backward_post(
        &mut self,
        pass: &Pass<'_>,
        below: bool,
        x: &[f32],
        gradient: &mut [f32],
        d_branch: &mut [f32],
        saved: &BlockSaved,
        scratch: &mut Scratch,
    ) {
        let n = gradient.len();
        let needs_attention = below || self.attention.input_trains();
        let needs_middle = needs_attention || self.attention.output.is_trainable();
        let needs_mlp_input = needs_middle || self.attention_norm.is_trainable();
        let needs_mlp = needs_mlp_input || self.mlp.input_trains();

        d_branch.copy_from_slice(gradient);
        self.mlp_norm.backward_scaled(&saved.last[..n], &saved.mlp_norm, d_branch, 0.0, gradient);
        let input = &saved.mlp_input[..n];
        self.mlp.backward(pass, needs_mlp, needs_mlp_input, input, gradient, d_branch, &saved.mlp, scratch);
        if !needs_mlp_input {
            return;
        }
        kernels::add(gradient, d_branch);
        self.attention_norm.backward_scaled(
            &saved.middle[..n],
            &saved.attention_norm,
            d_branch,
            0.0,
            gradient,
        );
        if !needs_middle {
            return;
        }
        self.attention.backward(
            pass,
            needs_attention,
            below,
            x,
            gradient,
            d_branch,
            &saved.attention,
            scratch,
        );
        if below {
            kernels::add(d_branch, gradient);
        }
    }
}

/// The stream behind a branch: its own input `x`, or the branch's normed `input`, and the branch's `output`.
fn join(residual: Residual, x: &[f32], input: &[f32], output: &[f32], y: &mut [f32]) {
    y.copy_from_slice(output);
    match residual {
        Residual::Input | Residual::Post => kernels::add(x, y),
        Residual::Normed { alpha } => kernels::add_scaled(alpha, input, y),
    }
}

/// Takes the gradient back through a norm in front of a branch: `gradient` is that of the stream behind the branch and becomes
/// that of the stream before it; `d_branch` is that of the branch's input, as far as it came through the branch.
fn through_norm(
    residual: Residual,
    norm: &mut Norm,
    x: &[f32],
    saved: &NormSaved,
    d_branch: &mut [f32],
    gradient: &mut [f32],
) {
    match residual {
        Residual::Normed { alpha } => {
            kernels::add_scaled(alpha, gradient, d_branch);
            norm.backward_scaled(x, saved, d_branch, 0.0, gradient);
        }
        Residual::Input | Residual::Post => norm.backward(x, saved, d_branch, gradient),
    }
}

pub(crate) fn see(observe: &mut Option<&mut Observer<'_>>, stage: Stage, values: &[f32]) {
    if let Some(observe) = observe {
        observe(stage, values);
    }
}
