//! One file per `model_type`: how its `config.json` and its tensor names map onto the one decoder. The encoders, which differ in
//! names alone, share `encoders`.
//!
//! An architecture file knows no arithmetic. To add one, write `<model_type>.rs` like `qwen2.rs` and a line in `architectures!`;
//! `docs/guides/adding-an-architecture.md` shows it.

use crate::{
    config::{DecoderConfig, Keys},
    error::Error,
};

/// Declares the files and lists them.
macro_rules! architectures {
    ($($model_type:ident,)*) => {
        $(mod $model_type;)*

        /// Every architecture there is.
        const ALL: &[Architecture] = &[$($model_type::ARCHITECTURE),*];
    };
}

architectures! {
    baichuan,
    biogpt,
    bloom,
    chatglm,
    glm,
    llama,
    qwen,
    qwen2,
    qwen3,
}

pub(crate) mod encoders;

/// What one architecture file provides.
pub(crate) struct Architecture {
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    /// Maps the keys of `config.json` onto the decoder's switches.
    pub(crate) config: fn(&Keys<'_>) -> Result<DecoderConfig, Error>,
    /// Names of the modules.
    pub(crate) names: fn(&DecoderConfig) -> Names,
    /// Whether a tensor of this name may be in the files without being a weight (a stored buffer).
    pub(crate) is_buffer: fn(&str) -> bool,
    /// The names that a tensor has in other files of the same architecture, where there are such.
    pub(crate) other_names: fn(&str) -> Vec<String>,
}

/// Module names of a checkpoint, without the closing `.weight` or `.bias`; `{}` stands for the layer.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    pub(crate) embedding: &'static str,
    /// Of [`Positions::Learned`](crate::config::Positions::Learned).
    pub(crate) positions: &'static str,
    /// Of the norm behind the embedding.
    pub(crate) embedding_norm: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) attention_input: AttentionInputNames,
    /// Norms of the query and the key heads.
    pub(crate) head_norms: [&'static str; 2],
    pub(crate) attention_output: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// Gate and up in one layer where they are packed; of no meaning for a plain MLP.
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) final_norm: &'static str,
    pub(crate) head: &'static str,
}

/// Names of the projections that feed attention.
#[derive(Clone, Copy)]
pub(crate) enum AttentionInputNames {
    /// One linear layer.
    Packed(&'static str),
    /// One linear layer each.
    Split { query: &'static str, key: &'static str, value: &'static str },
}

/// The names of LLaMA, which Qwen2, Qwen3, GLM and in part Baichuan share.
pub(crate) const LLAMA_NAMES: Names = Names {
    embedding: "model.embed_tokens",
    positions: "",
    embedding_norm: "",
    attention_norm: "model.layers.{}.input_layernorm",
    attention_input: AttentionInputNames::Split {
        query: "model.layers.{}.self_attn.q_proj",
        key: "model.layers.{}.self_attn.k_proj",
        value: "model.layers.{}.self_attn.v_proj",
    },
    head_norms: ["model.layers.{}.self_attn.q_norm", "model.layers.{}.self_attn.k_norm"],
    attention_output: "model.layers.{}.self_attn.o_proj",
    mlp_norm: "model.layers.{}.post_attention_layernorm",
    gate: "model.layers.{}.mlp.gate_proj",
    up: "model.layers.{}.mlp.up_proj",
    down: "model.layers.{}.mlp.down_proj",
    final_norm: "model.norm",
    head: "lm_head",
};

fn no_other_name(_: &str) -> Vec<String> {
    Vec::new()
}

fn is_rope_buffer(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

/// Puts a layer's number into a module name.
pub(crate) fn of_layer(name: &str, layer: usize) -> String {
    name.replacen("{}", &layer.to_string(), 1)
}

/// The names accepted as `model_type`.
pub fn known() -> Vec<&'static str> {
    ALL.iter().map(|a| a.model_type).collect()
}

fn find(model_type: &str) -> Option<&'static Architecture> {
    ALL.iter().find(|a| a.model_type == model_type)
}

/// The architecture of a configuration that was made by [`of_config`].
pub(crate) fn of(config: &DecoderConfig) -> Result<&'static Architecture, Error> {
    find(&config.model_type).ok_or_else(|| unknown(std::path::Path::new("config"), &config.model_type))
}

/// Reads a configuration with the architecture that its `model_type` names.
pub(crate) fn of_config(keys: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let found = keys.text("model_type")?;
    if encoders::names_of(found).is_some() {
        return Err(
            keys.refuse("model_type", "a decoder, which writes text (this is an encoder, which labels it)")
        );
    }
    let architecture = find(found).ok_or_else(|| unknown(keys.place, found))?;
    (architecture.config)(keys)
}

fn unknown(place: &std::path::Path, found: &str) -> Error {
    Error::UnknownModelType { path: place.to_owned(), found: found.to_owned(), known: known().join(", ") }
}
