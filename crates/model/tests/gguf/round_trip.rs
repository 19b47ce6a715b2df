//! Checkpoints of every architecture, written and read back: names, orders of rows, configurations, values.

use std::collections::BTreeSet;
use std::path::Path;

use half::f16;
use serde_json::Value;
use taiyi_model::weights::gguf::{BlockType, ExportReport, Exported, Mixture, export};
use taiyi_model::weights::{ElementType, SafetensorsWriter, Weights};
use taiyi_model::{Decoder, DecoderConfig, Dtype, KvCache, Logits, Workspace};

use crate::oracle;

/// Oracle folders, the configuration files of each, and endings of tensors that are buffers.
const CHECKPOINTS: &[(&str, &[&str])] = &[
    ("llama", &["config.json", "config.v5.json"]),
    ("llama_llama3rope", &["config.json"]),
    ("qwen1", &["config.json"]),
    ("qwen2", &["config.json", "config.v5.json"]),
    ("qwen3", &["config.json", "config.v5.json"]),
    ("baichuan7", &["config.json"]),
    ("baichuan13", &["config.json"]),
    ("baichuan13/heads6", &["config.json"]),
    ("baichuan2_13", &["config.json"]),
    ("bloom", &["config.json", "config.v5.json"]),
    ("chatglm4", &["config.json"]),
    ("glm", &["config.json", "config.v5.json"]),
];

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn write(weights: &Weights, config: &Value, mixture: Mixture, out: &Path) -> ExportReport {
    let asked = Exported { config, place: weights.place(), name: "made up", vocabulary: None, mixture };
    let mut last = (0, 0);
    let report = export(weights, asked, out, &mut |done, all| {
        assert!(done > last.0 && (last.1 == 0 || last.1 == all), "progress goes on");
        last = (done, all);
    })
    .unwrap();
    assert_eq!(last.0, last.1, "progress arrives");
    report
}

fn is_buffer(name: &str) -> bool {
    ["inv_freq", "logn_tensor", "masked_bias"].iter().any(|end| name.ends_with(end))
}

/// What a value is after it was written in half precision, as matrices are.
fn expected(weights: &Weights, name: &str, normalised: bool) -> (Vec<usize>, Vec<f32>) {
    let view = weights.get(name).unwrap();
    let mut values = view.to_f32().unwrap();
    if normalised {
        for row in values.chunks_mut(view.shape[1]) {
            let length = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
    }
    if view.shape.len() > 1 {
        values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32());
    }
    (view.shape.to_vec(), values)
}

#[test]
fn every_tensor_comes_back_under_its_name() {
    for (name, configs) in CHECKPOINTS {
        let Some(dir) = oracle(&format!("arch/{name}")) else { return };
        let weights = Weights::open(&dir).unwrap();
        let place = tempfile::tempdir().unwrap();
        let mut first: Option<Vec<u8>> = None;
        for config_name in *configs {
            let config = read_json(&dir.join(config_name));
            let out = place.path().join("model.gguf");
            let report = write(&weights, &config, Mixture::F16, &out);
            assert!(report.fallbacks.is_empty(), "{name}");
            let bytes = std::fs::read(&out).unwrap();
            assert_eq!(report.bytes, bytes.len() as u64, "{name}");
            // Both spellings of a configuration say the same.
            assert!(*first.get_or_insert(bytes.clone()) == bytes, "{name}/{config_name}");

            let read = Weights::open(&out).unwrap();
            let held: BTreeSet<&str> = read.names().collect();
            let given: BTreeSet<&str> = weights.names().filter(|n| !is_buffer(n)).collect();
            assert_eq!(held, given, "{name}");
            for tensor in given {
                let normalised = *name == "baichuan2_13" && tensor == "lm_head.weight";
                let (shape, values) = expected(&weights, tensor, normalised);
                assert_eq!(read.f32(tensor, &shape).unwrap(), values, "{name}: {tensor}");
            }
            // The file alone in a folder is the folder's model.
            assert_eq!(Weights::open(place.path()).unwrap().names().count(), read.names().count());
        }
    }
}

/// Numbers that went through f32 count as equal.
fn agree(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a as f32 == b as f32,
        _ => match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|b| agree(value, b)))
            }
            _ => a == b,
        },
    }
}

