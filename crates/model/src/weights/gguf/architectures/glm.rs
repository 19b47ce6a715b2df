//! transformers' `glm`, which GGUF keeps as `chatglm` with query, key and value apart.

use std::path::Path;

use super::{Architecture, Described, More, Rows::Same, Tensor, nothing_more, same};
use crate::{config::DecoderConfig, error::Error, weights::gguf::write::Entry};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "glm",
    name: "chatglm",
    sign: "blk.0.attn_q.weight",
    tensors: TENSORS,
    buffers: &["rotary_emb.inv_freq"],
    described: &[],
    optional_prefix: "",
    branches: 1,
    may_be_tied: true,
    more,
    config,
};

const TENSORS: &[Tensor] = &[
    same("model.embed_tokens.weight", &[("token_embd.weight", Same)]),
    same("model.layers.{}.input_layernorm.weight", &[("blk.{}.attn_norm.weight", Same)]),
    same("model.layers.{}.self_attn.q_proj.weight", &[("blk.{}.attn_q.weight", Same)]),
    same("model.layers.{}.self_attn.q_proj.bias", &[("blk.{}.attn_q.bias", Same)]).optional(),
    same("model.layers.{}.self_attn.k_proj.weight", &[("blk.{}.attn_k.weight", Same)]),
    same("model.layers.{}.self_attn.k_proj.bias", &[("blk.{}.attn_k.bias", Same)]).optional(),
    same("model.layers.{}.self_attn.v_proj.weight", &[("blk.{}.attn_v.weight", Same)]),
    same("model.layers.{}.self_attn.v_proj.bias", &[("blk.{}.attn_v.bias", Same)]).optional(),
    same("model.layers.{}.self_attn.o_proj.weight", &[("blk.{}.attn_output.weight", Same)]),
    same("model.layers.{}.post_attention_layernorm.weight", &[("blk.{}.ffn_norm.weight", Same)]),
    same("model.layers.{}.mlp.gate_up_proj.weight", &[("blk.{}.ffn_up.weight", Same)]),
    same("model.layers.{}.mlp.down_proj.weight", &[("blk.{}.ffn_down.weight", Same)]),
    same("model.norm.weight", &[("output_norm.weight", Same)]),
    same("lm_head.weight", &[("output.weight", Same)]).unless_tied(),
];

fn more(config: &DecoderConfig, place: &Path) -> Result<More, Error> {
    let mut more = nothing_more(config, place)?;
    more.entries.push(("tokenizer.ggml.add_bos_token".to_owned(), Entry::Flag(false)));
    Ok(more)
}

fn config(file: &Described<'_>) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let mut config = file.llama_like("glm", "GlmForCausalLM")?;
    let (turned, _) = file.sizes.rope.unwrap_or((0, 0.0));
    let bias = file.header.tensors.contains_key("blk.0.attn_q.bias");
    config.insert("attention_bias".to_owned(), bias.into());
    config.insert("partial_rotary_factor".to_owned(), (turned as f64 / file.sizes.head as f64).into());
    Ok(config)
}
