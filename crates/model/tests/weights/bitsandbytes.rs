//! Matrices that bitsandbytes stored in 4 bits, in and out.

use serde_json::{Value, json};
use taiyi_kernels::{Absmax, Nf4, Precision, bf16};
use taiyi_model::weights::{ElementType, SafetensorsWriter, Weights, bitsandbytes::quantization_config};
use taiyi_model::{Decoder, DecoderConfig, Dtype, KvCache, Logits, Workspace};

use crate::made::{oracle, tensors};

const STATE: &str = "quant_state.bitsandbytes__nf4";

type Part = (String, &'static str, Vec<usize>, Vec<u8>);

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * (1.0 + (i / 64 % 5) as f32)).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The parts of a matrix as the format has them, written without the writer under test.
fn parts(name: &str, matrix: &Nf4) -> Vec<Part> {
    let mut state = json!({
        "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [matrix.rows(), matrix.cols()]
    });
    let mut parts: Vec<Part> = Vec::new();
    let mut part = |suffix: &str, dtype: &'static str, shape: Vec<usize>, bytes: Vec<u8>| {
        parts.push((format!("{name}{suffix}"), dtype, shape, bytes));
    };
    match matrix.absmax() {
        Absmax::Plain(scales) => part(".absmax", "F32", vec![scales.len()], bytes(scales)),
        Absmax::Double(scales) => {
            part(".absmax", "U8", vec![scales.codes.len()], scales.codes.clone());
            part(".nested_absmax", "F32", vec![scales.nested_absmax.len()], bytes(&scales.nested_absmax));
            part(".nested_quant_map", "F32", vec![256], bytes(&scales.map[..]));
            state["nested_blocksize"] = 256.into();
            state["nested_dtype"] = "float32".into();
            state["nested_offset"] = f64::from(scales.offset).into();
        }
    }
    part("", "U8", vec![matrix.codes().len(), 1], matrix.codes().to_vec());
    part(".quant_map", "F32", vec![16], bytes(&taiyi_kernels::NF4_CODES));
    let state = state.to_string().into_bytes();
    part(&format!(".{STATE}"), "U8", vec![state.len()], state);
    parts
}

fn open(parts: &[Part]) -> Result<Weights, taiyi_model::Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, tensors(parts)).unwrap();
    Weights::open_file(&path)
}

/// A linear layer that bitsandbytes itself serialised, and what it computed with it.
#[test]
fn a_layer_of_bitsandbytes_is_read_as_it_is() {
    let Some(dir) = oracle("nf4") else { return };
    let weights = Weights::open_file(&dir.join("linear4bit_serialized.safetensors")).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["_orig_weight", "_x", "_y_fp32", "bias", "weight"]);
    let matrix = weights.nf4("weight", &[96, 128]).unwrap().unwrap();
    assert_eq!(matrix.codes(), weights.get("weight").unwrap().bytes);
    let Absmax::Double(scales) = matrix.absmax() else { panic!("not doubly quantised") };
    assert_eq!((scales.codes.len(), scales.nested_absmax.len()), (192, 1));
    assert_eq!(scales.offset, 0.129_337_25);
    // The codes are those of the original, so nothing was quantised twice.
    let original = weights.f32("_orig_weight", &[96, 128]).unwrap();
    assert_eq!(Nf4::quantize(&original, 96, 128, true).codes(), matrix.codes());
    weights.floats("weight", &[96, 128]).unwrap();
    assert_eq!(weights.shape("weight"), Some(&[96, 128][..]));
    let dense = weights.f32("weight", &[96, 128]).unwrap();
    let rounded: Vec<bf16> = dense.iter().map(|&v| bf16::from_f32(v)).collect();
    assert_eq!(weights.bf16("weight", &[96, 128]).unwrap(), rounded);
    let (x, bias) = (weights.f32("_x", &[5, 128]).unwrap(), weights.f32("bias", &[96]).unwrap());
    let expected = weights.f32("_y_fp32", &[5, 96]).unwrap();
    for (row, expected) in x.chunks(128).zip(expected.chunks(96)) {
        for ((w, bias), expected) in dense.chunks(128).zip(&bias).zip(expected) {
            let found: f64 = row.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            assert!((found + f64::from(*bias) - f64::from(*expected)).abs() <= 1e-5, "{found} {expected}");
        }
    }
    for shape in [&[128, 96][..], &[96, 64], &[96 * 128]] {
        let error = weights.nf4("weight", shape).unwrap_err().to_string();
        assert!(error.contains("`weight`") && error.contains("found [96, 128]"), "{error}");
        assert!(weights.f32("weight", shape).is_err() && weights.floats("weight", shape).is_err());
    }
    assert!(weights.nf4("bias", &[96]).unwrap().is_none(), "a plain tensor");
}

