//! The vocabularies that are lists of lines: BERT's, RoBERTa's, BioGPT's in both layouts. The first byte says whose, and a zero
//! byte ends the first of two files.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use taiyi_model::tokenizer::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (folder, names) = match kind % 3 {
        0 => ("wordpiece", ["vocab.txt", "tokenizer_config.json"]),
        1 => ("merges", ["vocab.json", "merges.txt"]),
        _ => ("fairseq", ["dict.txt", "bpecodes"]),
    };
    let folder = taiyi_fuzz::folder(&[]).join(folder);
    fs::create_dir_all(&folder).expect("the folder can be made");
    for (name, bytes) in names.iter().zip([first, second]) {
        fs::write(folder.join(name), bytes).expect("an input can be written");
    }
    let Ok(tokenizer) = Tokenizer::load(&folder) else { return };
    let text = "Aspirin's 100 mg... <s> [CLS] 头痛三天。 cafe\u{301} all-trans (p<0.05), e.g. this.'";
    let ids = tokenizer.encode_with_special(text);
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    let mut stream = tokenizer.decode_stream();
    let mut streamed: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
    streamed.extend(stream.finish());
    assert_eq!(streamed, tokenizer.decode(&ids));
    if let Ok(input) = tokenizer.encode_input(text, Some("fell"), 12) {
        assert_eq!(input.ids.len(), input.origins.len());
    }
});
