//! Writing a trained vocabulary in Hugging Face's layout, as Qwen2 ships its own.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::byte_level::ByteAlphabet;
use super::config::TokenizerConfig;
use super::split::QWEN_PATTERN;
use super::{Tokenizer, TokenizerError};

/// A trained vocabulary: the files it is written as and the tokenizer they make.
#[derive(Debug, Clone)]
pub struct TrainedTokenizer {
    tokenizer_json: String,
    tokenizer_config_json: String,
    tokenizer: Tokenizer,
}

impl TrainedTokenizer {
    pub(super) fn new(
        tokens: Vec<Vec<u8>>,
        merges: Vec<(u32, u32)>,
        special_tokens: Vec<String>,
        chat_template: Option<String>,
    ) -> Result<Self, TokenizerError> {
        let alphabet = ByteAlphabet::new();
        let spelled: Vec<String> = tokens.iter().map(|token| alphabet.spell(token)).collect();
        let first_special = spelled.len();
        let special = || special_tokens.iter().zip(first_special..);
        let vocab: Map<String, Value> =
            spelled.iter().cloned().zip((0..).map(|id: usize| id.into())).collect();
        let merges: Vec<String> = merges
            .iter()
            .map(|&(left, right)| format!("{} {}", spelled[left as usize], spelled[right as usize]))
            .collect();
        let added: Vec<Value> = special()
            .map(|(content, id)| {
                json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": true})
            })
            .collect();
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": false},
                byte_level,
            ]},
            "post_processor": byte_level,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": false,
                "byte_fallback": false,
                "vocab": vocab,
                "merges": merges,
            },
        });
        let decoder: Map<String, Value> = special()
            .map(|(content, id)| {
                let token = json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false,
                                   "single_word": false, "special": true});
                (id.to_string(), token)
            })
            .collect();
        let end = special_tokens.first();
        let mut config = json!({
            "add_bos_token": false,
            "add_prefix_space": false,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": special_tokens.iter().skip(1).collect::<Vec<_>>(),
            "bos_token": null,
            "clean_up_tokenization_spaces": false,
            "eos_token": end,
            "errors": "replace",
            "pad_token": end,
            "split_special_tokens": false,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": null,
        });
        if let Some(template) = chat_template {
            config["chat_template"] = template.into();
        }
        let pretty = |value: &Value| {
            let mut text = serde_json::to_string_pretty(value).expect("a JSON value has a text");
            text.push('\n');
            text
        };
        let tokenizer_json = pretty(&file);
        let config_values =
            TokenizerConfig { eos_token: end.cloned(), pad_token: end.cloned(), ..Default::default() };
        let tokenizer = Tokenizer::from_json(
            Path::new("tokenizer.json"),
            tokenizer_json.as_bytes(),
            &config_values,
            None,
        )?;
        Ok(Self { tokenizer_json, tokenizer_config_json: pretty(&config), tokenizer })
    }

    /// The tokenizer the files make.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Ids of the tokenizer; fewer than asked for where the text was too small.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// Writes `tokenizer_config.json` and then `tokenizer.json` into a folder, which is made if it is missing. Each file
    /// appears complete or not at all.
    ///
    /// # Errors
    ///
    /// The folder or a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), TokenizerError> {
        std::fs::create_dir_all(dir).map_err(|e| TokenizerError::io(dir, e))?;
        for (name, text) in
            [("tokenizer_config.json", &self.tokenizer_config_json), ("tokenizer.json", &self.tokenizer_json)]
        {
            let path = dir.join(name);
            let partial = dir.join(format!("{name}.partial"));
            let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, &path));
            written.map_err(|error| {
                // The first error is the one to tell; what is not whole must not stay.
                let _ = std::fs::remove_file(&partial);
                TokenizerError::io(&path, error)
            })?;
        }
        Ok(())
    }
}
