//! Building a decoder from a checkpoint.

use std::path::Path;

use taiyi_kernels::{Nf4, Precision, bf16};

use super::{Decoder, Dtype};
use crate::{
    architectures::{self, AttentionInputNames, of_layer},
    config::DecoderConfig,
    error::Error,
    layers::{
        block::{AttentionInput, Block},
        linear::Linear,
        tensor::{Data, Tensor},
    },
    weights::Weights,
};

/// What a tensor is for, which decides how it is stored and how it is drawn at random.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Embedding or output head.
    Table,
    /// Linear layer of a block.
    Linear,
    /// Linear layer of a block that ends in the residual stream.
    Residual,
    Norm,
    Bias,
}

/// Gives the decoder's tensors by name, role and shape.
pub(super) trait Source {
    fn tensor(&mut self, name: String, role: Role, shape: &[usize]) -> Result<Tensor, Error>;
}

impl Decoder {
    /// Loads a checkpoint folder in the Hugging Face layout. Nothing is trainable until [`Decoder::train_all`] or
    /// [`Decoder::add_lora`].
    ///
    /// # Errors
    /// When `config.json` or the weights are missing, broken, of an unknown architecture or of another shape.
    pub fn load(dir: &Path, dtype: Dtype) -> Result<Decoder, Error> {
        Decoder::load_with(dir, dtype, dtype.precision())
    }

    /// As [`Decoder::load`], with the precision of products chosen apart from the storage. With bf16 products every weight is
    /// first rounded to bf16, as `from_pretrained(torch_dtype=bfloat16)` does before it quantises.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_with(dir: &Path, dtype: Dtype, precision: Precision) -> Result<Decoder, Error> {
        let config = DecoderConfig::load(dir)?;
        let weights = Weights::open(dir)?;
        let mut used = 0;
        let mut source = FileSource { weights: &weights, dtype, precision, used: &mut used };
        let decoder = assemble(config, precision, &mut source)?;
        report_unused(&weights, &decoder, used);
        Ok(decoder)
    }

    /// Checks that a checkpoint folder holds every tensor of its configuration in the right shape, without reading them.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn check(dir: &Path) -> Result<DecoderConfig, Error> {
        let config = DecoderConfig::load(dir)?;
        let weights = Weights::open(dir)?;
        let decoder = assemble(config, Precision::F32, &mut ShapeSource { weights: &weights })?;
        Ok(decoder.config)
    }
}

/// Builds the decoder's modules in a fixed order from any source of tensors.
pub(super) fn assemble(
    config: DecoderConfig,
    precision: Precision,
    source: &mut dyn Source,
) -> Result<Decoder, Error> {
    let names = (architectures::of(&config)?.names)();
    let (v, d, f) = (config.vocab_size, config.hidden_size, config.intermediate_size);
    let (q, k) = (config.query_size(), config.key_size());
    let weight = |name: &str| format!("{name}.weight");
    let linear =
        |source: &mut dyn Source, name: String, role, out, input, bias: bool| -> Result<Linear, Error> {
            let w = source.tensor(weight(&name), role, &[out, input])?;
            let bias =
                if bias { Some(source.tensor(format!("{name}.bias"), Role::Bias, &[out])?) } else { None };
            Ok(Linear { weight: w, bias, adapter: None })
        };
    let embedding = source.tensor(weight(names.embedding), Role::Table, &[v, d])?;
    // Not reserved: a damaged configuration may count more blocks than memory holds; the first missing tensor tells.
    let mut blocks = Vec::new();
    for i in 0..config.num_hidden_layers {
        let name = |n: &str| of_layer(n, i);
        let bias = config.qkv_bias;
        let attention_norm = source.tensor(weight(&name(names.attention_norm)), Role::Norm, &[d])?;
        let attention_input = match &names.attention_input {
            AttentionInputNames::Packed(n) => {
                AttentionInput::Packed(Box::new(linear(source, name(n), Role::Linear, q + 2 * k, d, bias)?))
            }
            AttentionInputNames::Split { query, key, value } => AttentionInput::Split(Box::new([
                linear(source, name(query), Role::Linear, q, d, bias)?,
                linear(source, name(key), Role::Linear, k, d, bias)?,
                linear(source, name(value), Role::Linear, k, d, bias)?,
            ])),
        };
        blocks.push(Block {
            attention_norm,
            attention_input,
            attention_output: linear(source, name(names.attention_output), Role::Residual, d, q, false)?,
            mlp_norm: source.tensor(weight(&name(names.mlp_norm)), Role::Norm, &[d])?,
            gate: linear(source, name(names.gate), Role::Linear, f, d, false)?,
            up: linear(source, name(names.up), Role::Linear, f, d, false)?,
            down: linear(source, name(names.down), Role::Residual, d, f, false)?,
        });
    }
    let final_norm = source.tensor(weight(names.final_norm), Role::Norm, &[d])?;
    let head = if config.tie_word_embeddings {
        None
    } else {
        Some(source.tensor(weight(names.head), Role::Table, &[v, d])?)
    };
    Ok(Decoder { config, precision, embedding, blocks, final_norm, head, adapter: None })
}

struct FileSource<'a> {
    weights: &'a Weights,
    dtype: Dtype,
    precision: Precision,
    used: &'a mut usize,
}

impl Source for FileSource<'_> {
    fn tensor(&mut self, name: String, role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        *self.used += 1;
        let rounded = self.precision == Precision::Bf16 && self.dtype != Dtype::F32;
        let f32s = || -> Result<Vec<f32>, Error> {
            if rounded {
                return Ok(self.weights.bf16(&name, shape)?.into_iter().map(bf16::to_f32).collect());
            }
            self.weights.f32(&name, shape)
        };
        let data = match (role, self.dtype) {
            (Role::Norm | Role::Bias, _) | (_, Dtype::F32) => Data::F32(f32s()?),
            (Role::Linear | Role::Residual, Dtype::Nf4) => {
                Data::Nf4(Nf4::quantize(&f32s()?, shape[0], shape[1], true))
            }
            (Role::Table, Dtype::Nf4) if self.precision == Precision::F32 => Data::F32(f32s()?),
            (_, Dtype::Bf16 | Dtype::Nf4) => Data::Bf16(self.weights.bf16(&name, shape)?),
        };
        Ok(Tensor::new(name, shape, data))
    }
}

/// Looks tensors up and gives empty ones.
struct ShapeSource<'a> {
    weights: &'a Weights,
}

impl Source for ShapeSource<'_> {
    fn tensor(&mut self, name: String, _role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        self.weights.floats(&name, shape)?;
        Ok(Tensor::f32(name, &[0], Vec::new()))
    }
}

/// Tells about tensors of the file that no module took: they may be harmless buffers, or a sign of the wrong architecture.
fn report_unused(weights: &Weights, decoder: &Decoder, used: usize) {
    if weights.names().count() == used {
        return;
    }
    let Ok(architecture) = architectures::of(&decoder.config) else { return };
    let mut known = std::collections::BTreeSet::new();
    decoder.tensors(&mut |t| {
        known.insert(t.name.as_str());
    });
    let head = format!("{}.weight", (architecture.names)().head);
    for name in weights.names() {
        let tied_head = decoder.head.is_none() && name == head;
        if !known.contains(name) && !tied_head && !(architecture.is_buffer)(name) {
            tracing::warn!(tensor = name, "the model does not use this tensor of the checkpoint");
        }
    }
}
