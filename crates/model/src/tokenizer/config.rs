//! The parts of `tokenizer_config.json` that change how a tokenizer or a chat behaves.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::TokenizerError;
use super::added::AddedToken;
use super::read_file;
use super::vocabulary::LARGEST_ID;

/// What `tokenizer_config.json` says; all of it optional.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenizerConfig {
    pub(crate) tokenizer_class: Option<String>,
    pub(crate) eos_token: Option<String>,
    pub(crate) bos_token: Option<String>,
    pub(crate) pad_token: Option<String>,
    pub(crate) chat_template: Option<String>,
    pub(crate) added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedEntry {
    content: String,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

impl TokenizerConfig {
    /// Reads the file of a model folder; a folder without it has the empty configuration.
    pub(crate) fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join("tokenizer_config.json");
        if !path.exists() {
            let vocabulary = super::gguf::of_path(dir)?;
            return Ok(vocabulary
                .map(|(_, vocabulary)| super::gguf::config(&vocabulary))
                .unwrap_or_default());
        }
        let mut fields: Map<String, Value> =
            serde_json::from_slice(&read_file(&path)?).map_err(|e| TokenizerError::json(&path, e))?;
        let mut added_tokens = Vec::new();
        if let Some(Value::Object(entries)) = fields.remove("added_tokens_decoder") {
            for (id, entry) in entries {
                let place = || format!("added_tokens_decoder.{id}");
                let number = id.parse().ok().filter(|id| *id <= LARGEST_ID).ok_or_else(|| {
                    TokenizerError::malformed(&path, place(), "an id below 4194304 as name", id.clone())
                })?;
                let entry: AddedEntry = serde_json::from_value(entry).map_err(|error| {
                    TokenizerError::malformed(&path, place(), "an added token", error.to_string())
                })?;
                added_tokens.push(AddedToken {
                    strip_left: entry.lstrip,
                    strip_right: entry.rstrip,
                    special: entry.special,
                    ..AddedToken::special(number, entry.content)
                });
            }
        }
        Ok(Self {
            tokenizer_class: text(fields.remove("tokenizer_class")),
            eos_token: text(fields.remove("eos_token")),
            bos_token: text(fields.remove("bos_token")),
            pad_token: text(fields.remove("pad_token")),
            chat_template: template(fields.remove("chat_template")),
            added_tokens,
        })
    }
}

/// A token written as a string or as `{"content": ...}`.
fn text(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        Value::Object(mut token) => match token.remove("content")? {
            Value::String(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// A template written as a string, or the one called `default` of a list of named ones.
fn template(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        Value::Array(named) => named.into_iter().find_map(|entry| {
            let Value::Object(mut entry) = entry else { return None };
            let is_default = entry.get("name").and_then(Value::as_str) == Some("default");
            if is_default { text(entry.remove("template")) } else { None }
        }),
        _ => None,
    }
}
