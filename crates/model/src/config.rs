//! What a decoder is, in numbers and switches. Architecture files fill it from `config.json`; the decoder
//! reads nothing else.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    architectures,
    error::Error,
    weights::gguf::{self, Gguf},
};

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
    /// Epsilon inside the root of every RMSNorm.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Trained length of logn attention, when the checkpoint uses it: in evaluation mode the query at
    /// 0-based position `p` is multiplied by `max(1, ln(p + 1) / ln(trained length))`.
    pub logn_trained_length: Option<usize>,
    /// Whether query, key and value come from one linear layer (rows: all q, all k, all v) or from three.
    pub packed_qkv: bool,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Longest sequence the checkpoint was made for, in tokens (not enforced: rope has no table to run past).
    pub max_position_embeddings: usize,
    /// Standard deviation of random linear and embedding weights.
    pub initializer_range: f32,
    /// `config.json` as it was read; written back by save, with the keys that changed.
    pub source: Map<String, Value>,
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
    /// How the base changes with the length of the text.
    pub scaling: RopeScaling,
}

/// Which components of a head form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(x[i], x[i + rotary_dim / 2])`, as GPT-NeoX.
    HalfSplit,
    /// `(x[2i], x[2i + 1])`, as GPT-J.
    Interleaved,
}

/// How the rotary base changes with the length of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeScaling {
    /// It does not.
    None,
    /// Qwen v1, evaluation only: a prefill of `n` tokens gives
    /// `alpha = max(2^(ceil(log2(n / trained_length)) + 1) - 1, 1)` and the base `theta * alpha^(d / (d - 2))`;
    /// the prefill's alpha stays for every later token of the sequence.
    DynamicNtk {
        /// Length up to which nothing changes, in tokens.
        trained_length: usize,
    },
}

impl Rope {
    /// The factor alpha of dynamic NTK scaling for a prefill of `tokens`; 1 where there is no scaling.
    pub fn alpha(&self, tokens: usize) -> u32 {
        match self.scaling {
            RopeScaling::None => 1,
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

impl DecoderConfig {
    /// Reads `config.json` of a model folder, or the metadata of a GGUF file.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON, names an unknown `model_type`, or a key is missing or out of range.
    pub fn load(dir: &Path) -> Result<DecoderConfig, Error> {
        if let Some(file) = gguf::find(dir)? {
            return DecoderConfig::from_json(&Gguf::open(&file)?.config()?, &file);
        }
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|source| Error::Json { path: path.clone(), source })?;
        DecoderConfig::from_json(&value, &path)
    }

    /// Reads a configuration in the layout of `config.json`; `place` is the file that errors name.
    ///
    /// # Errors
    /// As [`DecoderConfig::load`].
    pub fn from_json(value: &Value, place: &Path) -> Result<DecoderConfig, Error> {
        let Value::Object(map) = value else {
            return Err(Error::malformed(place, "the file", "a JSON object", kind(value)));
        };
        let keys = Keys { map, place };
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
        let (d, f, q, k) = (self.hidden_size, self.intermediate_size, self.query_size(), self.key_size());
        let bias = if self.qkv_bias { q + 2 * k } else { 0 };
        let block = 2 * d + d * (q + 2 * k) + bias + q * d + 3 * d * f;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        self.num_hidden_layers * block + d + tables * self.vocab_size * d
    }

    fn check(&self, place: &Path) -> Result<(), Error> {
        let wrong = |key: &str, expected: &str, found: String| Error::Config {
            path: place.to_owned(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        // Sizes beyond these are a damaged file, not a model; products of them must not overflow.
        const MOST: usize = 1 << 26;
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
        ] {
            if value == 0 || value > MOST {
                return Err(wrong(key, "an integer from 1 to 67108864", value.to_string()));
            }
        }
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
        if !self.rope.rotary_dim.is_multiple_of(2)
            || self.rope.rotary_dim > self.head_dim
            || self.rope.rotary_dim == 0
        {
            return Err(wrong(
                "rotary dimensions",
                &format!("an even number up to the head size {}", self.head_dim),
                self.rope.rotary_dim.to_string(),
            ));
        }
        if !(self.rope.theta.is_finite() && self.rope.theta > 0.0) {
            return Err(wrong("rope_theta", "a positive number", self.rope.theta.to_string()));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(wrong("rms_norm_eps", "a small positive number", self.norm_eps.to_string()));
        }
        if let RopeScaling::DynamicNtk { trained_length } = self.rope.scaling
            && (trained_length < 2 || self.rope.rotary_dim < 4)
        {
            return Err(wrong(
                "seq_length",
                "at least 2, and heads of at least 4",
                trained_length.to_string(),
            ));
        }
        if self.logn_trained_length.is_some_and(|n| n < 2) {
            return Err(wrong("seq_length", "at least 2", "less".to_owned()));
        }
        Ok(())
    }
}

/// Typed access to the keys of a `config.json`, with errors that name file and key.
pub(crate) struct Keys<'a> {
    pub(crate) map: &'a Map<String, Value>,
    pub(crate) place: &'a Path,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::Config {
            path: self.place.to_owned(),
            key: key.to_owned(),
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
    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys<'_>>, Error> {
        let Some((key, value)) = self.get(&[key]) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        Ok(Some(Keys { map, place: self.place }))
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
        };
        let alphas: Vec<u32> = [1, 16, 32, 33, 64, 65, 128, 129].iter().map(|&n| rope.alpha(n)).collect();
        assert_eq!(alphas, [1, 1, 1, 3, 3, 7, 7, 15]);
        assert_eq!(Rope { scaling: RopeScaling::None, ..rope }.alpha(100_000), 1);
    }
}