#[test]
fn matrices_with_plain_and_double_scales_are_read_as_they_are() {
    for (rows, cols) in [(8, 64), (37, 53), (300, 64), (1, 1)] {
        for double in [false, true] {
            let matrix = Nf4::quantize(&values(rows * cols), rows, cols, double);
            let weights = open(&parts("w", &matrix)).unwrap();
            assert_eq!(weights.nf4("w", &[rows, cols]).unwrap().unwrap(), matrix, "{rows} {cols} {double}");
        }
    }
    // Codes may be kept in tensors of another type, for programs that shard by type.
    let matrix = Nf4::quantize(&values(512), 8, 64, true);
    let mut packed = parts("w", &matrix);
    let codes = packed.iter_mut().find(|part| part.0 == "w").unwrap();
    (codes.1, codes.2) = ("BF16", vec![128, 1]);
    assert_eq!(open(&packed).unwrap().nf4("w", &[8, 64]).unwrap().unwrap(), matrix);
}

#[test]
fn parts_may_lie_in_several_files() {
    let matrix = Nf4::quantize(&values(64 * 64), 64, 64, true);
    let parts = parts("a.weight", &matrix);
    let dir = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for (file, parts) in ["model-1.safetensors", "model-2.safetensors"].into_iter().zip(parts.chunks(3)) {
        std::fs::write(dir.path().join(file), tensors(parts)).unwrap();
        map.extend(parts.iter().map(|part| (part.0.clone(), json!(file))));
    }
    // An index of the whole lists every part.
    std::fs::write(dir.path().join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
        .unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.nf4("a.weight", &[64, 64]).unwrap().unwrap(), matrix);
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a.weight"]);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let matrix = Nf4::quantize(&values(64 * 64), 64, 64, true);
    let refuse = |change: &dyn Fn(&mut Vec<Part>), expected: &[&str]| {
        let mut parts = parts("a.weight", &matrix);
        change(&mut parts);
        let Err(error) = open(&parts) else { panic!("{expected:?}: was accepted") };
        let text = error.to_string();
        assert!(!text.contains('\n') && text.len() < 700 && text.contains("model.safetensors"), "{text}");
        for expected in expected {
            assert!(text.contains(expected), "`{expected}` in: {text}");
        }
    };
    let state = |key: &'static str, value: Value| {
        move |parts: &mut Vec<Part>| {
            let part = parts.iter_mut().find(|part| part.0.ends_with(STATE)).unwrap();
            let mut state: Value = serde_json::from_slice(&part.3).unwrap();
            state[key] = value.clone();
            part.3 = state.to_string().into_bytes();
            part.2 = vec![part.3.len()];
        }
    };
    refuse(&state("blocksize", json!(128)), &["`blocksize`: 64", "found 128"]);
    refuse(&state("quant_type", json!("fp4")), &["`quant_type`: \"nf4\"", "fp4"]);
    refuse(&state("nested_blocksize", json!(128)), &["`nested_blocksize`: 256"]);
    refuse(&state("nested_offset", json!(null)), &["`nested_offset`: a number"]);
    refuse(&state("nested_offset", json!(1e300)), &["`nested_offset`: a number"]);
    refuse(&state("shape", json!([64])), &["`shape`: rows and columns"]);
    refuse(&state("shape", json!([64, -64])), &["`shape`"]);
    refuse(&state("shape", json!([u64::MAX, u64::MAX])), &["`shape`"]);
    refuse(&state("shape", json!([64, 65])), &["2080 bytes for shape [64, 65]", "2048"]);
    refuse(&|parts| parts.retain(|part| part.0 != "a.weight"), &["`a.weight` is missing"]);
    refuse(&|parts| parts.retain(|part| !part.0.ends_with(".absmax")), &["`a.weight.absmax` is missing"]);
    refuse(&|parts| parts.retain(|part| !part.0.ends_with(".nested_quant_map")), &["nested_quant_map"]);
    let short = |suffix: &'static str| {
        move |parts: &mut Vec<Part>| {
            let part = parts.iter_mut().find(|part| part.0.ends_with(suffix)).unwrap();
            let size = part.3.len() / part.2[0];
            part.2[0] -= 1;
            part.3.truncate(part.2[0] * size);
        }
    };
    refuse(&short("weight.absmax"), &["a.weight.absmax", "64 of U8", "63 of U8"]);
    refuse(&short(".quant_map"), &[".quant_map", "16 of F32"]);
    refuse(&short(".nested_quant_map"), &["256 of F32", "255"]);
    refuse(&short(STATE), &["JSON"]);
    for other in [0.5_f32, f32::NAN] {
        let change = move |parts: &mut Vec<Part>| {
            let part = parts.iter_mut().find(|part| part.0.ends_with("weight.quant_map")).unwrap();
            part.3[4..8].copy_from_slice(&other.to_le_bytes());
        };
        refuse(&change, &["the 16 values of NF4"]);
    }
    let renamed = |from: &'static str, to: &'static str| {
        move |parts: &mut Vec<Part>| parts.iter_mut().for_each(|part| part.0 = part.0.replace(from, to))
    };
    refuse(&renamed("bitsandbytes__nf4", "bitsandbytes__fp4"), &["`a.weight`", "FP4"]);
    refuse(&renamed("weight.absmax", "SCB"), &["8-bit"]);
}

