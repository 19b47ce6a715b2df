//! The encoder from outside: against reference results, finite differences, and itself.
#![allow(clippy::print_stderr, reason = "a test that has nothing to compare with says so")]

use std::path::{Path, PathBuf};

use taiyi_kernels::Precision;
use taiyi_model::{
    Checkpoint, Dtype, Encoder, EncoderBatch, EncoderConfig, EncoderTask, Labels, Stage, StepOptions,
    Workspace, weights::Weights,
};

const LOGITS: f32 = 5e-5;

fn oracle(name: &str) -> Option<(PathBuf, Golden)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles/arch").join(name);
    if path.is_dir() {
        let golden = Golden(Weights::open_file(&path.join("golden.safetensors")).unwrap());
        return Some((path, golden));
    }
    eprintln!("skipped: no ../shared/oracles/arch/{name} beside the repository");
    None
}

struct Golden(Weights);

impl Golden {
    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.get(name).unwrap().to_f32().unwrap()
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        self.0.get(name).unwrap().to_i64().unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// The padded batch of a golden as packed sequences, and where its real tokens stand in the padded rows.
#[derive(Default)]
struct Packed {
    ids: Vec<u32>,
    types: Vec<u32>,
    cu: Vec<u32>,
    places: Vec<usize>,
}

impl Packed {
    fn of(golden: &Golden) -> Packed {
        let ids = golden.ints("batch.input_ids");
        let mask = golden.ints("batch.attention_mask");
        let types = match golden.has("batch.token_type_ids") {
            true => golden.ints("batch.token_type_ids"),
            false => vec![0; ids.len()],
        };
        let width = golden.0.get("batch.input_ids").unwrap().shape[1];
        let mut packed = Packed { cu: vec![0], ..Packed::default() };
        for (place, ((id, mask), kind)) in ids.iter().zip(&mask).zip(&types).enumerate() {
            if *mask == 1 {
                packed.ids.push(*id as u32);
                packed.types.push(*kind as u32);
                packed.places.push(place);
            }
            if (place + 1) % width == 0 {
                packed.cu.push(packed.ids.len() as u32);
            }
        }
        packed
    }

    fn batch(&self) -> EncoderBatch<'_> {
        EncoderBatch { ids: &self.ids, token_types: &self.types, cu_seqlens: &self.cu }
    }

