//! One file per `model_type`: how its `config.json` and its tensor names map onto the one decoder.
//!
//! An architecture file knows no arithmetic. To add one, write `<model_type>.rs` with `config` and `names`
//! functions like those of `qwen2.rs` and a line in `ALL`.

use crate::{
    config::{DecoderConfig, Keys},
    error::Error,
};

mod qwen;
mod qwen2;

/// What one architecture file provides.
pub(crate) struct Architecture {
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    /// Maps the keys of `config.json` onto the decoder's switches.
    pub(crate) config: fn(&Keys<'_>) -> Result<DecoderConfig, Error>,
    /// Keys of `config.json` that follow from the decoder, for a configuration written by this program.
    pub(crate) names: fn() -> Names,
    /// Whether a tensor of this name may be in the files without being a weight (a stored buffer).
    pub(crate) is_buffer: fn(&str) -> bool,
}

/// Module names of a checkpoint, without the closing `.weight` or `.bias`; `{}` stands for the layer.
pub(crate) struct Names {
    pub(crate) embedding: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) attention_input: AttentionInputNames,
    pub(crate) attention_output: &'static str,
    pub(crate) mlp_norm: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) final_norm: &'static str,
    pub(crate) head: &'static str,
}

/// Names of the projections that feed attention.
pub(crate) enum AttentionInputNames {
    /// One linear layer with the rows of q, then k, then v.
    Packed(&'static str),
    /// One linear layer each.
    Split { query: &'static str, key: &'static str, value: &'static str },
}

/// Puts a layer's number into a module name.
pub(crate) fn of_layer(name: &str, layer: usize) -> String {
    name.replacen("{}", &layer.to_string(), 1)
}

/// Every architecture there is.
const ALL: &[Architecture] = &[qwen::ARCHITECTURE, qwen2::ARCHITECTURE];

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
    let architecture = find(found).ok_or_else(|| unknown(keys.place, found))?;
    (architecture.config)(keys)
}

fn unknown(place: &std::path::Path, found: &str) -> Error {
    Error::UnknownModelType { path: place.to_owned(), found: found.to_owned(), known: known().join(", ") }
}
