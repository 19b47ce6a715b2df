//! `taiyi model`: logits, greedy continuations and merged weights of a checkpoint, against the engine called directly.

use serde_json::Value;
use taiyi_kernels::Precision;
use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::weights::Weights;
use taiyi_model::{Decoder, Dtype, KvCache, Logits, PackedBatch, Workspace};

use crate::place::{Place, tiny_adapter, tiny_model};

fn logits(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    let mut cache = KvCache::new(decoder.config(), ids.len());
    decoder.forward(&mut [(ids, &mut cache)], Logits::All, &mut Workspace::default()).unwrap().to_vec()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn place() -> Place {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    tiny_adapter(&place.path("model"), &place.path("adapter"));
    place.write("tokens.json", r#"{"input_ids": [[1, 2, 3, 5, 8, 13], [300]], "more": "is welcome"}"#);
    place
}

#[test]
fn logits_are_those_of_the_engine_in_every_storage() {
    let place = place();
    for (name, dtype) in [("f32", Dtype::F32), ("bf16", Dtype::Bf16), ("nf4", Dtype::Nf4)] {
        place
            .taiyi(&format!(
                "model logits --model model --dtype {name} --tokens tokens.json --out out.safetensors"
            ))
            .fine();
        let decoder = Decoder::load(&place.path("model"), dtype).unwrap();
        let written = Weights::open_file(&place.path("out.safetensors")).unwrap();
        assert_eq!(written.names().collect::<Vec<_>>(), ["logits_0", "logits_1"]);
        for (at, ids) in [&[1_u32, 2, 3, 5, 8, 13][..], &[300]].into_iter().enumerate() {
            let found =
                written.f32(&format!("logits_{at}"), &[ids.len(), decoder.config().vocab_size]).unwrap();
            assert_eq!(bits(&found), bits(&logits(&decoder, ids)), "{name} {at}");
        }
    }
}

#[test]
fn continuations_are_greedy_and_do_not_stop() {
    let place = place();
    place
        .taiyi(
            "model generate --model model --adapter adapter --tokens tokens.json --max-new 40 --out new.json",
        )
        .fine();
    let written: Value = serde_json::from_str(&place.read("new.json")).unwrap();
    let mut decoder = Decoder::load(&place.path("model"), Dtype::F32).unwrap();
    decoder.load_adapter(&place.path("adapter"), false).unwrap();
    let expected: Vec<Vec<u32>> = [vec![1_u32, 2, 3, 5, 8, 13], vec![300]]
        .into_iter()
        .map(|prompt| {
            let mut ids = prompt.clone();
            for _ in 0..40 {
                let all = logits(&decoder, &ids);
                let last = &all[all.len() - decoder.config().vocab_size..];
                let best =
                    (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b]).then(b.cmp(&a))).unwrap();
                ids.push(best as u32);
            }
            ids.split_off(prompt.len())
        })
        .collect();
    assert_eq!(written, serde_json::json!({ "output_ids": expected }));
}

