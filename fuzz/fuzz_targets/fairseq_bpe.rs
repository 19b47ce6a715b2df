//! The dictionary and the codes of a fairseq model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let (dictionary, codes) = taiyi_fuzz::halves(data);
    let folder = taiyi_fuzz::folder(&[("dict.txt", dictionary), ("bpecodes", codes)]);
    if let Ok(tokenizer) = Tokenizer::load(&folder) {
        taiyi_fuzz::exercise(&tokenizer);
    }
});
