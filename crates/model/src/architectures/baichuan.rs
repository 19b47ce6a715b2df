//! Baichuan (remote code): LLaMA's block with one layer for query, key and value. The 7B models turn queries and keys, the 13B
//! models have ALiBi; the second generation divides the rows of its head by their lengths.

use super::{Architecture, AttentionInputNames, LLAMA_NAMES, Names, is_rope_buffer, llama, no_other_name};
use crate::{
    config::{DecoderConfig, Keys, Positions, QkvLayout},
    error::Error,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "baichuan",
    config,
    names: |_| NAMES,
    is_buffer: is_rope_buffer,
    other_names: no_other_name,
};

/// Rows of the second generation's vocabulary; nothing else in its published chat configuration tells it from the first.
const SECOND_VOCABULARY: usize = 125_696;

/// Width of the 13B models.
const LARGE: usize = 5120;

fn config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let base = llama::of_family(keys, "baichuan")?;
    let has = |key: &str| keys.map.get(key).is_some_and(|v| !v.is_null());
    let second = base.vocab_size == SECOND_VOCABULARY || has("z_loss_weight");
    // The first 7B model is spelled BaiChuan. The others share their class name: the 13B models are wider and have no length of
    // a table of positions.
    let first_7b =
        keys.map.get("architectures").and_then(|v| v.get(0)).is_some_and(|v| v == "BaiChuanForCausalLM");
    let large = base.hidden_size == LARGE || (!first_7b && !has("max_position_embeddings"));
    let positions = if large { Positions::Alibi } else { base.positions };
    Ok(DecoderConfig {
        positions,
        qkv: QkvLayout::Packed,
        normalised_head: second,
        padding_id: keys.optional_size(&["pad_token_id"])?.map(|id| id as u32),
        max_position_embeddings: keys
            .optional_size(&["max_position_embeddings", "model_max_length"])?
            .unwrap_or(4096),
        ..base
    })
}

const NAMES: Names =
    Names { attention_input: AttentionInputNames::Packed("model.layers.{}.self_attn.W_pack"), ..LLAMA_NAMES };
