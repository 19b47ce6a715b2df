//! Supervised tuning of a decoder through adapters, from recipe to PEFT folder.

mod small;

use safetensors::tensor::{SafeTensors, TensorView, serialize_to_file};
use std::fs;
use std::path::{Path, PathBuf};
use taiyi_train::data::SourceReport;
use taiyi_train::recipe::Dtype;
use taiyi_train::{
    Held, Next, Observer, Overrides, Recipe, Record, RunPlan, Silent, Summary, TrainError, train,
};
use tempfile::TempDir;

const PAIRS: [(&str, &str); 6] = [
    ("Drug in: aspirin helps", "aspirin"),
    ("Drug in: no relief from warfarin, he said", "warfarin"),
    ("疾病：患者有糖尿病", "糖尿病"),
    ("意图：多少钱", "价格"),
    ("Is it fever?", "yes"),
    ("Is it rain? It has been raining for a long, long time and nobody knows", "no"),
];

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        small::base(&folder.path().join("base"), Some(11));
        let line = |(number, (human, assistant)): (usize, &(&str, &str))| {
            let line = serde_json::json!({
                "conversation_id": number + 1, "dataset": "made_up", "category": "QA", "language": "en",
                "conversation": [{"human": human, "assistant": assistant}]
            });
            line.to_string() + "\n"
        };
        fs::write(folder.path().join("data.jsonl"), PAIRS.iter().enumerate().map(line).collect::<String>())
            .unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn recipe(&self, change: &[(&str, &str)]) -> Recipe {
        let toml = format!(
            r#"
            kind = "sft"
            stage = "stage1"
            base = {base:?}
            data = {data:?}
            seed = 5
            dtype = "f32"
            lora_rank = 8
            lora_alpha = 16
            learning_rate = 2e-2
            warmup_ratio = 0.1
            max_length = 128
            per_device_batch = 3
            accumulation = 1
            epochs = 20
            max_grad_norm = 1.0
            save_every = 5
            "#,
            base = self.path("base"),
            data = self.path("data.jsonl"),
        );
        let toml = change.iter().fold(toml, |text, (old, new)| {
            assert!(text.contains(old), "{old}");
            text.replace(old, new)
        });
        Recipe::parse(Path::new("tuning.toml"), &toml).unwrap()
    }

    fn run(&self, recipe: &Recipe, out: &str) -> Result<Summary, TrainError> {
        train(recipe, &overrides(self.path(out), false), &mut Silent)
    }

    fn records(&self, out: &str) -> Vec<Record> {
        let text = fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn overrides(out: PathBuf, resume: bool) -> Overrides {
    Overrides { out: Some(out), resume, ..Overrides::default() }
}

struct KillAfter(u64);

impl<L: ?Sized> Observer<L> for KillAfter {
    fn step(&mut self, record: &Record, _: u64, _: bool) -> Next {
        if record.step == self.0 { Next::Abandon } else { Next::Continue }
    }
}

#[test]
fn six_answers_are_learned_and_a_second_stage_goes_on() {
    let place = Place::new();
    let before = fs::read(place.path("base/model.safetensors")).unwrap();
    let first = place.run(&place.recipe(&[]), "one").unwrap();
    assert_eq!(first.total_steps, 40);
    assert!(first.first_loss > 4.0 && first.last_loss < 0.7, "{} to {}", first.first_loss, first.last_loss);
    assert!(place.records("one").iter().all(|record| record.samples == 3));
    assert!(fs::read(place.path("base/model.safetensors")).unwrap() == before, "the base stays as it is");
    for name in ["adapter_model.safetensors", "adapter_config.json", "manifest.json", "loss.svg"] {
        assert!(place.path("one").join(name).exists(), "{name}");
    }
    let second = Recipe {
        adapter: Some(place.path("one")),
        learning_rate: 1e-3,
        stage: "stage2".to_owned(),
        epochs: Some(2.0),
        ..place.recipe(&[])
    };
    let second = place.run(&second, "two").unwrap();
    assert!(
        second.first_loss < first.last_loss + 0.5,
        "goes on from {}: {}",
        first.last_loss,
        second.first_loss
    );
    assert_eq!(place.records("two")[0].stage, "stage2");
    let other_rank = Recipe { adapter: Some(place.path("one")), lora_rank: 4, ..place.recipe(&[]) };
    let error = place.run(&other_rank, "three").unwrap_err().to_string();
    assert!(error.contains("`lora_rank` is 4; the adapter to go on with has 8"), "{error}");
}

#[test]
fn a_qlora_run_with_dropout_killed_five_times_changes_no_bit() {
    let place = Place::new();
    let recipe = place.recipe(&[
        ("dtype = \"f32\"", "dtype = \"nf4\"\n lora_dropout = 0.1"),
        ("accumulation = 1", "accumulation = 2\n tokens_per_batch = 128"),
        ("epochs = 20", "epochs = 24"),
    ]);
    place.run(&recipe, "whole").unwrap();
    for step in [2, 6, 13, 14, 21] {
        let summary = train(&recipe, &overrides(place.path("killed"), true), &mut KillAfter(step)).unwrap();
        assert_eq!((summary.finished, summary.steps), (false, step));
    }
    let last = train(&recipe, &overrides(place.path("killed"), true), &mut Silent).unwrap();
    assert_eq!((last.finished, last.resumed_from, last.steps), (true, Some(20), 24));
    let losses = |out: &str| -> Vec<_> {
        place
            .records(out)
            .iter()
            .map(|r| (r.step, r.loss.to_bits(), r.grad_norm.to_bits(), r.tokens))
            .collect()
    };
    assert_eq!(losses("killed"), losses("whole"));
    let adapter = |out: &str| fs::read(place.path(out).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("killed") == adapter("whole"), "adapters differ");
}

#[test]
fn packing_and_accumulation_change_the_speed_and_not_the_loss() {
    let place = Place::new();
    let six = |packing: &str, batch: &str| {
        let batch = format!("{batch}\n {packing}");
        place.recipe(&[
            ("per_device_batch = 3", "per_device_batch = 6"),
            ("accumulation = 1", &batch),
            ("epochs = 20", "epochs = 8"),
        ])
    };
    let mut runs =
        vec![six("tokens_per_batch = 1024", "accumulation = 1"), six("packing = false", "accumulation = 1")];
    runs.push(Recipe { per_device_batch: 2, accumulation: 3, ..runs[1].clone() });
    runs.push(Recipe { tokens_per_batch: Some(128), ..runs[0].clone() });
    let losses: Vec<Vec<Record>> = runs
        .iter()
        .enumerate()
        .map(|(number, recipe)| {
            place.run(recipe, &format!("run{number}")).unwrap();
            place.records(&format!("run{number}"))
        })
        .collect();
    for other in &losses[1..] {
        for (a, b) in losses[0].iter().zip(other) {
            assert!((a.loss - b.loss).abs() < 2e-3 * a.loss, "step {}: {} and {}", a.step, a.loss, b.loss);
            assert_eq!((a.samples, a.tokens, a.labelled_tokens), (b.samples, b.tokens, b.labelled_tokens));
        }
        assert_eq!(losses[0].len(), other.len());
        assert!(
            (losses[0][0].loss - other[0].loss).abs() < 1e-5,
            "before any step they are equal but for rounding"
        );
    }
}

#[test]
fn a_projection_that_leads_nowhere_is_named() {
    let place = Place::new();
    // A zero output projection cuts q, k and v of the last block off from the loss.
    let path = place.path("base/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let dead = "model.layers.1.self_attn.o_proj.weight";
    let zeros = vec![0; tensors.tensor(dead).unwrap().data().len()];
    let changed: Vec<(String, TensorView<'_>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = if name == dead { &zeros } else { view.data() };
            let view = TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap();
            (name, view)
        })
        .collect();
    let copy = place.path("copy.safetensors");
    serialize_to_file(changed, None, &copy).unwrap();
    fs::rename(copy, &path).unwrap();
    let targets = "lora_alpha = 16\n lora_targets = [\"q_proj\", \"v_proj\", \"gate_proj\"]";
    let error = place.run(&place.recipe(&[("lora_alpha = 16", targets)]), "out").unwrap_err();
    let TrainError::ZeroGradient { step: 1, tensor, more } = &error else { panic!("{error}") };
    assert_eq!(tensor, "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight");
    assert_eq!(more, " (and of 1 more)", "v_proj of the same block");
}

#[test]
fn cut_and_empty_samples_are_counted_and_validation_runs() {
    #[derive(Default)]
    struct Watch(Vec<SourceReport>, Vec<Held>);
    impl<L: ?Sized> Observer<L> for Watch {
        fn starting(&mut self, plan: &RunPlan<'_>) {
            self.0 = plan.data.to_vec();
        }
        fn validated(&mut self, held: &Held) {
            self.1.push(held.clone());
        }
    }
    let place = Place::new();
    let validation =
        format!("epochs = 2\n validation = {{ every = 1, data = [{:?}] }}", place.path("data.jsonl"));
    let recipe = place.recipe(&[("max_length = 128", "max_length = 28"), ("epochs = 20", &validation)]);
    let mut watch = Watch::default();
    train(&recipe, &overrides(place.path("out"), false), &mut watch).unwrap();
    let report = &watch.0[0];
    // Every byte is a token, and a mark stands before, between and after. Question and answer of 22 + 7 bytes keep 4 of the
    // answer's 8 tokens; 18 + 6 and 12 + 3 stay whole; the other three questions fill the 28 tokens alone.
    let found = (report.records, report.samples, report.unlabelled, report.truncated);
    assert_eq!(found, (6, 3, 3, 1));
    assert_eq!((report.tokens, report.labelled_tokens), (28 + 27 + 18, 4 + 7 + 4));
    assert_eq!(watch.1.iter().map(|held| held.step).collect::<Vec<_>>(), [1, 2]);
    assert!(watch.1.iter().all(|held| held.name == "data.jsonl" && held.bits_per_byte.is_none()));
    assert!(watch.1[0].loss.unwrap() > 0.0);
}

#[test]
fn every_storage_type_learns() {
    let place = Place::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Nf4] {
        let recipe = Recipe { dtype, epochs: Some(6.0), ..place.recipe(&[]) };
        let summary = place.run(&recipe, &format!("{dtype:?}")).unwrap();
        assert!(summary.last_loss < 0.7 * summary.first_loss, "{dtype:?}: {summary:?}");
    }
    let full = Recipe { lora_rank: 0, learning_rate: 3e-3, epochs: Some(6.0), ..place.recipe(&[]) };
    let summary = place.run(&full, "full").unwrap();
    assert!(summary.last_loss < 0.7 * summary.first_loss, "all parameters: {summary:?}");
    assert!(place.path("full/model.safetensors").exists() && place.path("full/tokenizer.json").exists());
}

