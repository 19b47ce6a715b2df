//! What a decoder is, in numbers and switches. Architecture files fill it from `config.json`; the decoder
//! reads nothing else.

use std::path::Path;

use serde_json::{Map, Value};
use taiyi_kernels::Gelu;

use crate::{architectures, error::Error, weights::config_json};

/// How a decoder is built. Names are those of Hugging Face; all sizes are element counts.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// `model_type` of `config.json`; selects the architecture file that names the tensors.
    pub model_type: String,
    /// Rows of the embedding and of the output head, `V`.
    pub vocab_size: usize,
    /// Width of the residual stream, `D`.
    pub hidden_size: usize,
    /// Width of *one* branch of the MLP, `F` (Qwen v1's `config.json` counts both branches; this does not).
    pub intermediate_size: usize,
    /// Number of blocks, `L`.
    pub num_hidden_layers: usize,
    /// Query heads, `H`.
    pub num_attention_heads: usize,
    /// Key and value heads, `G`; divides `H`. Query head `h` reads key head `h / (H / G)`.
    pub num_key_value_heads: usize,
    /// Width of one head, `d`; `H * d` need not equal `D`.
    pub head_dim: usize,
    /// Which norm stands before the branches and the head.
    pub norm: NormKind,
    /// Epsilon inside the root of every norm.
    pub norm_eps: f32,
    /// How the model knows where a token stands.
    pub positions: Positions,
    /// Trained length of logn attention, when the checkpoint uses it: in evaluation mode the query at
    /// 0-based position `p` is multiplied by `max(1, ln(p + 1) / ln(trained length))`.
    pub logn_trained_length: Option<usize>,
    /// How the query, key and value projections are stored.
    pub qkv: QkvLayout,
    /// Whether query and key heads go through an RMSNorm of their own before they are turned (Qwen3).
    pub head_norm: bool,
    /// What the MLP computes and how its first layer is stored.
    pub mlp: MlpKind,
    /// Which linear layers have a bias.
    pub bias: Biases,
    /// What the branches are added to.
    pub residual: Residual,
    /// Factor of the embedding at the input, not at a tied head (BioGPT: `sqrt(D)`).
    pub embedding_scale: f32,
    /// Whether a norm stands directly behind the embedding (BLOOM).
    pub embedding_norm: bool,
    /// The token whose embedding row is never learned through the lookup, as `padding_idx` of the reference.
    pub padding_id: Option<u32>,
    /// The marks that close the part of the input that every token sees (ChatGLM-6B); `None` for causal attention throughout.
    pub prefix: Option<PrefixMarks>,
    /// Whether the rows of the output head are divided by their lengths (Baichuan2's NormHead).
    pub normalised_head: bool,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Longest sequence the checkpoint was made for, in tokens; enforced where positions are a table ([`Positions::Learned`]).
    pub max_position_embeddings: usize,
    /// Standard deviation of random linear and embedding weights.
    pub initializer_range: f32,
    /// `config.json` as it was read; written back by save, with the keys that changed.
    pub source: Map<String, Value>,
}

/// Which norm a model uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * w`.
    Rms,
    /// `(x - mean) / sqrt(var + eps) * w + b`.
    Layer,
}

/// How a model knows where a token stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Queries and keys are turned.
    Rope(Rope),
    /// Each head is cut in two halves: the first is turned by the place in the prefix, the second by the place behind it
    /// (ChatGLM-6B). `rotary_dim` is half of the head.
    Rope2d(Rope),
    /// A table of `rows` learned vectors is added to the embedding; position `p` takes row `p + offset`.
    Learned {
        /// Rows of the table.
        rows: usize,
        /// Row of the first position.
        offset: usize,
    },
    /// A slope for each head times the position of the key is added to the scores (Press et al., 2022).
    Alibi,
}

/// How the rows of the query, key and value projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvLayout {
    /// Three linear layers.
    Split,
    /// One: the rows of all queries, then all keys, then all values.
    Packed,
    /// One: head by head, each with its query, key and value rows; as many key heads as query heads.
    PackedByHead,
}

/// What the MLP computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(silu(gate(x)) * up(x))`, three linear layers.
    Gated,
    /// The same with gate and up in one linear layer, the gate's rows first.
    GatedPacked,
    /// `down(gelu(up(x)))`.
    Plain(Gelu),
}

/// Which linear layers of a block have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Biases {
    /// The query, key and value projections.
    pub qkv: bool,
    /// The projection behind attention.
    pub attention_output: bool,
    /// All layers of the MLP.
    pub mlp: bool,
}

/// How a branch `f` of a block meets the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Residual {
    /// `x + f(norm(x))`.
    Input,
    /// `alpha * y + f(y)` with `y = norm(x)` (ChatGLM-6B).
    Normed {
        /// Factor of the normed input.
        alpha: f32,
    },
    /// `norm(x + f(x))` (BERT).
    Post,
}

