//! BLOOM (`BloomForCausalLM`): LayerNorm, also behind the embedding, ALiBi, plain MLP, biases everywhere, tied head.

use super::{Architecture, AttentionInputNames, LLAMA_NAMES, Names};
use crate::{
    config::{Biases, DecoderConfig, Keys, MlpKind, NormKind, Positions, QkvLayout, Sizes},
    error::Error,
};
use taiyi_kernels::Gelu;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "bloom",
    config,
    names: |_| NAMES,
    is_buffer: |_| false,
    // Files saved from the bare model.
    other_names: |name| name.strip_prefix("transformer.").map(str::to_owned).into_iter().collect(),
};

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    if keys.flag("apply_residual_connection_post_layernorm", false)? {
        return Err(keys.refuse("apply_residual_connection_post_layernorm", "false"));
    }
    let hidden_size = keys.size(&["hidden_size", "n_embed"])?;
    let heads = keys.size(&["num_attention_heads", "n_head"])?;
    let sizes = Sizes {
        vocab_size: keys.size(&["vocab_size"])?,
        hidden_size,
        intermediate_size: keys.optional_size(&["n_inner"])?.unwrap_or(hidden_size.saturating_mul(4)),
        num_hidden_layers: keys.size(&["num_hidden_layers", "n_layer"])?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim: hidden_size / heads.max(1),
    };
    if !keys.flag("tie_word_embeddings", true)? {
        return Err(keys.refuse("tie_word_embeddings", "true"));
    }
    Ok(DecoderConfig {
        norm: NormKind::Layer,
        norm_eps: keys.number(&["layer_norm_epsilon"], 1e-5)? as f32,
        positions: Positions::Alibi,
        qkv: QkvLayout::PackedByHead,
        mlp: MlpKind::Plain(Gelu::Tanh),
        bias: Biases { qkv: true, attention_output: true, mlp: true },
        embedding_norm: true,
        tie_word_embeddings: true,
        max_position_embeddings: keys.optional_size(&["seq_length"])?.unwrap_or(2048),
        initializer_range: keys.number(&["initializer_range"], 0.02)? as f32,
        ..DecoderConfig::llama("bloom", sizes, keys)
    })
}

const NAMES: Names = Names {
    embedding: "transformer.word_embeddings",
    embedding_norm: "transformer.word_embeddings_layernorm",
    attention_norm: "transformer.h.{}.input_layernorm",
    attention_input: AttentionInputNames::Packed("transformer.h.{}.self_attention.query_key_value"),
    attention_output: "transformer.h.{}.self_attention.dense",
    mlp_norm: "transformer.h.{}.post_attention_layernorm",
    up: "transformer.h.{}.mlp.dense_h_to_4h",
    down: "transformer.h.{}.mlp.dense_4h_to_h",
    final_norm: "transformer.ln_f",
    ..LLAMA_NAMES
};
