//! The parts of `tokenizer_config.json` that change how a tokenizer or a chat behaves.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::TokenizerError;
use super::added::AddedToken;
use super::read_file;
use super::vocabulary::LARGEST_ID;

/// What `tokenizer_config.json` says; all of it optional. `special_tokens_map.json` and `added_tokens.json`, which older
/// checkpoints have beside it, fill what it leaves out.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenizerConfig {
    /// Whether the folder has a `tokenizer_config.json` at all.
    pub(crate) exists: bool,
    pub(crate) tokenizer_class: Option<String>,
    pub(crate) eos_token: Option<String>,
    pub(crate) bos_token: Option<String>,
    pub(crate) pad_token: Option<String>,
    pub(crate) unk_token: Option<String>,
    pub(crate) cls_token: Option<String>,
    pub(crate) sep_token: Option<String>,
    pub(crate) mask_token: Option<String>,
    pub(crate) chat_template: Option<String>,
    pub(crate) added_tokens: Vec<AddedToken>,
    pub(crate) add_bos_token: Option<bool>,
    pub(crate) add_eos_token: Option<bool>,
    /// LLaMA: whether text after a special token starts with a blank, as text at the start does.
    pub(crate) legacy: Option<bool>,
    pub(crate) do_lower_case: Option<bool>,
    pub(crate) strip_accents: Option<bool>,
    pub(crate) tokenize_chinese_chars: Option<bool>,
    pub(crate) clean_up_tokenization_spaces: Option<bool>,
    pub(crate) add_prefix_space: Option<bool>,
    /// ChatGLM-6B: ids below this number stand for images.
    pub(crate) num_image_tokens: Option<u32>,
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
    /// Reads the files of a model folder; a folder without them has the empty configuration.
    pub(crate) fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let mut config = match object(&dir.join("tokenizer_config.json"))? {
            None => {
                let vocabulary = super::gguf::of_path(dir)?;
                vocabulary.map(|(_, vocabulary)| super::gguf::config(&vocabulary)).unwrap_or_default()
            }
            Some(mut fields) => {
                let path = dir.join("tokenizer_config.json");
                let added_tokens = added_tokens(&path, fields.remove("added_tokens_decoder"))?;
                let flag = |name: &str| fields.get(name).and_then(Value::as_bool);
                let mut config = Self {
                    exists: true,
                    add_bos_token: flag("add_bos_token"),
                    add_eos_token: flag("add_eos_token"),
                    legacy: flag("legacy"),
                    do_lower_case: flag("do_lower_case"),
                    strip_accents: flag("strip_accents"),
                    tokenize_chinese_chars: flag("tokenize_chinese_chars"),
                    clean_up_tokenization_spaces: flag("clean_up_tokenization_spaces"),
                    add_prefix_space: flag("add_prefix_space"),
                    num_image_tokens: fields
                        .get("num_image_tokens")
                        .and_then(Value::as_u64)
                        .and_then(|count| u32::try_from(count).ok())
                        .filter(|count| *count <= LARGEST_ID / 2),
                    tokenizer_class: text(fields.remove("tokenizer_class")),
                    chat_template: template(fields.remove("chat_template")),
                    added_tokens,
                    ..Self::default()
                };
                config.name_tokens(fields);
                config
            }
        };
        if let Some(fields) = object(&dir.join("special_tokens_map.json"))? {
            config.name_tokens(fields);
        }
        if config.added_tokens.is_empty() {
            let path = dir.join("added_tokens.json");
            for (content, id) in object(&path)?.unwrap_or_default() {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id <= LARGEST_ID);
                let Some(id) = id else {
                    let place = format!("token `{content}`");
                    return Err(TokenizerError::malformed(
                        &path,
                        place,
                        "an id below 4194304",
                        "another value",
                    ));
                };
                let special = config.named().any(|named| named == content);
                config.added_tokens.push(AddedToken { special, ..AddedToken::special(id, content) });
            }
        }
        Ok(config)
    }

    /// Takes over the names of the special tokens that are not known yet.
    fn name_tokens(&mut self, mut fields: Map<String, Value>) {
        for (name, token) in [
            ("eos_token", &mut self.eos_token),
            ("bos_token", &mut self.bos_token),
            ("pad_token", &mut self.pad_token),
            ("unk_token", &mut self.unk_token),
            ("cls_token", &mut self.cls_token),
            ("sep_token", &mut self.sep_token),
            ("mask_token", &mut self.mask_token),
        ] {
            if token.is_none() {
                *token = text(fields.remove(name));
            }
        }
    }

    /// The special tokens that have a role.
    pub(crate) fn named(&self) -> impl Iterator<Item = &str> {
        [
            &self.bos_token,
            &self.eos_token,
            &self.unk_token,
            &self.pad_token,
            &self.cls_token,
            &self.sep_token,
            &self.mask_token,
        ]
        .into_iter()
        .filter_map(|token| token.as_deref())
    }
}

/// The object a JSON file holds; `None` when there is no such file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_slice(&read_file(path)?).map(Some).map_err(|e| TokenizerError::json(path, e))
}

fn added_tokens(path: &Path, entries: Option<Value>) -> Result<Vec<AddedToken>, TokenizerError> {
    let Some(Value::Object(entries)) = entries else { return Ok(Vec::new()) };
    let mut added_tokens = Vec::with_capacity(entries.len());
    for (id, entry) in entries {
        let place = || format!("added_tokens_decoder.{id}");
        let number = id.parse().ok().filter(|id| *id <= LARGEST_ID).ok_or_else(|| {
            TokenizerError::malformed(path, place(), "an id below 4194304 as name", id.clone())
        })?;
        let entry: AddedEntry = serde_json::from_value(entry)
            .map_err(|error| TokenizerError::malformed(path, place(), "an added token", error.to_string()))?;
        added_tokens.push(AddedToken {
            strip_left: entry.lstrip,
            strip_right: entry.rstrip,
            special: entry.special,
            ..AddedToken::special(number, entry.content)
        });
    }
    Ok(added_tokens)
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
