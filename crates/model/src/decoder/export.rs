//! A decoder in another architecture's layout, where that computes the same.

use serde_json::{Map, Value, json};
use taiyi_kernels::Precision;

use super::{Decoder, build::assemble};
use crate::{
    config::{DecoderConfig, MlpKind, NormKind, Positions, QkvLayout, Residual, RopeLayout, RopeScaling},
    error::Error,
    layers::{
        attention::AttentionInput,
        linear::Linear,
        mlp::MlpInput,
        source::{Role, Source},
        tensor::{Data, Tensor},
    },
};

impl Decoder {
    /// The same model in the layout of `qwen2` or `glm`, which transformers has in its tree: Qwen v1 becomes `qwen2`, ChatGLM4
    /// becomes `glm`. Weights are f32.
    ///
    /// Within its trained length Qwen v1 is exactly that; past it, its evaluation scales rope and queries with the length, which
    /// `qwen2` does not.
    ///
    /// # Errors
    /// When the layout is another, the model computes something that it does not have, or there are adapters that were not merged.
    pub fn to_layout(&self, model_type: &str) -> Result<Decoder, Error> {
        if self.adapter.is_some() {
            return Err(Error::input(
                "an exported checkpoint",
                "a model without adapters",
                "adapters; merge them first",
            ));
        }
        let json = Value::Object(layout_json(&self.config, model_type)?);
        let config = DecoderConfig::from_json(&json, std::path::Path::new("config.json"))?;
        let mut source = Converted { of: self, at: 0, tensors: self.pieces() };
        assemble(config, Precision::F32, &mut source)
    }

    /// The weights in the order in which an unpacked decoder is assembled, packed ones taken apart.
    fn pieces(&self) -> Vec<Piece<'_>> {
        let mut all = Vec::new();
        self.embedding.tensors(&mut |t| all.push(Piece::whole(t)));
        for block in &self.blocks {
            block.attention_norm.tensors(&mut |t| all.push(Piece::whole(t)));
            let (q, k) = (self.config.query_size(), self.config.key_size());
            match &block.attention.input {
                AttentionInput::Packed(linear) => {
                    for rows in [0..q, q..q + k, q + k..q + 2 * k] {
                        all.extend(Piece::rows(linear, rows));
                    }
                }
                AttentionInput::Split(three) => {
                    three.iter().for_each(|l| l.tensors(&mut |t| all.push(Piece::whole(t))));
                }
            }
            if let Some(norms) = &block.attention.head_norms {
                norms.iter().for_each(|n| n.tensors(&mut |t| all.push(Piece::whole(t))));
            }
            block.attention.output.tensors(&mut |t| all.push(Piece::whole(t)));
            block.mlp_norm.tensors(&mut |t| all.push(Piece::whole(t)));
            match &block.mlp.input {
                MlpInput::Gated(two) => {
                    two.iter().for_each(|l| l.tensors(&mut |t| all.push(Piece::whole(t))))
                }
                MlpInput::GatedPacked(one) | MlpInput::Plain(one) => {
                    one.tensors(&mut |t| all.push(Piece::whole(t)));
                }
            }
            block.mlp.down.tensors(&mut |t| all.push(Piece::whole(t)));
        }
        self.final_norm.tensors(&mut |t| all.push(Piece::whole(t)));
        all.extend(self.head.iter().map(Piece::whole));
        all
    }
}

/// Some rows of a tensor.
struct Piece<'a> {
    tensor: &'a Tensor,
    rows: std::ops::Range<usize>,
}

impl<'a> Piece<'a> {
    fn whole(tensor: &'a Tensor) -> Piece<'a> {
        Piece { tensor, rows: 0..tensor.shape[0] }
    }

    /// Rows of a layer's weight and of its bias.
    fn rows(linear: &'a Linear, rows: std::ops::Range<usize>) -> impl Iterator<Item = Piece<'a>> {
        let tensors = [Some(&linear.weight), linear.bias.as_ref()];
        tensors.into_iter().flatten().map(move |tensor| Piece { tensor, rows: rows.clone() })
    }
}

struct Converted<'a> {
    of: &'a Decoder,
    at: usize,
    tensors: Vec<Piece<'a>>,
}

impl Source for Converted<'_> {
    fn tensor(&mut self, name: String, _role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        let differs = |found: String| {
            Error::input(format!("tensor `{name}` of the other layout"), format!("shape {shape:?}"), found)
        };
        let Some(piece) = self.tensors.get(self.at) else {
            return Err(differs(format!("no more tensors in this {}", self.of.config.model_type)));
        };
        self.at += 1;
        let row = piece.tensor.len() / piece.tensor.shape[0].max(1);
        let values = &piece.tensor.dense()[piece.rows.start * row..piece.rows.end * row];
        if values.len() != shape.iter().product::<usize>() {
            return Err(differs(format!("{} values of `{}`", values.len(), piece.tensor.name)));
        }
        Ok(Tensor::new(name, shape, Data::f32(values.to_vec())))
    }
}

/// The `config.json` of a model in another layout.
fn layout_json(config: &DecoderConfig, model_type: &str) -> Result<Map<String, Value>, Error> {
    let wrong = || {
        Error::input(
            "an exported checkpoint",
            "a Qwen of the first generation for the layout `qwen2`, or ChatGLM's GLM-4 for `glm`",
            format!("a `{}` for `{model_type}`", config.model_type),
        )
    };
    let Positions::Rope(rope) = config.positions else { return Err(wrong()) };
    let full = rope.rotary_dim == config.head_dim && rope.layout == RopeLayout::HalfSplit;
    let llama = config.norm == NormKind::Rms
        && config.residual == Residual::Input
        && !config.head_norm
        && !config.normalised_head
        && config.qkv != QkvLayout::PackedByHead
        && matches!(rope.scaling, RopeScaling::None | RopeScaling::DynamicNtk { .. });
    let mut json = json!({
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": decimal(config.norm_eps),
        "rope_theta": rope.theta,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": decimal(config.initializer_range),
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": "float32",
    });
    match (model_type, llama) {
        ("qwen2", true) if full && config.mlp == MlpKind::Gated && config.bias.qkv => {
            json["architectures"] = json!(["Qwen2ForCausalLM"]);
            json["use_sliding_window"] = json!(false);
        }
        ("glm", true) if !full && config.mlp == MlpKind::GatedPacked => {
            json["architectures"] = json!(["GlmForCausalLM"]);
            json["attention_bias"] = json!(config.bias.qkv);
            json["partial_rotary_factor"] = json!(rope.rotary_dim as f64 / config.head_dim as f64);
        }
        _ => return Err(wrong()),
    }
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.source.get(key) {
            json[key] = id.clone();
        }
    }
    let Value::Object(map) = json else { return Ok(Map::new()) };
    Ok(map)
}

/// A small f32 as the decimal number it was written as: 1e-6, not 9.999999974752427e-7.
fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |v| json!(v))
}
