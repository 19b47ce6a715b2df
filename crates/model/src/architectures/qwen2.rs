//! Qwen2 and Qwen2.5 (`Qwen2ForCausalLM`): LLaMA's block with biases on the query, key and value projections.

use super::{Architecture, AttentionInputNames, Names};
use crate::{
    config::{DecoderConfig, Keys, Rope, RopeLayout, RopeScaling},
    error::Error,
};

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "qwen2", config, names, is_buffer };

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let hidden_size = keys.size(&["hidden_size"])?;
    let heads = keys.size(&["num_attention_heads"])?;
    let head_dim = match keys.optional_size(&["head_dim"])? {
        Some(size) => size,
        None => hidden_size / heads.max(1),
    };
    // `sliding_window` is set in many published files and means nothing unless this flag is on.
    if keys.flag("use_sliding_window", false)? {
        return Err(keys.refuse("use_sliding_window", "false (attention over a window is not implemented)"));
    }
    if keys.map.get("hidden_act").is_some_and(|v| v != "silu") {
        return Err(keys.refuse("hidden_act", "\"silu\""));
    }
    Ok(DecoderConfig {
        model_type: "qwen2".to_owned(),
        vocab_size: keys.size(&["vocab_size"])?,
        hidden_size,
        intermediate_size: keys.size(&["intermediate_size"])?,
        num_hidden_layers: keys.size(&["num_hidden_layers"])?,
        num_attention_heads: heads,
        num_key_value_heads: keys.optional_size(&["num_key_value_heads"])?.unwrap_or(heads),
        head_dim,
        norm_eps: keys.number(&["rms_norm_eps"], 1e-6)? as f32,
        rope: Rope {
            theta: rope_theta(keys)?,
            rotary_dim: head_dim,
            layout: RopeLayout::HalfSplit,
            scaling: RopeScaling::None,
        },
        logn_trained_length: None,
        packed_qkv: false,
        qkv_bias: true,
        tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
        max_position_embeddings: keys.optional_size(&["max_position_embeddings"])?.unwrap_or(32_768),
        initializer_range: keys.number(&["initializer_range"], 0.02)? as f32,
        source: keys.map.clone(),
    })
}

/// Reads the rotary base from the classic key or from the `rope_parameters` object of newer files.
fn rope_theta(keys: &Keys<'_>) -> Result<f64, Error> {
    if let Some(parameters) = keys.object("rope_parameters")? {
        if parameters.map.get("rope_type").is_some_and(|v| v != "default") {
            return Err(parameters.refuse("rope_type", "\"default\""));
        }
        return parameters.number(&["rope_theta"], 10_000.0);
    }
    if keys.map.get("rope_scaling").is_some_and(|v| !v.is_null()) {
        return Err(keys.refuse("rope_scaling", "null"));
    }
    // transformers' default of Qwen2Config.
    keys.number(&["rope_theta"], 10_000.0)
}

fn names() -> Names {
    Names {
        embedding: "model.embed_tokens",
        attention_norm: "model.layers.{}.input_layernorm",
        attention_input: AttentionInputNames::Split {
            query: "model.layers.{}.self_attn.q_proj",
            key: "model.layers.{}.self_attn.k_proj",
            value: "model.layers.{}.self_attn.v_proj",
        },
        attention_output: "model.layers.{}.self_attn.o_proj",
        mlp_norm: "model.layers.{}.post_attention_layernorm",
        gate: "model.layers.{}.mlp.gate_proj",
        up: "model.layers.{}.mlp.up_proj",
        down: "model.layers.{}.mlp.down_proj",
        final_norm: "model.norm",
        head: "lm_head",
    }
}

fn is_buffer(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}
