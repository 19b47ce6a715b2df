//! AdamW or Muon over a list of tensors, clipping by the norm of all gradients, and the check that all of them train.

mod muon;

use crate::TrainError;
use crate::recipe::{self, Recipe};
use muon::{Muon, Scratch};
use taiyi_kernels::{AdamW, adamw, sum_of_squares};
use taiyi_model::Parameter;
use taiyi_model::plan::OptimizerBytes;

/// What is remembered of the gradients of every trainable tensor, f32.
#[derive(Debug)]
pub(crate) struct Optimizer {
    pub(crate) moments: Vec<Moments>,
    /// Steps taken.
    pub(crate) step: u64,
    momentum: f32,
    betas: [f32; 2],
    eps: f32,
    weight_decay: f32,
    scratch: Scratch,
}

/// The moments of one tensor.
#[derive(Debug)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    /// `None` for a matrix that Muon updates.
    pub(crate) second: Option<Vec<f32>>,
}

impl Optimizer {
    pub(crate) fn new(recipe: &Recipe, parameters: &[Parameter<'_>]) -> Self {
        let muon = recipe.optimizer == recipe::Optimizer::Muon;
        let zero = |parameter: &Parameter<'_>| {
            let zeros = vec![0.0; parameter.data.len()];
            let second = (!(muon && orthogonal(parameter.name, parameter.shape))).then(|| zeros.clone());
            Moments { first: zeros, second }
        };
        Self {
            moments: parameters.iter().map(zero).collect(),
            step: 0,
            momentum: recipe.momentum as f32,
            betas: recipe.betas.map(|beta| beta as f32),
            eps: recipe.eps as f32,
            weight_decay: recipe.weight_decay as f32,
            scratch: Scratch::default(),
        }
    }

    /// Takes one step. Vectors (norms and biases) are not decayed, as in transformers' trainer.
    pub(crate) fn step(&mut self, parameters: &mut [Parameter<'_>], rate: f64, gradient_scale: f32) {
        self.step += 1;
        let lr = rate as f32;
        for (parameter, moments) in parameters.iter_mut().zip(&mut self.moments) {
            let Some(second) = &mut moments.second else {
                let options =
                    Muon { lr, momentum: self.momentum, weight_decay: self.weight_decay, gradient_scale };
                let shape = (parameter.shape[0], parameter.shape[1]);
                options.step(shape, parameter.data, parameter.grad, &mut moments.first, &mut self.scratch);
                continue;
            };
            let options = AdamW {
                lr,
                beta1: self.betas[0],
                beta2: self.betas[1],
                eps: self.eps,
                weight_decay: if parameter.shape.len() >= 2 { self.weight_decay } else { 0.0 },
                step: self.step,
                gradient_scale,
            };
            adamw(&options, parameter.data, parameter.grad, &mut moments.first, second);
        }
    }
}

/// What a recipe's optimizer keeps and works in.
pub(crate) fn optimizer_bytes(recipe: &Recipe) -> OptimizerBytes {
    match recipe.optimizer {
        recipe::Optimizer::Adamw => OptimizerBytes::ADAMW,
        recipe::Optimizer::Muon => OptimizerBytes {
            state: |name, shape| {
                let moments = if orthogonal(name, shape) { 1 } else { 2 };
                4 * moments * shape.iter().product::<usize>()
            },
            scratch: |name, shape| if orthogonal(name, shape) { muon::scratch_bytes(shape) } else { 0 },
        },
    }
}

/// Whether a tensor maps vectors to vectors. Tables of tokens and positions and the output layer do not: their rows belong to
/// tokens of very different frequency, and AdamW's scale for each number serves them better (Jordan et al. 2024).
fn orthogonal(name: &str, shape: &[usize]) -> bool {
    const TABLES: [&str; 7] =
        ["embed", "wte", "wpe", "lm_head", "output_layer", "output_projection", "classifier"];
    shape.len() == 2 && !TABLES.iter().any(|part| name.contains(part))
}

/// Returns the Euclidean norm of all gradients.
pub(crate) fn gradient_norm(parameters: &[Parameter<'_>]) -> f64 {
    parameters.iter().map(|parameter| sum_of_squares(parameter.grad)).sum::<f64>().sqrt()
}

/// Returns the factor of `torch.nn.utils.clip_grad_norm_`: `min(1, max_norm / (norm + 1e-6))`; 0 turns it off.
pub(crate) fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) as f32 }
}

/// Finds the first tensor with a gradient that is not a number.
pub(crate) fn not_finite<'a>(parameters: &'a [Parameter<'_>]) -> Option<(&'a str, f32)> {
    parameters.iter().find_map(|parameter| {
        let value = parameter.grad.iter().copied().find(|value| !value.is_finite())?;
        Some((parameter.name, value))
    })
}