#[test]
fn a_merged_model_is_the_model_with_its_adapter() {
    let place = place();
    place.write("model/LICENSE", "made up");
    let ran =
        place.taiyi("model merge --model model --adapter adapter --dtype f32 --to hf --out merged").fine();
    assert_eq!(ran.stdout, "merged\n");
    let files = ["LICENSE", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(place.names("merged"), files);
    let tokens = "--tokens tokens.json --out";
    place.taiyi(&format!("model logits --model model --adapter adapter {tokens} apart.safetensors")).fine();
    place.taiyi(&format!("model logits --model merged {tokens} merged.safetensors")).fine();
    let read = |name: &str| {
        Weights::open_file(&place.path(name)).unwrap().get("logits_0").unwrap().to_f32().unwrap()
    };
    let (apart, merged) = (read("apart.safetensors"), read("merged.safetensors"));
    let worst = apart.iter().zip(&merged).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = apart.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert!(worst <= 1e-4 * largest, "{worst} of {largest}");
    // It has a tokenizer and can be talked to; and it is not overwritten.
    place.taiyi("chat --model merged").fine();
    place
        .taiyi("model merge --model model --adapter adapter --out merged")
        .refused(&["merged", "does not exist yet"]);
    place.taiyi("model merge --model model --adapter adapter --out half").fine();
    let half = std::fs::metadata(place.path("half/model.safetensors")).unwrap().len();
    let whole = std::fs::metadata(place.path("merged/model.safetensors")).unwrap().len();
    assert!(half < whole * 6 / 10, "bf16 is the default: {half} of {whole}");
}

#[test]
fn a_model_exported_in_four_bits_is_the_model_in_four_bits() {
    let place = place();
    let tokens = "--tokens tokens.json --out";
    let read = |name: &str| {
        Weights::open_file(&place.path(name)).unwrap().get("logits_0").unwrap().to_f32().unwrap()
    };
    let export = |verb: &str, arguments: &str, out: &str| {
        let ran = place.taiyi(&format!("model {verb} {arguments} --to bnb-nf4 --out {out}")).fine();
        assert_eq!(ran.stdout, format!("{out}\n"));
        place.taiyi(&format!("model info --model {out}")).fine();
        place.taiyi(&format!("model logits --model {out} --dtype nf4 {tokens} {out}.safetensors")).fine();
        read(&format!("{out}.safetensors"))
    };
    let four = export("export", "--model model", "four");
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(place.names("four"), files);
    let config: Value = serde_json::from_str(&place.read("four/config.json")).unwrap();
    assert_eq!(config["quantization_config"]["quant_method"], "bitsandbytes");
    assert_eq!(config["quantization_config"]["llm_int8_skip_modules"], serde_json::json!(["lm_head"]));
    place.taiyi(&format!("model logits --model model --dtype nf4 {tokens} apart.safetensors")).fine();
    assert_eq!(bits(&read("apart.safetensors")), bits(&four));
    // With an adapter it is what the merged model is.
    place.taiyi("model merge --model model --adapter adapter --dtype f32 --out merged").fine();
    let merged = export("export", "--model merged --dtype f32", "of_merged");
    let at_once = export("quantize", "--model model --adapter adapter --dtype f32", "at_once");
    assert_eq!(bits(&merged), bits(&at_once));
    assert_ne!(bits(&merged), bits(&four));
}

#[test]
fn a_gguf_file_is_the_whole_model() {
    let place = place();
    let logits = |model: &str| {
        place
            .taiyi(&format!("model logits --model {model} --tokens tokens.json --out out.safetensors"))
            .fine();
        let written = Weights::open_file(&place.path("out.safetensors")).unwrap();
        written.get("logits_0").unwrap().to_f32().unwrap()
    };
    // How far the weights are from what they were (root mean square); a random network this small makes anything of that.
    let name = "model.layers.1.mlp.down_proj.weight";
    let weight = |file: &str| Weights::open(&place.path(file)).unwrap().f32(name, &[32, 64]).unwrap();
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
    let (whole, exact) = (logits("model"), weight("model"));
    for (to, bound) in [("gguf-f16", 5e-4), ("gguf-q8_0", 0.01), ("gguf-q4_0", 0.15), ("gguf-q4_k", 0.15)] {
        let ran = place.taiyi(&format!("model export --model model --to {to} --out {to}.gguf")).fine();
        assert_eq!(ran.stdout, format!("{to}.gguf\n"));
        assert!(ran.stderr.contains("% from the given values"), "{}", ran.stderr);
        let found = weight(&format!("{to}.gguf"));
        let share =
            squares(&mut exact.iter().zip(&found).map(|(a, b)| a - b)) / squares(&mut exact.iter().copied());
        assert!(share > 0.0 && share.sqrt() < bound, "{to}: {}", share.sqrt());
        let found = logits(&format!("{to}.gguf"));
        assert!(found.len() == whole.len() && found != whole && found.iter().all(|v| v.is_finite()), "{to}");
    }
    // It has a tokenizer and can be talked to.
    place.write("texts.jsonl", "{\"text\": \"fever <|im_end|>\"}\n");
    let ids = |model: &str| place.taiyi(&format!("tokenize --model {model} texts.jsonl")).fine().stdout;
    assert_eq!(ids("model"), ids("gguf-f16.gguf"));
    place.taiyi("chat --model gguf-f16.gguf").fine();
    place.taiyi("model info --model gguf-q4_k.gguf").fine();
    // An adapter goes in; sums are made in f32 either way.
    place.taiyi("model merge --model model --adapter adapter --dtype f32 --out merged").fine();
    place.taiyi("model export --model merged --to gguf-q8_0 --out of/model.gguf").fine();
    place
        .taiyi("model export --model model --adapter adapter --to gguf-q8_0 --out at_once/model.gguf")
        .fine();
    let tensors = |name: &str| {
        let read = Weights::open(&place.path(name)).unwrap();
        let names: Vec<String> = read.names().map(str::to_owned).collect();
        names.into_iter().map(|n| bits(&read.get(&n).unwrap().to_f32().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(tensors("of"), tensors("at_once"));
    assert_ne!(tensors("of"), tensors("gguf-q8_0.gguf"));
    place
        .taiyi("model export --model model --to gguf-f16 --out gguf-f16.gguf")
        .refused(&["gguf-f16.gguf", "does not exist yet"]);
    place.taiyi("model export --model model --to gguf-f16 --out folder").refused(&["folder", ".gguf"]);
}

#[test]
fn info_counts_weights_and_bytes() {
    let place = place();
    let info: Value =
        serde_json::from_str(&place.taiyi("model info --model model --json").fine().stdout).unwrap();
    let decoder = Decoder::load(&place.path("model"), Dtype::F32).unwrap();
    assert_eq!(info["parameters"], decoder.config().parameter_count());
    assert_eq!(info["weight_bytes"]["f32"], decoder.bytes().0);
    assert_eq!(
        info["weight_bytes"]["nf4"],
        Decoder::load(&place.path("model"), Dtype::Nf4).unwrap().bytes().0
    );
    // Two tensors of two key heads of eight f32 in two blocks.
    assert_eq!(info["cache_bytes_per_token"], 2 * 2 * 8 * 4 * 2);
    assert!(place.taiyi("model info --model model").fine().stdout.contains("blocks                    2\n"));
}

#[test]
fn info_reads_the_headers_of_the_weights() {
    let place = place();
    let info = |expected: bool| {
        let stdout = place.taiyi("model info --model model --json").fine().stdout;
        let info: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(info["has_weights"], expected);
    };
    info(true);
    let weights = place.path("model/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    place.taiyi("model info --model model").refused(&["model.safetensors", "is the file truncated"]);
    let config = std::fs::read_to_string(place.path("model/config.json")).unwrap();
    std::fs::write(&weights, &whole).unwrap();
    let taller = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000");
    assert_ne!(taller, config);
    std::fs::write(place.path("model/config.json"), taller).unwrap();
    place.taiyi("model info --model model").refused(&["layers.2", "model"]);
    std::fs::write(place.path("model/config.json"), config).unwrap();
    std::fs::remove_file(&weights).unwrap();
    info(false);
}

#[test]
fn perplexity_is_the_same_however_the_text_is_filed() {
    let place = place();
    place.write("a.txt", "acute pancreatitis\n\nfever and cough\n");
    place.write("b.jsonl", "{\"text\": \"acute pancreatitis\"}\n{\"text\": \"fever and cough\"}\n");
    let command = "model perplexity --model model a.txt b.jsonl --json";
    let report: Value = serde_json::from_str(&place.taiyi(command).fine().stdout).unwrap();
    let [a, b] = report["files"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!(a["bits_per_byte"], b["bits_per_byte"]);
    assert_eq!((&a["documents"], &a["bytes"]), (&Value::from(2), &Value::from(33)));
    // By hand: the loss of both documents in the marks around them.
    let decoder = Decoder::load(&place.path("model"), Dtype::F32).unwrap();
    let tokenizer = Tokenizer::load(&place.path("model")).unwrap();
    let end = tokenizer.special_id("<|endoftext|>").unwrap();
    let mut workspace = Workspace::new();
    let mut loss = |text: &str| {
        let mut ids = vec![end];
        ids.extend(tokenizer.encode(text));
        let mut labels: Vec<i32> = ids[1..].iter().map(|&id| id as i32).collect();
        labels.push(end as i32);
        let batch = PackedBatch { ids: &ids, cu_seqlens: &[0, ids.len() as u32], labels: &labels };
        decoder.loss(&batch, Precision::F32, &mut workspace).unwrap().sum
    };
    let bits = (loss("acute pancreatitis") + loss("fever and cough")) / std::f64::consts::LN_2;
    let found = a["bits_per_byte"].as_f64().unwrap();
    assert!((found - bits / 33.0).abs() < 1e-4 * found, "{found} {}", bits / 33.0);
    place.write("empty.txt", "\n");
    place
        .taiyi("model perplexity --model model empty.txt")
        .refused(&["empty.txt", "expected text, found none"]);
    place.taiyi("model perplexity --model model a.txt --stride 0").refused(&["a stride of 1"]);
}
