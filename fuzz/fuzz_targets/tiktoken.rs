//! A file of byte sequences and their ranks, as Qwen's vocabulary is published.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let folder = taiyi_fuzz::folder(&[("qwen.tiktoken", data)]);
    if let Ok(tokenizer) = Tokenizer::load(&folder) {
        let ids = tokenizer.encode_with_special("Aspirin 100 mg <|endoftext|> 头痛三天。");
        tokenizer.decode(&ids);
    }
});
