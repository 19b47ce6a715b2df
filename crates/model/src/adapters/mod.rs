//! Low-rank adapters: put on a model, read and written as PEFT does, folded into the weights.

use std::sync::OnceLock;

use half::bf16;
use taiyi_kernels::Nf4;

use crate::{
    decoder::{Decoder, Dtype, random::Random},
    error::Error,
    layers::{
        linear::{Adapter, Linear, add_low_rank},
        tensor::Tensor,
    },
};

mod peft;

/// How new adapters are made. The field names are PEFT's, apart from `rank` (PEFT's `r`).
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the pair, `r`.
    pub rank: usize,
    /// The pair's output is multiplied by `alpha / r`, or by `alpha / sqrt(r)` with `rslora`.
    pub alpha: f32,
    /// Share of the adapter's inputs that is dropped in training; `0.0..1.0`.
    pub dropout: f32,
    /// Last part of the names of the linear layers that get a pair, such as `q_proj`; `all-linear` means every linear layer of
    /// the blocks.
    pub targets: Vec<String>,
    /// Rank-stabilised scaling (Kalajdzievski, 2023).
    pub rslora: bool,
    /// Weight-decomposed adaptation (Liu et al., 2024).
    pub dora: bool,
}

impl LoraConfig {
    /// The factor of the pair's output.
    pub fn scaling(&self) -> f32 {
        let rank = self.rank as f32;
        if self.rslora { self.alpha / rank.sqrt() } else { self.alpha / rank }
    }

    fn check(&self) -> Result<(), Error> {
        if self.rank == 0 {
            return Err(Error::input("LoRA rank", "at least 1", "0"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::input("LoRA dropout", "0 or more and less than 1", self.dropout.to_string()));
        }
        if !self.alpha.is_finite() {
            return Err(Error::input("LoRA alpha", "a finite number", self.alpha.to_string()));
        }
        Ok(())
    }

    pub(crate) fn hits(&self, module: &str) -> bool {
        self.targets.iter().any(|target| {
            target == "all-linear"
                || module == target
                || module.strip_suffix(target.as_str()).is_some_and(|rest| rest.ends_with('.'))
        })
    }
}

/// What a merge did, over all merged layers together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MergeReport {
    /// Merged layers.
    pub layers: usize,
    /// Root mean square of what the adapters added, as a share of that of the weights.
    pub update: f64,
    /// Root mean square of what rounding or quantising took from the exact sums, as a share of that of the weights. Where it is
    /// not much smaller than `update`, the merge lost what was learned.
    pub error: f64,
}

fn squares(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v) * f64::from(v)).sum()
}

/// The settings of the adapters that a model carries.
pub(crate) type AdapterSettings = LoraConfig;

impl Decoder {
    /// Freezes the weights and puts a new pair on every target: `A` uniform in `±1 / sqrt(in)` (PEFT's Kaiming with `a = sqrt 5`),
    /// `B` zero, DoRA's magnitudes the row norms of the weight. The model computes what it computed before.
    ///
    /// # Errors
    /// When the settings are out of range, a target names no layer, or there are adapters already.
    pub fn add_lora(&mut self, lora: &LoraConfig, seed: u64) -> Result<(), Error> {
        self.insert_adapters(lora)?;
        for (i, linear) in self.linears_mut().into_iter().enumerate() {
            let Some(adapter) = &mut linear.adapter else { continue };
            let mut random = Random::new(seed, i as u64);
            let bound = 1.0 / (linear.weight.shape[1] as f64).sqrt();
            let values =
                (0..adapter.a.len()).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect();
            adapter.a.replace(values);
            if adapter.magnitude.is_some() {
                let norms = row_norms(&linear.weight);
                adapter.magnitude.iter_mut().for_each(|m| m.replace(norms.clone()));
            }
        }
        self.train_adapters();
        Ok(())
    }

