//! What the targets share: readers take folders, so each input is written into one.

use std::{fs, path::PathBuf, sync::OnceLock};

use taiyi_model::{
    DecoderConfig,
    tokenizer::{Tokenizer, Trainer, TrainerOptions},
    weights::Weights,
};

/// Writes files into this process's folder, in memory where there is a file system in memory, and gives the folder. Files of
/// earlier inputs with other names stay.
///
/// # Panics
/// When the folder cannot be written: a fuzzer that tests nothing should not run on.
pub fn folder(files: &[(&str, &[u8])]) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let root = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = root.join(format!("taiyi-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for inputs can be made");
        folder
    });
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).expect("an input can be written");
    }
    folder.clone()
}

/// Reads every tensor in every way there is.
pub fn read_all(weights: &Weights) {
    for name in weights.names() {
        let Some(shape) = weights.shape(name) else { panic!("`{name}` is listed and not there") };
        let view = weights.get(name).expect("a listed tensor is there");
        view.to_i64();
        let values = weights.f32(name, shape);
        assert_eq!(values.is_ok(), weights.floats(name, shape).is_ok(), "{name}");
        if let Ok(values) = values {
            assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
        }
        weights.nf4(name, shape).expect("its own shape fits");
    }
}

/// A tokenizer of some hundred ids, trained once, for targets that need one beside their input.
pub fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let options = TrainerOptions { vocab_size: 300, ..TrainerOptions::default() };
        let mut trainer = Trainer::new(options).expect("the options are in range");
        trainer
            .add("aspirin helps against headache; 患者有糖尿病，头痛三天。", 2.0)
            .expect("a weight above zero");
        let folder = folder(&[]).join("tokenizer");
        fs::create_dir_all(&folder).expect("the folder can be made");
        trainer
            .finish(&mut |_| {})
            .expect("there was text")
            .save(&folder)
            .expect("the folder can be written");
        Tokenizer::load(&folder).expect("what was written is read")
    })
}

/// The configuration of a model that is made in no time.
///
/// # Panics
/// Never: it is a constant.
pub fn tiny_config() -> DecoderConfig {
    let config = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16, "rms_norm_eps": 1e-6
    });
    DecoderConfig::from_json(&config, "config.json".as_ref()).expect("a known architecture")
}

/// The values of the codes of NF4, for seeds.
pub fn nf4_codes() -> [f32; 16] {
    taiyi_kernels::NF4_CODES
}

/// Encodes and decodes text that holds something for every kind of tokenizer.
pub fn exercise(tokenizer: &Tokenizer) {
    let text = "Aspirin 100 mg\t<s> <|endoftext|> 头痛三天。\u{301} ㍿ can't (e.g. 3.5-fold)\r\n  \u{2581}x";
    for ids in [tokenizer.encode(text), tokenizer.encode_with_special(text)] {
        tokenizer.decode(&ids);
        tokenizer.decode_without_special(&ids);
        let mut stream = tokenizer.decode_stream();
        for id in ids {
            stream.push(id);
        }
    }
    tokenizer.decode(&[0, 1, 2, 3, u32::MAX]);
}

/// Two files out of one input: what stands before the first byte that no text has, and what stands behind it.
pub fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|&b| b == 0xff) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}