#[test]
fn broken_data_name_file_and_line_and_leave_nothing_behind() {
    let place = Place::new();
    let good = fs::read_to_string(place.path("data.jsonl")).unwrap();
    fs::write(place.path("data.jsonl"), good.clone() + "{\"conversation_id\": 7}\n").unwrap();
    let error = place.run(&place.recipe(&[]), "out").unwrap_err().to_string();
    assert!(error.contains("data.jsonl:7: expected a conversation: missing field"), "{error}");
    fs::write(place.path("data.jsonl"), "").unwrap();
    let error = place.run(&place.recipe(&[]), "out").unwrap_err().to_string();
    assert!(error.contains("data.jsonl: 0 samples from 0 records"), "{error}");
    fs::write(place.path("data.jsonl"), good).unwrap();
    let error =
        place.run(&place.recipe(&[("max_length = 128", "max_length = 2")]), "out").unwrap_err().to_string();
    assert!(error.contains("6 without a learned token"), "{error}");
    let left: Vec<_> = fs::read_dir(place.path("out")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let recipe = Recipe { lora_targets: vec!["q_prj".to_owned()], ..place.recipe(&[]) };
    let error = place.run(&recipe, "out").unwrap_err().to_string();
    assert!(error.contains("q_prj") && error.contains("q_proj"), "{error}");
}
