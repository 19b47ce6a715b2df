//! BioGPT and BioGPT-Large (`BioGptForCausalLM`): LayerNorm, learned positions, embeddings times `sqrt(D)`, plain MLP, biases
//! everywhere, tied head.

use super::{Architecture, AttentionInputNames, LLAMA_NAMES, Names, no_other_name};
use crate::{
    config::{Biases, DecoderConfig, Keys, MlpKind, NormKind, Positions, Sizes},
    error::Error,
};
use taiyi_kernels::Gelu;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "biogpt",
    config,
    names: |_| NAMES,
    is_buffer: |_| false,
    other_names: no_other_name,
};

/// The table's row of the first position (`BioGptLearnedPositionalEmbedding.offset`).
const OFFSET: usize = 2;

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    if keys.map.get("hidden_act").is_some_and(|v| v != "gelu") {
        return Err(keys.refuse("hidden_act", "\"gelu\""));
    }
    let (hidden_size, heads) = (keys.size(&["hidden_size"])?, keys.size(&["num_attention_heads"])?);
    let sizes = Sizes {
        vocab_size: keys.size(&["vocab_size"])?,
        hidden_size,
        intermediate_size: keys.size(&["intermediate_size"])?,
        num_hidden_layers: keys.size(&["num_hidden_layers"])?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim: hidden_size / heads.max(1),
    };
    let positions = keys.optional_size(&["max_position_embeddings"])?.unwrap_or(1024);
    let scaled = keys.flag("scale_embedding", true)?;
    Ok(DecoderConfig {
        norm: NormKind::Layer,
        // The file's layer_norm_eps (1e-12) is not what the reference's norms use: they are made with PyTorch's default.
        norm_eps: 1e-5,
        positions: Positions::Learned { rows: positions.saturating_add(OFFSET), offset: OFFSET },
        mlp: MlpKind::Plain(Gelu::Erf),
        bias: Biases { qkv: true, attention_output: true, mlp: true },
        embedding_scale: if scaled { (hidden_size as f32).sqrt() } else { 1.0 },
        padding_id: keys.optional_size(&["pad_token_id"])?.map(|id| id as u32),
        tie_word_embeddings: keys.flag("tie_word_embeddings", true)?,
        max_position_embeddings: positions,
        initializer_range: keys.number(&["initializer_range"], 0.02)? as f32,
        ..DecoderConfig::llama("biogpt", sizes, keys)
    })
}

const NAMES: Names = Names {
    embedding: "biogpt.embed_tokens",
    positions: "biogpt.embed_positions",
    attention_norm: "biogpt.layers.{}.self_attn_layer_norm",
    attention_input: AttentionInputNames::Split {
        query: "biogpt.layers.{}.self_attn.q_proj",
        key: "biogpt.layers.{}.self_attn.k_proj",
        value: "biogpt.layers.{}.self_attn.v_proj",
    },
    attention_output: "biogpt.layers.{}.self_attn.out_proj",
    // The norm before the MLP, in spite of its name.
    mlp_norm: "biogpt.layers.{}.final_layer_norm",
    up: "biogpt.layers.{}.fc1",
    down: "biogpt.layers.{}.fc2",
    final_norm: "biogpt.layer_norm",
    head: "output_projection",
    ..LLAMA_NAMES
};
