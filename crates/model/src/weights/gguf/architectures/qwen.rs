//! Qwen v1: one packed projection, `w2` is the gate and `w1` the up branch, `feed_forward_length` counts both.
//!
//! llama.cpp knows neither its dynamic NTK scaling nor its logn attention, so results are the same up to the trained length.

use std::path::Path;

use serde_json::json;

use super::{Architecture, Described, More, Rows::Same, Tensor, object, same};
use crate::{
    config::{DecoderConfig, Positions, RopeScaling},
    error::Error,
    weights::gguf::write::Entry,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen",
    name: "qwen",
    sign: "token_embd.weight",
    tensors: TENSORS,
    buffers: &["rotary_emb.inv_freq", "attn.masked_bias", "attn.bias", "logn_tensor"],
    described: &[],
    optional_prefix: "",
    branches: 2,
    may_be_tied: false,
    more,
    config,
};

const TENSORS: &[Tensor] = &[
    same("transformer.wte.weight", &[("token_embd.weight", Same)]),
    same("transformer.h.{}.ln_1.weight", &[("blk.{}.attn_norm.weight", Same)]),
    same("transformer.h.{}.attn.c_attn.weight", &[("blk.{}.attn_qkv.weight", Same)]),
    same("transformer.h.{}.attn.c_attn.bias", &[("blk.{}.attn_qkv.bias", Same)]),
    same("transformer.h.{}.attn.c_proj.weight", &[("blk.{}.attn_output.weight", Same)]),
    same("transformer.h.{}.ln_2.weight", &[("blk.{}.ffn_norm.weight", Same)]),
    same("transformer.h.{}.mlp.w2.weight", &[("blk.{}.ffn_gate.weight", Same)]),
    same("transformer.h.{}.mlp.w1.weight", &[("blk.{}.ffn_up.weight", Same)]),
    same("transformer.h.{}.mlp.c_proj.weight", &[("blk.{}.ffn_down.weight", Same)]),
    same("transformer.ln_f.weight", &[("output_norm.weight", Same)]),
    same("lm_head.weight", &[("output.weight", Same)]).unless_tied(),
];

/// Published models were trained on 8192 tokens; the first release, on 2048, says so.
const TRAINED: usize = 8192;

/// Metadata that llama.cpp has no use for: what happens past the trained length.
const TRAINED_LENGTH: &str = ".trained_length";
const DYNAMIC_NTK: &str = ".use_dynamic_ntk";
const LOGN: &str = ".use_logn_attn";

fn more(config: &DecoderConfig, _: &Path) -> Result<More, Error> {
    let ntk = match config.positions {
        Positions::Rope(rope) => match rope.scaling {
            RopeScaling::DynamicNtk { trained_length } => Some(trained_length),
            _ => None,
        },
        _ => None,
    };
    let logn = config.logn_trained_length;
    let trained = ntk.or(logn).unwrap_or(config.max_position_embeddings);
    let entries = vec![
        (TRAINED_LENGTH.to_owned(), Entry::U32(u32::try_from(trained).unwrap_or(u32::MAX))),
        (DYNAMIC_NTK.to_owned(), Entry::Flag(ntk.is_some())),
        (LOGN.to_owned(), Entry::Flag(logn.is_some())),
    ];
    let mut more = More { entries, ..More::default() };
    if config.max_position_embeddings > trained {
        more.notes.push(format!(
            "llama.cpp does not scale attention past the trained length: keep its context at {trained} tokens"
        ));
    }
    Ok(more)
}

fn config(file: &Described<'_>) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let sizes = &file.sizes;
    let key = |end: &str| format!("qwen{end}");
    let trained = file.header.optional_size(&key(TRAINED_LENGTH))?.unwrap_or(sizes.context.min(TRAINED));
    let (_, base) = sizes.rope.unwrap_or((0, 10_000.0));
    Ok(object(json!({
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.feed_forward,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "kv_channels": sizes.head,
        "layer_norm_epsilon": file.rms_eps()?,
        "max_position_embeddings": sizes.context,
        "seq_length": trained,
        "rotary_emb_base": base,
        "rotary_pct": 1.0,
        "no_bias": true,
        "scale_attn_weights": true,
        "use_dynamic_ntk": file.header.flag(&key(DYNAMIC_NTK))?.unwrap_or(true),
        "use_logn_attn": file.header.flag(&key(LOGN))?.unwrap_or(true),
        "tie_word_embeddings": file.tied,
        "tokenizer_class": "QWenTokenizer",
    })))
}
