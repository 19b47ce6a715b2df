//! What stands beside a vocabulary: special tokens and switches.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let folder = taiyi_fuzz::folder(&[
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\naspirin\n##s\n"),
        ("tokenizer_config.json", data),
    ]);
    if let Ok(tokenizer) = Tokenizer::load(&folder) {
        taiyi_fuzz::exercise(&tokenizer);
    }
});
