//! Building a decoder from a checkpoint.

use std::{path::Path, sync::OnceLock};

use taiyi_kernels::Precision;

use super::{Decoder, Dtype};
use crate::{
    architectures::{self, AttentionInputNames, Names, of_layer},
    config::{DecoderConfig, MlpKind, NormKind, Positions, alibi_slopes},
    error::Error,
    layers::{
        attention::{Attention, AttentionInput},
        block::Block,
        embedding::Embedding,
        mlp::{Mlp, MlpInput},
        source::{FileSource, Role, ShapeSource, Source, linear, norm},
    },
    weights::Weights,
};

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
        let architecture = architectures::of(&config)?;
        let mut source = FileSource::new(&weights, dtype, precision, &architecture.other_names);
        let decoder = assemble(config, precision, &mut source)?;
        let head = format!("{}.weight", (architecture.names)(decoder.config()).head);
        let tied = |name: &str| decoder.head.is_none() && name == head;
        source.report_unused(&|name| tied(name) || (architecture.is_buffer)(name));
        Ok(decoder)
    }

    /// Checks that a checkpoint folder holds every tensor of its configuration in the right shape, without reading them.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn check(dir: &Path) -> Result<DecoderConfig, Error> {
        let config = DecoderConfig::load(dir)?;
        let weights = Weights::open(dir)?;
        let architecture = architectures::of(&config)?;
        let mut source = ShapeSource::new(&weights, &architecture.other_names);
        Ok(assemble(config, Precision::F32, &mut source)?.config)
    }
}

/// Builds the decoder's modules in a fixed order from any source of tensors.
pub(super) fn assemble(
    config: DecoderConfig,
    precision: Precision,
    source: &mut dyn Source,
) -> Result<Decoder, Error> {
    let names = (architectures::of(&config)?.names)(&config);
    let (v, d) = (config.vocab_size, config.hidden_size);
    let table = |source: &mut dyn Source, name: &str, rows| {
        source.tensor(format!("{name}.weight"), Role::Table, &[rows, d])
    };
    let positions = match config.positions {
        Positions::Learned { rows, .. } => Some(rows),
        _ => None,
    };
    let embedding = Embedding {
        tokens: table(source, names.embedding, v)?,
        positions: positions.map(|rows| table(source, names.positions, rows)).transpose()?,
        token_types: None,
        norm: match config.embedding_norm {
            true => Some(norm(source, names.embedding_norm, config.norm, d)?),
            false => None,
        },
    };
    // Not reserved: a damaged configuration may count more blocks than memory holds; the first missing tensor tells.
    let mut blocks = Vec::new();
    for layer in 0..config.num_hidden_layers {
        blocks.push(block(source, &config, &names, layer)?);
    }
    let final_norm = norm(source, names.final_norm, config.norm, d)?;
    let head = match config.tie_word_embeddings {
        true => None,
        false => Some(table(source, names.head, v)?),
    };
    let slopes = (config.positions == Positions::Alibi).then(|| alibi_slopes(config.num_attention_heads));
    Ok(Decoder {
        config,
        precision,
        embedding,
        blocks,
        final_norm,
        head,
        head_lengths: OnceLock::new(),
        slopes,
        adapter: None,
    })
}

fn block(
    source: &mut dyn Source,
    config: &DecoderConfig,
    names: &Names,
    layer: usize,
) -> Result<Block, Error> {
    let (d, f, bias) = (config.hidden_size, config.intermediate_size, config.bias);
    let (q, k) = (config.query_size(), config.key_size());
    let name = |n: &str| of_layer(n, layer);
    let attention_norm = norm(source, &name(names.attention_norm), config.norm, d)?;
    let input = match names.attention_input {
        AttentionInputNames::Packed(n) => {
            AttentionInput::Packed(Box::new(linear(source, &name(n), Role::Linear, q + 2 * k, d, bias.qkv)?))
        }
        AttentionInputNames::Split { query, key, value } => AttentionInput::Split(Box::new([
            linear(source, &name(query), Role::Linear, q, d, bias.qkv)?,
            linear(source, &name(key), Role::Linear, k, d, bias.qkv)?,
            linear(source, &name(value), Role::Linear, k, d, bias.qkv)?,
        ])),
    };
    let head_norms = match config.head_norm {
        true => {
            let [query, key] = names.head_norms;
            let head_norm =
                |source: &mut dyn Source, n| norm(source, &name(n), NormKind::Rms, config.head_dim);
            Some(Box::new([head_norm(source, query)?, head_norm(source, key)?]))
        }
        false => None,
    };
    let output = name(names.attention_output);
    let output = linear(source, &output, Role::Residual, d, q, bias.attention_output)?;
    let mlp_norm = norm(source, &name(names.mlp_norm), config.norm, d)?;
    let (gate, up) = (name(names.gate), name(names.up));
    let input_layer =
        |source: &mut dyn Source, n: &str, out| linear(source, n, Role::Linear, out, d, bias.mlp);
    let mlp_input = match config.mlp {
        MlpKind::Gated => {
            MlpInput::Gated(Box::new([input_layer(source, &gate, f)?, input_layer(source, &up, f)?]))
        }
        MlpKind::GatedPacked => MlpInput::GatedPacked(Box::new(input_layer(source, &gate, 2 * f)?)),
        MlpKind::Plain(_) => MlpInput::Plain(Box::new(input_layer(source, &up, f)?)),
    };
    let down = linear(source, &name(names.down), Role::Residual, d, f, bias.mlp)?;
    Ok(Block {
        attention_norm,
        attention: Attention { input, head_norms, output },
        mlp_norm,
        mlp: Mlp { input: mlp_input, down },
    })
}