#[test]
fn what_is_written_is_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let matrices: Vec<(String, Nf4)> = [(37, 53), (64, 128), (5, 7)]
        .into_iter()
        .enumerate()
        .map(|(i, (rows, cols))| {
            (format!("layer.{i}.weight"), Nf4::quantize(&values(rows * cols), rows, cols, i != 1))
        })
        .collect();
    let mut writer = SafetensorsWriter::default();
    writer.add("norm.weight", ElementType::Bf16, &[3], || vec![1.0, 2.5, -3.0]);
    for (name, matrix) in &matrices {
        writer.add_nf4(name, ElementType::Bf16, [matrix.rows(), matrix.cols()], move || matrix.clone());
    }
    writer.add("head.weight", ElementType::F32, &[2, 2], || vec![1.0, 2.0, 3.0, 4.0]);
    writer.write(&path).unwrap();
    let weights = Weights::open_file(&path).unwrap();
    assert_eq!(weights.f32("norm.weight", &[3]).unwrap(), [1.0, 2.5, -3.0]);
    assert_eq!(weights.f32("head.weight", &[2, 2]).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    for (name, matrix) in &matrices {
        let found = weights.nf4(name, &[matrix.rows(), matrix.cols()]).unwrap().unwrap();
        assert_eq!(found.codes(), matrix.codes(), "{name}");
        match matrix.absmax() {
            Absmax::Double(_) => assert_eq!(found.absmax(), matrix.absmax(), "{name}"),
            // The format that is written always quantises the scales.
            Absmax::Plain(_) => assert!(matches!(found.absmax(), Absmax::Double(_)), "{name}"),
        }
    }
    // Readers take views of the mapped file, which have to be aligned.
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for (name, entry) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
        let size = match entry["dtype"].as_str().unwrap() {
            "F32" => 4,
            "BF16" => 2,
            _ => 1,
        };
        assert_eq!((8 + length as u64 + entry["data_offsets"][0].as_u64().unwrap()) % size, 0, "{name}");
    }
}

#[test]
fn the_configuration_names_what_stays_whole() {
    let config = quantization_config(ElementType::Bf16, &["lm_head"]);
    for (key, expected) in [
        ("quant_method", json!("bitsandbytes")),
        ("load_in_4bit", json!(true)),
        ("bnb_4bit_quant_type", json!("nf4")),
        ("bnb_4bit_use_double_quant", json!(true)),
        ("bnb_4bit_compute_dtype", json!("bfloat16")),
        ("bnb_4bit_quant_storage", json!("uint8")),
        ("llm_int8_skip_modules", json!(["lm_head"])),
    ] {
        assert_eq!(config[key], expected, "{key}");
    }
}

fn decoder() -> Decoder {
    let config = json!({
        "model_type": "qwen2", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "initializer_range": 0.3, "torch_dtype": "float32"
    });
    Decoder::random(DecoderConfig::from_json(&config, "config.json".as_ref()).unwrap(), 5).unwrap()
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let ids = [3_u32, 1, 4, 15, 9, 26];
    let mut cache = KvCache::new(decoder.config(), ids.len());
    decoder.forward(&mut [(&ids[..], &mut cache)], Logits::All, &mut Workspace::default()).unwrap().to_vec()
}

#[test]
fn a_model_in_four_bits_is_the_same_model_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, four) = (dir.path().join("whole"), dir.path().join("four"));
    decoder().save(&whole, Dtype::F32).unwrap();
    for (written, precision) in [(Dtype::F32, Precision::F32), (Dtype::Bf16, Precision::Bf16)] {
        let expected = Decoder::load_with(&whole, Dtype::Nf4, precision).unwrap();
        expected.save_nf4(&four, written).unwrap();
        let found = Decoder::load_with(&four, Dtype::Nf4, precision).unwrap();
        assert_eq!(logits(&found), logits(&expected), "{written:?}");
        // Asked for as f32, it is the dequantised matrices.
        let dense = Decoder::load_with(&four, Dtype::F32, precision).unwrap();
        for (found, expected) in logits(&dense).iter().zip(logits(&expected)) {
            assert!((found - expected).abs() <= 1e-5, "{written:?}: {found} {expected}");
        }
        Decoder::check(&four).unwrap();
        let weights = Weights::open(&four).unwrap();
        assert!(weights.nf4("lm_head.weight", &[40, 24]).unwrap().is_none(), "the head stays whole");
        assert!(weights.nf4("model.layers.1.mlp.up_proj.weight", &[40, 24]).unwrap().is_some());
        std::fs::remove_dir_all(&four).unwrap();
    }
    // From whole weights the matrices are quantised as they are written.
    decoder().save_nf4(&four, Dtype::F32).unwrap();
    let exact = Decoder::load_with(&whole, Dtype::Nf4, Precision::F32).unwrap();
    assert_eq!(logits(&Decoder::load_with(&four, Dtype::Nf4, Precision::F32).unwrap()), logits(&exact));
    assert!(decoder().save_nf4(&four, Dtype::Nf4).is_err());
}
