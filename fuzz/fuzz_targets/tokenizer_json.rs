//! A `tokenizer.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let folder = taiyi_fuzz::folder(&[("tokenizer.json", data)]);
    if let Ok(tokenizer) = Tokenizer::load(&folder) {
        let text = "Aspirin 100 mg\t<s> 头痛三天。\u{301} can't ";
        let ids = tokenizer.encode(text);
        tokenizer.decode(&ids);
        tokenizer.decode(&tokenizer.encode_with_special(text));
        tokenizer.decode(&[0, 1, u32::MAX]);
    }
});
