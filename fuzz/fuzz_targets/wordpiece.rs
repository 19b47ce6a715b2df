//! The vocabulary of a BERT.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let folder = taiyi_fuzz::folder(&[("vocab.txt", data)]);
    if let Ok(tokenizer) = Tokenizer::load(&folder) {
        taiyi_fuzz::exercise(&tokenizer);
    }
});
