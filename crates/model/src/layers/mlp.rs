//! The MLP branch of a block, gated or plain.

use taiyi_kernels as kernels;

use super::{
    block::Pass,
    linear::{InputGradient, Linear, LinearSaved},
    tensor::Tensor,
    workspace::{Scratch, grow},
};
use crate::config::MlpKind;

/// Weights of the branch.
pub(crate) struct Mlp {
    pub(crate) input: MlpInput,
    pub(crate) down: Linear,
}

/// The layers in front of the activation.
pub(crate) enum MlpInput {
    /// Gate and up.
    Gated(Box<[Linear; 2]>),
    /// Both in one layer, the gate's rows first.
    GatedPacked(Box<Linear>),
    /// Up alone.
    Plain(Box<Linear>),
}

/// What the forward pass keeps for the backward pass.
#[derive(Default)]
pub(crate) struct MlpSaved {
    /// (T, F) each; a plain MLP has no gate.
    gate: Vec<f32>,
    up: Vec<f32>,
    activated: Vec<f32>,
    input_linears: [LinearSaved; 2],
    down_linear: LinearSaved,
}

impl MlpSaved {
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.gate.len() + self.up.len() + self.activated.len())
            + self.input_linears.iter().map(LinearSaved::bytes).sum::<usize>()
            + self.down_linear.bytes()
    }
}

impl Mlp {
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut all: Vec<&Linear> = match &self.input {
            MlpInput::Gated(two) => two.iter().collect(),
            MlpInput::GatedPacked(one) | MlpInput::Plain(one) => vec![one],
        };
        all.push(&self.down);
        all
    }

    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = match &mut self.input {
            MlpInput::Gated(two) => two.iter_mut().collect(),
            MlpInput::GatedPacked(one) | MlpInput::Plain(one) => vec![one],
        };
        all.push(&mut self.down);
        all
    }

    pub(crate) fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        self.linears_mut().into_iter().for_each(|l| l.visit(f));
    }

    pub(crate) fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.linears().into_iter().for_each(|l| l.tensors(f));
    }

    /// Whether anything in front of the last layer learns.
    pub(crate) fn input_trains(&self) -> bool {
        match &self.input {
            MlpInput::Gated(two) => two.iter().any(Linear::is_trainable),
            MlpInput::GatedPacked(one) | MlpInput::Plain(one) => one.is_trainable(),
        }
    }

    /// Computes the branch's output `y` (T, D) from its normed input `x` (T, D). With `remember` only what the backward pass needs
    /// is computed, and `y` may be written.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        remember: bool,
        x: &[f32],
        y: &mut [f32],
        saved: &mut MlpSaved,
        scratch: &mut Scratch,
    ) {
        let Pass { shape, run, sequences, .. } = pass;
        let (t, f) = (sequences.tokens(), shape.intermediate_size);
        let [first, second] = &mut saved.input_linears;
        let activated = grow(&mut saved.activated, t * f);
        match &self.input {
            MlpInput::Gated(two) => {
                let gate = grow(&mut saved.gate, t * f);
                two[0].forward(run, t, x, gate, first, &mut scratch.adapter);
                let up = grow(&mut saved.up, t * f);
                two[1].forward(run, t, x, up, second, &mut scratch.adapter);
                kernels::swiglu(gate, up, activated);
            }
            MlpInput::GatedPacked(one) => {
                let packed = grow(&mut scratch.packed, t * 2 * f);
                one.forward(run, t, x, packed, first, &mut scratch.adapter);
                let (gate, up) = (grow(&mut saved.gate, t * f), grow(&mut saved.up, t * f));
                for ((row, gate), up) in packed.chunks(2 * f).zip(gate.chunks_mut(f)).zip(up.chunks_mut(f)) {
                    gate.copy_from_slice(&row[..f]);
                    up.copy_from_slice(&row[f..]);
                }
                kernels::swiglu(gate, up, activated);
            }
            MlpInput::Plain(one) => {
                let up = grow(&mut saved.up, t * f);
                one.forward(run, t, x, up, first, &mut scratch.adapter);
                let MlpKind::Plain(gelu) = shape.mlp else {
                    unreachable!("a plain MLP is built for a plain configuration only")
                };
                kernels::gelu(gelu, up, activated);
            }
        }
        let (down, adapter) = (&mut saved.down_linear, &mut scratch.adapter);
        if remember {
            self.down.remember(run, t, activated, y, down, adapter);
        } else {
            self.down.forward(run, t, activated, y, down, adapter);
        }
    }

    /// As [`Attention::backward`](super::attention::Attention::backward).
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        wants_branch: bool,
        wants_input: bool,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        saved: &MlpSaved,
        scratch: &mut Scratch,
    ) {
        let Pass { shape, run, sequences, .. } = pass;
        let (t, f) = (sequences.tokens(), shape.intermediate_size);
        let adapter = &mut scratch.adapter;
        let d_activated = grow(&mut scratch.gated_gradient, t * f);
        let wanted = if wants_branch { InputGradient::Set(d_activated) } else { InputGradient::Unneeded };
        self.down.backward(run, t, &saved.activated[..t * f], dy, wanted, &saved.down_linear, adapter);
        if !wants_branch {
            return;
        }
        let d_activated = &scratch.gated_gradient[..t * f];
        let d_up = grow(&mut scratch.up_gradient, t * f);
        let [first, second] = &saved.input_linears;
        match &mut self.input {
            MlpInput::Gated(two) => {
                let d_gate = grow(&mut scratch.gate_gradient, t * f);
                kernels::swiglu_gradient(&saved.gate[..t * f], &saved.up[..t * f], d_activated, d_gate, d_up);
                let wanted = if wants_input { InputGradient::Set(&mut *dx) } else { InputGradient::Unneeded };
                two[0].backward(run, t, x, d_gate, wanted, first, adapter);
                let wanted = if wants_input { InputGradient::Add(dx) } else { InputGradient::Unneeded };
                two[1].backward(run, t, x, d_up, wanted, second, adapter);
            }
            MlpInput::GatedPacked(one) => {
                let d_gate = grow(&mut scratch.gate_gradient, t * f);
                kernels::swiglu_gradient(&saved.gate[..t * f], &saved.up[..t * f], d_activated, d_gate, d_up);
                let packed = grow(&mut scratch.packed, t * 2 * f);
                for ((row, gate), up) in packed.chunks_mut(2 * f).zip(d_gate.chunks(f)).zip(d_up.chunks(f)) {
                    row[..f].copy_from_slice(gate);
                    row[f..].copy_from_slice(up);
                }
                let wanted = if wants_input { InputGradient::Set(dx) } else { InputGradient::Unneeded };
                one.backward(run, t, x, packed, wanted, first, adapter);
            }
            MlpInput::Plain(one) => {
                let MlpKind::Plain(gelu) = shape.mlp else {
                    unreachable!("a plain MLP is built for a plain configuration only")
                };
                kernels::gelu_gradient(gelu, &saved.up[..t * f], d_activated, d_up);
                let wanted = if wants_input { InputGradient::Set(dx) } else { InputGradient::Unneeded };
                one.backward(run, t, x, d_up, wanted, first, adapter);
            }
        }
    }
}