/// Refuses tensors that cannot train, once for each tensor.
///
/// A LoRA pair starts with `B = 0`, and `dA = scale * B^T dy x^T` is then exactly zero although all is well. A tensor
/// named `….lora_A.…` is therefore excused for as long as its partner `….lora_B.…` is all zeros, which ends with the
/// first step whose learning rate is not zero (a warm-up begins with rate 0); `B` itself is never excused.
#[derive(Debug)]
pub(crate) struct GradientGuard {
    pending: Vec<bool>,
}

impl GradientGuard {
    pub(crate) fn new(parameters: &[Parameter<'_>]) -> Self {
        Self { pending: vec![true; parameters.len()] }
    }

    /// Checks the gradients of a whole accumulated step, before the optimizer uses them.
    pub(crate) fn check(&mut self, step: u64, parameters: &[Parameter<'_>]) -> Result<(), TrainError> {
        if !self.pending.contains(&true) {
            return Ok(());
        }
        let zero = |values: &[f32]| values.iter().all(|&value| value == 0.0);
        let mut dead = Vec::new();
        for (index, parameter) in parameters.iter().enumerate() {
            if !self.pending[index] {
                continue;
            }
            if !zero(parameter.grad) {
                self.pending[index] = false;
                continue;
            }
            let partner =
                parameter.name.contains(".lora_A.").then(|| parameter.name.replace(".lora_A.", ".lora_B."));
            let excused = partner.is_some_and(|partner| {
                parameters.iter().any(|other| other.name == partner && zero(other.data))
            });
            if !excused {
                dead.push(parameter.name);
            }
        }
        match dead.split_first() {
            None => Ok(()),
            Some((first, others)) => Err(TrainError::ZeroGradient {
                step,
                tensor: (*first).to_owned(),
                more: if others.is_empty() {
                    String::new()
                } else {
                    format!(" (and of {} more)", others.len())
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tensors(Vec<(&'static str, [f32; 2], [f32; 2])>);

    impl Tensors {
        fn view(&mut self) -> Vec<Parameter<'_>> {
            self.0.iter_mut().map(|(name, data, grad)| Parameter { name, shape: &[2], data, grad }).collect()
        }
    }

    const A: &str = "layers.0.q_proj.lora_A.weight";
    const B: &str = "layers.0.q_proj.lora_B.weight";

    #[test]
    fn clipping_is_torchs() {
        assert_eq!(clip_factor(0.1, 0.3), 1.0);
        assert_eq!(clip_factor(3.0, 0.3), (0.3 / (3.0 + 1e-6)) as f32);
        assert_eq!(clip_factor(3.0, 0.0), 1.0);
        let mut tensors = Tensors(vec![("a", [0.0; 2], [3.0, 0.0]), ("b", [0.0; 2], [0.0, 4.0])]);
        assert_eq!(gradient_norm(&tensors.view()), 5.0);
    }

    #[test]
    fn lora_a_is_excused_while_b_is_zero_and_not_longer() {
        let mut tensors = Tensors(vec![(A, [1.0; 2], [0.0; 2]), (B, [0.0; 2], [0.5, 0.0])]);
        let mut guard = GradientGuard::new(&tensors.view());
        guard.check(1, &tensors.view()).unwrap();
        // A warm-up's first step has rate 0 and leaves B as it was.
        guard.check(2, &tensors.view()).unwrap();
        tensors.0[1].1 = [0.1, 0.0];
        let error = guard.check(3, &tensors.view()).unwrap_err();
        assert!(matches!(&error, TrainError::ZeroGradient { step: 3, tensor, .. } if tensor == A), "{error}");
        tensors.0[0].2 = [0.0, 1e-9];
        guard.check(3, &tensors.view()).unwrap();
        // Checked once: a later zero (a step without a use of the tensor) is no longer a finding.
        tensors.0[0].2 = [0.0; 2];
        guard.check(4, &tensors.view()).unwrap();
    }

    #[test]
    fn lora_b_and_full_tensors_are_never_excused() {
        let mut tensors =
            Tensors(vec![(A, [1.0; 2], [0.0; 2]), (B, [0.0; 2], [0.0; 2]), ("norm", [1.0; 2], [0.0; 2])]);
        let error = GradientGuard::new(&tensors.view()).check(1, &tensors.view()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "step 1: the gradient of `{B}` is exactly zero (and of 1 more); the tensor takes no part in the loss, \
                 so training it is a mistake in `lora_targets` or in the checkpoint"
            )
        );
    }

    #[test]
    fn the_tensor_that_is_not_a_number_is_named() {
        let mut tensors = Tensors(vec![("a", [0.0; 2], [1.0; 2]), ("b", [0.0; 2], [1.0, f32::NAN])]);
        let view = tensors.view();
        let (name, value) = not_finite(&view).unwrap();
        assert!(name == "b" && value.is_nan());
    }
}