    /// The entries of a padded array (rows, width) that belong to real tokens.
    fn real<T: Copy>(&self, padded: &[T]) -> Vec<T> {
        self.places.iter().map(|&p| padded[p]).collect()
    }
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

fn options(labelled: usize) -> StepOptions {
    StepOptions {
        precision: Precision::F32,
        loss_scale: 1.0 / labelled as f32,
        dropout_seed: None,
        checkpoint: Checkpoint::None,
    }
}

fn check_gradients(golden: &Golden, prefix: &str, encoder: &mut Encoder) -> usize {
    let names: Vec<String> = golden.0.names().filter(|n| n.starts_with(prefix)).map(str::to_owned).collect();
    let largest = |v: &[f32]| v.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let overall = names.iter().map(|n| largest(&golden.floats(n))).fold(0.0, f32::max);
    let parameters = encoder.parameters();
    for name in &names {
        let expected = golden.floats(name);
        let ours = parameters.iter().find(|p| p.name == &name[prefix.len()..]);
        let ours = ours.unwrap_or_else(|| panic!("{name} is not trainable here"));
        let d = distance(ours.grad, &expected);
        assert!(d <= 1e-4 * largest(&expected) + 1e-7 * overall, "{name}: {d:e}");
    }
    names.len()
}

fn alone<'a>(ids: &'a [u32], cu: &'a [u32]) -> EncoderBatch<'a> {
    EncoderBatch { ids, token_types: &[], cu_seqlens: cu }
}

/// Sequences, padded batch, hidden states, loss and gradients of one golden folder.
fn check_all(name: &str, gradients: usize) {
    let Some((dir, golden)) = oracle(name) else { return };
    let mut encoder = Encoder::load(&dir, Dtype::F32).unwrap();
    assert_eq!(Encoder::check(&dir).unwrap(), *encoder.config());
    let mut workspace = Workspace::new();
    let per_token = !matches!(encoder.config().task, EncoderTask::SequenceClassification { .. });
    let n = encoder.config().outputs();
    let mut sequences = 0;
    for sequence in ["seq0", "seq1"].iter().filter(|s| golden.has(&format!("{s}.input_ids"))) {
        let ids: Vec<u32> = golden.ints(&format!("{sequence}.input_ids")).iter().map(|&i| i as u32).collect();
        let mut compared = 0;
        let mut see = |stage: Stage, values: &[f32]| {
            let name = match stage {
                Stage::EmbeddingNorm => "embed".to_owned(),
                Stage::Middle(i) => format!("layer.{i}.attn_block_out"),
                Stage::Block(i) => format!("layer.{i}.out"),
                _ => return,
            };
            let name = format!("{sequence}.{name}");
            if golden.has(&name) {
                let d = distance(values, &golden.floats(&name));
                assert!(d <= LOGITS, "{name}: {d:e}");
                compared += 1;
            }
        };
        let cu = [0, ids.len() as u32];
        let found = encoder.forward_with(&alone(&ids, &cu), &mut workspace, &mut see).unwrap();
        let d = distance(found, &golden.floats(&format!("{sequence}.logits")));
        assert!(d <= LOGITS, "{name} {sequence}: {d:e}");
        let held = golden
            .0
            .names()
            .filter(|n| n.starts_with(&format!("{sequence}.layer.")) || *n == format!("{sequence}.embed"));
        assert_eq!(compared, held.count(), "{name} {sequence}: hidden states");
        sequences += 1;
    }
    assert!(sequences > 0);

    let packed = Packed::of(&golden);
    let found = encoder.forward(&packed.batch(), &mut workspace).unwrap().to_vec();
    let expected = golden.floats("batch.logits");
    let expected: Vec<f32> = match per_token {
        true => packed.places.iter().flat_map(|&p| expected[p * n..(p + 1) * n].to_vec()).collect(),
        false => expected,
    };
    let d = distance(&found, &expected);
    assert!(d <= LOGITS, "{name} batch: {d:e}");

    encoder.train_all();
    let labels: Vec<i32> = golden.ints("train.labels").iter().map(|&l| l as i32).collect();
    let labels = if per_token { packed.real(&labels) } else { labels };
    let labelled = labels.iter().filter(|&&l| l != -100).count();
    let labels = if per_token { Labels::Tokens(&labels) } else { Labels::Classes(&labels) };
    encoder.zero_gradients();
    let loss =
        encoder.loss_and_gradients(&packed.batch(), &labels, &options(labelled), &mut workspace).unwrap();
    assert_eq!(loss.labelled, labelled);
    assert!(
        (loss.mean() - f64::from(golden.floats("train.loss")[0])).abs() <= 5e-6,
        "{name}: {}",
        loss.mean()
    );
    assert_eq!(check_gradients(&golden, "grad.", &mut encoder), gradients, "{name}");
    let first: Vec<Vec<f32>> = encoder.parameters().iter().map(|p| p.grad.to_vec()).collect();

    // Computing activations again changes no bit.
    encoder.zero_gradients();
    let again = StepOptions { checkpoint: Checkpoint::EveryBlock, ..options(labelled) };
    encoder.loss_and_gradients(&packed.batch(), &labels, &again, &mut workspace).unwrap();
    for (parameter, first) in encoder.parameters().iter().zip(&first) {
        assert_eq!(parameter.grad, &first[..], "{}", parameter.name);
    }

    if golden.has("multilabel.loss") {
        let several = golden.floats("multilabel.labels");
        encoder.zero_gradients();
        let labels = Labels::Several(&several);
        let loss = encoder
            .loss_and_gradients(&packed.batch(), &labels, &options(several.len()), &mut workspace)
            .unwrap();
        assert!((loss.mean() - f64::from(golden.floats("multilabel.loss")[0])).abs() <= 5e-6, "{name}");
        assert!(check_gradients(&golden, "multilabel.grad.", &mut encoder) >= 2);
    }
}

#[test]
fn bert_agrees() {
    check_all("bert", 5 + 3 * 16 + 5);
    check_all("bert/token_cls", 5 + 3 * 16 + 2);
}

#[test]
fn roberta_agrees() {
    check_all("roberta", 5 + 3 * 16 + 5);
}

#[test]
fn other_heads_agree() {
    // A subset of the gradients is in these files.
    for name in ["bert/seq_cls", "roberta/seq_cls", "roberta/token_cls"] {
        let Some((_, golden)) = oracle(name) else { return };
        let count = golden.0.names().filter(|n| n.starts_with("grad.")).count();
        assert!(count >= 16 + 4, "{count}");
        check_all(name, count);
    }
}

#[test]
fn old_pickled_files_are_the_same_model() {
    let Some((dir, golden)) = oracle("bert") else { return };
    let ids: Vec<u32> = golden.ints("seq0.input_ids").iter().map(|&i| i as u32).collect();
    let cu = [0, ids.len() as u32];
    let run = |dir: &Path| {
        let encoder = Encoder::load(dir, Dtype::F32).unwrap();
        encoder.forward(&alone(&ids, &cu), &mut Workspace::new()).unwrap().to_vec()
    };
    assert_eq!(run(&dir), run(&dir.join("bin_legacy")));
}

/// The reference's own bf16 run differs from its f32 run by a measured maximum; ours may by twice that.
#[test]
fn bf16_products_stay_within_the_reference_noise() {
    for (name, max) in [("bert", 0.0236), ("roberta", 0.0182)] {
        let Some((dir, golden)) = oracle(name) else { return };
        let ids: Vec<u32> = golden.ints("seq0.input_ids").iter().map(|&i| i as u32).collect();
        let encoder = Encoder::load(&dir, Dtype::Bf16).unwrap();
        let cu = [0, ids.len() as u32];
        let mut workspace = Workspace::new();
        let found = encoder.forward(&alone(&ids, &cu), &mut workspace).unwrap();
        let d = distance(found, &golden.floats("seq0.logits"));
        assert!(d < 2.0 * max && d > 1e-4, "{name}: {d:e}");
    }
}

fn tiny(model_type: &str, class: &str) -> EncoderConfig {
    let json = serde_json::json!({
        "model_type": model_type, "architectures": [class], "vocab_size": 29, "hidden_size": 12,
        "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 16,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "initializer_range": 0.3, "pad_token_id": 1,
        "id2label": {"0": "O", "1": "B-Disease", "2": "I-Disease"}
    });
    EncoderConfig::from_json(&json, Path::new("config.json")).unwrap()
}

/// Gradients of random directions against central differences, for every task, away from zero biases and unit norms. The padding
/// token, whose row learns nothing, is not among the tokens.
#[test]
fn gradients_are_those_of_the_loss() {
    let ids: Vec<u32> = (0..12).map(|i| (i * 7 + 3) % 27 + 2).collect();
    let types: Vec<u32> = (0..12).map(|i| u32::from(i % 5 > 2)).collect();
    let batch = EncoderBatch { ids: &ids, token_types: &types, cu_seqlens: &[0, 5, 12] };
    let tokens: Vec<i32> = (0..12).map(|i| if i % 4 == 3 { -100 } else { i % 3 }).collect();
    let several = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
    let cases: [(&str, &str, Labels<'_>); 4] = [
        ("bert", "BertForTokenClassification", Labels::Tokens(&tokens)),
        ("roberta", "RobertaForMaskedLM", Labels::Tokens(&tokens)),
        ("bert", "BertForSequenceClassification", Labels::Classes(&[2, 0])),
        ("roberta", "RobertaForSequenceClassification", Labels::Several(&several)),
    ];
    for (model_type, class, labels) in cases {
        let mut encoder = Encoder::random(tiny(model_type, class), 5).unwrap();
        let mut noise = 1u32;
        let mut next = || {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        for parameter in encoder.parameters() {
            parameter.data.iter_mut().for_each(|v| *v += 0.2 * next());
        }
        let mut workspace = Workspace::new();
        let one = StepOptions { loss_scale: 1.0, ..options(1) };
        encoder.zero_gradients();
        encoder.loss_and_gradients(&batch, &labels, &one, &mut workspace).unwrap();
        let gradients: Vec<(String, Vec<f32>)> =
            encoder.parameters().iter().map(|p| (p.name.to_owned(), p.grad.to_vec())).collect();
        for (i, (name, gradient)) in gradients.iter().enumerate() {
            let direction: Vec<f32> = gradient.iter().map(|_| next()).collect();
            let analytic: f64 =
                gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let h = 2e-3f32;
            let mut at = |step: f32| {
                let move_by = |encoder: &mut Encoder, step: f32| {
                    let mut parameters = encoder.parameters();
                    parameters[i].data.iter_mut().zip(&direction).for_each(|(v, d)| *v += step * d);
                };
                move_by(&mut encoder, step);
                let loss = encoder.loss_and_gradients(&batch, &labels, &one, &mut workspace).unwrap().sum;
                move_by(&mut encoder, -step);
                loss
            };
            let difference = (at(h) - at(-h)) / (2.0 * f64::from(h));
            let length = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt()
                * direction.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
            assert!(
                (difference - analytic).abs() <= 5e-3 * length + 6e-3,
                "{class} {name}: {difference} against {analytic}"
            );
        }
    }
}

#[test]
fn a_saved_encoder_is_the_same_and_takes_a_new_head() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = Encoder::random(tiny("bert", "BertForTokenClassification"), 3).unwrap();
    encoder.save(dir.path(), Dtype::F32).unwrap();
    let ids: Vec<u32> = (2..9).collect();
    let run =
        |encoder: &Encoder| encoder.forward(&alone(&ids, &[0, 7]), &mut Workspace::new()).unwrap().to_vec();
    let loaded = Encoder::load(dir.path(), Dtype::F32).unwrap();
    assert_eq!(run(&loaded), run(&encoder));
    let source = encoder.config().source.clone();
    assert_eq!(EncoderConfig { source, ..loaded.config().clone() }, *encoder.config());

    let task = EncoderTask::SequenceClassification { multi_label: true };
    let labels: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    let new = Encoder::load_with_new_head(dir.path(), task, labels.clone(), 7).unwrap();
    assert_eq!(run(&new).len(), 4);
    let other = tempfile::tempdir().unwrap();
    new.save(other.path(), Dtype::F32).unwrap();
    let config = EncoderConfig::load(other.path()).unwrap();
    assert_eq!((config.task, &config.labels), (task, &labels));
    assert!(EncoderConfig::is_of(other.path()));
    let missing = Encoder::load(&other.path().join("none"), Dtype::F32);
    assert!(missing.is_err());
    let error = taiyi_model::DecoderConfig::load(other.path()).unwrap_err().to_string();
    assert!(error.contains("`model_type`") && error.contains("an encoder, which labels it"), "{error}");
}

#[test]
fn what_cannot_be_run_is_refused() {
    let mut encoder = Encoder::random(tiny("roberta", "RobertaForTokenClassification"), 3).unwrap();
    let mut workspace = Workspace::new();
    let long: Vec<u32> = (0..15).map(|i| i + 2).collect();
    let error = encoder.forward(&alone(&long, &[0, 15]), &mut workspace).unwrap_err();
    assert!(error.to_string().contains("at most 14 tokens"), "{error}");
    let error = encoder.forward(&alone(&[29], &[0, 1]), &mut workspace).unwrap_err();
    assert!(error.to_string().contains("vocabulary size 29"), "{error}");
    let typed = EncoderBatch { ids: &[3], token_types: &[2], cu_seqlens: &[0, 1] };
    assert!(encoder.forward(&typed, &mut workspace).unwrap_err().to_string().contains("token types"));
    let batch = alone(&[3, 4], &[0, 2]);
    for (labels, part) in [
        (Labels::Classes(&[0]), "another task"),
        (Labels::Tokens(&[0]), "expected 2, found 1"),
        (Labels::Tokens(&[0, 3]), "a class under 3"),
    ] {
        let error = encoder.loss_and_gradients(&batch, &labels, &options(1), &mut workspace).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
