//! A learner small enough to follow by hand: the logits after a token are a row of a table, `W[token] = A[token] B`.
//!
//! It stands in for the decoder in tests of the loop: products are plain loops, so a test runs thousands of steps in
//! a second, and its two factors behave like a LoRA pair when `B` starts at zero.

use std::path::Path;
use taiyi_kernels::Precision;
use taiyi_model::{Loss, Parameter, StepOptions};
use taiyi_train::data::Pack;
use taiyi_train::{Learner, TrainError};

pub(crate) const VOCABULARY: usize = 32;
const RANK: usize = 8;

pub(crate) struct Bigram {
    names: [&'static str; 3],
    shapes: [Vec<usize>; 3],
    data: [Vec<f32>; 3],
    grad: [Vec<f32>; 3],
    /// With an unused tensor, the third one takes no part in the loss.
    pub(crate) tensors: usize,
    /// Added to the loss, to break it.
    pub(crate) poison: f64,
    /// Dropout keeps an input when the bit of its position in the seed is set.
    pub(crate) seeds: Vec<Option<u64>>,
}

impl Bigram {
    pub(crate) fn new(zero_b: bool) -> Self {
        let noise = |n: usize, scale: f32| -> Vec<f32> {
            let mut state = 12345_u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            };
            (0..n).map(|_| next() * scale).collect()
        };
        let shapes = [vec![VOCABULARY, RANK], vec![RANK, VOCABULARY], vec![3]];
        let b = if zero_b { vec![0.0; RANK * VOCABULARY] } else { noise(RANK * VOCABULARY, 0.5) };
        let data = [noise(VOCABULARY * RANK, 1.0), b, vec![1.0; 3]];
        let grad = [vec![0.0; VOCABULARY * RANK], vec![0.0; RANK * VOCABULARY], vec![0.0; 3]];
        let names = ["table.lora_A.weight", "table.lora_B.weight", "unused.weight"];
        Self { names, shapes, data, grad, tensors: 2, poison: 0.0, seeds: Vec::new() }
    }

    pub(crate) fn bits(&self) -> Vec<u32> {
        self.data.iter().flatten().map(|value| value.to_bits()).collect()
    }

    fn run(&mut self, batch: &Pack, backward: Option<&StepOptions>) -> Loss {
        let [a, b, _] = &self.data;
        let mut loss = Loss { sum: self.poison, labelled: 0 };
        for (place, (&id, &label)) in batch.ids.iter().zip(&batch.labels).enumerate() {
            if label < 0 {
                continue;
            }
            let dropped =
                backward.and_then(|options| options.dropout_seed).is_some_and(|s| s >> (place % 64) & 7 == 0);
            let row: Vec<f32> =
                a[id as usize * RANK..][..RANK].iter().map(|&x| if dropped { 0.0 } else { x }).collect();
            let mut logits = [0.0_f32; VOCABULARY];
            for (r, &x) in row.iter().enumerate() {
                for (v, logit) in logits.iter_mut().enumerate() {
                    *logit += x * b[r * VOCABULARY + v];
                }
            }
            let total: f32 = logits.iter().map(|x| x.exp()).sum();
            loss.sum += f64::from(total.ln() - logits[label as usize]);
            loss.labelled += 1;
            let Some(options) = backward else { continue };
            for v in 0..VOCABULARY {
                let target = if v == label as usize { 1.0 } else { 0.0 };
                let d = (logits[v].exp() / total - target) * options.loss_scale;
                for (r, &x) in row.iter().enumerate() {
                    self.grad[1][r * VOCABULARY + v] += d * x;
                    if !dropped {
                        self.grad[0][id as usize * RANK + r] += d * b[r * VOCABULARY + v];
                    }
                }
            }
        }
        loss
    }
}

impl Learner for Bigram {
    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        let tensors = self.names.iter().zip(&self.shapes).zip(&mut self.data).zip(&mut self.grad);
        tensors
            .take(self.tensors)
            .map(|(((name, shape), data), grad)| Parameter { name, shape, data, grad })
            .collect()
    }

    fn zero_gradients(&mut self) {
        self.grad.iter_mut().for_each(|grad| grad.fill(0.0));
    }

    fn loss_and_gradients(&mut self, batch: &Pack, options: &StepOptions) -> Result<Loss, TrainError> {
        self.seeds.push(options.dropout_seed);
        Ok(self.run(batch, Some(options)))
    }

    fn loss(&mut self, batch: &Pack, _: Precision) -> Result<Loss, TrainError> {
        Ok(self.run(batch, None))
    }

    fn save(&mut self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join("table.bin");
        let bytes: Vec<u8> = self.data.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&path, bytes).map_err(|source| TrainError::File {
            path,
            action: "cannot write",
            source,
        })
    }
}
