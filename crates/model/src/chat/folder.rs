//! Which format a model folder asks for.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use super::ChatFormat;
use crate::tokenizer::{Tokenizer, TokenizerConfig, TokenizerError};

/// Largest configuration file read; those with all added tokens of a large vocabulary have a few hundred kB.
const LARGEST_FILE_BYTES: u64 = 64 << 20;

impl ChatFormat {
    /// The format of a model folder.
    ///
    /// A template counts first, looked for in `chat_template.jinja`, `chat_template.json` and `tokenizer_config.json` (of a list of named
    /// ones, `default`); copies of the known templates, and GLM-4's own, become the known formats. Without one the architecture
    /// and the vocabulary decide:
    ///
    /// | `model_type` | format |
    /// |---|---|
    /// | `qwen` | `chatml` where `generation_config.json` says so, else `taiyi1` |
    /// | `qwen3` | `qwen3` |
    /// | `chatglm`, `glm` | `glm4` where the vocabulary has `<\|user\|>`, else `chatglm` |
    /// | `baichuan` | `baichuan` or `baichuan2` by the `user_token_id` of `generation_config.json`; base models `completion` |
    /// | `llama` | `llama3` where the vocabulary has its headers; `vicuna`, `alpaca`, `alpaca_zh`, `alpaca2_zh` or `llama2` where `_name_or_path` names one; else `completion` |
    /// | `biogpt` | `biogpt_prompt` where the vocabulary has the learned prompt, else `biogpt` |
    /// | `bloom` | `bloom` |
    /// | others | `taiyi1` where the vocabulary has `<\|endoftext\|>`, else `completion` |
    ///
    /// # Errors
    ///
    /// Files that cannot be read, a template that does not compile, no format to be found.
    pub fn load(dir: &Path, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let folder = Folder::read(dir)?;
        if folder.tokenizer.get("tokenizer_class").and_then(Value::as_str) == Some("ChatGLM4Tokenizer") {
            return Self::by_name("glm4", tokenizer);
        }
        let Some(source) = folder.template(dir)? else {
            return Self::by_name(folder.name(tokenizer), tokenizer);
        };
        if let Some(name) = Self::of_known_template(&source) {
            return Self::by_name(name, tokenizer);
        }
        Self::from_template(&source, tokenizer, folder.tokens(), folder.stop_ids(tokenizer))
    }
}

/// The configuration files of a model folder, as far as they concern chats; empty where they are absent.
struct Folder {
    model: Map<String, Value>,
    tokenizer: Map<String, Value>,
    special_tokens: Map<String, Value>,
    generation: Map<String, Value>,
}

