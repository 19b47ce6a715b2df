//! What an encoder is, in numbers and switches.

use std::path::Path;

use serde_json::{Map, Value};
use taiyi_kernels::Gelu;

use crate::{
    architectures::encoders,
    config::{BlockShape, Keys, MlpKind, Positions, QkvLayout, Residual, check_sizes},
    error::Error,
    weights::config_json,
};

/// How an encoder is built. Names are those of Hugging Face; all sizes are element counts.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// `model_type` of `config.json`; selects the architecture file that names the tensors.
    pub model_type: String,
    /// Rows of the token embedding, `V`.
    pub vocab_size: usize,
    /// Width of the residual stream, `D`.
    pub hidden_size: usize,
    /// Width of the MLP, `F`.
    pub intermediate_size: usize,
    /// Number of blocks, `L`.
    pub num_hidden_layers: usize,
    /// Heads, `H`; the head size is `D / H`.
    pub num_attention_heads: usize,
    /// Epsilon inside the root of every LayerNorm.
    pub norm_eps: f32,
    /// Rows of the table of positions.
    pub position_rows: usize,
    /// How rows of that table are numbered.
    pub position_rule: PositionRule,
    /// Rows of the table of token types.
    pub type_vocab_size: usize,
    /// The padding token, whose embedding is never learned.
    pub pad_token_id: u32,
    /// What stands on top.
    pub task: EncoderTask,
    /// Names of the labels, in the order of the logits; empty for [`EncoderTask::MaskedLm`].
    pub labels: Vec<String>,
    /// Standard deviation of random linear and embedding weights.
    pub initializer_range: f32,
    /// `config.json` as it was read; written back by save, with the keys that changed.
    pub source: Map<String, Value>,
}

/// How rows of the table of positions are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionRule {
    /// From 0 on (BERT).
    FromZero,
    /// Tokens that are not padding are counted from `pad_token_id + 1` on; padding takes row `pad_token_id` (RoBERTa).
    BehindPadding,
}

/// What an encoder's head computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncoderTask {
    /// Logits over the vocabulary for each token, with the embedding as output matrix.
    MaskedLm,
    /// Logits over the labels for each token.
    TokenClassification,
    /// Logits over the labels for each sequence, from its first token.
    SequenceClassification {
        /// Whether several labels may hold at once, so that each is decided by its own sigmoid.
        multi_label: bool,
    },
}

impl EncoderConfig {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON, names a `model_type` that is no known encoder, or a key is missing or out of
    /// range.
    pub fn load(dir: &Path) -> Result<EncoderConfig, Error> {
        let (place, value) = config_json(dir)?;
        EncoderConfig::from_json(&value, &place)
    }

    /// Whether the `config.json` of a model folder names an encoder; one that cannot be read does not.
    pub fn is_of(dir: &Path) -> bool {
        let value = config_json(dir).map(|(_, value)| value).unwrap_or_default();
        let model_type = value.get("model_type").and_then(Value::as_str);
        model_type.is_some_and(|t| encoders::known().contains(&t))
    }

    /// Reads a configuration in the layout of `config.json`; `place` is the file that errors name.
    ///
    /// # Errors
    /// As [`EncoderConfig::load`].
    pub fn from_json(value: &Value, place: &Path) -> Result<EncoderConfig, Error> {
        let Value::Object(map) = value else {
            return Err(Error::malformed(place, "the file", "a JSON object", value.to_string()));
        };
        let keys = Keys { map, place, inside: None };
        let config = encoders::of_config(&keys)?;
        config.check(place)?;
        Ok(config)
    }

    /// Width of one head, `d`.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The most tokens a sequence can have.
    pub fn longest(&self) -> usize {
        match self.position_rule {
            PositionRule::FromZero => self.position_rows,
            PositionRule::BehindPadding => self.position_rows.saturating_sub(self.pad_token_id as usize + 1),
        }
    }

    /// Logits of a token or of a sequence.
    pub fn outputs(&self) -> usize {
        match self.task {
            EncoderTask::MaskedLm => self.vocab_size,
            _ => self.labels.len(),
        }
    }

    /// The same encoder with another head, whose labels are named.
    pub fn with_task(mut self, task: EncoderTask, labels: Vec<String>) -> EncoderConfig {
        let number = |i: usize| i.to_string();
        let id2label: Map<String, Value> =
            labels.iter().enumerate().map(|(i, l)| (number(i), Value::String(l.clone()))).collect();
        let label2id: Map<String, Value> =
            labels.iter().enumerate().map(|(i, l)| (l.clone(), Value::from(i))).collect();
        self.source.insert("id2label".to_owned(), Value::Object(id2label));
        self.source.insert("label2id".to_owned(), Value::Object(label2id));
        let class = encoders::class_name(&self.model_type, task);
        self.source.insert("architectures".to_owned(), Value::from(vec![class]));
        if let EncoderTask::SequenceClassification { multi_label } = task {
            let kind = if multi_label { "multi_label_classification" } else { "single_label_classification" };
            self.source.insert("problem_type".to_owned(), Value::from(kind));
        } else {
            self.source.remove("problem_type");
        }
        (self.task, self.labels) = (task, labels);
        self
    }

    pub(crate) fn block(&self) -> BlockShape {
        BlockShape {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_attention_heads,
            head_dim: self.head_dim(),
            norm_eps: self.norm_eps,
            positions: Positions::Learned { rows: self.position_rows, offset: 0 },
            residual: Residual::Post,
            mlp: MlpKind::Plain(Gelu::Erf),
            qkv: QkvLayout::Split,
            causal: false,
        }
    }

    pub(crate) fn check(&self, place: &Path) -> Result<(), Error> {
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
                ("max_position_embeddings", self.longest()),
                ("type_vocab_size", self.type_vocab_size),
            ],
        )?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(wrong(
                "num_attention_heads",
                &format!("a divisor of hidden_size {}", self.hidden_size),
                self.num_attention_heads.to_string(),
            ));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(wrong("layer_norm_eps", "a small positive number", self.norm_eps.to_string()));
        }
        if self.task != EncoderTask::MaskedLm && self.labels.is_empty() {
            return Err(wrong("id2label", "at least one label", "none".to_owned()));
        }
        Ok(())
    }
}