    /// Folds the adapters into the weights, `W + s B A` (DoRA: rows rescaled to their magnitudes), and drops them. A weight
    /// stays in its storage type: bf16 is rounded, NF4 quantised again. Returns what that did, measured against the exact sums;
    /// where the weights are going to be written in fewer bits than they are held in, `written` measures that instead.
    pub fn merge(&mut self, written: Option<Dtype>) -> MergeReport {
        let mut report = MergeReport::default();
        let (mut weights, mut updates, mut losses) = (0.0, 0.0, 0.0);
        for linear in self.linears_mut() {
            let Some(adapter) = linear.adapter.take() else { continue };
            let before = linear.weight.dense();
            let merged = merged(&linear.weight, &adapter);
            updates += squares(merged.iter().zip(&before).map(|(a, b)| a - b));
            weights += squares(merged.iter().copied());
            let [rows, cols] = [linear.weight.shape[0], linear.weight.shape[1]];
            let stored = match written {
                None | Some(Dtype::F32) => None,
                Some(Dtype::Bf16) => Some(merged.iter().map(|&v| bf16::from_f32(v).to_f32()).collect()),
                Some(Dtype::Nf4) => {
                    let mut values = vec![0.0; merged.len()];
                    Nf4::quantize(&merged, rows, cols, true).dequantize_into(&mut values);
                    Some(values)
                }
            };
            linear.weight.replace(merged.clone());
            let stored = stored.unwrap_or_else(|| linear.weight.dense());
            losses += squares(stored.iter().zip(&merged).map(|(a, b)| a - b));
            report.layers += 1;
        }
        self.adapter = None;
        let ratio = |part: f64, whole: f64| if whole > 0.0 { (part / whole).sqrt() } else { 0.0 };
        report.update = ratio(updates, weights);
        report.error = ratio(losses, weights);
        report
    }

    /// The settings of the adapters, if there are any.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref()
    }

    /// Puts zero pairs on every target.
    fn insert_adapters(&mut self, lora: &LoraConfig) -> Result<(), Error> {
        lora.check()?;
        if self.adapter.is_some() {
            return Err(Error::input(
                "adapters",
                "a model without adapters",
                "a model that has some; merge them first",
            ));
        }
        for target in &lora.targets {
            let one = LoraConfig { targets: vec![target.clone()], ..lora.clone() };
            if !self.linears().iter().any(|l| one.hits(l.module())) {
                return Err(Error::input(
                    "LoRA targets",
                    self.target_names().join(", "),
                    format!("`{target}`"),
                ));
            }
        }
        if lora.targets.is_empty() {
            return Err(Error::input("LoRA targets", self.target_names().join(", "), "none"));
        }
        self.freeze();
        for (i, linear) in self.linears_mut().into_iter().enumerate() {
            if lora.hits(linear.module()) {
                let (out, input) = (linear.out_features(), linear.in_features());
                let name = |part: &str| format!("base_model.model.{}.{part}", linear.module());
                let zeros = |part: &str, shape: &[usize]| {
                    Tensor::f32(name(part), shape, vec![0.0; shape.iter().product()])
                };
                let adapter = Adapter {
                    a: zeros("lora_A.weight", &[lora.rank, input]),
                    b: zeros("lora_B.weight", &[out, lora.rank]),
                    magnitude: lora.dora.then(|| zeros("lora_magnitude_vector", &[out])),
                    scaling: lora.scaling(),
                    dropout: lora.dropout,
                    stream: i as u64,
                    row_norms: OnceLock::new(),
                };
                linear.adapter = Some(adapter);
            }
        }
        self.adapter = Some(lora.clone());
        Ok(())
    }

    fn train_adapters(&mut self) {
        for adapter in self.linears_mut().into_iter().filter_map(|l| l.adapter.as_mut()) {
            adapter.a.train();
            adapter.b.train();
            adapter.magnitude.iter_mut().for_each(Tensor::train);
        }
    }

    fn linears(&self) -> Vec<&Linear> {
        self.blocks.iter().flat_map(|b| b.linears()).collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.blocks.iter_mut().flat_map(|b| b.linears_mut()).collect()
    }

    /// The last parts of the names of the linear layers, each once.
    fn target_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for linear in self.blocks.first().map(|b| b.linears()).unwrap_or_default() {
            let last = linear.module().rsplit('.').next().unwrap_or_default().to_owned();
            if !names.contains(&last) {
                names.push(last);
            }
        }
        names
    }
}

fn row_norms(weight: &Tensor) -> Vec<f32> {
    let norm = |row: &[f32]| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32;
    weight.dense().chunks(weight.shape[1]).map(norm).collect()
}

fn merged(weight: &Tensor, adapter: &Adapter) -> Vec<f32> {
    let mut dense = weight.dense();
    let cols = weight.shape[1];
    add_low_rank(&mut dense, adapter.b.values(), adapter.a.values(), adapter.rank(), cols, adapter.scaling);
    if let Some(magnitude) = &adapter.magnitude {
        for (row, m) in dense.chunks_mut(cols).zip(magnitude.values()) {
            let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32;
            row.iter_mut().for_each(|v| *v *= m / norm);
        }
    }
    dense
}
