//! A SentencePiece model; the first byte says whether LLaMA's or ChatGLM-6B's.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::{Place, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let Some((kind, model)) = data.split_first() else { return };
    let (folder, name) = if kind & 1 == 0 { ("llama", "tokenizer.model") } else { ("chatglm", "ice_text.model") };
    let folder = taiyi_fuzz::folder(&[]).join(folder);
    fs::create_dir_all(&folder).expect("the folder can be made");
    fs::write(folder.join(name), model).expect("an input can be written");
    let Ok(tokenizer) = Tokenizer::load(&folder) else { return };
    let text = "ab  Aspirin 100 mg\t<s> \u{3000}头痛三天。\u{301} can't <|x|>\n\u{2581}";
    let mut ids = tokenizer.encode(text);
    tokenizer.encode_at(text, Place::Inside, &mut ids);
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    ids.extend([0, 1, 2, 200, u32::MAX]);
    let mut stream = tokenizer.decode_stream();
    let mut streamed: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
    streamed.extend(stream.finish());
    assert_eq!(streamed, tokenizer.decode(&ids));
    tokenizer.decode_bytes(&ids);
});
