//! GLM-4 in ChatGLM's remote-code layout: query, key and value in one projection, gate and up in one.

use std::path::Path;

use serde_json::json;

use super::{Architecture, Described, More, Rows::Same, Tensor, nothing_more, object, refused, same};
use crate::{config::DecoderConfig, error::Error, weights::gguf::write::Entry};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "chatglm",
    name: "chatglm",
    sign: "blk.0.attn_qkv.weight",
    tensors: TENSORS,
    buffers: &["rotary_pos_emb.inv_freq"],
    described: &[],
    optional_prefix: "",
    branches: 1,
    may_be_tied: true,
    more,
    config,
};

const TENSORS: &[Tensor] = &[
    same("transformer.embedding.word_embeddings.weight", &[("token_embd.weight", Same)]),
    same("transformer.encoder.layers.{}.input_layernorm.weight", &[("blk.{}.attn_norm.weight", Same)]),
    same(
        "transformer.encoder.layers.{}.self_attention.query_key_value.weight",
        &[("blk.{}.attn_qkv.weight", Same)],
    ),
    same(
        "transformer.encoder.layers.{}.self_attention.query_key_value.bias",
        &[("blk.{}.attn_qkv.bias", Same)],
    )
    .optional(),
    same("transformer.encoder.layers.{}.self_attention.dense.weight", &[("blk.{}.attn_output.weight", Same)]),
    same(
        "transformer.encoder.layers.{}.post_attention_layernorm.weight",
        &[("blk.{}.ffn_norm.weight", Same)],
    ),
    same("transformer.encoder.layers.{}.mlp.dense_h_to_4h.weight", &[("blk.{}.ffn_up.weight", Same)]),
    same("transformer.encoder.layers.{}.mlp.dense_4h_to_h.weight", &[("blk.{}.ffn_down.weight", Same)]),
    same("transformer.encoder.final_layernorm.weight", &[("output_norm.weight", Same)]),
    same("transformer.output_layer.weight", &[("output.weight", Same)]).unless_tied(),
];

/// ChatGLM-6B shares the `model_type` and has nothing in common with GLM-4 otherwise; llama.cpp does not have it.
fn more(config: &DecoderConfig, place: &Path) -> Result<More, Error> {
    if config.prefix.is_some() {
        return Err(refused(
            place,
            "position_encoding_2d",
            "a later ChatGLM (llama.cpp has no ChatGLM-6B)",
            "true",
        ));
    }
    let mut more = nothing_more(config, place)?;
    more.entries.push(("tokenizer.ggml.add_bos_token".to_owned(), Entry::Flag(false)));
    Ok(more)
}

fn config(file: &Described<'_>) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let sizes = &file.sizes;
    let (_, base) = sizes.rope.unwrap_or((0, 10_000.0));
    Ok(object(json!({
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": false,
        "add_qkv_bias": file.header.tensors.contains_key("blk.0.attn_qkv.bias"),
        "apply_query_key_layer_scaling": true,
        "apply_residual_connection_post_layernorm": false,
        "ffn_hidden_size": sizes.feed_forward,
        "hidden_size": sizes.hidden,
        "kv_channels": sizes.head,
        "layernorm_epsilon": file.rms_eps()?,
        "multi_query_attention": true,
        "multi_query_group_num": sizes.kv_heads,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_layers": sizes.layers,
        "original_rope": true,
        "padded_vocab_size": sizes.vocab,
        "post_layer_norm": true,
        "rmsnorm": true,
        "rope_ratio": base / 10_000.0,
        "seq_length": sizes.context,
        "tie_word_embeddings": file.tied,
    })))
}
