//! Qwen3 (`Qwen3ForCausalLM`): LLaMA's block with an RMSNorm on every query and key head before it is turned, and heads whose width
//! is not `hidden_size / num_attention_heads`.

use super::{Architecture, LLAMA_NAMES, is_rope_buffer, llama, no_other_name};
use crate::{
    config::{DecoderConfig, Keys},
    error::Error,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen3",
    config,
    names: |_| LLAMA_NAMES,
    is_buffer: is_rope_buffer,
    other_names: no_other_name,
};

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    if keys.flag("attention_bias", false)? {
        return Err(keys.refuse("attention_bias", "false"));
    }
    Ok(DecoderConfig {
        head_norm: true,
        // transformers' default of Qwen3Config.
        head_dim: keys.optional_size(&["head_dim"])?.unwrap_or(128),
        max_position_embeddings: keys.optional_size(&["max_position_embeddings"])?.unwrap_or(32_768),
        ..llama::of_family(keys, "qwen3")?
    })
}
