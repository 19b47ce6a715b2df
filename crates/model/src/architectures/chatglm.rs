//! The ChatGLM remote-code layouts, which share a `model_type`: ChatGLM-6B (the first, `position_encoding_2d`) and GLM-4-9B
//! (`multi_query_attention`; the base of Taiyi 2).

use super::{Architecture, AttentionInputNames, LLAMA_NAMES, Names, no_other_name};
use crate::{
    config::{
        Biases, DecoderConfig, Keys, MlpKind, NormKind, Positions, PrefixMarks, QkvLayout, Residual, Rope,
        RopeLayout, RopeScaling, Sizes,
    },
    error::Error,
};
use taiyi_kernels::Gelu;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "chatglm",
    config,
    names: |config| match config.positions {
        Positions::Rope2d(_) => FIRST_NAMES,
        _ => NAMES,
    },
    is_buffer: |name| name.ends_with("rotary_pos_emb.inv_freq") || name.ends_with("rotary_emb.inv_freq"),
    other_names: no_other_name,
};

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    match keys.flag("position_encoding_2d", false)? {
        true => first(keys),
        false => glm4(keys),
    }
}

/// GLM-4-9B. What is different from LLaMA: rope turns neighbouring pairs of the first half of each head, queries, keys and values
/// come from one layer with a bias, gate and up from one layer.
fn glm4(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    // Each of these is another network.
    for (key, only, default) in [
        ("rmsnorm", true, true),
        ("post_layer_norm", true, true),
        ("add_bias_linear", false, false),
        ("apply_residual_connection_post_layernorm", false, false),
        ("multi_query_attention", true, false),
    ] {
        if keys.flag(key, default)? != only {
            return Err(keys.refuse(key, if only { "true" } else { "false" }));
        }
    }
    let head_dim = keys.size(&["kv_channels"])?;
    let sizes = Sizes {
        vocab_size: keys.size(&["padded_vocab_size", "vocab_size"])?,
        hidden_size: keys.size(&["hidden_size"])?,
        intermediate_size: keys.size(&["ffn_hidden_size"])?,
        num_hidden_layers: keys.size(&["num_layers", "num_hidden_layers"])?,
        num_attention_heads: keys.size(&["num_attention_heads"])?,
        num_key_value_heads: keys.size(&["multi_query_group_num"])?,
        head_dim,
    };
    Ok(DecoderConfig {
        norm_eps: keys.number(&["layernorm_epsilon"], 1.5625e-7)? as f32,
        positions: Positions::Rope(Rope {
            theta: 10_000.0 * keys.number(&["rope_ratio"], 1.0)?,
            rotary_dim: head_dim / 2,
            layout: RopeLayout::Interleaved,
            scaling: RopeScaling::None,
            half_precision: false,
        }),
        qkv: QkvLayout::Packed,
        mlp: MlpKind::GatedPacked,
        bias: Biases { qkv: keys.flag("add_qkv_bias", false)?, ..Biases::default() },
        tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
        max_position_embeddings: keys.optional_size(&["seq_length"])?.unwrap_or(8192),
        ..DecoderConfig::llama("chatglm", sizes, keys)
    })
}

const NAMES: Names = Names {
    embedding: "transformer.embedding.word_embeddings",
    attention_norm: "transformer.encoder.layers.{}.input_layernorm",
    attention_input: AttentionInputNames::Packed(
        "transformer.encoder.layers.{}.self_attention.query_key_value",
    ),
    attention_output: "transformer.encoder.layers.{}.self_attention.dense",
    mlp_norm: "transformer.encoder.layers.{}.post_attention_layernorm",
    gate: "transformer.encoder.layers.{}.mlp.dense_h_to_4h",
    down: "transformer.encoder.layers.{}.mlp.dense_4h_to_h",
    final_norm: "transformer.encoder.final_layernorm",
    head: "transformer.output_layer",
    ..LLAMA_NAMES
};

/// ChatGLM-6B. The input is seen both ways, positions are two numbers, branches are added to their normed input times
/// `sqrt(2 * 28)`, whatever the number of layers: the reference does not tell its blocks how many there are.
fn first(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let (hidden_size, heads) = (keys.size(&["hidden_size"])?, keys.size(&["num_attention_heads"])?);
    let head_dim = hidden_size / heads.max(1);
    let sizes = Sizes {
        vocab_size: keys.size(&["vocab_size"])?,
        hidden_size,
        intermediate_size: keys.optional_size(&["inner_hidden_size"])?.unwrap_or(4 * hidden_size),
        num_hidden_layers: keys.size(&["num_layers", "num_hidden_layers"])?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim,
    };
    let id = |key: &str| keys.size(&[key]).map(|id| id as u32);
    if keys.optional_size(&["quantization_bit"])?.is_some_and(|bits| bits != 0) {
        return Err(keys.refuse("quantization_bit", "0 (the unquantised files)"));
    }
    if keys.flag("tie_word_embeddings", false)? {
        return Err(keys.refuse("tie_word_embeddings", "false"));
    }
    Ok(DecoderConfig {
        norm: NormKind::Layer,
        norm_eps: keys.number(&["layernorm_epsilon"], 1e-5)? as f32,
        positions: Positions::Rope2d(Rope {
            theta: 10_000.0,
            rotary_dim: head_dim / 2,
            layout: RopeLayout::HalfSplit,
            scaling: RopeScaling::None,
            half_precision: true,
        }),
        qkv: QkvLayout::PackedByHead,
        mlp: MlpKind::Plain(Gelu::Tanh),
        bias: Biases { qkv: true, attention_output: true, mlp: true },
        residual: Residual::Normed { alpha: 56f32.sqrt() },
        prefix: Some(PrefixMarks {
            bos: id("bos_token_id")?,
            gmask: id("gmask_token_id")?,
            mask: id("mask_token_id")?,
        }),
        max_position_embeddings: keys.optional_size(&["max_sequence_length"])?.unwrap_or(2048),
        ..DecoderConfig::llama("chatglm", sizes, keys)
    })
}

const FIRST_NAMES: Names = Names {
    embedding: "transformer.word_embeddings",
    attention_norm: "transformer.layers.{}.input_layernorm",
    attention_input: AttentionInputNames::Packed("transformer.layers.{}.attention.query_key_value"),
    attention_output: "transformer.layers.{}.attention.dense",
    mlp_norm: "transformer.layers.{}.post_attention_layernorm",
    up: "transformer.layers.{}.mlp.dense_h_to_4h",
    down: "transformer.layers.{}.mlp.dense_4h_to_h",
    final_norm: "transformer.final_layernorm",
    ..LLAMA_NAMES
};
