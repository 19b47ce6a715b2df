//! Normalisation of rows: RMSNorm where there is no bias, LayerNorm where there is one.

use taiyi_kernels as kernels;

use super::{tensor::Tensor, workspace::grow};

/// A norm's weight (n) and, for LayerNorm, its bias (n).
pub(crate) struct Norm {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// What the forward pass keeps for the backward pass, each of shape (rows).
#[derive(Default)]
pub(crate) struct NormSaved {
    /// LayerNorm only.
    mean: Vec<f32>,
    /// One over the root mean square, or over the standard deviation.
    inverse: Vec<f32>,
}

impl NormSaved {
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.mean.len() + self.inverse.len())
    }
}

impl Norm {
    pub(crate) fn is_trainable(&self) -> bool {
        self.weight.is_trainable() || self.bias.as_ref().is_some_and(Tensor::is_trainable)
    }

    pub(crate) fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        f(&mut self.weight);
        if let Some(bias) = &mut self.bias {
            f(bias);
        }
    }

    pub(crate) fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        f(&self.weight);
        self.bias.iter().for_each(f);
    }

    /// Norms the rows of `x` (rows, n) into `y`.
    pub(crate) fn forward(&self, eps: f32, x: &[f32], y: &mut [f32], saved: &mut NormSaved) {
        let weight = self.weight.values();
        let rows = x.len() / weight.len();
        let inverse = grow(&mut saved.inverse, rows);
        match &self.bias {
            None => kernels::rms_norm(eps, x, weight, y, inverse),
            Some(bias) => {
                let mean = grow(&mut saved.mean, rows);
                kernels::layer_norm(eps, x, weight, Some(bias.values()), y, mean, inverse);
            }
        }
    }

    /// Adds the gradient of the input `x` (rows, n) to `gradient` and those of weight and bias to theirs; `dy` is the gradient of
    /// the output.
    pub(crate) fn backward(&mut self, x: &[f32], saved: &NormSaved, dy: &[f32], gradient: &mut [f32]) {
        self.backward_scaled(x, saved, dy, 1.0, gradient);
    }

    /// As [`Norm::backward`]; with `beta` 0 the gradient is set instead of added to.
    pub(crate) fn backward_scaled(
        &mut self,
        x: &[f32],
        saved: &NormSaved,
        dy: &[f32],
        beta: f32,
        gradient: &mut [f32],
    ) {
        let rows = x.len() / self.weight.len();
        let inverse = &saved.inverse[..rows];
        let Norm { weight, bias } = self;
        let (values, d_weight) = weight.values_and_grad();
        match bias {
            None => kernels::rms_norm_gradient(x, values, inverse, dy, beta, gradient, d_weight),
            Some(bias) => {
                let mean = &saved.mean[..rows];
                let d_bias = bias.grad();
                kernels::layer_norm_gradient(x, values, mean, inverse, dy, beta, gradient, d_weight, d_bias);
            }
        }
    }
}
