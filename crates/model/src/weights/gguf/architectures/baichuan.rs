//! Baichuan 1 and 2, 7B (rotation) and 13B (ALiBi): the packed projection becomes three tensors, of which query and key are
//! kept for interleaved rotation, in the 13B too, where only the order within both matters.
//!
//! llama.cpp tells the two apart by the number of layers: 32 turn, 40 have ALiBi, others neither.

use serde_json::json;

use super::{
    Architecture, Described, More, Norm,
    Rows::{Key, Query, Same},
    Sizes, Tensor, object, same,
};
use crate::{config::Keys, error::Error, weights::gguf::write::Entry};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "baichuan",
    name: "baichuan",
    sign: "token_embd.weight",
    tensors: TENSORS,
    buffers: &["rotary_emb.inv_freq"],
    described: &[],
    optional_prefix: "",
    tied: false,
    sizes,
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

/// The 13B's configurations have no such key: their positions have no end.
fn turns(keys: &Keys<'_>) -> Result<bool, Error> {
    Ok(keys.optional_size(&["max_position_embeddings"])?.is_some())
}

fn sizes(keys: &Keys<'_>) -> Result<Sizes, Error> {
    let hidden = keys.size(&["hidden_size"])?;
    let heads = keys.size(&["num_attention_heads"])?;
    let head = hidden / heads.max(1);
    Ok(Sizes {
        vocab: keys.size(&["vocab_size"])?,
        context: keys.optional_size(&["max_position_embeddings", "model_max_length"])?.unwrap_or(4096),
        hidden,
        feed_forward: keys.size(&["intermediate_size"])?,
        layers: keys.size(&["num_hidden_layers"])?,
        heads,
        kv_heads: heads,
        head,
        norm: Norm::Rms(keys.number(&["rms_norm_eps"], 1e-6)?),
        // llama.cpp wants the count in the 13B too.
        rope: Some((head, keys.number(&["rope_theta"], 10_000.0)?)),
    })
}

/// Baichuan2's vocabulary; its published 13B chat configuration says it no other way.
const SECOND_VOCABULARY: usize = 125_696;

fn more(keys: &Keys<'_>, sizes: &Sizes) -> Result<More, Error> {
    let turns = turns(keys)?;
    let mut more = More {
        normalised_head: keys.map.contains_key("z_loss_weight") || sizes.vocab == SECOND_VOCABULARY,
        ..More::default()
    };
    more.entries.push((".tensor_data_layout".to_owned(), Entry::Text("Meta AI original pth".to_owned())));
    if !turns {
        more.entries.push((ALIBI.to_owned(), Entry::F32(8.0)));
    }
    let layers = if turns { TURNING_LAYERS } else { ALIBI_LAYERS };
    if sizes.layers != layers {
        let positions = if turns { "rotation" } else { "ALiBi" };
        more.notes.push(format!(
            "llama.cpp gives {positions} to Baichuan of {layers} layers only; with {} it computes something else",
            sizes.layers
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
