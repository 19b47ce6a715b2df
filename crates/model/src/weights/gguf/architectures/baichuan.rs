//! Baichuan 1 and 2, 7B (rotation) and 13B (ALiBi): the packed projection becomes three tensors, of which query and key are
//! kept for interleaved rotation, in the 13B too, where only the order within both matters.
//!
//! llama.cpp tells the two apart by the number of layers: 32 turn, 40 have ALiBi, others neither.

use std::path::Path;

use serde_json::json;

use super::{
    Architecture, Described, More,
    Rows::{Key, Query, Same},
    Tensor, object, same,
};
use crate::{
    config::{DecoderConfig, Positions},
    error::Error,
    weights::gguf::write::Entry,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "baichuan",
    name: "baichuan",
    sign: "token_embd.weight",
    tensors: TENSORS,
    buffers: &["rotary_emb.inv_freq"],
    described: &[],
    optional_prefix: "",
    branches: 1,
    may_be_tied: false,
    more,
    config,
};

const TENSORS: &[Tensor] = &[
    same("model.embed_tokens.weight", &[("token_embd.weight", Same)]),
    same("model.layers.{}.input_layernorm.weight", &[("blk.{}.attn_norm.weight", Same)]),
    same(
        "model.layers.{}.self_attn.W_pack.weight",
        &[("blk.{}.attn_q.weight", Query), ("blk.{}.attn_k.weight", Key), ("blk.{}.attn_v.weight", Same)],
    ),
    same("model.layers.{}.self_attn.o_proj.weight", &[("blk.{}.attn_output.weight", Same)]),
    same("model.layers.{}.post_attention_layernorm.weight", &[("blk.{}.ffn_norm.weight", Same)]),
    same("model.layers.{}.mlp.gate_proj.weight", &[("blk.{}.ffn_gate.weight", Same)]),
    same("model.layers.{}.mlp.up_proj.weight", &[("blk.{}.ffn_up.weight", Same)]),
    same("model.layers.{}.mlp.down_proj.weight", &[("blk.{}.ffn_down.weight", Same)]),
    same("model.norm.weight", &[("output_norm.weight", Same)]),
    same("lm_head.weight", &[("output.weight", Same)]).unless_tied(),
];

/// Layers by which llama.cpp knows the 7B and the 13B.
const TURNING_LAYERS: usize = 32;
const ALIBI_LAYERS: usize = 40;
/// The exponent that ALiBi's slopes start from, as llama.cpp names it.
const ALIBI: &str = ".attention.max_alibi_bias";

fn more(config: &DecoderConfig, _: &Path) -> Result<More, Error> {
    let turns = matches!(config.positions, Positions::Rope(_));
    let mut more = More { normalised_head: config.normalised_head, ..More::default() };
    more.entries.push((".tensor_data_layout".to_owned(), Entry::Text("Meta AI original pth".to_owned())));
    if !turns {
        more.entries.push((ALIBI.to_owned(), Entry::F32(8.0)));
    }
    let layers = if turns { TURNING_LAYERS } else { ALIBI_LAYERS };
    if config.num_hidden_layers != layers {
        let positions = if turns { "rotation" } else { "ALiBi" };
        more.notes.push(format!(
            "llama.cpp gives {positions} to Baichuan of {layers} layers only; with {} it computes something else",
            config.num_hidden_layers
        ));
    }
    if more.normalised_head {
        more.notes.push("the rows of the output head were divided by their lengths (NormHead)".to_owned());
    }
    Ok(more)
}

fn config(file: &Described<'_>) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let sizes = &file.sizes;
    let bias = file.header.number(&format!("baichuan{ALIBI}"))?;
    let alibi = bias.map_or(sizes.layers == ALIBI_LAYERS, |bias| bias > 0.0);
    let (class, length) = if alibi {
        ("BaichuanForCausalLM", "model_max_length")
    } else {
        ("BaiChuanForCausalLM", "max_position_embeddings")
    };
    Ok(object(json!({
        "architectures": [class],
        "model_type": "baichuan",
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.feed_forward,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "hidden_act": "silu",
        length: sizes.context,
        "rms_norm_eps": file.rms_eps()?,
        "tie_word_embeddings": file.tied,
    })))
}
