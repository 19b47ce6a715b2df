//! Qwen2 and Qwen2.5.

use super::{Architecture, Rows::Same, Tensor, nothing_more, same};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen2",
    name: "qwen2",
    sign: "token_embd.weight",
    tensors: TENSORS,
    buffers: &["rotary_emb.inv_freq"],
    described: &[],
    optional_prefix: "",
    branches: 1,
    may_be_tied: true,
    more: nothing_more,
    config: |file| {
        let mut config = file.llama_like("qwen2", "Qwen2ForCausalLM")?;
        config.insert("use_sliding_window".to_owned(), false.into());
        Ok(config)
    },
};

const TENSORS: &[Tensor] = &[
    same("model.embed_tokens.weight", &[("token_embd.weight", Same)]),
    same("model.layers.{}.input_layernorm.weight", &[("blk.{}.attn_norm.weight", Same)]),
    same("model.layers.{}.self_attn.q_proj.weight", &[("blk.{}.attn_q.weight", Same)]),
    same("model.layers.{}.self_attn.q_proj.bias", &[("blk.{}.attn_q.bias", Same)]),
    same("model.layers.{}.self_attn.k_proj.weight", &[("blk.{}.attn_k.weight", Same)]),
    same("model.layers.{}.self_attn.k_proj.bias", &[("blk.{}.attn_k.bias", Same)]),
    same("model.layers.{}.self_attn.v_proj.weight", &[("blk.{}.attn_v.weight", Same)]),
    same("model.layers.{}.self_attn.v_proj.bias", &[("blk.{}.attn_v.bias", Same)]),
    same("model.layers.{}.self_attn.o_proj.weight", &[("blk.{}.attn_output.weight", Same)]),
    same("model.layers.{}.post_attention_layernorm.weight", &[("blk.{}.ffn_norm.weight", Same)]),
    same("model.layers.{}.mlp.gate_proj.weight", &[("blk.{}.ffn_gate.weight", Same)]),
    same("model.layers.{}.mlp.up_proj.weight", &[("blk.{}.ffn_up.weight", Same)]),
    same("model.layers.{}.mlp.down_proj.weight", &[("blk.{}.ffn_down.weight", Same)]),
    same("model.norm.weight", &[("output_norm.weight", Same)]),
    same("lm_head.weight", &[("output.weight", Same)]).unless_tied(),
];
