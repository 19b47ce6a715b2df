//! Files from strangers: what is well-formed is read exactly, what is not gives one line that says where and why.

use std::path::{Path, PathBuf};

use taiyi_model::{Decoder, Dtype, Error, weights::Weights};

use crate::golden::{oracle, tiny_qwen2};

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn refuse(bytes: &[u8], name: &str, parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let Err(error) = Weights::open_file(&path) else { panic!("{parts:?}: was accepted") };
    check(&error, name, parts);
}

fn check(error: &Error, name: &str, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 600, "one line: {text}");
    assert!(text.contains(name), "names the file: {text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
}

#[test]
fn broken_safetensors_are_named() {
    let name = "model.safetensors";
    refuse(b"", name, &["header length", "0 bytes"]);
    refuse(&[1, 2, 3], name, &["header length", "3 bytes"]);
    refuse(&(2u64 << 30).to_le_bytes(), name, &["header length", "2147483648 bytes", "truncated"]);
    refuse(&u64::MAX.to_le_bytes(), name, &["header length"]);
    refuse(&safetensors("{oh no", b""), name, &["not valid JSON"]);
    refuse(&safetensors("[]", b""), name, &["header", "a JSON object"]);
    let f32s =
        |shape: &str, offsets: &str| format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#);
    let one = |entry: String| format!(r#"{{"a":{entry}}}"#);
    refuse(&safetensors(&one(f32s("[2]", "[0,8]")), &[0; 4]), name, &["tensor `a`", "0..8", "truncated"]);
    refuse(&safetensors(&one(f32s("[2]", "[8,0]")), &[0; 8]), name, &["tensor `a`", "8..0"]);
    refuse(&safetensors(&one(f32s("[3]", "[0,8]")), &[0; 8]), name, &["12 bytes for shape [3]", "found 8"]);
    refuse(&safetensors(&one(f32s("[-1]", "[0,8]")), &[0; 8]), name, &["`shape`", "non-negative"]);
    refuse(&safetensors(&one(f32s("[2]", "[0]")), &[0; 8]), name, &["data_offsets", "two integers"]);
    let huge = "[4294967296,4294967296,4294967296]";
    refuse(&safetensors(&one(f32s(huge, "[0,8]")), &[0; 8]), name, &["tensor `a`", "countable"]);
    refuse(&safetensors(&one(f32s("[2]", "[0,8]")), &[0; 12]), name, &["end of the data"]);
    let two = |b: String| format!(r#"{{"a":{},"b":{b}}}"#, f32s("[2]", "[0,8]"));
    refuse(&safetensors(&two(f32s("[2]", "[4,12]")), &[0; 12]), name, &["tensor `b`", "overlap"]);
    refuse(&safetensors(&two(f32s("[1]", "[12,16]")), &[0; 16]), name, &["tensor `b`", "a hole"]);
    refuse(
        &safetensors(&one(r#"{"dtype":"F4","shape":[],"data_offsets":[0,4]}"#.into()), &[0; 4]),
        name,
        &["`dtype`", "F4"],
    );
    refuse(
        &safetensors(r#"{"a":{"shape":[],"data_offsets":[0,4]}}"#, &[0; 4]),
        name,
        &["`dtype`", "nothing"],
    );
}

#[test]
fn a_whole_safetensors_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},
        "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"none":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]}}"#;
    let data = [&1.5f32.to_le_bytes()[..], &[0x80, 0x3f, 0x00, 0xc0]].concat();
    std::fs::write(&path, safetensors(header, &data)).unwrap();
    let weights = Weights::open_file(&path).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "none"]);
    assert_eq!(weights.f32("a", &[]).unwrap(), [1.5]);
    assert_eq!(weights.f32("b", &[2]).unwrap(), [1.0, -2.0]);
    assert_eq!(weights.f32("none", &[0, 3]).unwrap(), [0.0f32; 0]);
    check(&weights.f32("b", &[3]).unwrap_err(), "a.safetensors", &["`b`", "expected shape [3], found [2]"]);
}

/// A saved tiny model, and the same folder with something broken in it.
fn saved() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    Decoder::random(tiny_qwen2(false), 1).unwrap().save(dir.path(), Dtype::F32).unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}