/// The tokens by which ChatGLM-6B knows its input apart from its answer: everything before the first `bos` is seen by every
/// token, and the answer stands where the first `gmask` (or, without one, the first `mask`) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixMarks {
    /// Begins the answer.
    pub bos: u32,
    /// Stands for the answer.
    pub gmask: u32,
    /// Stands for it where there is no `gmask`.
    pub mask: u32,
}

/// Rotary position embedding: pair `i` of a head at position `p` is turned by `p * theta^(-2i / rotary_dim)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many leading components of a head are rotated; even.
    pub rotary_dim: usize,
    /// Which components form a pair.
    pub layout: RopeLayout,
    /// How the frequencies change, with the length of the text or once and for all.
    pub scaling: RopeScaling,
    /// Whether the frequencies are rounded to f16, as ChatGLM-6B's stored ones are.
    pub half_precision: bool,
}

/// Which components of a head form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(x[i], x[i + rotary_dim / 2])`, as GPT-NeoX.
    HalfSplit,
    /// `(x[2i], x[2i + 1])`, as GPT-J.
    Interleaved,
}

/// How the frequencies of a rotary embedding change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// They do not.
    None,
    /// Qwen v1, evaluation only: a prefill of `n` tokens gives
    /// `alpha = max(2^(ceil(log2(n / trained_length)) + 1) - 1, 1)` and the base `theta * alpha^(d / (d - 2))`;
    /// the prefill's alpha stays for every later token of the sequence.
    DynamicNtk {
        /// Length up to which nothing changes, in tokens.
        trained_length: usize,
    },
    /// LLaMA 3: frequencies whose wavelength exceeds `original / low` are divided by `factor`, those under `original / high`
    /// stay, and those between are blended linearly in `original / wavelength`.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Bound of the low frequencies, as a share of the trained length.
        low: f64,
        /// Bound of the high frequencies.
        high: f64,
        /// Length the model was trained for before its context was widened, in tokens.
        original: f64,
    },
}

impl RopeScaling {
    /// A frequency, in radians a token, after LLaMA 3's scaling; the other kinds depend on the base alone and leave it as it is.
    pub(crate) fn of_frequency(self, frequency: f64) -> f64 {
        let RopeScaling::Llama3 { factor, low, high, original } = self else { return frequency };
        let turns = original * frequency / std::f64::consts::TAU;
        if turns < low {
            frequency / factor
        } else if turns > high {
            frequency
        } else {
            let blend = (turns - low) / (high - low);
            (1.0 - blend) * frequency / factor + blend * frequency
        }
    }
}

/// What a block needs to know beside its weights; shared by decoders and encoders.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockShape {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) num_key_value_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) norm_eps: f32,
    pub(crate) positions: Positions,
    pub(crate) residual: Residual,
    pub(crate) mlp: MlpKind,
    pub(crate) qkv: QkvLayout,
    pub(crate) causal: bool,
}

impl BlockShape {
    /// Width of all query heads, `H * d`.
    pub(crate) fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads (and of all value heads), `G * d`.
    pub(crate) fn key_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

impl Rope {
    /// The factor alpha of dynamic NTK scaling for a prefill of `tokens`; 1 where there is no scaling.
    pub fn alpha(&self, tokens: usize) -> u32 {
        match self.scaling {
            RopeScaling::None | RopeScaling::Llama3 { .. } => 1,
            RopeScaling::DynamicNtk { trained_length } => {
                // Integers instead of log2: the smallest power of two that covers the text, without rounding.
                let mut factor: u32 = 1;
                while trained_length.saturating_mul(factor as usize) < tokens && factor < 1 << 30 {
                    factor *= 2;
                }
                if tokens <= trained_length { 1 } else { 2 * factor - 1 }
            }
        }
    }
}

/// The slopes of ALiBi for `heads` heads: `2^(-8 (i + 1) / p)` with `p` the largest power of two up to `heads`, and for the heads
/// beyond it every other slope of `2 p` heads (the authors' `get_slopes`).
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    let power = (heads + 1).next_power_of_two() / 2;
    let slope = |i: usize, of: usize| 2f64.powf(-8.0 * i as f64 / of as f64) as f32;
    let first = (1..=power).map(|i| slope(i, power));
    first.chain((0..heads - power).map(|j| slope(2 * j + 1, 2 * power))).collect()
}

/// The sizes that every architecture has.
pub(crate) struct Sizes {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) num_key_value_heads: usize,
    pub(crate) head_dim: usize,
}

