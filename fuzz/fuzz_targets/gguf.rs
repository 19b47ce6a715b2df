//! A GGUF file: weights, configuration, vocabulary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::weights::{Weights, config_json, gguf::Gguf};

fuzz_target!(|data: &[u8]| {
    let path = taiyi_fuzz::folder(&[("model.gguf", data)]).join("model.gguf");
    if let Ok(weights) = Weights::open(&path) {
        taiyi_fuzz::read_all(&weights);
    }
    if let Ok(file) = Gguf::open(&path) {
        let _ = (file.config(), file.vocabulary());
    }
    let _ = config_json(&path);
});
