//! Pre-training a decoder from random weights, from recipe to checkpoint.

mod small;

use std::fs;
use std::path::{Path, PathBuf};
use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::{Decoder, Dtype};
use taiyi_train::{
    Held, Next, Observer, Overrides, Recipe, Record, RunPlan, Silent, TrainError, Windows,
    evaluate_bits_per_byte, train,
};
use tempfile::TempDir;

const TEXT: [&str; 3] = [
    "Aspirin relieves headache; warfarin prevents thrombosis.",
    "阿司匹林缓解头痛，华法林预防血栓。",
    "Insulin lowers glucose in diabetes mellitus.",
];

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        small::base(&folder.path().join("base"), None);
        let lines: String =
            TEXT.iter().map(|text| serde_json::json!({"text": text}).to_string() + "\n").collect();
        fs::write(folder.path().join("text.jsonl"), lines).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn recipe(&self, precision: &str, steps: u64) -> Recipe {
        let text = self.path("text.jsonl");
        let toml = format!(
            r#"
            kind = "pretrain"
            stage = "pretrain"
            base = {base:?}
            from_scratch = true
            data = {text:?}
            seed = 3
            dtype = "f32"
            precision = "{precision}"
            learning_rate = 1e-2
            schedule = "warmup_stable_decay"
            warmup_steps = 4
            weight_decay = 0.01
            betas = [0.9, 0.95]
            max_length = 32
            per_device_batch = 2
            accumulation = 2
            max_steps = {steps}
            save_every = 5
            [validation]
            every = 20
            data = [{{ name = "same", path = {text:?} }}]
            "#,
            base = self.path("base"),
        );
        Recipe::parse(Path::new("pretrain.toml"), &toml).unwrap()
    }
}

fn out(path: PathBuf, resume: bool) -> Overrides {
    Overrides { out: Some(path), resume, ..Overrides::default() }
}

fn records(folder: &Path) -> Vec<Record> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

struct KillAfter(u64);

impl<L: ?Sized> Observer<L> for KillAfter {
    fn step(&mut self, record: &Record, _: u64, _: bool) -> Next {
        if record.step == self.0 { Next::Abandon } else { Next::Continue }
    }
}

#[test]
fn three_sentences_are_learned_by_heart_and_written_as_a_checkpoint() {
    #[derive(Default)]
    struct Watch(Option<String>, Vec<Held>);
    impl<L: ?Sized> Observer<L> for Watch {
        fn starting(&mut self, plan: &RunPlan<'_>) {
            self.0 = Some(plan.memory.unwrap().to_string());
        }
        fn validated(&mut self, held: &Held) {
            self.1.push(held.clone());
        }
    }
    let place = Place::new();
    let folder = place.path("out");
    let mut watch = Watch::default();
    let summary = train(&place.recipe("f32", 60), &out(folder.clone(), false), &mut watch).unwrap();
    assert!(watch.0.unwrap().contains("optimizer"), "the memory plan comes before the first step");
    assert!((summary.first_loss - 5.6).abs() < 0.4, "about ln 264 at the start: {}", summary.first_loss);
    assert!(summary.last_loss < 0.5, "{}", summary.last_loss);
    assert_eq!(watch.1.iter().map(|held| held.step).collect::<Vec<_>>(), [20, 40, 60]);
    assert!(watch.1[2].bits_per_byte.unwrap() < watch.1[0].bits_per_byte.unwrap());

    // The folder stands alone: weights, configuration, tokenizer.
    let tokenizer = Tokenizer::load(&folder).unwrap();
    assert_eq!(tokenizer.vocab_size(), small::VOCABULARY);
    let decoder = Decoder::load(&folder, Dtype::F32).unwrap();
    // Measured on its own, as `taiyi eval` would: the same text, every document apart.
    let windows = Windows { length: 32, stride: 16 };
    let measured = evaluate_bits_per_byte(&decoder, &tokenizer, TEXT, windows).unwrap();
    assert_eq!(measured.bytes, TEXT.iter().map(|text| text.len() as u64).sum::<u64>());
    assert!(measured.bits_per_byte < 1.5, "{measured:?}");
}

#[test]
fn five_kills_change_no_bit_in_either_precision() {
    for precision in ["f32", "bf16"] {
        let place = Place::new();
        let recipe = place.recipe(precision, 24);
        let (whole, killed) = (place.path("whole"), place.path("killed"));
        train(&recipe, &out(whole.clone(), false), &mut Silent).unwrap();
        for step in [3, 7, 11, 16, 22] {
            let summary = train(&recipe, &out(killed.clone(), true), &mut KillAfter(step)).unwrap();
            assert_eq!((summary.finished, summary.steps), (false, step));
        }
        let summary = train(&recipe, &out(killed.clone(), true), &mut Silent).unwrap();
        assert_eq!((summary.finished, summary.resumed_from), (true, Some(20)));
        let losses = |folder: &Path| {
            records(folder)
                .iter()
                .map(|r| (r.step, r.loss.to_bits(), r.grad_norm.to_bits()))
                .collect::<Vec<_>>()
        };
        assert_eq!(losses(&killed), losses(&whole), "{precision}");
        let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
        assert!(weights(&killed) == weights(&whole), "{precision}: weights differ");
    }
}

#[test]
fn a_model_that_cannot_fit_is_refused_before_anything_is_allocated() {
    let place = Place::new();
    let path = place.path("base/config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["hidden_size"] = 65536.into();
    config["intermediate_size"] = 262_144.into();
    config["num_hidden_layers"] = 100.into();
    fs::write(&path, config.to_string()).unwrap();
    let result = train(&place.recipe("f32", 1), &out(place.path("out"), false), &mut Silent);
    let Err(error) = result else { panic!("no machine has that much") };
    if taiyi_train::memory::available_memory_bytes().is_none() {
        eprintln!("skipped: this system does not tell its memory ({error})");
        return;
    }
    assert!(matches!(error, TrainError::Memory { .. }), "{error}");
    assert!(error.to_string().contains("nothing in the recipe would"), "{error}");
    assert!(!place.path("out/metrics.jsonl").exists());
}

#[test]
fn a_recipe_without_paths_says_which_is_missing() {
    let place = Place::new();
    let recipe = place.recipe("f32", 1);
    let error = train(&recipe, &Overrides::default(), &mut Silent).unwrap_err().to_string();
    assert_eq!(error, "pretrain.toml: `out` is missing; expected a path, here or on the command line");
    let error = train(&Recipe { data: Vec::new(), ..recipe }, &out(place.path("out"), false), &mut Silent)
        .unwrap_err();
    assert!(error.to_string().contains("`data` is missing"), "{error}");
    assert!(!place.path("out").exists());
}