impl DecoderConfig {
    /// The switches of LLaMA, from which an architecture file says what differs: RMSNorm before each branch, rope over the whole
    /// head, a gated MLP, no biases, a head of its own.
    pub(crate) fn llama(model_type: &str, sizes: Sizes, keys: &Keys<'_>) -> DecoderConfig {
        let Sizes {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
        } = sizes;
        DecoderConfig {
            model_type: model_type.to_owned(),
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            norm: NormKind::Rms,
            norm_eps: 1e-6,
            positions: Positions::Rope(Rope {
                theta: 10_000.0,
                rotary_dim: head_dim,
                layout: RopeLayout::HalfSplit,
                scaling: RopeScaling::None,
                half_precision: false,
            }),
            logn_trained_length: None,
            qkv: QkvLayout::Split,
            head_norm: false,
            mlp: MlpKind::Gated,
            bias: Biases::default(),
            residual: Residual::Input,
            embedding_scale: 1.0,
            embedding_norm: false,
            padding_id: None,
            prefix: None,
            normalised_head: false,
            tie_word_embeddings: false,
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            source: keys.map.clone(),
        }
    }

    /// Reads `config.json` of a model folder, or the metadata of a GGUF file, or what a fairseq checkpoint says.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON, names an unknown `model_type`, or a key is missing or out of range.
    pub fn load(dir: &Path) -> Result<DecoderConfig, Error> {
        let (place, value) = config_json(dir)?;
        DecoderConfig::from_json(&value, &place)
    }

    /// Reads a configuration in the layout of `config.json`; `place` is the file that errors name.
    ///
    /// # Errors
    /// As [`DecoderConfig::load`].
    pub fn from_json(value: &Value, place: &Path) -> Result<DecoderConfig, Error> {
        let Value::Object(map) = value else {
            return Err(Error::malformed(place, "the file", "a JSON object", kind(value)));
        };
        let keys = Keys { map, place, inside: None };
        let config = architectures::of_config(&keys)?;
        config.check(place)?;
        Ok(config)
    }

