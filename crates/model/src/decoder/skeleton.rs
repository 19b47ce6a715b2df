//! The names and shapes of a decoder's tensors, without values.

use super::build::assemble;
use crate::{
    config::DecoderConfig,
    error::Error,
    layers::{
        source::{Role, Source},
        tensor::{Data, Tensor},
    },
};

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Embedding or output head.
    Table,
    /// Weight of a linear layer of a block.
    Linear,
    /// Norm or bias: always f32.
    Small,
}

/// One tensor.
pub(crate) struct Outline {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) shape: Vec<usize>,
}

impl Outline {
    /// Name of the module: the tensor's name without its last part.
    pub(crate) fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(module, _)| module)
    }
}

/// The tensors in the order in which a decoder is assembled.
pub(crate) fn of(config: &DecoderConfig) -> Result<Vec<Outline>, Error> {
    let mut outlines = Outlines(Vec::new());
    assemble(config.clone(), taiyi_kernels::Precision::F32, &mut outlines)?;
    Ok(outlines.0)
}

struct Outlines(Vec<Outline>);

impl Source for Outlines {
    fn tensor(&mut self, name: String, role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        let kind = match role {
            Role::Table => Kind::Table,
            Role::Linear | Role::Residual => Kind::Linear,
            Role::Norm | Role::Bias => Kind::Small,
        };
        self.0.push(Outline { name: name.clone(), kind, shape: shape.to_vec() });
        Ok(Tensor::new(name, shape, Data::f32(Vec::new())))
    }
}
