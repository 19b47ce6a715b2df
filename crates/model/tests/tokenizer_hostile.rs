//! Tokenizer files that are broken on purpose, and text that is: one line of error, in bounded time and memory.

use std::fs;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use taiyi_model::tokenizer::{Tokenizer, TokenizerError};

fn load(files: &[(&str, &[u8])]) -> Result<Tokenizer, TokenizerError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    Tokenizer::load(dir.path())
}

fn refused(files: &[(&str, &[u8])], part: &str) {
    let message = load(files).unwrap_err().to_string();
    assert!(message.contains(part) && !message.contains('\n') && message.len() < 600, "{message}");
}

/// A `tokenizer.json` of a kind the `tokenizers` crate runs.
fn foreign() -> Value {
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {"[UNK]": 0, "a": 1, "##a": 2}},
    })
}

#[test]
fn pipelines_that_would_not_end_are_refused() {
    let begin = Instant::now();
    let with = |change: &dyn Fn(&mut Value), part: &str| {
        let mut file = foreign();
        change(&mut file);
        refused(&[("tokenizer.json", file.to_string().as_bytes())], part);
    };
    assert!(load(&[("tokenizer.json", foreign().to_string().as_bytes())]).is_ok());
    // Each step doubles the text, forty times.
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let steps = vec![double.clone(); 40];
    with(&|file| file["normalizer"] = json!({"type": "Sequence", "normalizers": steps}), "times as long");
    with(&|file| file["decoder"] = json!({"type": "Sequence", "decoders": steps}), "times as long");
    let mut nested = double;
    for _ in 0..30 {
        nested = json!({"type": "Sequence", "normalizers": [nested.clone(), {"type": "Replace", "pattern": {"Regex": "a"}, "content": "aa"}]});
    }
    with(&|file| file["normalizer"] = nested.clone(), "times as long");
    with(
        &|file| {
            file["normalizer"] =
                json!({"type": "Replace", "pattern": {"String": ""}, "content": "a".repeat(1000)})
        },
        "times as long",
    );
    with(
        &|file| file["model"]["max_input_chars_per_word"] = 1_000_000_000u64.into(),
        "max_input_chars_per_word",
    );
    with(&|file| file["model"]["vocab"]["a"] = 4_000_000_000u32.into(), "ids below 4194304");
    // Tables of replacement rules that claim to be large, lead out of themselves or give places that are none.
    let units = |units: &[u32], replacements: &[u8]| {
        let table: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(table.len() as u32).to_le_bytes()[..], &table, replacements].concat()
    };
    let mut outside = vec![0u32; 256];
    outside[b'a' as usize] = 0x7FFF_FC00 | u32::from(b'a');
    let mut no_place = vec![0u32; 512];
    no_place[b'a' as usize] = 1 << 10 | 1 << 8 | u32::from(b'a');
    no_place[b'a' as usize ^ 1] = 1 << 31 | 77;
    for table in [
        vec![0xff, 0xff, 0xff, 0x7f],
        vec![0, 0, 0, 0],
        vec![4, 0, 0, 0, 0, 0, 0, 0],
        units(&outside, b"x\0"),
        units(&no_place, "糖\0".as_bytes()),
    ] {
        let charsmap = STANDARD.encode(table);
        with(
            &|file| file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": charsmap}),
            "precompiled_charsmap",
        );
    }
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

/// A table that SentencePiece made passes the check that refuses broken ones, and gives the reference's ids.
#[test]
fn real_tables_of_rules_pass() {
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/oracles/tokenizers/sentencepiece/unigram.model");
    let Ok(model) = fs::read(model) else {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: ../shared/oracles/tokenizers is not beside the repository");
        }
        return;
    };
    // normalizer_spec, then its name and the field of the table: found by the name, which stands nowhere else.
    let name = model.windows(10).position(|part| part == b"\x0a\x08nmt_nfkc").unwrap() + 10;
    assert_eq!(model[name], 0x12);
    let (mut length, mut at) = (0usize, name + 1);
    for shift in (0..).step_by(7) {
        length |= usize::from(model[at] & 0x7F) << shift;
        at += 1;
        if model[at - 1] < 0x80 {
            break;
        }
    }
    let table = &model[at..at + length];
    assert_eq!(length, 240_007);
    let mut file = foreign();
    file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(table)});
    let tokenizer = load(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap();
    assert_eq!(tokenizer.encode("ａa"), [1, 2]);
}

