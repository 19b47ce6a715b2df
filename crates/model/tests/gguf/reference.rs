//! A file that another program wrote (`fixtures/gguf/README.md`).

use std::path::{Path, PathBuf};

use serde_json::json;
use taiyi_model::weights::{ElementType, Weights, gguf::Gguf};

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/reference.gguf")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_type_unpacks_to_the_bit() {
    let weights = Weights::open_file(&file()).unwrap();
    for kind in ["f16", "bf16", "q8_0", "q4_0", "q5_0", "q4_k", "q6_k"] {
        let shape = [3, 256];
        let expected = weights.f32(&format!("{kind}.values"), &shape).unwrap();
        let packed = format!("{kind}.packed");
        assert_eq!(bits(&weights.f32(&packed, &shape).unwrap()), bits(&expected), "{kind}");
        // Rows are found without the rest, and bf16 is rounded from the same values.
        let mut row = vec![0.0; 256];
        let view = weights.get(&packed).unwrap();
        assert!(view.read_rows(1..2, &mut row));
        assert_eq!(bits(&row), bits(&expected[256..512]), "{kind}");
        let rounded = weights.bf16(&packed, &shape).unwrap();
        assert!(
            rounded.iter().zip(&expected).all(|(r, x)| (r.to_f32() - x).abs() <= x.abs() / 256.0),
            "{kind}"
        );
        // What lies in the file as it is needs no work.
        let plain = kind.ends_with("f16");
        assert_eq!(!view.bytes.is_empty(), plain, "{kind}");
        assert_eq!(view.dtype == ElementType::F32, !plain, "{kind}");
        if let Ok(source) = weights.f32(&format!("{kind}.source"), &shape) {
            let worst = source.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst > 0.0 && worst < 0.02, "{kind}: {worst}");
        }
    }
}

#[test]
fn metadata_make_a_configuration() {
    let gguf = Gguf::open(&file()).unwrap();
    let config = gguf.config().unwrap();
    for (key, value) in [
        ("model_type", json!("llama")),
        ("vocab_size", json!(3)),
        ("hidden_size", json!(4)),
        ("intermediate_size", json!(8)),
        ("num_hidden_layers", json!(1)),
        ("num_attention_heads", json!(1)),
        ("num_key_value_heads", json!(1)),
        ("head_dim", json!(4)),
        ("max_position_embeddings", json!(64)),
        ("tie_word_embeddings", json!(true)),
        ("rope_theta", json!(10_000.0)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    assert_eq!(config["rms_norm_eps"].as_f64().unwrap() as f32, 1e-5);
    assert!(gguf.vocabulary().unwrap().is_none());
}
