//! The input of the first block: token embedding, learned positions, token types, norm.

use taiyi_kernels as kernels;

use super::{
    block::{Observer, Stage, see},
    norm::{Norm, NormSaved},
    tensor::Tensor,
    workspace::grow,
};

/// Tables of shape (rows, D), and the norm of their sum.
pub(crate) struct Embedding {
    pub(crate) tokens: Tensor,
    pub(crate) positions: Option<Tensor>,
    pub(crate) token_types: Option<Tensor>,
    pub(crate) norm: Option<Norm>,
}

/// What an embedding needs to know beside its tables.
#[derive(Clone, Copy)]
pub(crate) struct EmbeddingShape {
    pub(crate) hidden_size: usize,
    /// Factor of the token's row.
    pub(crate) scale: f32,
    pub(crate) norm_eps: f32,
    /// The token whose row learns nothing here.
    pub(crate) padding_id: Option<u32>,
    /// The row of the table of positions that learns nothing.
    pub(crate) padding_position: Option<u32>,
}

/// The rows that the tokens of a pass take, each of shape (T).
#[derive(Clone, Copy)]
pub(crate) struct EmbeddingRows<'a> {
    pub(crate) tokens: &'a [u32],
    /// Empty without a table of positions.
    pub(crate) positions: &'a [u32],
    /// Empty without a table of token types.
    pub(crate) token_types: &'a [u32],
}

/// What the forward pass keeps for the backward pass.
#[derive(Default)]
pub(crate) struct EmbeddingSaved {
    /// What the norm was given, (T, D).
    sum: Vec<f32>,
    norm: NormSaved,
    /// A table's rows, or the gradient behind the norm, (T, D).
    spare: Vec<f32>,
}

impl EmbeddingSaved {
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.sum.len() + self.spare.len()) + self.norm.bytes()
    }
}

impl Embedding {
    pub(crate) fn is_trainable(&self) -> bool {
        let mut any = false;
        self.tensors(&mut |t| any |= t.is_trainable());
        any
    }

    pub(crate) fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        f(&mut self.tokens);
        self.positions.iter_mut().for_each(&mut *f);
        self.token_types.iter_mut().for_each(&mut *f);
        if let Some(norm) = &mut self.norm {
            norm.visit(f);
        }
    }

    pub(crate) fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        f(&self.tokens);
        self.positions.iter().for_each(&mut *f);
        self.token_types.iter().for_each(&mut *f);
        if let Some(norm) = &self.norm {
            norm.tensors(f);
        }
    }

    /// Fills `x` (T, D).
    pub(crate) fn forward(
        &self,
        shape: &EmbeddingShape,
        rows: EmbeddingRows<'_>,
        x: &mut [f32],
        saved: &mut EmbeddingSaved,
        observe: &mut Option<&mut Observer<'_>>,
    ) {
        let d = shape.hidden_size;
        kernels::embedding(rows.tokens, d, &self.tokens.weight(), x);
        if shape.scale != 1.0 {
            kernels::scale(shape.scale, x);
        }
        see(observe, Stage::Embedding, x);
        for (table, ids) in [(&self.positions, rows.positions), (&self.token_types, rows.token_types)] {
            let Some(table) = table else { continue };
            let spare = grow(&mut saved.spare, x.len());
            kernels::embedding(ids, d, &table.weight(), spare);
            kernels::add(spare, x);
        }
        if let Some(norm) = &self.norm {
            let sum = grow(&mut saved.sum, x.len());
            sum.copy_from_slice(x);
            norm.forward(shape.norm_eps, sum, x, &mut saved.norm);
            see(observe, Stage::EmbeddingNorm, x);
        }
    }

    /// Adds to the gradients of what is trainable; `gradient` (T, D) is that of the output and is written over.
    pub(crate) fn backward(
        &mut self,
        shape: &EmbeddingShape,
        rows: EmbeddingRows<'_>,
        gradient: &mut [f32],
        saved: &mut EmbeddingSaved,
    ) {
        let d = shape.hidden_size;
        if let Some(norm) = &mut self.norm {
            let behind = grow(&mut saved.spare, gradient.len());
            behind.copy_from_slice(gradient);
            norm.backward_scaled(&saved.sum[..gradient.len()], &saved.norm, behind, 0.0, gradient);
        }
        for (table, ids, padding) in [
            (&mut self.positions, rows.positions, shape.padding_position),
            (&mut self.token_types, rows.token_types, None),
        ] {
            if let Some(grad) = table.as_mut().and_then(Tensor::grad) {
                add_rows(ids, d, gradient, padding, &mut saved.spare, grad);
            }
        }
        if let Some(grad) = self.tokens.grad() {
            if shape.scale != 1.0 {
                kernels::scale(shape.scale, gradient);
            }
            add_rows(rows.tokens, d, gradient, shape.padding_id, &mut saved.spare, grad);
        }
    }
}

/// Adds rows of `gradient` to the rows `ids` of a table's gradient, those of `padding` left out.
fn add_rows(
    ids: &[u32],
    d: usize,
    gradient: &[f32],
    padding: Option<u32>,
    spare: &mut Vec<f32>,
    grad: &mut [f32],
) {
    let Some(padding) = padding.filter(|p| ids.contains(p)) else {
        kernels::embedding_gradient(ids, d, gradient, grad);
        return;
    };
    let without = grow(spare, gradient.len());
    without.copy_from_slice(gradient);
    for (row, _) in without.chunks_mut(d).zip(ids).filter(|(_, id)| **id == padding) {
        row.fill(0.0);
    }
    kernels::embedding_gradient(ids, d, without, grad);
}
