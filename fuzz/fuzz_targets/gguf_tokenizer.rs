//! The tokenizer in a GGUF file; slow, because patterns are compiled for each input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let path = taiyi_fuzz::folder(&[("model.gguf", data)]).join("model.gguf");
    if let Ok(tokenizer) = Tokenizer::load(&path) {
        taiyi_fuzz::exercise(&tokenizer);
    }
});