fn refuse_model(dir: &Path, parts: &[&str]) {
    let Err(error) = Decoder::load(dir, Dtype::F32) else { panic!("{parts:?}: was accepted") };
    check(&error, "", parts);
}

fn edit_config(dir: &Path, key: &str, value: serde_json::Value) {
    let path = dir.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn models_that_do_not_fit_their_configuration_are_named() {
    let (_keep, dir) = saved();
    edit_config(&dir, "intermediate_size", 24.into());
    refuse_model(&dir, &["gate_proj.weight", "expected shape [24, 12], found [20, 12]"]);
    let (_keep, dir) = saved();
    edit_config(&dir, "vocab_size", 24.into());
    refuse_model(&dir, &["embed_tokens", "expected shape [24, 12], found [23, 12]"]);
    let (_keep, dir) = saved();
    edit_config(&dir, "num_hidden_layers", 4.into());
    refuse_model(&dir, &["`model.layers.3.input_layernorm.weight` is missing"]);
    let (_keep, dir) = saved();
    edit_config(&dir, "model_type", "mamba".into());
    refuse_model(
        &dir,
        &[
            "config.json",
            "`mamba` is not supported",
            "known: baichuan, biogpt, bloom, chatglm, glm, llama, qwen, qwen2, qwen3",
        ],
    );
    for (key, value, part) in [
        (
            "hidden_size",
            serde_json::json!("twelve"),
            "`hidden_size`: expected a non-negative integer, found \"twelve\"",
        ),
        ("hidden_size", serde_json::json!(0), "hidden_size"),
        ("hidden_size", serde_json::json!(1u64 << 40), "hidden_size"),
        ("num_attention_heads", serde_json::json!(0), "num_attention_heads"),
        ("num_key_value_heads", serde_json::json!(3), "a divisor of num_attention_heads 4"),
        ("head_dim", serde_json::json!(5), "rotary"),
        ("rope_theta", serde_json::json!(-1.0), "rope_theta"),
        ("use_sliding_window", serde_json::json!(true), "use_sliding_window"),
        ("rope_scaling", serde_json::json!({"type": "yarn"}), "rope_scaling"),
        ("hidden_act", serde_json::json!("gelu"), "hidden_act"),
        ("tie_word_embeddings", serde_json::json!("no"), "true or false"),
    ] {
        let (_keep, dir) = saved();
        edit_config(&dir, key, value);
        refuse_model(&dir, &["config.json", part]);
    }
    let (_keep, dir) = saved();
    std::fs::write(dir.join("config.json"), "{").unwrap();
    refuse_model(&dir, &["config.json", "not valid JSON"]);
    std::fs::remove_file(dir.join("config.json")).unwrap();
    refuse_model(&dir, &["config.json"]);
}

#[test]
fn models_with_broken_weights_are_named() {
    let (_keep, dir) = saved();
    let file = dir.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for keep in [bytes.len() - 1, bytes.len() / 2, 100, 7, 0] {
        std::fs::write(&file, &bytes[..keep]).unwrap();
        refuse_model(&dir, &["model.safetensors"]);
    }
    std::fs::remove_file(&file).unwrap();
    refuse_model(&dir, &["no weights", "pytorch_model.bin.index.json"]);
    let index = dir.join("model.safetensors.index.json");
    std::fs::write(&index, "{}").unwrap();
    refuse_model(&dir, &["index.json", "`weight_map`"]);
    std::fs::write(&index, r#"{"weight_map":{"a":"../../etc/passwd"}}"#).unwrap();
    refuse_model(&dir, &["index.json", "the file name `../../etc/passwd`"]);
    std::fs::write(&index, r#"{"weight_map":{"a":"missing-1.safetensors"}}"#).unwrap();
    refuse_model(&dir, &["missing-1.safetensors"]);
    std::fs::write(dir.join("missing-1.safetensors"), safetensors("{}", b"")).unwrap();
    refuse_model(&dir, &["tensor `a` is missing"]);
}

#[test]
fn adapters_that_do_not_fit_are_refused_and_leave_the_model_alone() {
    let mut decoder = Decoder::random(tiny_qwen2(false), 1).unwrap();
    let lora = |target: &str| taiyi_model::LoraConfig {
        rank: 2,
        alpha: 4.0,
        dropout: 0.0,
        targets: vec![target.to_owned()],
        rslora: false,
        dora: false,
    };
    let error = decoder.add_lora(&lora("query_key_value"), 1).unwrap_err().to_string();
    assert!(error.contains("`query_key_value`") && error.contains("q_proj, k_proj, v_proj"), "{error}");
    // Part of a name is not a name.
    assert!(decoder.add_lora(&lora("proj"), 1).is_err());
    decoder.add_lora(&lora("v_proj"), 1).unwrap();
    assert!(decoder.add_lora(&lora("q_proj"), 1).unwrap_err().to_string().contains("merge them first"));
    let dir = tempfile::tempdir().unwrap();
    decoder.save_adapter(dir.path(), "base").unwrap();

    let mut fresh = Decoder::random(tiny_qwen2(false), 1).unwrap();
    let config = dir.path().join("adapter_config.json");
    let original = std::fs::read_to_string(&config).unwrap();
    for (key, value) in [
        ("peft_type", serde_json::json!("IA3")),
        ("r", serde_json::json!(0)),
        ("r", serde_json::json!(3)),
        ("lora_alpha", serde_json::Value::Null),
        ("bias", serde_json::json!("all")),
        ("fan_in_fan_out", serde_json::json!(true)),
        ("modules_to_save", serde_json::json!(["lm_head"])),
        ("rank_pattern", serde_json::json!({"q_proj": 4})),
        ("target_modules", serde_json::json!(["q_proj"])),
        ("target_modules", serde_json::json!(["v_proj", "q_proj"])),
        ("target_modules", serde_json::json!(["no_such"])),
        ("use_dora", serde_json::json!(true)),
    ] {
        let mut json: serde_json::Value = serde_json::from_str(&original).unwrap();
        json[key] = value;
        std::fs::write(&config, json.to_string()).unwrap();
        let error = fresh.load_adapter(dir.path(), true).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        assert!(fresh.lora().is_none(), "{key}");
        assert!(fresh.parameters().iter().all(|p| !p.name.contains("lora")), "{key}");
    }
    std::fs::write(&config, original).unwrap();
    fresh.load_adapter(dir.path(), true).unwrap();
    assert_eq!(fresh.parameters().len(), 2 * 3);
    assert!(fresh.save(dir.path(), Dtype::F32).unwrap_err().to_string().contains("adapters"));
}

/// Both forms of `pytorch_model.bin` hold the same values as the safetensors file beside them.
#[test]
fn pytorch_files_hold_what_safetensors_holds() {
    for (bin, safetensors, least) in
        [("arch/biogpt/bin", "arch/biogpt", 30), ("arch/bert/bin_legacy", "arch/bert", 30)]
    {
        let (Some(bin), Some(safetensors)) = (oracle(bin), oracle(safetensors)) else { return };
        let bin = Weights::open(&bin).unwrap();
        let expected = Weights::open(&safetensors).unwrap();
        let mut compared = 0;
        for name in bin.names() {
            let newer = name
                .replace("LayerNorm.gamma", "LayerNorm.weight")
                .replace("LayerNorm.beta", "LayerNorm.bias");
            let Ok(theirs) = expected.get(&newer) else { continue };
            let ours = bin.get(name).unwrap();
            assert_eq!(
                (ours.dtype, ours.shape, ours.bytes),
                (theirs.dtype, theirs.shape, theirs.bytes),
                "{name}"
            );
            compared += 1;
        }
        assert!(compared >= least, "{compared}");
    }
}

/// A minimal pickle in the older layout, with a body of one's own choosing.
fn legacy(body: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    [&magic[..], b"\x80\x02M\xe9\x03.", b"\x80\x02}.", b"\x80\x02", body, b"."].concat()
}

#[test]
fn pickles_that_are_more_than_weights_are_refused() {
    let name = "pytorch_model.bin";
    // os.system("true"), as an attack would spell it.
    refuse(&legacy(b"cos\nsystem\nX\x04\x00\x00\x00true\x85R"), name, &["the global `os.system`", "refused"]);
    refuse(&legacy(b"cbuiltins\neval\n)R"), name, &["builtins.eval"]);
    refuse(&legacy(b"i"), name, &["opcode", "0x69"]);
    refuse(&legacy(b"h\x07"), name, &["memo 7"]);
    refuse(&legacy(b"Nr\xff\xff\xff\x7f"), name, &["memo index"]);
    refuse(&legacy(b"X\xff\xff\xff\xff"), name, &["more bytes", "truncated"]);
    refuse(&legacy(b"R"), name, &["a value on the stack"]);
    refuse(&legacy(b"t"), name, &["a mark"]);
    refuse(&legacy(b"(Nu"), name, &["in pairs"]);
    refuse(&legacy(b"ccollections\nOrderedDict\n)R(NNub"), name, &["dictionary"]);
    refuse(b"\x80\x02N.", name, &["a PyTorch archive"]);
    refuse(b"PK\x03\x04 and so on", name, &["end record"]);
    refuse(b"not a pickle at all", name, &["pickle"]);
    refuse(b"", name, &["pickle"]);
    // A hundred thousand nested tuples are just bytes.
    let deep = [&b"N"[..], &vec![0x85; 100_000]].concat();
    refuse(&[legacy(&deep), b"\x80\x02].".to_vec()].concat(), name, &["a dictionary of tensors"]);
}

#[test]
fn truncated_pytorch_files_are_refused_at_every_length() {
    for source in ["arch/biogpt/bin", "arch/bert/bin_legacy"] {
        let Some(dir) = oracle(source) else { return };
        let bytes = std::fs::read(dir.join("pytorch_model.bin")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pytorch_model.bin");
        for keep in (0..bytes.len() - 1).step_by(bytes.len() / 40).chain([bytes.len() - 1]) {
            std::fs::write(&path, &bytes[..keep]).unwrap();
            let Err(error) = Weights::open_file(&path) else { panic!("{source} cut at {keep} was accepted") };
            check(&error, "pytorch_model.bin", &[]);
        }
        // Damage anywhere gives an answer, never a panic.
        for at in (0..bytes.len().min(12_000)).step_by(37) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x5a;
            std::fs::write(&path, &damaged).unwrap();
            let _ = Weights::open_file(&path);
        }
    }
}

/// `pytorch_model.bin.index.json` names shards as the index of safetensors does.
#[test]
fn sharded_pytorch_files_are_read() {
    let Some(source) = oracle("arch/biogpt/bin") else { return };
    let dir = tempfile::tempdir().unwrap();
    let shard = "pytorch_model-00001-of-00001.bin";
    std::fs::copy(source.join("pytorch_model.bin"), dir.path().join(shard)).unwrap();
    let whole = Weights::open(&source).unwrap();
    let map: serde_json::Map<String, serde_json::Value> =
        whole.names().map(|n| (n.to_owned(), serde_json::json!(shard))).collect();
    let index = dir.path().join("pytorch_model.bin.index.json");
    std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    let sharded = Weights::open(dir.path()).unwrap();
    assert_eq!(sharded.names().collect::<Vec<_>>(), whole.names().collect::<Vec<_>>());
    let name = "biogpt.layers.0.fc1.weight";
    assert_eq!(sharded.get(name).unwrap().bytes, whole.get(name).unwrap().bytes);
}

/// Damage in the header of a model gives an error or another readable model, never a panic.
#[test]
fn damaged_headers_do_not_panic() {
    let (_keep, dir) = saved();
    let file = dir.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut refused = 0;
    for at in (0..header).step_by(5) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 7);
        std::fs::write(&file, &damaged).unwrap();
        refused += usize::from(Decoder::load(&dir, Dtype::F32).is_err());
    }
    assert!(refused * 10 > header / 5 * 9, "{refused} of {} damaged headers were refused", header / 5);
}

/// The guide shows a whole architecture file; it is the one that is compiled.
#[test]
fn the_guide_shows_the_file_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guide = std::fs::read_to_string(root.join("docs/guides/adding-an-architecture.md")).unwrap();
    let file = std::fs::read_to_string(root.join("crates/model/src/architectures/qwen2.rs")).unwrap();
    assert!(guide.contains(&file), "docs/guides/adding-an-architecture.md shows another qwen2.rs");
}
