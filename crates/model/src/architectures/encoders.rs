//! The encoders: how `config.json` and tensor names of BERT and RoBERTa map onto the one encoder.

use serde_json::Value;

use crate::{
    config::Keys,
    encoder::config::{EncoderConfig, EncoderTask, PositionRule},
    error::Error,
};

/// Module names of a checkpoint, without the closing `.weight` or `.bias`; `{}` stands for the layer.
pub(crate) struct EncoderNames {
    pub(crate) model_type: &'static str,
    /// Beginning of the class names that transformers writes.
    class: &'static str,
    /// In front of every module but the head's; files of the bare model lack it.
    pub(crate) prefix: &'static str,
    position_rule: PositionRule,
    norm_eps: f64,
    pad_token_id: usize,
    /// Head of a masked language model: dense layer, norm, bias of the output.
    pub(crate) masked: [&'static str; 3],
    /// The same output bias, or the output matrix, under names that some files repeat them under.
    repeated: &'static [&'static str],
    /// Head of a sequence classifier: dense layer with tanh, output layer.
    pub(crate) sequence: [&'static str; 2],
}

/// Head of a token classifier.
pub(crate) const TOKEN_HEAD: &str = "classifier";

const BERT: EncoderNames = EncoderNames {
    model_type: "bert",
    class: "Bert",
    prefix: "bert.",
    position_rule: PositionRule::FromZero,
    norm_eps: 1e-12,
    pad_token_id: 0,
    masked: [
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ],
    repeated: &["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
    sequence: ["bert.pooler.dense", "classifier"],
};

const ROBERTA: EncoderNames = EncoderNames {
    model_type: "roberta",
    class: "Roberta",
    prefix: "roberta.",
    position_rule: PositionRule::BehindPadding,
    norm_eps: 1e-5,
    pad_token_id: 1,
    masked: ["lm_head.dense", "lm_head.layer_norm", "lm_head.bias"],
    repeated: &["lm_head.decoder.weight", "lm_head.decoder.bias"],
    sequence: ["classifier.dense", "classifier.out_proj"],
};

const ALL: &[&EncoderNames] = &[&BERT, &ROBERTA];

/// The names accepted as `model_type`.
pub(crate) fn known() -> Vec<&'static str> {
    ALL.iter().map(|a| a.model_type).collect()
}

pub(crate) fn names_of(model_type: &str) -> Option<&'static EncoderNames> {
    ALL.iter().find(|a| a.model_type == model_type).copied()
}

/// The class that transformers would build.
pub(crate) fn class_name(model_type: &str, task: EncoderTask) -> String {
    let class = names_of(model_type).map_or("", |n| n.class);
    let task = match task {
        EncoderTask::MaskedLm => "MaskedLM",
        EncoderTask::TokenClassification => "TokenClassification",
        EncoderTask::SequenceClassification { .. } => "SequenceClassification",
    };
    format!("{class}For{task}")
}

pub(crate) fn of_config(keys: &Keys<'_>) -> Result<EncoderConfig, Error> {
    let found = keys.text("model_type")?;
    let Some(names) = names_of(found) else {
        return Err(Error::UnknownModelType {
            path: keys.place.to_owned(),
            found: found.to_owned(),
            known: known().join(", "),
        });
    };
    if keys.map.get("hidden_act").is_some_and(|v| v != "gelu") {
        return Err(keys.refuse("hidden_act", "\"gelu\""));
    }
    if keys.map.get("position_embedding_type").is_some_and(|v| v != "absolute") {
        return Err(keys.refuse("position_embedding_type", "\"absolute\""));
    }
    for flag in ["is_decoder", "add_cross_attention"] {
        if keys.flag(flag, false)? {
            return Err(keys.refuse(flag, "false"));
        }
    }
    let class = keys.map.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str).unwrap_or("");
    let multi_label = keys.map.get("problem_type").is_some_and(|v| v == "multi_label_classification");
    let task = match class.strip_prefix(names.class).unwrap_or("") {
        "ForTokenClassification" => EncoderTask::TokenClassification,
        "ForSequenceClassification" => EncoderTask::SequenceClassification { multi_label },
        _ => EncoderTask::MaskedLm,
    };
    let labels = match task {
        EncoderTask::MaskedLm => Vec::new(),
        _ => labels(keys)?,
    };
    Ok(EncoderConfig {
        model_type: names.model_type.to_owned(),
        vocab_size: keys.size(&["vocab_size"])?,
        hidden_size: keys.size(&["hidden_size"])?,
        intermediate_size: keys.size(&["intermediate_size"])?,
        num_hidden_layers: keys.size(&["num_hidden_layers"])?,
        num_attention_heads: keys.size(&["num_attention_heads"])?,
        norm_eps: keys.number(&["layer_norm_eps"], names.norm_eps)? as f32,
        position_rows: keys.optional_size(&["max_position_embeddings"])?.unwrap_or(512),
        position_rule: names.position_rule,
        type_vocab_size: keys.optional_size(&["type_vocab_size"])?.unwrap_or(2),
        pad_token_id: keys.optional_size(&["pad_token_id"])?.unwrap_or(names.pad_token_id) as u32,
        task,
        labels,
        initializer_range: keys.number(&["initializer_range"], 0.02)? as f32,
        source: keys.map.clone(),
    })
}

/// The label names in the order of their numbers; transformers' two where the file has none.
fn labels(keys: &Keys<'_>) -> Result<Vec<String>, Error> {
    let Some(named) = keys.object("id2label")? else {
        let count = keys.optional_size(&["num_labels"])?.unwrap_or(2).min(1 << 16);
        return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
    };
    (0..named.map.len())
        .map(|i| {
            let label = named.map.get(&i.to_string()).and_then(Value::as_str);
            label
                .map(str::to_owned)
                .ok_or_else(|| keys.refuse("id2label", "labels numbered from 0, as strings"))
        })
        .collect()
}

impl EncoderNames {
    /// Whether a tensor of this name may be in the files without being a weight of the encoder with this head.
    pub(crate) fn is_harmless(&self, name: &str) -> bool {
        let other_heads = ["cls.", "pooler.", "lm_head.", "classifier."];
        name.ends_with("position_ids")
            || self.repeated.contains(&name)
            || other_heads.iter().any(|h| name.strip_prefix(self.prefix).unwrap_or(name).starts_with(h))
    }
}

/// The name that a tensor has in older files, which call the parameters of LayerNorm gamma and beta, and in files of the bare
/// model.
pub(crate) fn other_names(prefix: &str, name: &str) -> Vec<String> {
    let older = |name: &str| {
        let (module, part) = name.rsplit_once('.')?;
        let part = match part {
            "weight" => "gamma",
            "bias" => "beta",
            _ => return None,
        };
        module.ends_with("LayerNorm").then(|| format!("{module}.{part}"))
    };
    let bare = name.strip_prefix(prefix).map(str::to_owned);
    [older(name), bare.clone(), bare.as_deref().and_then(older)].into_iter().flatten().collect()
}
