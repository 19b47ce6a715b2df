//! `tokenizer.json` files of several kinds, whole and broken.
// A skipped test, and a measurement, say so to the person who runs them.
#![allow(clippy::print_stderr)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use taiyi_model::tokenizer::{Tokenizer, TokenizerError, Trainer, TrainerOptions};

fn load(json: &str) -> Result<Tokenizer, TokenizerError> {
    load_with(json, None)
}

fn load_with(json: &str, config: Option<Value>) -> Result<Tokenizer, TokenizerError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    if let Some(config) = config {
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    }
    Tokenizer::load(dir.path())
}

fn reference(json: &str) -> tokenizers::Tokenizer {
    json.parse().unwrap()
}

/// The file of a small trained tokenizer.
fn trained() -> Value {
    let mut trainer = Trainer::new(TrainerOptions { vocab_size: 320, ..TrainerOptions::default() }).unwrap();
    let text = "The patient's platelets fell. 患者血小板下降，血压下降。 It's 3.14 mg/kg, isn't it?\n\n  血小板 platelets\n";
    trainer.add(&text.repeat(40), 1.0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    trainer.finish(&mut |_| {}).unwrap().save(dir.path()).unwrap();
    serde_json::from_slice(&fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap()
}

const TEXTS: [&str; 12] = [
    "",
    "The patient's platelets fell by 3.14 mg/kg, didn't they?",
    "患者血小板下降，血压下降。",
    "  mixed 血小板platelets\t\n\n  ends  ",
    "cafe\u{301} e\u{302}\u{301} 1234567890 ½",
    "DON'T 'S 'll ''re",
    "\r\n\r\n\u{3000}全角",
    "🧬👩\u{200d}⚕\u{fe0f}",
    "a <mask> b <|endoftext|> c<sep>d",
    "     ",
    "x\n",
    "((nested) [brackets])，。！",
];

fn same(file: &Value) {
    let json = file.to_string();
    let (ours, theirs) = (load(&json).unwrap(), reference(&json));
    for text in TEXTS {
        let expected = theirs.encode(text, false).unwrap();
        assert_eq!(ours.encode_with_special(text), expected.get_ids(), "{text:?}");
        assert_eq!(
            ours.decode(expected.get_ids()),
            theirs.decode(expected.get_ids(), false).unwrap(),
            "{text:?}"
        );
    }
}

#[test]
fn variations_of_the_byte_level_pipeline_agree_with_hugging_face() {
    let base = trained();
    same(&base);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file = base.clone();
        change(&mut file);
        same(&file);
    };
    with(&|file| file["normalizer"] = Value::Null);
    with(&|file| file["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]}));
    with(&|file| file["model"]["ignore_merges"] = true.into());
    // Merges as pairs, as newer versions write them.
    with(&|file| {
        let merges = file["model"]["merges"].as_array_mut().unwrap();
        for merge in merges {
            let (left, right) = merge.as_str().unwrap().split_once(' ').unwrap();
            *merge = json!([left, right]);
        }
    });
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    with(&|file| file["pre_tokenizer"] = byte_level(true));
    with(&|file| file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [byte_level(false)]}));
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    // Llama 3, BLOOM, and several stages one after the other (DeepSeek).
    for pattern in [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
    ] {
        with(&|file| file["pre_tokenizer"]["pretokenizers"][0] = split(pattern));
    }
    with(&|file| {
        let stages = [split(r"\p{N}{1,3}"), split(r"[一-龥]+"), split(r"[^\r\n]+"), byte_level(true)];
        file["pre_tokenizer"]["pretokenizers"] = json!(stages);
    });
    with(&|file| file["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"String": "血小"}));
    // Added tokens: ordinary ones, ones that take white space along, ones looked for after normalisation.
    with(&|file| {
        let added = file["added_tokens"].as_array_mut().unwrap();
        for (id, content, change) in
            [(320, "<mask>", "lstrip"), (321, "<sep>", "rstrip"), (322, "ế", "normalized")]
        {
            let mut token = json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false});
            token[change] = true.into();
            added.push(token);
        }
    });
}

#[test]
fn pipelines_of_other_kinds_run_too() {
    // Settings our encoder does not run: they must still give the reference's ids.
    let base = trained();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file = base.clone();
        change(&mut file);
        same(&file);
    };
    with(&|file| file["normalizer"] = json!({"type": "Lowercase"}));
    with(&|file| file["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true.into());
    with(&|file| file["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext".into());

    let word_piece = json!({
        "version": "1.0", "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}, "padding": null,
        "added_tokens": [
            {"id": 0, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 1, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {"[UNK]": 0, "[SEP]": 1, "plate": 2, "##let": 3, "##s": 4, "fell": 5, "血": 6, "压": 7, ".": 8, "sep": 9, "[": 10, "]": 11}},
    });
    let tokenizer = load(&word_piece.to_string()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 12);
    // The file's own truncation is not applied: whoever wants fewer ids cuts them.
    assert_eq!(tokenizer.encode("Platelets fell. 血压 糖"), [2, 3, 4, 5, 8, 6, 7, 0]);
    assert_eq!(tokenizer.encode_with_special("fell [SEP]"), [5, 1]);
    assert_eq!(tokenizer.encode("fell [SEP]"), [5, 10, 9, 11]);
    let ids = [2, 3, 4, 5, 1, 8, 6, 7];
    assert_eq!(tokenizer.decode(&ids), "platelets fell [SEP]. 血 压");
    assert_eq!(tokenizer.decode_without_special(&ids), "platelets fell. 血 压");
    assert_eq!(tokenizer.decode_bytes(&ids), "platelets fell [SEP]. 血 压".as_bytes());
    let mut stream = tokenizer.decode_stream();
    let mut parts: Vec<String> = [2, 3, 4, 5, 6].iter().filter_map(|&id| stream.push(id)).collect();
    parts.extend(stream.finish());
    assert_eq!(parts, ["plate", "let", "s", " fell", " 血"]);
}

/// `<s> ids </s>` of a RoBERTa vocabulary, from the reference; the pattern is GPT-2's.
#[test]
fn roberta_ids() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles/tokenizers/roberta_bpe");
    if !dir.is_dir() {
        eprintln!("skipped: ../shared/oracles/tokenizers is not beside the repository");
        return;
    }
    let vocab: Value = serde_json::from_slice(&fs::read(dir.join("vocab.json")).unwrap()).unwrap();
    let merges = fs::read_to_string(dir.join("merges.txt")).unwrap();
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    let special = |content: &str| json!({"id": vocab[content], "content": content, "special": true, "normalized": false, "lstrip": content == "<mask>"});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
    let added = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"].map(special);
    let file = json!({
        "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    let tokenizer = load(&file.to_string()).unwrap();
    let golden = fs::read_to_string(dir.join("golden.jsonl")).unwrap();
    let mut lines = 0;
    for line in golden.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let ids: Vec<u32> = serde_json::from_value(line["ids"].clone()).unwrap();
        let text = line["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode_with_special(text), ids[1..ids.len() - 1], "{text:?}");
        lines += 1;
    }
    assert_eq!(lines, 319);
}

#[test]
fn broken_files_give_one_line_in_no_time() {
    let start = Instant::now();
    let check = |json: &str, part: &str| {
        let message = load(json).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n') && message.len() < 600, "{message}");
    };
    let base = trained();
    let with = |change: &dyn Fn(&mut Value), part: &str| {
        let mut file = base.clone();
        change(&mut file);
        check(&file.to_string(), part);
    };
    check("", "EOF");
    check("[[1,", "tokenizer.json: invalid");
    check(&"[".repeat(1_000_000), "tokenizer.json");
    check(
        &format!(r#"{{"model": {{"type": "BPE", "vocab": {}}}}}"#, "{\"a\":".repeat(100_000)),
        "tokenizer.json",
    );
    check(&"{\"model\":".repeat(100_000), "EOF");
    check(&base.to_string()[..5000], "EOF");
    check("{}", "missing field `model`");
    with(
        &|file| file["model"]["merges"][3] = "Ġ qqq".into(),
        "merge 3: expected tokens of the vocabulary, found `qqq`",
    );
    with(&|file| file["model"]["merges"][3] = "! Ġ".into(), "found `!Ġ`");
    with(&|file| file["model"]["merges"][3] = "abc".into(), "a merge");
    with(&|file| file["model"]["merges"][3] = json!(["a"]), "fewer than two");
    with(&|file| file["model"]["merges"][3] = json!(["a", "b", "c"]), "more than two");
    with(&|file| file["model"]["vocab"]["Ġ"] = 1.into(), "an id of its own");
    with(&|file| file["model"]["vocab"]["Ġ"] = 4_000_000_000u32.into(), "an id below 4194304");
    with(&|file| file["model"]["vocab"]["Ġ"] = (-1).into(), "tokenizer.json");
    with(&|file| file["added_tokens"][0]["id"] = 4_000_000_000u32.into(), "an id below 4194304");
    with(
        &|file| file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?<".into(),
        "pre-tokenisation pattern",
    );
    with(
        &|file| {
            file["model"]["vocab"].as_object_mut().unwrap().remove("Ā");
        },
        "none for byte 0x00",
    );
    with(&|file| file["model"]["type"] = "Nonsense".into(), "the tokenizers crate runs");
    with(&|file| file["normalizer"] = json!({"type": "Nonsense"}), "the tokenizers crate runs");
    // A vocabulary that cannot say "unknown" would fail on the first rare character.
    check(
        &json!({"added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
                "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}})
        .to_string(),
        "the tokenizers crate runs",
    );
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn folders_without_a_tokenizer_say_what_is_looked_for() {
    let check = |files: &[(&str, &[u8])], part: &str| {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let message = Tokenizer::load(dir.path()).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    };
    check(&[], "no tokenizer: expected tokenizer.json");
    check(&[("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x01")], "an unknown piece, found none");
    check(&[("tokenizer.model", b"PK\x03\x04")], "a rank list or a SentencePiece model");
    check(&[("vocab.txt", b"a\nb\n")], "the unknown token `[UNK]`");
    check(&[("vocab.json", b"{}"), ("merges.txt", b"a b\n")], "a token for each of the 256 bytes");
    check(&[("dict.txt", b"a\n"), ("bpecodes", b"")], "line 1: expected `token count`, found a");
    check(&[("vocab.json", b"{}")], "no tokenizer");
    check(&[("tokenizer.model", b"IQ== 0\n")], "a rank list of the class ``");
    check(&[("a.tiktoken", b"IQ== 0\n"), ("b.tiktoken", b"IQ== 0\n")], "a second vocabulary");
    check(&[("qwen.tiktoken", b"IQ== 0\nIg=\n")], "line 2: expected `base64 rank`, found Ig=");
    check(&[("qwen.tiktoken", b"IQ== 0\nIg= 1\n")], "line 2: expected a token in complete base64");
    check(&[("tokenizer_config.json", b"{")], "tokenizer_config.json: EOF");
    check(
        &[("tokenizer_config.json", br#"{"added_tokens_decoder": {"x": {"content": "a"}}}"#)],
        "added_tokens_decoder.x: expected an id",
    );
    let message = Tokenizer::load(Path::new("/nonexistent/model")).unwrap_err().to_string();
    assert!(message.contains("/nonexistent/model"), "{message}");
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_noticed() {
    let tokenizer = load(&trained().to_string()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 320);
    for rows in [320, 384, 448, 488] {
        tokenizer.check_fits(rows).unwrap();
    }
    for (rows, part) in [
        (0, "cannot be embedded"),
        (319, "has 320 ids but the model has 319"),
        (489, "far more than padding"),
        (151_936, "151936"),
    ] {
        let message = tokenizer.check_fits(rows).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn configuration_names_the_ends() {
    let json = trained().to_string();
    let tokenizer = load(&json).unwrap();
    assert_eq!((tokenizer.eos_id(), tokenizer.bos_id(), tokenizer.pad_id()), (Some(304), None, Some(304)));
    let config = json!({"eos_token": "<|im_end|>", "bos_token": {"content": "<|im_start|>"}, "pad_token": "<|extra_0|>"});
    let tokenizer = load_with(&json, Some(config)).unwrap();
    assert_eq!(
        (tokenizer.eos_id(), tokenizer.bos_id(), tokenizer.pad_id()),
        (Some(306), Some(305), Some(307))
    );
    for id in tokenizer.encode("The patient") {
        assert_eq!(tokenizer.token_to_id(&tokenizer.decode(&[id])), Some(id));
    }
    assert_eq!(tokenizer.token_to_id("no such token"), None);
    assert!(tokenizer.is_special(304) && !tokenizer.is_special(0) && !tokenizer.is_special(u32::MAX));
    assert_eq!(tokenizer.decode(&[u32::MAX, 5000]), "", "ids without a token are nothing");
}

#[test]
fn many_threads_encode_alike() {
    let tokenizer = load(&trained().to_string()).unwrap();
    let expected: Vec<Vec<u32>> = TEXTS.iter().map(|text| tokenizer.encode(text)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let found: Vec<Vec<u32>> = TEXTS.iter().map(|text| tokenizer.encode(text)).collect();
                    assert_eq!(found, expected);
                }
            });
        }
    });
}
