//! Qwen2 and Qwen2.5 (`Qwen2ForCausalLM`): LLaMA's block with biases on the query, key and value projections.

use super::{Architecture, LLAMA_NAMES, is_rope_buffer, llama, no_other_name};
use crate::{
    config::{Biases, DecoderConfig, Keys},
    error::Error,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen2",
    config,
    names: |_| LLAMA_NAMES,
    is_buffer: is_rope_buffer,
    other_names: no_other_name,
};

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    Ok(DecoderConfig {
        bias: Biases { qkv: true, ..Biases::default() },
        max_position_embeddings: keys.optional_size(&["max_position_embeddings"])?.unwrap_or(32_768),
        ..llama::of_family(keys, "qwen2")?
    })
}
