//! A base model folder of a few thousand weights: a Qwen2 configuration and a tokenizer of the 256 bytes.

use std::fs;
use std::path::{Path, PathBuf};
use taiyi_model::{Decoder, DecoderConfig, Dtype};

/// 256 bytes and the end of text.
pub(crate) const VOCABULARY: usize = 257;

/// Writes `config.json` and the tokenizer, and random weights with a seed.
pub(crate) fn base(folder: &Path, weights: Option<u64>) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    // The frozen output head of a random base must be able to tell tokens apart: its rows have to be long.
    let deviation = if weights.is_some() { 0.4 } else { 0.08 };
    let config = serde_json::json!({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": VOCABULARY + 7, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu", "initializer_range": deviation
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    if let Some(seed) = weights {
        let decoder = Decoder::random(DecoderConfig::load(folder).unwrap(), seed).unwrap();
        decoder.save(folder, Dtype::F32).unwrap();
    }
    // Byte-level BPE writes bytes that do not print as code points from 256 on (GPT-2's table).
    let prints = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let vocabulary: serde_json::Map<String, serde_json::Value> = (0..256_u32)
        .map(|byte| {
            let code = if prints(byte) { byte } else { others.next().unwrap() };
            (char::from_u32(code).unwrap().to_string(), byte.into())
        })
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{
            "id": 256, "content": "<|endoftext|>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false
        }],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": []
        }
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings =
        serde_json::json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"});
    fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
    folder.to_owned()
}
