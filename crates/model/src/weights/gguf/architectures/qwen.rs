//! Qwen v1: one packed projection, `w2` is the gate and `w1` the up branch, `feed_forward_length` counts both.
//!
//! llama.cpp knows neither its dynamic NTK scaling nor its logn attention, so results are the same up to the trained length.

use serde_json::json;

use super::{Architecture, Described, More, Norm, Rows::Same, Sizes, Tensor, object, same};
use crate::{config::Keys, error::Error, weights::gguf::write::Entry};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen",
    name: "qwen",
    sign: "token_embd.weight",
    tensors: TENSORS,
    buffers: &["rotary_emb.inv_freq", "attn.masked_bias", "attn.bias", "logn_tensor"],
    described: &[],
    optional_prefix: "",
    tied: false,
    sizes,
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

fn sizes(keys: &Keys<'_>) -> Result<Sizes, Error> {
    let hidden = keys.size(&["hidden_size", "n_embd"])?;
    let heads = keys.size(&["num_attention_heads", "n_head"])?;
    let head = match keys.optional_size(&["kv_channels"])? {
        Some(head) => head,
        None => hidden / heads.max(1),
    };
    Ok(Sizes {
        vocab: keys.size(&["vocab_size", "padded_vocab_size"])?,
        context: match keys.optional_size(&["max_position_embeddings", "n_positions"])? {
            Some(context) => context,
            None => trained_length(keys)?,
        },
        hidden,
        feed_forward: keys.size(&["intermediate_size", "ffn_hidden_size"])?,
        layers: keys.size(&["num_hidden_layers", "n_layer"])?,
        heads,
        kv_heads: heads,
        head,
        norm: Norm::Rms(keys.number(&["layer_norm_epsilon"], 1e-6)?),
        rope: Some((head, keys.number(&["rotary_emb_base"], 10_000.0)?)),
    })
}

/// Published models were trained on 8192 tokens; the first release, on 2048, says so.
const TRAINED: usize = 8192;

fn trained_length(keys: &Keys<'_>) -> Result<usize, Error> {
    Ok(keys.optional_size(&["seq_length", "n_positions", "max_position_embeddings"])?.unwrap_or(TRAINED))
}

/// Metadata that llama.cpp has no use for: what happens past the trained length.
const TRAINED_LENGTH: &str = ".trained_length";
const DYNAMIC_NTK: &str = ".use_dynamic_ntk";
const LOGN: &str = ".use_logn_attn";

fn more(keys: &Keys<'_>, sizes: &Sizes) -> Result<More, Error> {
    let trained = trained_length(keys)?;
    let (ntk, logn) = (keys.flag("use_dynamic_ntk", true)?, keys.flag("use_logn_attn", true)?);
    let entries = vec![
        (TRAINED_LENGTH.to_owned(), Entry::U32(u32::try_from(trained).unwrap_or(u32::MAX))),
        (DYNAMIC_NTK.to_owned(), Entry::Flag(ntk)),
        (LOGN.to_owned(), Entry::Flag(logn)),
    ];
    let mut more = More { entries, ..More::default() };
    if (ntk || logn) && sizes.context > trained {
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
