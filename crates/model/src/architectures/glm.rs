//! GLM-4 as transformers has it (`GlmForCausalLM`): the first half of each head is turned, in neighbouring pairs; gate and up are
//! one layer.

use super::{Architecture, LLAMA_NAMES, Names, is_rope_buffer, llama, no_other_name};
use crate::{
    config::{Biases, DecoderConfig, Keys, MlpKind, Positions, Rope, RopeLayout, RopeScaling},
    error::Error,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "glm",
    config,
    names: |_| NAMES,
    is_buffer: is_rope_buffer,
    other_names: no_other_name,
};

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let base = llama::of_family(keys, "glm")?;
    // Newer files keep this key beside the base of the rope.
    let nested = keys.object("rope_parameters")?;
    let default = nested.as_ref().map_or(Ok(0.5), |k| k.number(&["partial_rotary_factor"], 0.5))?;
    let part = keys.number(&["partial_rotary_factor"], default)?;
    let rope = Rope {
        theta: 10_000.0,
        rotary_dim: (base.head_dim as f64 * part) as usize,
        layout: RopeLayout::Interleaved,
        scaling: RopeScaling::None,
        half_precision: false,
    };
    Ok(DecoderConfig {
        positions: Positions::Rope(llama::rope_keys(keys, rope)?),
        norm_eps: keys.number(&["rms_norm_eps"], 1.5625e-7)? as f32,
        mlp: MlpKind::GatedPacked,
        bias: Biases { qkv: keys.flag("attention_bias", false)?, ..Biases::default() },
        max_position_embeddings: keys.optional_size(&["max_position_embeddings"])?.unwrap_or(131_072),
        ..base
    })
}

const NAMES: Names = Names { gate: "model.layers.{}.mlp.gate_up_proj", ..LLAMA_NAMES };
