//! One table file for each architecture that GGUF and this crate share: which tensor is called what, in which order its rows
//! are kept, and how `config.json` and the metadata say the same.
//!
//! Names, orders and metadata are those that llama.cpp's `convert_hf_to_gguf.py` writes and its loader asks for. To add an
//! architecture, write `<model_type>.rs` with a constant like those here and a line in [`ALL`].

use std::path::Path;

use serde_json::{Map, Value};

use super::{header::Header, rows::Order, write::Entry};
use crate::{
    config::{DecoderConfig, NormKind, Positions, RopeScaling},
    error::Error,
};

mod baichuan;
mod bloom;
mod chatglm;
mod glm;
mod llama;
mod qwen;
mod qwen2;
mod qwen3;

/// Every architecture there is. Of several with one GGUF name the first whose sign is in the file is taken.
pub(super) const ALL: &[Architecture] = &[
    llama::ARCHITECTURE,
    qwen::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    baichuan::ARCHITECTURE,
    bloom::ARCHITECTURE,
    glm::ARCHITECTURE,
    chatglm::ARCHITECTURE,
];

/// What one table file says.
pub(super) struct Architecture {
    /// `model_type` of `config.json`.
    pub(super) model_type: &'static str,
    /// `general.architecture` of GGUF.
    pub(super) name: &'static str,
    /// A GGUF tensor that a file of this architecture holds.
    pub(super) sign: &'static str,
    pub(super) tensors: &'static [Tensor],
    /// Endings of Hugging Face tensors that are buffers and have no place in GGUF.
    pub(super) buffers: &'static [&'static str],
    /// GGUF tensors that say what `config.json` says with keys.
    pub(super) described: &'static [&'static str],
    /// A prefix that the names in a Hugging Face checkpoint may lack.
    pub(super) optional_prefix: &'static str,
    /// How many branches of the MLP `feed_forward_length` counts.
    pub(super) branches: usize,
    /// Whether llama.cpp takes the embedding for the output head where a file has none.
    pub(super) may_be_tied: bool,
    /// What only this architecture has; the path is for errors.
    pub(super) more: fn(&DecoderConfig, &Path) -> Result<More, Error>,
    /// Makes a `config.json` from what the metadata say.
    pub(super) config: fn(&Described<'_>) -> Result<Map<String, Value>, Error>,
}

/// A Hugging Face tensor and the GGUF tensors that hold its rows, in their order. `{}` in a name stands for the layer.
pub(super) struct Tensor {
    pub(super) hf: &'static str,
    pub(super) parts: &'static [(&'static str, Rows)],
    pub(super) presence: Presence,
}

/// In which order the rows of a part are kept.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rows {
    Same,
    /// Heads of the query, half-split to interleaved.
    Query,
    /// Heads of the key, half-split to interleaved.
    Key,
    /// `[head][query, key, value]` to `[query, key, value][head]`.
    HeadsWithin,
}

impl Rows {
    pub(super) fn order(self, sizes: &Sizes) -> Order {
        match self {
            Rows::Same => Order::Same,
            Rows::Query => Order::Interleaved { heads: sizes.heads },
            Rows::Key => Order::Interleaved { heads: sizes.kv_heads },
            Rows::HeadsWithin => Order::HeadsWithin { heads: sizes.heads },
        }
    }
}

/// Whether a checkpoint must hold a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    /// Depends on a switch of the configuration (biases).
    Optional,
    /// The output head, which is the embedding where they are tied.
    UnlessTied,
}

/// A tensor that is the same in both.
const fn same(hf: &'static str, parts: &'static [(&'static str, Rows)]) -> Tensor {
    Tensor { hf, parts, presence: Presence::Always }
}

impl Tensor {
    const fn optional(self) -> Tensor {
        Tensor { presence: Presence::Optional, ..self }
    }

    const fn unless_tied(self) -> Tensor {
        Tensor { presence: Presence::UnlessTied, ..self }
    }
}

/// The sizes that every architecture has.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    pub(super) vocab: usize,
    /// Longest text, in tokens.
    pub(super) context: usize,
    pub(super) hidden: usize,
    /// As GGUF counts it: of Qwen v1 both branches.
    pub(super) feed_forward: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Width of a head.
    pub(super) head: usize,
    pub(super) norm: Norm,
    /// How many components of a head turn, and the base of their frequencies; `None` where positions are ALiBi's.
    pub(super) rope: Option<(usize, f64)>,
}

/// The norms, with their epsilon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Norm {
    Rms(f64),
    Layer(f64),
}

