//! BLOOM: the packed projection goes from `[head][query, key, value]` to `[query, key, value][head]`; ALiBi; the output head
//! is the embedding.

use serde_json::json;

use super::{
    Architecture, Described, More, Norm,
    Rows::{HeadsWithin, Same},
    Tensor, object, same,
};
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "bloom",
    name: "bloom",
    sign: "token_embd.weight",
    tensors: TENSORS,
    buffers: &[],
    described: &[],
    // Checkpoints of the bare model lack it.
    optional_prefix: "transformer.",
    branches: 1,
    may_be_tied: true,
    more: |_, _| Ok(More::default()),
    config,
};

const TENSORS: &[Tensor] = &[
    same("transformer.word_embeddings.weight", &[("token_embd.weight", Same)]),
    same("transformer.word_embeddings_layernorm.weight", &[("token_embd_norm.weight", Same)]),
    same("transformer.word_embeddings_layernorm.bias", &[("token_embd_norm.bias", Same)]),
    same("transformer.h.{}.input_layernorm.weight", &[("blk.{}.attn_norm.weight", Same)]),
    same("transformer.h.{}.input_layernorm.bias", &[("blk.{}.attn_norm.bias", Same)]),
    same(
        "transformer.h.{}.self_attention.query_key_value.weight",
        &[("blk.{}.attn_qkv.weight", HeadsWithin)],
    ),
    same("transformer.h.{}.self_attention.query_key_value.bias", &[("blk.{}.attn_qkv.bias", HeadsWithin)]),
    same("transformer.h.{}.self_attention.dense.weight", &[("blk.{}.attn_output.weight", Same)]),
    same("transformer.h.{}.self_attention.dense.bias", &[("blk.{}.attn_output.bias", Same)]),
    same("transformer.h.{}.post_attention_layernorm.weight", &[("blk.{}.ffn_norm.weight", Same)]),
    same("transformer.h.{}.post_attention_layernorm.bias", &[("blk.{}.ffn_norm.bias", Same)]),
    same("transformer.h.{}.mlp.dense_h_to_4h.weight", &[("blk.{}.ffn_up.weight", Same)]),
    same("transformer.h.{}.mlp.dense_h_to_4h.bias", &[("blk.{}.ffn_up.bias", Same)]),
    same("transformer.h.{}.mlp.dense_4h_to_h.weight", &[("blk.{}.ffn_down.weight", Same)]),
    same("transformer.h.{}.mlp.dense_4h_to_h.bias", &[("blk.{}.ffn_down.bias", Same)]),
    same("transformer.ln_f.weight", &[("output_norm.weight", Same)]),
    same("transformer.ln_f.bias", &[("output_norm.bias", Same)]),
    same("lm_head.weight", &[("output.weight", Same)]).unless_tied(),
];

fn config(file: &Described<'_>) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let sizes = &file.sizes;
    let Norm::Layer(eps) = sizes.norm else {
        return Err(file.header.wrong("bloom.attention.layer_norm_epsilon", "a number", "nothing"));
    };
    Ok(object(json!({
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "apply_residual_connection_post_layernorm": false,
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
        "seq_length": sizes.context,
        "layer_norm_epsilon": eps,
        "tie_word_embeddings": file.tied,
    })))
}
