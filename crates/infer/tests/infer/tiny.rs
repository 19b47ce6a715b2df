//! Models small enough for a debug build, with a tokenizer trained on a few lines.

use std::path::Path;

use serde_json::{Value, json};
use taiyi_infer::ReplyModel;
use taiyi_model::chat::ChatFormat;
use taiyi_model::tokenizer::{TrainedTokenizer, Trainer, TrainerOptions};
use taiyi_model::{Decoder, DecoderConfig};

pub(crate) fn tokenizer() -> TrainedTokenizer {
    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let options = TrainerOptions {
        vocab_size: 340,
        special_tokens: specials.map(str::to_owned).to_vec(),
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::new(options).unwrap();
    trainer.add("患者头痛、发热三天，予阿司匹林。高血压患者服用氨氯地平。", 4.0).unwrap();
    trainer.add("the patient had headache and fever; aspirin was given to the patient", 4.0).unwrap();
    trainer.finish(&mut |_| {}).unwrap()
}

/// A configuration of Qwen2 for `vocab_size` ids and `positions` tokens. Weights are drawn wide, so that what comes next
/// depends on what stands before.
pub(crate) fn qwen2(vocab_size: usize, positions: usize) -> DecoderConfig {
    config(json!({
        "model_type": "qwen2", "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": positions, "initializer_range": 0.4, "tie_word_embeddings": false,
    }))
}

/// A configuration of Qwen v1 whose rope and attention change beyond `trained` tokens.
pub(crate) fn qwen(vocab_size: usize, trained: usize, positions: usize) -> DecoderConfig {
    config(json!({
        "model_type": "qwen", "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "seq_length": trained,
        "max_position_embeddings": positions, "initializer_range": 0.4,
    }))
}

fn config(value: Value) -> DecoderConfig {
    DecoderConfig::from_json(&value, Path::new("config.json")).unwrap()
}

/// A model that babbles, in a format of the program.
pub(crate) fn model(format: &str, positions: usize, seed: u64) -> ReplyModel {
    let tokenizer = tokenizer().tokenizer().clone();
    let format = ChatFormat::by_name(format, &tokenizer).unwrap();
    let decoder = Decoder::random(qwen2(tokenizer.vocab_size(), positions), seed).unwrap();
    ReplyModel::new(decoder, tokenizer, format).unwrap()
}
