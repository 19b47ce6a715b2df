//! The shell commands against the reference implementations' results, where `../shared/oracles` lies beside the repository.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use taiyi_model::weights::Weights;

use crate::place::{Place, Ran, shared};

/// The recommended bound on f32 logits, as `../shared/oracles/README.md` has it.
const TOLERANCE: f32 = 5e-5;

fn ids(golden: &Weights, name: &str) -> Vec<i64> {
    golden.get(name).unwrap().to_i64().unwrap()
}

/// Runs `model logits` on every sequence with golden logits, and compares.
fn compare_logits(place: &Place, checkpoint: &[&Path], golden: &Path) {
    compare_some_logits(place, checkpoint, golden, None);
}

/// As [`compare_logits`], without the sequences whose names hold `but`.
fn compare_some_logits(place: &Place, checkpoint: &[&Path], golden: &Path, but: Option<&str>) {
    let golden = Weights::open_file(&golden.join("golden.safetensors")).unwrap();
    let sequences: Vec<String> = golden
        .names()
        .filter_map(|name| name.strip_suffix(".logits"))
        .filter(|name| name.starts_with("seq") && golden.contains(&format!("{name}.input_ids")))
        .filter(|name| but.is_none_or(|but| !name.contains(but)))
        .map(str::to_owned)
        .collect();
    assert!(!sequences.is_empty());
    let tokens: Vec<Vec<i64>> =
        sequences.iter().map(|name| ids(&golden, &format!("{name}.input_ids"))).collect();
    place.write("tokens.json", json!({ "input_ids": tokens }).to_string());
    let mut command = place.command("model logits --tokens tokens.json --out logits.safetensors --model");
    command.arg(checkpoint[0]);
    if let Some(adapter) = checkpoint.get(1) {
        command.arg("--adapter").arg(adapter);
    }
    Ran::of(command.output().unwrap()).fine();
    let found = Weights::open_file(&place.path("logits.safetensors")).unwrap();
    for (at, name) in sequences.iter().enumerate() {
        let (found, expected) =
            (found.get(&format!("logits_{at}")).unwrap(), golden.get(&format!("{name}.logits")).unwrap());
        assert_eq!(found.shape, expected.shape);
        let (found, expected) = (found.to_f32().unwrap(), expected.to_f32().unwrap());
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE, "{} {name}: {worst}", checkpoint[0].display());
    }
}

/// The decoders whose references have sequences and continuations.
const DECODERS: [&str; 15] = [
    "baichuan13",
    "baichuan13/heads6",
    "baichuan2_13",
    "baichuan7",
    "biogpt",
    "biogpt/bin",
    "bloom",
    "chatglm4",
    "chatglm6",
    "glm",
    "llama",
    "llama_llama3rope",
    "qwen1",
    "qwen2",
    "qwen3",
];

/// The folder with the golden results of a checkpoint folder.
fn golden_of(model: &Path) -> &Path {
    if model.join("golden.safetensors").is_file() { model } else { model.parent().unwrap() }
}

#[test]
fn logits_of_every_decoder_and_encoder_agree() {
    let encoders = [
        "bert",
        "bert/bin_legacy",
        "bert/token_cls",
        "bert/seq_cls",
        "roberta",
        "roberta/token_cls",
        "roberta/seq_cls",
    ];
    for name in DECODERS.into_iter().chain(encoders) {
        let Some(model) = shared(&format!("oracles/arch/{name}")) else { return };
        compare_logits(&Place::new(), &[&model], golden_of(&model));
    }
}

#[test]
fn exported_layouts_agree() {
    for (name, layout) in
        [("qwen1", "qwen2"), ("chatglm4", "glm"), ("bloom", "hf"), ("roberta/seq_cls", "hf")]
    {
        let Some(model) = shared(&format!("oracles/arch/{name}")) else { return };
        let place = Place::new();
        let mut command =
            place.command(&format!("model export --to {layout} --dtype f32 --out exported --model"));
        Ran::of(command.arg(&model).output().unwrap()).fine();
        let golden = golden_of(&model);
        // Past its trained length Qwen v1 is another function than qwen2.
        let within = (layout == "qwen2").then_some("_ntk");
        compare_some_logits(&place, &[&place.path("exported")], golden, within);
    }
}

#[test]
fn logits_of_checkpoints_and_adapters_agree() {
    for base in ["qwen1", "qwen2"] {
        let Some(model) = shared(&format!("oracles/arch/{base}")) else { return };
        let place = Place::new();
        compare_logits(&place, &[&model], &model);
        for kind in ["lora", "rslora", "dora"] {
            let Some(adapter) = shared(&format!("oracles/peft/{base}/{kind}")) else { return };
            compare_logits(&place, &[&model, &adapter], &adapter);
        }
    }
}

#[test]
fn merged_adapters_agree() {
    for base in ["qwen1", "qwen2"] {
        let Some(model) = shared(&format!("oracles/arch/{base}")) else { return };
        let Some(adapter) = shared(&format!("oracles/peft/{base}/lora")) else { return };
        let place = Place::new();
        let mut command = place.command("model merge --to hf --dtype f32 --out merged --model");
        Ran::of(command.arg(model).arg("--adapter").arg(&adapter).output().unwrap()).fine();
        compare_logits(&place, &[&place.path("merged")], &adapter);
    }
}

#[test]
fn greedy_continuations_agree() {
    for base in DECODERS {
        let Some(model) = shared(&format!("oracles/arch/{base}")) else { return };
        let golden = Weights::open_file(&golden_of(&model).join("golden.safetensors")).unwrap();
        let prompts: Vec<&str> = golden.names().filter_map(|name| name.strip_suffix(".prompt_ids")).collect();
        assert!(prompts.len() >= 2, "{prompts:?}");
        let of = |suffix: &str| -> Vec<Vec<i64>> {
            prompts.iter().map(|name| ids(&golden, &format!("{name}.{suffix}"))).collect()
        };
        let place = Place::new();
        place.write("tokens.json", json!({ "input_ids": of("prompt_ids") }).to_string());
        let mut command =
            place.command("model generate --tokens tokens.json --max-new 32 --out new.json --model");
        Ran::of(command.arg(&model).output().unwrap()).fine();
        let found: Value = serde_json::from_str(&place.read("new.json")).unwrap();
        assert_eq!(found["output_ids"], json!(of("output_ids")), "{base}: {prompts:?}");
    }
}

#[test]
fn token_ids_agree_both_ways() {
    let Some(folder) = shared("oracles/tokenizers/qwen1") else { return };
    let place = Place::new();
    let run = |arguments: &str, input: &str| -> Vec<Value> {
        let mut command = place.command(arguments);
        command
            .arg("--model")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Both pipes are long; one side must not wait for the other.
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
        let ran = Ran::of(child.wait_with_output().unwrap()).fine();
        writer.join().unwrap();
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let golden = std::fs::read_to_string(folder.join("golden.jsonl")).unwrap();
    let golden: Vec<Value> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(golden.len() > 50, "{}", golden.len());
    let texts: String = golden.iter().map(|line| json!({"text": line["text"]}).to_string() + "\n").collect();
    for (golden, found) in golden.iter().zip(run("tokenize", &texts)) {
        assert_eq!(found["ids"], golden["ids"], "{}", golden["text"]);
    }
    let partial = std::fs::read_to_string(folder.join("decode_partial.jsonl")).unwrap();
    let expected: Vec<Value> = partial
        .lines()
        .map(|line| json!({"text": serde_json::from_str::<Value>(line).unwrap()["text"]}))
        .collect();
    assert_eq!(run("tokenize --decode", &partial), expected);
}