impl Folder {
    fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let object = |name: &str| Ok(json(&dir.join(name))?.unwrap_or_default());
        Ok(Self {
            model: object("config.json")?,
            tokenizer: object("tokenizer_config.json")?,
            special_tokens: object("special_tokens_map.json")?,
            generation: object("generation_config.json")?,
        })
    }

    /// The folder's template.
    fn template(&self, dir: &Path) -> Result<Option<String>, TokenizerError> {
        let file = dir.join("chat_template.jinja");
        if let Some(bytes) = bytes(&file)? {
            let source = String::from_utf8(bytes).map_err(|error| {
                TokenizerError::malformed(&file, "text", "UTF-8", error.utf8_error().to_string())
            })?;
            return Ok(Some(source));
        }
        let file = dir.join("chat_template.json");
        if let Some(fields) = json(&file)? {
            let found = fields.get("chat_template");
            let found = found
                .ok_or_else(|| TokenizerError::malformed(&file, "chat_template", "a template", "nothing"))?;
            return of_names(&file, found);
        }
        match self.tokenizer.get("chat_template") {
            Some(found) => of_names(&dir.join("tokenizer_config.json"), found),
            // A GGUF file brings its template along.
            None => Ok(TokenizerConfig::read(dir)?.chat_template),
        }
    }

    /// The special tokens by name (`bos_token`), which templates may write.
    fn tokens(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
            _ => None,
        };
        let fields = self.special_tokens.iter().chain(&self.tokenizer);
        let named = fields.filter(|(name, _)| name.ends_with("_token"));
        named.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
    }

    /// The ids at which replies end by configuration.
    fn stop_ids(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut stop_ids: Vec<u32> = tokenizer.eos_id().into_iter().collect();
        for fields in [&self.generation, &self.model] {
            let listed = match fields.get("eos_token_id") {
                Some(Value::Array(ids)) => ids.as_slice(),
                Some(id) => std::slice::from_ref(id),
                None => continue,
            };
            let ids = listed.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok());
            for id in ids.filter(|id| (*id as usize) < tokenizer.vocab_size()) {
                if !stop_ids.contains(&id) {
                    stop_ids.push(id);
                }
            }
            // What generation is told stands for itself.
            break;
        }
        stop_ids
    }

    /// The known format that fits a folder without a template.
    fn name(&self, tokenizer: &Tokenizer) -> &'static str {
        let has = |token: &str| tokenizer.special_id(token).or_else(|| tokenizer.token_to_id(token));
        let text = |name: &str| self.model.get(name).and_then(Value::as_str).unwrap_or_default();
        let asks_with = |token: &str| {
            let id = self.generation.get("user_token_id").and_then(Value::as_u64);
            id.is_some() && id == has(token).map(u64::from)
        };
        let end = if tokenizer.special_id("<|endoftext|>").is_some() { "taiyi1" } else { "completion" };
        match text("model_type") {
            // `chat_format` is a key of Qwen's first generation.
            _ if self.generation.get("chat_format").and_then(Value::as_str) == Some("chatml") => "chatml",
            "qwen3" if has("<|im_start|>").is_some() => "qwen3",
            "chatglm" | "glm" if has("<|user|>").is_some() => "glm4",
            "chatglm" if has("<sop>").is_some() => "chatglm",
            "baichuan" if asks_with("<reserved_106>") => "baichuan2",
            "baichuan" if asks_with("<reserved_102>") => "baichuan",
            "llama" if has("<|start_header_id|>").is_some() => "llama3",
            "llama" => {
                let name = text("_name_or_path").to_lowercase();
                let is = |part: &str| name.contains(part);
                // The Chinese models of the kind say so and, in the second generation, which.
                match () {
                    () if is("vicuna") => "vicuna",
                    () if is("chinese") && is("alpaca-2") => "alpaca2_zh",
                    () if is("chinese") && is("alpaca") => "alpaca_zh",
                    () if is("alpaca") => "alpaca",
                    () if is("llama-2") && is("chat") => "llama2",
                    () => end,
                }
            }
            "biogpt" if has("learned9").is_some() => "biogpt_prompt",
            "biogpt" => "biogpt",
            "bloom" => "bloom",
            _ => end,
        }
    }
}

/// The bytes of a file, nothing where it is absent.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > LARGEST_FILE_BYTES => {
            Err(TokenizerError::malformed(path, "size", "at most 64 MiB", format!("{} bytes", found.len())))
        }
        Ok(_) => Ok(Some(std::fs::read(path).map_err(|error| TokenizerError::io(path, error))?)),
        // The place may be a file, of weights and all.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(TokenizerError::io(path, error)),
    }
}

/// The fields of a JSON file, nothing where it is absent.
fn json(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| TokenizerError::json(path, error))
}

/// A template written as a string, or the one called `default` of named ones, in either of the two ways to name them.
fn of_names(path: &Path, value: &Value) -> Result<Option<String>, TokenizerError> {
    let mut named: Vec<(&str, &str)> = Vec::new();
    match value {
        Value::String(source) => return Ok(Some(source.clone())),
        Value::Null => return Ok(None),
        Value::Array(entries) => named.extend(
            entries
                .iter()
                .filter_map(|entry| Some((entry.get("name")?.as_str()?, entry.get("template")?.as_str()?))),
        ),
        Value::Object(entries) => {
            named.extend(entries.iter().filter_map(|(name, source)| Some((name.as_str(), source.as_str()?))));
        }
        _ => {}
    }
    let only = if let [only] = named.as_slice() { Some(only) } else { None };
    match named.iter().find(|(name, _)| *name == "default").or(only) {
        Some((_, source)) => Ok(Some((*source).to_owned())),
        None => {
            let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
            let found = if names.is_empty() { value.to_string() } else { names.join(", ") };
            Err(TokenizerError::malformed(
                path,
                "chat_template",
                "a template, or one called `default`",
                found,
            ))
        }
    }
}
