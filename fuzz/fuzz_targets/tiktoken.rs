//! A file of byte sequences and their ranks, as the vocabulary of Qwen is published.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let folder = taiyi_fuzz::folder(&[("qwen.tiktoken", data)]);
    if let Ok(tokenizer) = Tokenizer::load(&folder) {
        taiyi_fuzz::exercise(&tokenizer);
    }
});