#[test]
fn broken_vocabularies_give_one_line_in_no_time() {
    let begin = Instant::now();
    refused(&[("vocab.txt", b"[UNK]\n\xff\xfe\n")], "line 2: expected UTF-8");
    refused(&[("vocab.txt", &b"\n".repeat(4_194_306))], "at most 4194304 lines");
    refused(&[("vocab.txt", b"")], "the unknown token `[UNK]`");
    let roberta = |vocabulary: &str, merges: &[u8], part: &str| {
        refused(&[("vocab.json", vocabulary.as_bytes()), ("merges.txt", merges)], part);
    };
    roberta(&"[".repeat(1_000_000), b"", "vocab.json");
    roberta(&"{\"a\":".repeat(1_000_000), b"", "vocab.json");
    roberta("[1, 2]", b"", "a map from tokens to ids");
    roberta("{\"a\": 5000000000}", b"", "vocab.json");
    roberta("{\"a\": 5000000}", b"", "an id below 4194304");
    let bio = "{\"<unk>\": 0, \"a</w>\": 1}";
    roberta("{\"a</w>\": 1}", b"", "the unknown token `<unk>`");
    roberta("{\"<unk>\": 0, \"a</w>\": 0}", b"", "an id of its own");
    roberta(bio, b"a\n", "line 1: expected two strings");
    roberta(bio, b"a b 1 2\n", "two strings and at most a count");
    roberta(bio, b"\xff b\n", "line 1: expected UTF-8");
    let fairseq =
        |dictionary: &[u8], part: &str| refused(&[("dict.txt", dictionary), ("bpecodes", b"a b 1\n")], part);
    fairseq(b"a 1\na 2\n", "line 2: expected every token once");
    fairseq(b"a one\n", "a whole number as count");
    fairseq(b"\xff 1\n", "expected UTF-8");
    refused(
        &[("tokenizer_config.json", &b"[".repeat(1_000_000)), ("vocab.txt", b"[UNK]")],
        "tokenizer_config.json",
    );
    refused(
        &[("added_tokens.json", b"{\"a\": 4194304}"), ("vocab.txt", b"[UNK]")],
        "token `a`: expected an id below",
    );
    let many =
        format!("{{\"added_tokens_decoder\": {{\"7\": {{\"content\": \"{}\"}}}}}}", "a".repeat(5 << 20));
    refused(&[("tokenizer_config.json", many.as_bytes()), ("vocab.txt", b"[UNK]")], "at most 4 MiB");
    // One token of a megabyte in a rank list: all its ways to split would be looked up.
    let long = format!("{} 0\n", STANDARD.encode(vec![b'a'; 1 << 20]));
    refused(&[("qwen.tiktoken", long.as_bytes())], "a token of 1 to 1024 bytes");
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
}

/// The same files under other classes mean other ids: refused rather than guessed.
#[test]
fn classes_with_other_rules_are_refused() {
    let class = |name: &str| json!({"tokenizer_class": name}).to_string();
    let model = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02";
    let vocabulary = trained()["model"]["vocab"].to_string();
    for (name, file, bytes) in [
        ("T5Tokenizer", "tokenizer.model", &model[..]),
        ("ChatGLMTokenizer", "tokenizer.model", &model[..]),
        ("XLMRobertaTokenizer", "sentencepiece.bpe.model", &model[..]),
        ("BertJapaneseTokenizer", "vocab.txt", b"[UNK]\n"),
        ("EsmTokenizer", "vocab.txt", b"[UNK]\n"),
        ("CLIPTokenizer", "vocab.json", vocabulary.as_bytes()),
    ] {
        let config = class(name);
        let files = [(file, bytes), ("tokenizer_config.json", config.as_bytes()), ("merges.txt", b"a b\n")];
        refused(&files, &format!("of the class `{name}` is not supported"));
    }
    refused(&[("sentencepiece.bpe.model", model)], "not supported: put the model's tokenizer.json beside it");
    assert!(load(&[("tokenizer.model", model)]).is_ok());
    for (name, file, bytes) in [
        ("LlamaTokenizer", "tokenizer.model", &model[..]),
        ("BaichuanTokenizer", "tokenizer.model", &model[..]),
        ("BertTokenizerFast", "vocab.txt", b"[UNK]\n"),
        ("GPT2Tokenizer", "vocab.json", vocabulary.as_bytes()),
        ("Qwen2Tokenizer", "vocab.json", vocabulary.as_bytes()),
    ] {
        let config = class(name);
        load(&[(file, bytes), ("tokenizer_config.json", config.as_bytes()), ("merges.txt", b"a b\n")])
            .unwrap();
    }
}

/// Text without an end or a break, for every kind that is not covered elsewhere.
#[test]
fn long_text_takes_time_by_its_length() {
    let begin = Instant::now();
    let bytes: serde_json::Map<String, Value> = {
        let file = trained();
        file["model"]["vocab"].as_object().unwrap().clone()
    };
    let vocabulary = Value::from(bytes).to_string();
    let kinds = [
        load(&[("vocab.txt", b"[UNK]\n[CLS]\n[SEP]\na\n##a\n##aa\n.\n'\n,\n-\n")]).unwrap(),
        load(&[("vocab.json", vocabulary.as_bytes()), ("merges.txt", b"a b\n")]).unwrap(),
        load(&[
            ("vocab.json", br#"{"<unk>": 0, "</s>": 1, "a": 2, "aa": 3, "a</w>": 4, ".</w>": 5}"#),
            ("merges.txt", b"a a\na a</w>\naa aa\n"),
        ])
        .unwrap(),
    ];
    for tokenizer in &kinds {
        for part in [
            "a", "a ", "a'", ".", ".'", "a-", "-", "DOT", "DOTMULTI", "a. ", "糖", "\u{301}", "İ", ",", "&",
            "\u{1}",
        ] {
            let text = part.repeat(100_000 / part.len());
            let ids = tokenizer.encode(&text);
            tokenizer.decode(&ids[..ids.len().min(2000)]);
        }
    }
    assert!(begin.elapsed().as_secs() < 40, "{:?}", begin.elapsed());
}

fn trained() -> Value {
    use taiyi_model::tokenizer::{Trainer, TrainerOptions};
    let mut trainer = Trainer::new(TrainerOptions { vocab_size: 300, ..TrainerOptions::default() }).unwrap();
    trainer.add(&"blood pressure 血压 ".repeat(40), 1.0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    trainer.finish(&mut |_| {}).unwrap().save(dir.path()).unwrap();
    let mut file: Value =
        serde_json::from_slice(&fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap();
    let vocabulary = file["model"]["vocab"].as_object_mut().unwrap();
    let next = vocabulary.len();
    vocabulary.insert("ab".into(), next.into());
    file
}
