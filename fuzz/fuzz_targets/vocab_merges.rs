//! A vocabulary and its merges, as RoBERTa and BioGPT have them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let (vocabulary, merges) = taiyi_fuzz::halves(data);
    let folder = taiyi_fuzz::folder(&[("vocab.json", vocabulary), ("merges.txt", merges)]);
    if let Ok(tokenizer) = Tokenizer::load(&folder) {
        taiyi_fuzz::exercise(&tokenizer);
    }
});