/// What an architecture adds to a file.
#[derive(Default)]
pub(super) struct More {
    /// Metadata; keys that begin with a dot are put behind the architecture's name.
    pub(super) entries: Vec<(String, Entry)>,
    /// Vectors, by their GGUF names.
    pub(super) vectors: Vec<(String, Vec<f32>)>,
    /// Whether the rows of the output head are divided by their lengths (Baichuan2's NormHead, which llama.cpp has not).
    pub(super) normalised_head: bool,
    /// What a person should know about the file.
    pub(super) notes: Vec<String>,
}

/// A GGUF file, as far as it was understood.
pub(super) struct Described<'a> {
    pub(super) header: &'a Header,
    /// All of the file.
    pub(super) bytes: &'a [u8],
    pub(super) sizes: Sizes,
    pub(super) tied: bool,
}

/// The architecture of a file.
pub(super) fn of_header(header: &Header) -> Result<&'static Architecture, Error> {
    let key = "general.architecture";
    let name = header.text(key)?.ok_or_else(|| header.wrong(key, "a name", "nothing"))?;
    let mut named = ALL.iter().filter(|a| a.name == name).peekable();
    if named.peek().is_none() {
        let mut known: Vec<&str> = ALL.iter().map(|a| a.name).collect();
        known.dedup();
        return Err(header.wrong(key, format!("one of {}", known.join(", ")), super::quoted(name)));
    }
    named.find(|a| header.tensors.contains_key(a.sign)).ok_or_else(|| {
        let signs: Vec<&str> = ALL.iter().filter(|a| a.name == name).map(|a| a.sign).collect();
        Error::malformed(
            &header.path,
            "the tensors",
            format!("`{}`, which every `{name}` has", signs.join("` or `")),
            format!("{} others", header.tensors.len()),
        )
    })
}

/// The architecture of a configuration; `place` is for errors.
pub(super) fn of_config(config: &DecoderConfig, place: &Path) -> Result<&'static Architecture, Error> {
    let found = ALL.iter().find(|a| a.model_type == config.model_type);
    let architecture = found.ok_or_else(|| Error::UnknownModelType {
        path: place.to_owned(),
        found: config.model_type.clone(),
        known: format!("{} (for GGUF)", ALL.iter().map(|a| a.model_type).collect::<Vec<_>>().join(", ")),
    })?;
    if config.tie_word_embeddings && !architecture.may_be_tied {
        return Err(refused(place, "tie_word_embeddings", "false (for llama.cpp)", "true"));
    }
    Ok(architecture)
}

