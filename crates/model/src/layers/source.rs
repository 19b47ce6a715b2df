//! Where the tensors of modules come from: a checkpoint, or nowhere.

use std::collections::BTreeSet;

use taiyi_kernels::{Precision, bf16};

use super::{
    linear::Linear,
    norm::Norm,
    tensor::{Data, Tensor},
};
use crate::{config::NormKind, decoder::Dtype, error::Error, weights::Weights};

/// What a tensor is for, which decides how it is stored and how it is drawn at random.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Embedding or output head.
    Table,
    /// Linear layer of a block.
    Linear,
    /// Linear layer of a block that ends in the residual stream.
    Residual,
    Norm,
    Bias,
}

/// Gives the tensors of a model by name, role and shape.
pub(crate) trait Source {
    fn tensor(&mut self, name: String, role: Role, shape: &[usize]) -> Result<Tensor, Error>;
}

/// A norm of `n` values.
pub(crate) fn norm(source: &mut dyn Source, name: &str, kind: NormKind, n: usize) -> Result<Norm, Error> {
    let weight = source.tensor(format!("{name}.weight"), Role::Norm, &[n])?;
    let bias = match kind {
        NormKind::Rms => None,
        NormKind::Layer => Some(source.tensor(format!("{name}.bias"), Role::Bias, &[n])?),
    };
    Ok(Norm { weight, bias })
}

/// A linear layer (out, in).
pub(crate) fn linear(
    source: &mut dyn Source,
    name: &str,
    role: Role,
    out: usize,
    input: usize,
    bias: bool,
) -> Result<Linear, Error> {
    let weight = source.tensor(format!("{name}.weight"), role, &[out, input])?;
    let bias = match bias {
        true => Some(source.tensor(format!("{name}.bias"), Role::Bias, &[out])?),
        false => None,
    };
    Ok(Linear { weight, bias, adapter: None })
}

/// Reads tensors of a checkpoint into the storage they are kept in.
pub(crate) struct FileSource<'a> {
    weights: &'a Weights,
    dtype: Dtype,
    precision: Precision,
    other_names: &'a dyn Fn(&str) -> Vec<String>,
    used: BTreeSet<String>,
}

impl<'a> FileSource<'a> {
    pub(crate) fn new(
        weights: &'a Weights,
        dtype: Dtype,
        precision: Precision,
        other_names: &'a dyn Fn(&str) -> Vec<String>,
    ) -> FileSource<'a> {
        FileSource { weights, dtype, precision, other_names, used: BTreeSet::new() }
    }

    /// Whether the file has a tensor, under this or another name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.contains(&name_in_file(self.weights, self.other_names, name))
    }

    /// Tells about tensors of the file that no module took: they may be harmless buffers, or a sign of the wrong architecture.
    pub(crate) fn report_unused(&self, is_harmless: &dyn Fn(&str) -> bool) {
        for name in self.weights.names().filter(|n| !self.used.contains(*n) && !is_harmless(n)) {
            tracing::warn!(tensor = name, "the model does not use this tensor of the checkpoint");
        }
    }
}

/// The name under which the file has a tensor.
fn name_in_file(weights: &Weights, other_names: &dyn Fn(&str) -> Vec<String>, name: &str) -> String {
    if weights.contains(name) {
        return name.to_owned();
    }
    other_names(name).into_iter().find(|n| weights.contains(n)).unwrap_or_else(|| name.to_owned())
}

impl Source for FileSource<'_> {
    fn tensor(&mut self, name: String, role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        let in_file = name_in_file(self.weights, self.other_names, &name);
        let (weights, dtype) = (self.weights, self.dtype);
        // As `from_pretrained(torch_dtype=bfloat16)` does before it quantises.
        let rounding = match dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 | Dtype::Nf4 => self.precision,
        };
        let data = match (role, dtype) {
            (Role::Norm | Role::Bias, _) => Data::f32(match rounding {
                Precision::F32 => weights.f32(&in_file, shape)?,
                Precision::Bf16 => weights.bf16(&in_file, shape)?.into_iter().map(bf16::to_f32).collect(),
            }),
            (_, Dtype::F32) => Data::F32(weights.f32_storage(&in_file, shape)?),
            (Role::Table, Dtype::Nf4) if self.precision == Precision::F32 => {
                Data::F32(weights.f32_storage(&in_file, shape)?)
            }
            (Role::Linear | Role::Residual, Dtype::Nf4) => {
                Data::Nf4(weights.quantised(&in_file, [shape[0], shape[1]], rounding)?)
            }
            (_, Dtype::Bf16 | Dtype::Nf4) => Data::Bf16(weights.bf16_storage(&in_file, shape)?),
        };
        self.used.insert(in_file);
        Ok(Tensor::new(name, shape, data))
    }
}

/// Looks tensors up and gives empty ones.
pub(crate) struct ShapeSource<'a> {
    weights: &'a Weights,
    other_names: &'a dyn Fn(&str) -> Vec<String>,
}

impl<'a> ShapeSource<'a> {
    pub(crate) fn new(weights: &'a Weights, other_names: &'a dyn Fn(&str) -> Vec<String>) -> ShapeSource<'a> {
        ShapeSource { weights, other_names }
    }
}

impl Source for ShapeSource<'_> {
    fn tensor(&mut self, name: String, _role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        self.weights.floats(&name_in_file(self.weights, self.other_names, &name), shape)?;
        Ok(Tensor::f32(name, &[0], Vec::new()))
    }
}