#[test]
fn configurations_come_back() {
    for (name, configs) in CHECKPOINTS {
        let Some(dir) = oracle(&format!("arch/{name}")) else { return };
        let config = read_json(&dir.join(configs[0]));
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("model.gguf");
        let report = write(&Weights::open(&dir).unwrap(), &config, Mixture::F16, &out);
        let read = taiyi_model::weights::gguf::Gguf::open(&out).unwrap().config().unwrap();
        let mut compared = 0;
        for (key, value) in read.as_object().unwrap() {
            if let Some(original) = config.get(key) {
                assert!(agree(value, original), "{name}: {key}: {value} for {original}");
                compared += 1;
            }
        }
        assert!(compared >= 8, "{name}: {compared} keys in common");
        // What changes results is said one way or the other; NormHead went into the rows.
        let kept = [
            "rope_scaling",
            "use_dynamic_ntk",
            "use_logn_attn",
            "seq_length",
            "rope_ratio",
            "model_max_length",
        ];
        for key in kept {
            let said = config.get(key).is_some_and(|value| !value.is_null());
            assert_eq!(read.get(key).is_some(), said, "{name}: {key}");
        }
        assert!(read.get("z_loss_weight").is_none());
        // Three layers are no Baichuan to llama.cpp.
        assert_eq!(
            report.notes.iter().any(|note| note.contains("layers")),
            name.starts_with("baichuan"),
            "{name}"
        );
        assert_eq!(report.notes.iter().any(|note| note.contains("NormHead")), *name == "baichuan2_13");
        assert_eq!(report.notes.iter().any(|note| note.contains("trained length")), *name == "qwen1");
    }
}

#[test]
fn quantised_files_are_near_and_say_what_they_are() {
    for (name, configs) in CHECKPOINTS {
        let Some(dir) = oracle(&format!("arch/{name}")) else { return };
        let weights = Weights::open(&dir).unwrap();
        let config = read_json(&dir.join(configs[0]));
        let place = tempfile::tempdir().unwrap();
        for (mixture, bound) in [(Mixture::Q8_0, 0.007), (Mixture::Q4_0, 0.1), (Mixture::Q4KM, 0.06)] {
            let out = place.path().join("model.gguf");
            let report = write(&weights, &config, mixture, &out);
            let read = Weights::open(&out).unwrap();
            let (mut off, mut all) = (0.0, 0.0);
            for tensor in weights.names().filter(|n| !is_buffer(n)) {
                let normalised = *name == "baichuan2_13" && tensor == "lm_head.weight";
                let (shape, values) = expected(&weights, tensor, normalised);
                for (x, y) in values.iter().zip(read.f32(tensor, &shape).unwrap()) {
                    off += f64::from(x - y).powi(2);
                    all += f64::from(*x).powi(2);
                }
            }
            let error = (off / all).sqrt();
            assert!(error > 0.001 && error < bound, "{name} {mixture:?}: {error}");
            let worst = report.types.iter().map(|t| t.relative_rms_error).fold(0.0, f64::max);
            assert!(worst > 0.5 * error && worst < 2.5 * error, "{name} {mixture:?}: {worst} for {error}");
            // Rows of 64 or 96 are no K blocks; rows of 152 are no blocks at all.
            let used = |kind| report.types.iter().any(|t| t.kind == kind);
            match mixture {
                Mixture::Q4KM => {
                    assert!(used(BlockType::Q5_0) && used(BlockType::Q8_0), "{name}");
                    // BLOOM's MLP is four times as wide.
                    assert_eq!(used(BlockType::Q4K) && used(BlockType::Q6K), *name == "bloom", "{name}");
                    assert!(
                        report.fallbacks.iter().any(|f| f.wanted == BlockType::Q4K && f.columns % 256 != 0)
                    );
                }
                Mixture::Q8_0 => assert!(used(BlockType::Q8_0), "{name}"),
                _ => assert!(used(BlockType::Q4_0), "{name}"),
            }
            let odd = report.fallbacks.iter().any(|f| f.used == BlockType::F16 && f.columns % 32 != 0);
            assert_eq!(odd, *name != "bloom", "{name} {mixture:?}");
            assert!(report.types.iter().map(|t| t.bytes).sum::<u64>() < report.bytes);
        }
    }
}

