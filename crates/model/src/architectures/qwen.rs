//! Qwen v1 (`QWenLMHeadModel`, remote code; the base of Taiyi 1).
//!
//! What is different from LLaMA: one packed projection with the only bias of the model, `w2` is the gate and
//! `w1` the up branch, `intermediate_size` counts both branches, and past `seq_length` evaluation scales the
//! rotary base (dynamic NTK) and the queries (logn).

use super::{Architecture, AttentionInputNames, LLAMA_NAMES, Names};
use crate::{
    config::{Biases, DecoderConfig, Keys, Positions, QkvLayout, Rope, RopeLayout, RopeScaling, Sizes},
    error::Error,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen",
    config,
    names: |_| NAMES,
    is_buffer,
    other_names: super::no_other_name,
};

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let hidden_size = keys.size(&["hidden_size", "n_embd"])?;
    let heads = keys.size(&["num_attention_heads", "n_head"])?;
    let head_dim = match keys.optional_size(&["kv_channels"])? {
        Some(size) => size,
        None => hidden_size / heads.max(1),
    };
    let both_branches = keys.size(&["intermediate_size", "ffn_hidden_size"])?;
    let seq_length =
        keys.optional_size(&["seq_length", "n_positions", "max_position_embeddings"])?.unwrap_or(8192);
    let rotary = keys.number(&["rotary_pct"], 1.0)?;
    if rotary != 1.0 {
        return Err(keys.refuse("rotary_pct", "1.0"));
    }
    if !keys.flag("no_bias", true)? {
        return Err(keys.refuse("no_bias", "true"));
    }
    if !keys.flag("scale_attn_weights", true)? {
        return Err(keys.refuse("scale_attn_weights", "true"));
    }
    let scaling = if keys.flag("use_dynamic_ntk", true)? {
        RopeScaling::DynamicNtk { trained_length: seq_length }
    } else {
        RopeScaling::None
    };
    let sizes = Sizes {
        vocab_size: keys.size(&["vocab_size", "padded_vocab_size"])?,
        hidden_size,
        intermediate_size: both_branches / 2,
        num_hidden_layers: keys.size(&["num_hidden_layers", "n_layer"])?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim,
    };
    Ok(DecoderConfig {
        norm_eps: keys.number(&["layer_norm_epsilon"], 1e-6)? as f32,
        positions: Positions::Rope(Rope {
            theta: keys.number(&["rotary_emb_base"], 10_000.0)?,
            rotary_dim: head_dim,
            layout: RopeLayout::HalfSplit,
            scaling,
            half_precision: false,
        }),
        logn_trained_length: keys.flag("use_logn_attn", true)?.then_some(seq_length),
        qkv: QkvLayout::Packed,
        bias: Biases { qkv: true, ..Biases::default() },
        tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
        max_position_embeddings: keys
            .optional_size(&["max_position_embeddings", "n_positions"])?
            .unwrap_or(seq_length),
        initializer_range: keys.number(&["initializer_range"], 0.02)? as f32,
        ..DecoderConfig::llama("qwen", sizes, keys)
    })
}

const NAMES: Names = Names {
    embedding: "transformer.wte",
    attention_norm: "transformer.h.{}.ln_1",
    attention_input: AttentionInputNames::Packed("transformer.h.{}.attn.c_attn"),
    attention_output: "transformer.h.{}.attn.c_proj",
    mlp_norm: "transformer.h.{}.ln_2",
    gate: "transformer.h.{}.mlp.w2",
    up: "transformer.h.{}.mlp.w1",
    down: "transformer.h.{}.mlp.c_proj",
    final_norm: "transformer.ln_f",
    ..LLAMA_NAMES
};

fn is_buffer(name: &str) -> bool {
    ["rotary_emb.inv_freq", "attn.masked_bias", "attn.bias", "logn_tensor"]
        .iter()
        .any(|end| name.ends_with(end))
}