    /// Width of all query heads, `H * d`.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads (and of all value heads), `G * d`.
    pub fn key_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Number of weights, the tied head counted once.
    pub fn parameter_count(&self) -> usize {
        let tensors = crate::decoder::skeleton::of(self).unwrap_or_default();
        tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// The rotary embedding, where there is one.
    pub fn rope(&self) -> Option<&Rope> {
        match &self.positions {
            Positions::Rope(rope) | Positions::Rope2d(rope) => Some(rope),
            Positions::Learned { .. } | Positions::Alibi => None,
        }
    }

    /// The factor alpha of dynamic NTK scaling for a prefill of `tokens`; 1 where there is no such scaling.
    pub fn alpha(&self, tokens: usize) -> u32 {
        self.rope().map_or(1, |rope| rope.alpha(tokens))
    }

    /// The most tokens a sequence can have, where there is a bound.
    pub fn longest(&self) -> Option<usize> {
        match self.positions {
            Positions::Learned { rows, offset } => Some(rows.saturating_sub(offset)),
            _ => None,
        }
    }

    pub(crate) fn block(&self) -> BlockShape {
        BlockShape {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            norm_eps: self.norm_eps,
            positions: self.positions,
            residual: self.residual,
            mlp: self.mlp,
            qkv: self.qkv,
            causal: true,
        }
    }

    fn check(&self, place: &Path) -> Result<(), Error> {
        let wrong = |key: &str, expected: &str, found: String| Error::Config {
            path: place.to_owned(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        check_sizes(
            place,
            &[
                ("vocab_size", self.vocab_size),
                ("hidden_size", self.hidden_size),
                ("intermediate_size", self.intermediate_size),
                ("num_hidden_layers", self.num_hidden_layers),
                ("num_attention_heads", self.num_attention_heads),
                ("num_key_value_heads", self.num_key_value_heads),
                ("head_dim", self.head_dim),
            ],
        )?;
        if self.query_size() > MOST {
            return Err(wrong(
                "num_attention_heads",
                "heads * head size under 67108864",
                self.query_size().to_string(),
            ));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(wrong(
                "num_key_value_heads",
                &format!("a divisor of num_attention_heads {}", self.num_attention_heads),
                self.num_key_value_heads.to_string(),
            ));
        }
        if let Some(rope) = self.rope() {
            let room = match self.positions {
                Positions::Rope2d(_) => self.head_dim / 2,
                _ => self.head_dim,
            };
            if !rope.rotary_dim.is_multiple_of(2) || rope.rotary_dim > room || rope.rotary_dim == 0 {
                return Err(wrong(
                    "rotary dimensions",
                    &format!("an even number up to {room}"),
                    rope.rotary_dim.to_string(),
                ));
            }
            if !(rope.theta.is_finite() && rope.theta > 0.0) {
                return Err(wrong("rope_theta", "a positive number", rope.theta.to_string()));
            }
            if let RopeScaling::DynamicNtk { trained_length } = rope.scaling
                && (trained_length < 2 || rope.rotary_dim < 4)
            {
                return Err(wrong(
                    "seq_length",
                    "at least 2, and heads of at least 4",
                    trained_length.to_string(),
                ));
            }
            if let RopeScaling::Llama3 { factor, low, high, original } = rope.scaling
                && !(factor > 0.0 && low > 0.0 && high > low && original >= 1.0 && factor.is_finite())
            {
                return Err(wrong(
                    "rope_scaling",
                    "a positive factor, low_freq_factor under high_freq_factor and an original length",
                    format!("{factor}, {low}, {high}, {original}"),
                ));
            }
        }
        if let Positions::Learned { rows, offset } = self.positions
            && (rows <= offset || rows > MOST)
        {
            return Err(wrong("max_position_embeddings", "from 1 to 67108864", rows.to_string()));
        }
        if self.qkv == QkvLayout::PackedByHead && self.num_key_value_heads != self.num_attention_heads {
            return Err(wrong(
                "num_key_value_heads",
                "as many as num_attention_heads",
                self.num_key_value_heads.to_string(),
            ));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(wrong("rms_norm_eps", "a small positive number", self.norm_eps.to_string()));
        }
        if self.logn_trained_length.is_some_and(|n| n < 2) {
            return Err(wrong("seq_length", "at least 2", "less".to_owned()));
        }
        Ok(())
    }
}

/// Sizes beyond this are a damaged file, not a model; products of them must not overflow.
const MOST: usize = 1 << 26;

/// Refuses sizes that no model has.
pub(crate) fn check_sizes(place: &Path, sizes: &[(&str, usize)]) -> Result<(), Error> {
    match sizes.iter().find(|(_, size)| *size == 0 || *size > MOST) {
        None => Ok(()),
        Some((key, size)) => Err(Error::Config {
            path: place.to_owned(),
            key: (*key).to_owned(),
            expected: "an integer from 1 to 67108864".to_owned(),
            found: size.to_string(),
        }),
    }
}

/// Typed access to the keys of a `config.json`, with errors that name file and key.
pub(crate) struct Keys<'a> {
    pub(crate) map: &'a Map<String, Value>,
    pub(crate) place: &'a Path,
    /// The key of the object that these keys are in, where it is not the whole file.
    pub(crate) inside: Option<&'a str>,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::Config {
            path: self.place.to_owned(),
            key: self.inside.map_or_else(|| key.to_owned(), |outer| format!("{outer}.{key}")),
            expected: expected.to_owned(),
            found: self.map.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string),
        }
    }

    /// The first of `names` that is present and not null.
    fn get(&self, names: &[&str]) -> Option<(&str, &Value)> {
        names.iter().find_map(|name| {
            self.map.get_key_value(*name).filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.as_str(), v))
        })
    }

    pub(crate) fn size(&self, names: &[&str]) -> Result<usize, Error> {
        self.optional_size(names)?.ok_or_else(|| self.wrong(names[0], "a non-negative integer"))
    }

    pub(crate) fn optional_size(&self, names: &[&str]) -> Result<Option<usize>, Error> {
        let Some((key, value)) = self.get(names) else { return Ok(None) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.map(Some).ok_or_else(|| self.wrong(key, "a non-negative integer"))
    }

    pub(crate) fn number(&self, names: &[&str], default: f64) -> Result<f64, Error> {
        let Some((key, value)) = self.get(names) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.wrong(key, "a number"))
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        let Some((key, value)) = self.get(&[key]) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str, Error> {
        let value = self.map.get(key).ok_or_else(|| self.wrong(key, "a string"))?;
        value.as_str().ok_or_else(|| self.wrong(key, "a string"))
    }

    /// A nested object, absent when missing or null.
    pub(crate) fn object<'k>(&'k self, key: &'k str) -> Result<Option<Keys<'k>>, Error> {
        let Some((_, value)) = self.get(&[key]) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        Ok(Some(Keys { map, place: self.place, inside: Some(key) }))
    }

    /// Refuses a value that would change the results and that the decoder does not have.
    pub(crate) fn refuse(&self, key: &str, only: &str) -> Error {
        self.wrong(key, only)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_follows_the_length_of_the_prefill() {
        let rope = Rope {
            theta: 1e4,
            rotary_dim: 16,
            layout: RopeLayout::HalfSplit,
            scaling: RopeScaling::DynamicNtk { trained_length: 32 },
            half_precision: false,
        };
        let alphas: Vec<u32> = [1, 16, 32, 33, 64, 65, 128, 129].iter().map(|&n| rope.alpha(n)).collect();
        assert_eq!(alphas, [1, 1, 1, 3, 3, 7, 7, 15]);
        assert_eq!(Rope { scaling: RopeScaling::None, ..rope }.alpha(100_000), 1);
    }
}