/// Logits of a model are those of the file it was written to, where half precision loses nothing.
#[test]
fn the_file_is_the_model() {
    for (name, configs) in CHECKPOINTS {
        let Some(dir) = oracle(&format!("arch/{name}")) else { return };
        let weights = Weights::open(&dir).unwrap();
        let place = tempfile::tempdir().unwrap();
        let exact = place.path().join("exact");
        std::fs::create_dir(&exact).unwrap();
        std::fs::copy(dir.join(configs[0]), exact.join("config.json")).unwrap();
        let mut writer = SafetensorsWriter::default();
        for tensor in weights.names() {
            let (shape, values) = expected(&weights, tensor, false);
            writer.add(tensor, ElementType::F32, &shape, move || values.clone());
        }
        writer.write(&exact.join("model.safetensors")).unwrap();
        let out = place.path().join("model.gguf");
        write(&Weights::open(&exact).unwrap(), &read_json(&exact.join("config.json")), Mixture::F16, &out);

        let logits = |path: &Path| {
            let decoder = Decoder::load(path, Dtype::F32).unwrap();
            // Past the trained length of Qwen v1, so that its scaling counts.
            let ids: Vec<u32> = (0..40).map(|i| i * 7 % 500).collect();
            let mut cache = KvCache::new(decoder.config(), ids.len());
            let mut workspace = Workspace::default();
            let logits = decoder.forward(&mut [(&ids, &mut cache)], Logits::All, &mut workspace).unwrap();
            logits.to_vec()
        };
        let (whole, read) = (logits(&exact), logits(&out));
        let original = DecoderConfig::load(&exact).unwrap();
        if original.normalised_head {
            // The rows of the head were divided beforehand, and then rounded.
            let worst = whole.iter().zip(&read).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let largest = whole.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            assert!(worst < 1e-3 * largest, "{name}: {worst} of {largest}");
        } else {
            assert!(whole.iter().zip(&read).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        }
        // Everything but what concerns training, and NormHead.
        let config = DecoderConfig {
            source: original.source.clone(),
            padding_id: original.padding_id,
            normalised_head: original.normalised_head,
            ..DecoderConfig::load(&out).unwrap()
        };
        assert_eq!(config, original, "{name}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let Some(dir) = oracle("arch/qwen2") else { return };
    let weights = Weights::open(&dir).unwrap();
    let config = read_json(&dir.join("config.json"));
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    let refused = |config: &Value, change: &dyn Fn(&str, &mut Vec<f32>) -> Option<&'static str>| {
        let mut writer = SafetensorsWriter::default();
        for tensor in weights.names() {
            let view = weights.get(tensor).unwrap();
            let mut values = view.to_f32().unwrap();
            let name = change(tensor, &mut values).unwrap_or(tensor);
            if !name.is_empty() {
                writer.add(name, ElementType::F32, view.shape, move || values.clone());
            }
        }
        writer.write(&folder.join("model.safetensors")).unwrap();
        let changed = Weights::open(&folder).unwrap();
        let asked = Exported { config, place: &folder, name: "x", vocabulary: None, mixture: Mixture::F16 };
        let out = place.path().join("model.gguf");
        let message = export(&changed, asked, &out, &mut |_, _| {}).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["model"], "{message}");
        message
    };
    let q = "model.layers.1.self_attn.q_proj.weight";
    let message = refused(&config, &|name, values| {
        if name == q {
            values[3 * 64 + 5] = f32::NAN;
        }
        None
    });
    assert!(message.contains("blk.1.attn_q.weight`, row 3"), "{message}");
    let message = refused(&config, &|name, values| {
        if name == q {
            values[0] = 1e6;
        }
        None
    });
    assert!(message.contains("fit F16"), "{message}");
    let message = refused(&config, &|name, _| (name == q).then_some(""));
    assert!(message.contains(q) && message.contains("missing"), "{message}");
    let message = refused(&config, &|name, _| (name == q).then_some("model.layers.1.self_attn.gate"));
    assert!(message.contains("missing") || message.contains("lost"), "{message}");
    let mut more = config.clone();
    more["num_hidden_layers"] = 2.into();
    let message = refused(&more, &|_, _| None);
    assert!(message.contains("lost"), "{message}");
    let other = read_json(&dir.with_file_name("biogpt").join("config.json"));
    let message = refused(&other, &|_, _| None);
    assert!(message.contains("biogpt") && message.contains("llama, qwen, qwen2"), "{message}");
    let mut heads = config.clone();
    heads["vocab_size"] = 500.into();
    let message = refused(&heads, &|_, _| None);
    assert!(message.contains("suits the sizes"), "{message}");
}