/// A configuration that GGUF has no way to say.
fn refused(place: &Path, key: &str, expected: &str, found: &str) -> Error {
    Error::Config {
        path: place.to_owned(),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

impl Architecture {
    /// The sizes of a configuration.
    pub(super) fn sizes(&self, config: &DecoderConfig) -> Sizes {
        let eps = f64::from(config.norm_eps);
        Sizes {
            vocab: config.vocab_size,
            context: config.max_position_embeddings,
            hidden: config.hidden_size,
            feed_forward: self.branches * config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head: config.head_dim,
            norm: match config.norm {
                NormKind::Rms => Norm::Rms(eps),
                NormKind::Layer => Norm::Layer(eps),
            },
            rope: match config.positions {
                Positions::Rope(rope) => Some((rope.rotary_dim, rope.theta)),
                _ => None,
            },
        }
    }

    /// Reads the sizes out of the metadata.
    pub(super) fn described<'a>(&self, header: &'a Header, bytes: &'a [u8]) -> Result<Described<'a>, Error> {
        let key = |end: &str| format!("{}.{end}", self.name);
        let heads = header.size(&key("attention.head_count"))?;
        let hidden = header.size(&key("embedding_length"))?;
        let head = match header.optional_size(&key("attention.key_length"))? {
            Some(head) => head,
            None => hidden / heads.max(1),
        };
        let norm = match header.number(&key("attention.layer_norm_rms_epsilon"))? {
            Some(eps) => Norm::Rms(eps),
            None => {
                let key = key("attention.layer_norm_epsilon");
                let eps = header.number(&key)?;
                Norm::Layer(eps.ok_or_else(|| header.wrong(&key, "a number", "nothing"))?)
            }
        };
        // llama.cpp's defaults.
        let turned = header.optional_size(&key("rope.dimension_count"))?.unwrap_or(head);
        let base = header.number(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        let scaling = key("rope.scaling.type");
        if let Some(kind) = header.text(&scaling)?
            && kind != "none"
        {
            return Err(header.wrong(&scaling, "none", super::quoted(kind)));
        }
        let embedding = "token_embd.weight";
        let vocab =
            header.tensors.get(embedding).map(|t| t.shape[0]).ok_or_else(|| Error::MissingTensor {
                path: header.path.clone(),
                name: embedding.to_owned(),
                held: header.tensors.len(),
                nearest: None,
            })?;
        let sizes = Sizes {
            vocab,
            context: header.size(&key("context_length"))?,
            hidden,
            feed_forward: header.size(&key("feed_forward_length"))?,
            layers: header.size(&key("block_count"))?,
            heads,
            kv_heads: header.optional_size(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head,
            norm,
            rope: Some((turned, base)),
        };
        Ok(Described { header, bytes, sizes, tied: !header.tensors.contains_key("output.weight") })
    }

    /// The metadata that follow from the sizes, in the order of llama.cpp's converter.
    pub(super) fn entries(&self, sizes: &Sizes) -> Vec<(String, Entry)> {
        let size = |n: usize| Entry::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let mut entries = vec![
            (".block_count", size(sizes.layers)),
            (".context_length", size(sizes.context)),
            (".embedding_length", size(sizes.hidden)),
            (".feed_forward_length", size(sizes.feed_forward)),
            (".attention.head_count", size(sizes.heads)),
            (".attention.head_count_kv", size(sizes.kv_heads)),
            (".attention.key_length", size(sizes.head)),
            (".attention.value_length", size(sizes.head)),
            (".vocab_size", size(sizes.vocab)),
        ];
        entries.push(match sizes.norm {
            Norm::Rms(eps) => (".attention.layer_norm_rms_epsilon", Entry::F32(eps as f32)),
            Norm::Layer(eps) => (".attention.layer_norm_epsilon", Entry::F32(eps as f32)),
        });
        if let Some((turned, base)) = sizes.rope {
            entries.push((".rope.dimension_count", size(turned)));
            entries.push((".rope.freq_base", Entry::F32(base as f32)));
        }
        entries.into_iter().map(|(key, entry)| (format!("{}{key}", self.name), entry)).collect()
    }
}

impl Described<'_> {
    fn rms_eps(&self) -> Result<f64, Error> {
        match self.sizes.norm {
            Norm::Rms(eps) => Ok(eps),
            Norm::Layer(_) => {
                Err(self.header.wrong("attention.layer_norm_rms_epsilon", "a number", "nothing"))
            }
        }
    }

    /// The keys that LLaMA and its relatives share in `config.json`.
    fn llama_like(&self, model_type: &str, class: &str) -> Result<Map<String, Value>, Error> {
        let sizes = &self.sizes;
        let (_, base) = sizes.rope.unwrap_or((0, 10_000.0));
        let value = serde_json::json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": sizes.vocab,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.feed_forward,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head,
            "hidden_act": "silu",
            "max_position_embeddings": sizes.context,
            "rms_norm_eps": self.rms_eps()?,
            "rope_theta": base,
            "tie_word_embeddings": self.tied,
        });
        Ok(object(value))
    }
}

/// The members of a `json!({…})`.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Nothing more, for architectures with plain rotation.
fn nothing_more(config: &DecoderConfig, place: &Path) -> Result<More, Error> {
    match config.positions {
        Positions::Rope(rope) if rope.scaling == RopeScaling::None => Ok(More::default()),
        _ => {
            Err(refused(place, "rope_scaling", "none (GGUF of this architecture has no scaling)", "another"))
        }
    }
}
