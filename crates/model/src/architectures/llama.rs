//! LLaMA and what is built like it (`LlamaForCausalLM`): LLaMA 1 to 3, Vicuna, Alpaca, Chinese-LLaMA, PMC-LLaMA.

use super::{Architecture, LLAMA_NAMES, is_rope_buffer, no_other_name};
use crate::{
    config::{DecoderConfig, Keys, Positions, Rope, RopeLayout, RopeScaling, Sizes},
    error::Error,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "llama",
    config,
    names: |_| LLAMA_NAMES,
    is_buffer: is_rope_buffer,
    other_names: no_other_name,
};

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let config = of_family(keys, "llama")?;
    for bias in ["attention_bias", "mlp_bias"] {
        if keys.flag(bias, false)? {
            return Err(keys.refuse(bias, "false"));
        }
    }
    Ok(config)
}

/// The configuration of a model with LLaMA's keys.
pub(super) fn of_family(keys: &Keys<'_>, model_type: &str) -> Result<DecoderConfig, Error> {
    if keys.map.get("hidden_act").is_some_and(|v| v != "silu" && v != "swish") {
        return Err(keys.refuse("hidden_act", "\"silu\""));
    }
    // `sliding_window` is set in many published files and means nothing unless this flag is on.
    if keys.flag("use_sliding_window", false)? {
        return Err(keys.refuse("use_sliding_window", "false (attention over a window is not implemented)"));
    }
    let hidden_size = keys.size(&["hidden_size"])?;
    let heads = keys.size(&["num_attention_heads"])?;
    let head_dim = match keys.optional_size(&["head_dim"])? {
        Some(size) => size,
        None => hidden_size / heads.max(1),
    };
    let sizes = Sizes {
        vocab_size: keys.size(&["vocab_size"])?,
        hidden_size,
        intermediate_size: keys.size(&["intermediate_size"])?,
        num_hidden_layers: keys.size(&["num_hidden_layers"])?,
        num_attention_heads: heads,
        num_key_value_heads: keys.optional_size(&["num_key_value_heads"])?.unwrap_or(heads),
        head_dim,
    };
    let rope = Rope {
        theta: 10_000.0,
        rotary_dim: head_dim,
        layout: RopeLayout::HalfSplit,
        scaling: RopeScaling::None,
        half_precision: false,
    };
    Ok(DecoderConfig {
        norm_eps: keys.number(&["rms_norm_eps"], 1e-6)? as f32,
        positions: Positions::Rope(rope_keys(keys, rope)?),
        tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
        max_position_embeddings: keys.optional_size(&["max_position_embeddings"])?.unwrap_or(2048),
        initializer_range: keys.number(&["initializer_range"], 0.02)? as f32,
        ..DecoderConfig::llama(model_type, sizes, keys)
    })
}

/// Reads base and scaling from the classic keys or from the `rope_parameters` object of newer files.
pub(super) fn rope_keys(keys: &Keys<'_>, rope: Rope) -> Result<Rope, Error> {
    if let Some(parameters) = keys.object("rope_parameters")? {
        let theta = parameters.number(&["rope_theta"], rope.theta)?;
        return Ok(Rope { theta, scaling: scaling(&parameters)?, ..rope });
    }
    let scaling = match keys.object("rope_scaling")? {
        Some(parameters) => scaling(&parameters)?,
        None => RopeScaling::None,
    };
    Ok(Rope { theta: keys.number(&["rope_theta"], rope.theta)?, scaling, ..rope })
}

/// Only what changes nothing, and LLaMA 3's: no reference is at hand for the others (linear, dynamic, YaRN, LongRoPE).
fn scaling(parameters: &Keys<'_>) -> Result<RopeScaling, Error> {
    let key = if parameters.map.contains_key("rope_type") { "rope_type" } else { "type" };
    match parameters.map.get(key).and_then(|v| v.as_str()) {
        None if !parameters.map.contains_key(key) => Ok(RopeScaling::None),
        Some("default") => Ok(RopeScaling::None),
        Some("llama3") => {
            let required = |key: &str| match parameters.map.contains_key(key) {
                true => parameters.number(&[key], 0.0),
                false => Err(parameters.refuse(key, "a number")),
            };
            Ok(RopeScaling::Llama3 {
                factor: required("factor")?,
                low: required("low_freq_factor")?,
                high: required("high_freq_factor")?,
                original: required("original_max_position_embeddings")?,
            })
        }
        _ => Err(parameters.refuse(key, "\"default\" or \"llama3\"")),
    }
}
