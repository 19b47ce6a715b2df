//! Broken inputs: each gives one clear line and exit 1 or 2, and nothing half-written.

use serde_json::{Value, json};

use crate::place::{
    PAIRS, Place, RECIPE, Ran, config, conversations, tiny_adapter, tiny_model, tiny_tokenizer,
};

/// A place with a model, tokens, training data and a recipe, all of them right.
fn place() -> Place {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    place.write("tokens.json", r#"{"input_ids": [[1, 2, 3]]}"#);
    place.write("data.jsonl", conversations(&PAIRS));
    place.write("recipe.toml", RECIPE);
    place
}

const LOGITS: &str = "model logits --model model --tokens tokens.json --out out/logits.safetensors";
const TRAIN: &str = "train --recipe recipe.toml --out out";

/// Runs a command that must be refused and must leave nothing in `out`.
#[track_caller]
fn refused(place: &Place, arguments: &str, parts: &[&str]) {
    place.taiyi(arguments).refused(parts);
    assert_eq!(place.names("out"), [""; 0], "{arguments}");
}

#[test]
fn what_is_right_is_not_refused() {
    let place = place();
    std::fs::create_dir(place.path("out")).unwrap();
    place.taiyi(LOGITS).fine();
    place.taiyi("train --recipe recipe.toml --out trained --max-steps 1").fine();
}

#[test]
fn truncated_safetensors() {
    let place = place();
    let whole = std::fs::read(place.path("model/model.safetensors")).unwrap();
    for (length, part) in [
        (0, "model.safetensors"),
        (4, "expected 8 bytes, found a file of 4 bytes"),
        (100, "is the file truncated"),
        (whole.len() / 2, "is the file truncated"),
        (whole.len() - 1, "is the file truncated"),
    ] {
        place.write("model/model.safetensors", &whole[..length]);
        refused(&place, LOGITS, &["model/model.safetensors", part]);
        refused(&place, "model merge --model model --adapter model --out out", &["adapter_config.json"]);
        place.taiyi("chat --model model").refused(&[part]);
        place.taiyi("train --recipe recipe.toml --out out").refused(&[part]);
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
}

#[test]
fn wrong_shapes_and_missing_tensors() {
    let place = place();
    let vocab_size = tiny_tokenizer(&place.path("model"), 400);
    let with = |key: &str, value: Value| {
        let mut config = config(vocab_size);
        config[key] = value;
        place.write("model/config.json", config.to_string());
    };
    with("intermediate_size", json!(80));
    let shape = ["tensor `model.layers.0.mlp.gate_proj.weight`: expected shape [80, 32], found [64, 32]"];
    refused(&place, LOGITS, &shape);
    place.taiyi("chat --model model").refused(&shape);
    with("num_hidden_layers", json!(3));
    refused(&place, LOGITS, &["tensor `model.layers.2.", "is missing"]);
    place.taiyi("chat --model model").refused(&["is missing"]);
    with("tie_word_embeddings", json!(false));
    refused(&place, LOGITS, &["tensor `lm_head.weight` is missing"]);
}

#[test]
fn a_tokenizer_with_another_vocabulary_size() {
    let place = place();
    let vocab_size = tiny_tokenizer(&place.path("model"), 400);
    place.write("model/config.json", config(vocab_size - 40).to_string());
    place.write("a.txt", "fever");
    place.write("source/kuake_qic/KUAKE-QIC_dev.json", r#"[{"id": "1", "query": "头痛", "label": "其他"}]"#);
    let parts = [&vocab_size.to_string()[..], &(vocab_size - 40).to_string()];
    place.taiyi("chat --model model").refused(&parts);
    refused(&place, TRAIN, &parts);
    place.taiyi("extract a.txt --model model --types a --out out/found.jsonl").refused(&parts);
    place
        .taiyi("eval run --benchmark kuake_qic_dev --model model --source source --out out --limit 1")
        .refused(&parts);
    assert_eq!(place.names("out"), [""; 0]);
}

#[test]
fn adapters_of_another_model() {
    let place = place();
    tiny_adapter(&place.path("model"), &place.path("adapter"));
    let with = |key: &str, value: Value, part: &str| {
        let mut config: Value = serde_json::from_str(&place.read("adapter/adapter_config.json")).unwrap();
        let old = std::mem::replace(&mut config[key], value);
        place.write("adapter/adapter_config.json", config.to_string());
        refused(&place, &format!("{LOGITS} --adapter adapter"), &[part]);
        config[key] = old;
        place.write("adapter/adapter_config.json", config.to_string());
    };
    with("r", json!(8), "expected shape [8, 32], found [4, 32]");
    with("r", json!(1_000_000_000_000_u64), "`r`: expected an integer from 1 to 1048576");
    with("target_modules", json!(["query_key_value"]), "found `query_key_value`");
    with(
        "target_modules",
        json!(["q_proj"]),
        "expected only tensors of the layers that `target_modules` names",
    );
    with("peft_type", json!("IA3"), "`peft_type`: expected \"LORA\", found \"IA3\"");
    with("rank_pattern", json!({"q_proj": 2}), "`rank_pattern`: expected an empty object");
    place.taiyi(&format!("{LOGITS} --adapter adapter")).fine();
}

#[test]
fn gb18030_text_read_as_utf8() {
    let place = place();
    // 患者头痛
    let bytes = b"\xbb\xbc\xd5\xdf\xcd\xb7\xcd\xb4";
    let quoted = |before: &str, after: &str| [before.as_bytes(), bytes, after.as_bytes()].concat();
    place.write("gb.txt", bytes);
    refused(&place, "tokenizer train --input gb.txt --out out", &["gb.txt", "UTF-8"]);
    place.write("gb.jsonl", quoted("{\"text\": \"fever\"}\n{\"text\": \"", "\"}\n"));
    let ran = place.taiyi("tokenize --model model gb.jsonl");
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(2), 1), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error: gb.jsonl:2: expected UTF-8 text"), "{}", ran.stderr);
    place.write("data.jsonl", quoted(&conversations(&PAIRS[..1]).replace("aspirin\"", ""), "\"}]}\n"));
    refused(&place, TRAIN, &["data.jsonl", "UTF-8"]);
    place.write("recipe.toml", quoted("stage = \"", "\""));
    refused(&place, TRAIN, &["recipe.toml", "UTF-8"]);
    place.write("tokens.json", quoted("{\"", "\": [[1]]}"));
    refused(&place, LOGITS, &["tokens.json"]);

    place.write(
        "source/kuake_qic/KUAKE-QIC_dev.json",
        quoted("[{\"id\": \"1\", \"query\": \"", "\", \"label\": \"x\"}]"),
    );
    let score = "eval score --benchmark kuake_qic_dev --predictions p.jsonl --source source --out out";
    refused(&place, score, &["KUAKE-QIC_dev.json", "0xBB"]);
    place.write("source/ncbi_disease/NCBItestset_corpus.txt", quoted("1|t|", "\n1|a|\n"));
    place.write("p.jsonl", quoted("{\"id\": \"1\", \"reply\": \"", "\"}\n"));
    refused(&place, &score.replace("kuake_qic_dev", "ncbi_disease"), &["NCBItestset_corpus.txt", "0xBB"]);
    place.write("source/kuake_qic/KUAKE-QIC_dev.json", r#"[{"id": "1", "query": "头痛", "label": "其他"}]"#);
    refused(&place, score, &["p.jsonl:1", "not UTF-8"]);
}

#[test]
fn offsets_past_the_end() {
    let place = Place::new();
    let document = "1|t|Ataxia.\n1|a|It is rare.\n1\t0\t6\tAtaxia\tSpecificDisease\tD1\n";
    for split in ["NCBItestset", "NCBIdevelopset", "NCBItrainset"] {
        place.write(&format!("source/ncbi_disease/{split}_corpus.txt"), document);
    }
    place.write("p.jsonl", "{\"id\": \"1\", \"prediction\": {\"entities\": [{\"type\": \"disease\", \"start\": 15, \"end\": 90}]}}\n");
    let score = "eval score --benchmark ncbi_disease --predictions p.jsonl --source source --out out";
    refused(&place, score, &["p.jsonl:1", "offsets 15..90 in a text of 19 code points"]);

    place.write("source/ncbi_disease/NCBItestset_corpus.txt", document.replace("\t0\t6\t", "\t15\t90\t"));
    let card = include_str!("../../../../data/datasets/ncbi_disease.toml");
    // The made-up files are not the published ones; what is checked here is the record.
    place.write("card.toml", card.replace("NCBItrainset_corpus.txt.gz", "NCBItrainset_corpus.txt"));
    let ran = place.taiyi("corpus check --card card.toml --source source --json");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let findings = report["datasets"][0]["findings"].as_array().unwrap();
    let past: Vec<&Value> =
        findings.iter().filter(|finding| finding["message"].as_str().unwrap().contains("90")).collect();
    assert_eq!(past.len(), 1, "{findings:?}");
    assert_eq!(past[0]["level"], "error", "{past:?}");
}

#[test]
fn unknown_keys_of_recipes() {
    let place = place();
    place.write("recipe.toml", RECIPE.replace("lora_rank", "lora_rnak"));
    refused(&place, TRAIN, &["recipe.toml:8: unknown key `lora_rnak`; did you mean `lora_rank`?"]);
    place.write("mix.toml", "name = \"m\"\nversion = 1\nsede = 7\n[[dataset]]\nid = \"kuake_qic\"\nsplits = [\"train\"]\ntasks = [\"tc\"]\n");
    refused(&place, "instruct build --recipe mix.toml --source . --out out/m.jsonl", &["mix.toml", "sede"]);
    place.write("text.toml", "nmae = \"m\"\n");
    refused(&place, "corpus text --recipe text.toml --source . --out out", &["text.toml", "nmae"]);
    place.write("card.toml", "idd = \"m\"\n");
    place.taiyi("corpus check --card card.toml --source .").refused(&["card.toml", "idd"]);
}

#[test]
fn a_recipe_that_cannot_fit_in_memory() {
    let place = place();
    place.write(
        "recipe.toml",
        RECIPE.replace("max_length = 256", "max_length = 400\ntokens_per_batch = 2000000000"),
    );
    place.taiyi(TRAIN).refused(&["the run needs", "is available"]);
    let left = place.names("out");
    assert!(left.iter().all(|name| name != "checkpoints" && !name.contains("adapter")), "{left:?}");

    // A model of 14,000 of these blocks: no weights of that size are read, or made up.
    let mut large = config(400);
    for (key, size) in [("hidden_size", 16384), ("intermediate_size", 65536), ("num_hidden_layers", 1000)] {
        large[key] = json!(size);
    }
    place.write("model/config.json", large.to_string());
    refused(&place, LOGITS, &["the weights as f32 need", "is available"]);
    place.taiyi("chat --model model").refused(&["the weights as bf16 need", "is available"]);
}

#[test]
fn empty_files() {
    let place = place();
    for (name, arguments, part) in [
        ("tokens.json", LOGITS, "tokens.json"),
        ("model/config.json", LOGITS, "config.json"),
        ("recipe.toml", TRAIN, "recipe.toml"),
        ("data.jsonl", TRAIN, "data.jsonl"),
        ("model/tokenizer.json", TRAIN, "tokenizer.json"),
        ("empty.txt", "tokenizer train --input empty.txt --out out", ""),
    ] {
        let content = std::fs::read(place.path(name)).unwrap_or_default();
        place.write(name, "");
        place.taiyi(arguments).refused(&[part]);
        let left = place.names("out");
        assert!(left.is_empty(), "{name}: {left:?}");
        let _ = std::fs::remove_dir(place.path("out"));
        place.write(name, content);
    }
    place.write("tokens.json", r#"{"input_ids": []}"#);
    refused(&place, LOGITS, &["found no sequence"]);
    place.write("tokens.json", r#"{"input_ids": [[1], []]}"#);
    refused(&place, LOGITS, &["input_ids[1]: expected at least one id"]);
    assert_eq!(place.taiyi("tokenize --model model empty.txt").fine().stdout, "");
}

#[test]
fn huge_and_hostile_numbers() {
    let place = place();
    for ids in [
        "[[4294967295]]",
        "[[4294967296]]",
        "[[1e300]]",
        "[[-1]]",
        "[[1.5]]",
        "[[null]]",
        "[1]",
        "{}",
        "[[18446744073709551616]]",
    ] {
        place.write("tokens.json", format!("{{\"input_ids\": {ids}}}"));
        refused(&place, LOGITS, &["tokens.json", "expected"]);
        let generate = LOGITS.replace("logits", "generate").replace(".safetensors", ".json");
        refused(&place, &format!("{generate} --max-new 3"), &["tokens.json", "expected"]);
    }
    place.write("tokens.json", r#"{"input_ids": [[1]]}"#);
    let generate = "model generate --model model --tokens tokens.json --out out/new.json --max-new";
    for most in ["512", "18446744073709551615"] {
        refused(&place, &format!("{generate} {most}"), &["expected at most 512 positions"]);
    }
    place.write("ids.jsonl", "{\"ids\": [4294967295]}\n");
    place.taiyi("tokenize --model model --decode ids.jsonl").refused(&["ids.jsonl:1", "4294967295"]);
    for (key, value) in [
        ("vocab_size", json!(1_000_000_000_000_000_000_u64)),
        ("hidden_size", json!(0)),
        ("num_hidden_layers", json!(67_000_000)),
        ("num_attention_heads", json!(3)),
        ("rms_norm_eps", json!(-1)),
        ("model_type", json!("qwen99")),
    ] {
        let vocab_size = tiny_tokenizer(&place.path("model"), 400);
        let mut broken = config(vocab_size);
        broken[key] = value;
        place.write("model/config.json", broken.to_string());
        refused(&place, LOGITS, &["model"]);
        place.taiyi("chat --model model").refused(&[]);
    }
}

#[test]
fn hostile_json() {
    let place = place();
    let deep = "[".repeat(200_000);
    for (name, arguments) in [
        ("tokens.json", LOGITS),
        ("model/config.json", LOGITS),
        ("model/tokenizer.json", TRAIN),
        ("model/tokenizer_config.json", TRAIN),
        ("data.jsonl", TRAIN),
    ] {
        let content = std::fs::read(place.path(name)).unwrap();
        place.write(name, &deep);
        let ran = place.taiyi(arguments).refused(&[name.rsplit('/').next().unwrap()]);
        assert!(ran.stderr.len() < 2000, "{name}: an error is a line, not the file");
        assert_eq!(place.names("out"), [""; 0], "{name}");
        place.write(name, content);
    }
    let header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    for bytes in [
        u64::MAX.to_le_bytes().to_vec(),
        header(&deep, 0),
        header(r#"{"a": {"dtype": "F32", "shape": [4611686018427387904, 8], "data_offsets": [0, 4]}}"#, 4),
        header(r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}"#, 4),
        header(
            r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#,
            4,
        ),
        header("[]", 0),
        header("{}", 0),
    ] {
        place.write("model/model.safetensors", bytes);
        refused(&place, LOGITS, &["model"]);
    }
    place.write("source/kuake_qic/KUAKE-QIC_dev.json", &deep);
    let score = "eval score --benchmark kuake_qic_dev --predictions p.jsonl --source source --out out";
    refused(&place, score, &["KUAKE-QIC_dev.json"]);
    place.write("source/kuake_qic/KUAKE-QIC_dev.json", r#"[{"id": "1", "query": "头痛", "label": "其他"}]"#);
    for line in [
        &deep[..],
        "7",
        "{}",
        "{\"id\": \"2\", \"reply\": \"\"}",
        "{\"id\": \"1\"}",
        "{\"id\": \"1\", \"prediction\": []}",
    ] {
        place.write("p.jsonl", format!("{line}\n"));
        refused(&place, score, &["p.jsonl:1"]);
    }
    place.write("p.jsonl", "{\"id\": \"1\", \"reply\": \"\"}\n{\"id\": \"1\", \"reply\": \"\"}\n");
    refused(&place, score, &["p.jsonl:2", "on an earlier line already"]);
}

#[test]
fn a_run_is_not_overwritten() {
    let place = place();
    place.taiyi("train --recipe recipe.toml --out trained --max-steps 1").fine();
    let before = std::fs::read(place.path("trained/adapter_model.safetensors")).unwrap();
    place
        .taiyi("train --recipe recipe.toml --out trained")
        .refused(&["trained holds a run already", "--resume"]);
    assert_eq!(std::fs::read(place.path("trained/adapter_model.safetensors")).unwrap(), before);
    let ran: Ran = place.taiyi("train --recipe recipe.toml --out trained --resume --seed 6");
    ran.refused(&["cannot resume", "seed"]);
}
