//! The loop over a learner that fits on a page: losses, kill and resume, refusals, files.

mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use taiyi_model::Checkpoint;
use taiyi_train::data::{Dataset, TextItem, TextWindows};
use taiyi_train::recipe::Source;
use taiyi_train::{
    Held, HeldOut, Next, Observer, Recipe, Record, Run, RunPlan, Silent, Summary, TokenBytes, TrainError,
};
use tempfile::TempDir;
use tiny::{Bigram, VOCABULARY};

const RECIPE: &str = r#"
    kind = "pretrain"
    stage = "tiny"
    base = "nowhere"
    dtype = "f32"
    seed = 7
    learning_rate = 0.05
    warmup_ratio = 0.1
    max_length = 16
    per_device_batch = 2
    accumulation = 3
    lora_dropout = 0.1
    epochs = 4
    save_every = 4
    [validation]
    every = 10
    data = ["held.txt"]
"#;

fn recipe(change: &[(&str, &str)]) -> Recipe {
    let text = change.iter().fold(RECIPE.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    });
    Recipe::parse(Path::new("tiny.toml"), &text).unwrap()
}

/// Letters in a fixed cycle, with a little noise: a bigram table can learn most of it.
fn text(seed: usize) -> String {
    let line = |n: usize| -> String {
        (0..40)
            .map(|i| {
                char::from(b'a' + ((i * 5 + n * 3 + usize::from((n * i).is_multiple_of(11))) % 26) as u8)
            })
            .collect()
    };
    (seed..seed + 25).map(|n| line(n) + "\n\n").collect()
}

fn dataset(folder: &Path, name: &str, content: &str, recipe: &Recipe) -> Dataset {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    let windows = TextWindows { length: recipe.max_length, end_of_text: 0, attend_across_documents: false };
    let encode = |item: &TextItem| match item {
        TextItem::Document(text) => Ok(text.bytes().map(|byte| u32::from(byte % 31) + 1).collect()),
        TextItem::Conversation(_) => Err("no chat format".to_owned()),
    };
    let store = folder.join(format!("{name}.tokens"));
    Dataset::from_text(&[Source::from_path(path)], &store, windows, recipe.seed, &encode).unwrap()
}

struct Ground {
    folder: TempDir,
    recipe: Recipe,
    learner: Bigram,
}

impl Ground {
    fn new(recipe: Recipe) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), recipe, learner: Bigram::new(true) }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Starts a process, as it were: fresh learner, data read again.
    fn fit(&mut self, resume: bool, observer: &mut dyn Observer<Bigram>) -> Result<Summary, TrainError> {
        let (poison, tensors) = (self.learner.poison, self.learner.tensors);
        self.learner = Bigram::new(true);
        (self.learner.poison, self.learner.tensors) = (poison, tensors);
        let folder = self.folder.path().to_owned();
        let held = dataset(&folder, "held.txt", &text(900), &self.recipe);
        let run = Run {
            recipe: &self.recipe,
            out: &folder.join("out"),
            learner: &mut self.learner,
            data: dataset(&folder, "train.txt", &text(0), &self.recipe),
            held_out: vec![HeldOut { name: "held".to_owned(), data: held }],
            token_bytes: Some(TokenBytes::new(VOCABULARY, |id| usize::from(id != 0))),
            memory: None,
            checkpointing: Checkpoint::None,
            resume,
        };
        run.fit(observer)
    }

    fn metrics(&self) -> Vec<Record> {
        lines(&self.out().join("metrics.jsonl"))
    }
}

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What must be equal in two runs: everything but times and memory.
fn numbers(records: &[Record]) -> Vec<(u64, u64, u64, u64, u64, u64)> {
    let row = |r: &Record| {
        (r.step, r.loss.to_bits(), r.grad_norm.to_bits(), r.learning_rate.to_bits(), r.tokens, r.samples)
    };
    records.iter().map(row).collect()
}

struct KillAfter(u64);

impl Observer<Bigram> for KillAfter {
    fn step(&mut self, record: &Record, _: u64, _: bool) -> Next {
        if record.step == self.0 { Next::Abandon } else { Next::Continue }
    }
}

#[test]
fn the_loss_falls_and_everything_is_written() {
    let mut ground = Ground::new(recipe(&[]));
    let summary = ground.fit(false, &mut Silent).unwrap();
    let records = ground.metrics();
    assert!(summary.finished);
    assert_eq!(summary.steps, records.len() as u64);
    // From B = 0 every token is equally likely.
    assert!((summary.first_loss - (VOCABULARY as f64).ln()).abs() < 1e-6, "{}", summary.first_loss);
    assert!(summary.last_loss < 1.6, "{}", summary.last_loss);
    // 25 documents of 40 letters and 26 marks: 1,025 inputs, 65 windows, 4 epochs, 6 windows a step.
    assert_eq!(summary.total_steps, 44);
    assert_eq!(records.iter().map(|r| r.samples).sum::<u64>(), 260);
    assert_eq!(records.iter().map(|r| r.tokens).sum::<u64>(), 4 * 1025);
    assert!(records[..43].iter().all(|r| r.samples == 6));
    let held: Vec<Held> = lines(&ground.out().join("validation.jsonl"));
    assert_eq!(held.iter().map(|h| h.step).collect::<Vec<_>>(), [10, 20, 30, 40, 44]);
    let last = held.last().unwrap();
    // 1,025 labels, 1,000 of them letters of one byte.
    let expected = last.loss.unwrap() * 1025.0 / std::f64::consts::LN_2 / 1000.0;
    assert!((last.bits_per_byte.unwrap() - expected).abs() < 1e-9);
    assert_eq!(summary.held_out.len(), 1);
    assert_eq!((summary.held_out[0].step, &summary.held_out[0].name), (44, &last.name));
    let svg = fs::read_to_string(ground.out().join("loss.svg")).unwrap();
    assert!(svg.contains("<svg") && svg.contains("held out: held"), "{svg}");
    for name in ["table.bin", "recipe.toml", "manifest.json"] {
        assert!(ground.out().join(name).exists(), "{name}");
    }
    let kept: Vec<_> =
        fs::read_dir(ground.out().join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(kept, ["step-00000044"], "older checkpoints go");
    assert!(!ground.folder.path().join("train.txt.tokens").exists(), "the token store goes");
}

#[test]
fn a_line_of_metrics_has_the_agreed_fields() {
    let mut ground = Ground::new(recipe(&[("epochs = 4", "max_steps = 1")]));
    ground.fit(false, &mut Silent).unwrap();
    let line = fs::read_to_string(ground.out().join("metrics.jsonl")).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&line).unwrap();
    for clock in ["seconds", "tokens_per_second", "peak_memory_bytes"] {
        assert!(value[clock].as_f64().unwrap() > 0.0, "{clock}");
        value[clock] = "(measured)".into();
    }
    // The last digits depend on the vector width of the machine.
    for sum in ["loss", "grad_norm"] {
        value[sum] = format!("{:.4}", value[sum].as_f64().unwrap()).into();
    }
    insta::assert_snapshot!(serde_json::to_string(&value).unwrap());
}

#[test]
fn killed_and_resumed_runs_are_bit_equal() {
    kill_and_resume(recipe(&[]));
}

#[test]
fn killed_and_resumed_runs_of_muon_are_bit_equal() {
    kill_and_resume(recipe(&[("seed = 7", "seed = 7\noptimizer = \"muon\"")]));
}

fn kill_and_resume(recipe: Recipe) {
    let mut whole = Ground::new(recipe.clone());
    whole.fit(false, &mut Silent).unwrap();
    let mut killed = Ground::new(recipe);
    // Before the first checkpoint, right after one, between two, twice in the same place, and at the end.
    for (attempt, step) in [2, 8, 15, 15, 43].into_iter().enumerate() {
        let summary = killed.fit(attempt > 0, &mut KillAfter(step)).unwrap();
        assert!(!summary.finished);
        let expected = [None, None, Some(4), Some(12), Some(12)][attempt];
        assert_eq!(summary.resumed_from, expected, "attempt {attempt}");
    }
    killed.fit(true, &mut Silent).unwrap();
    assert_eq!(numbers(&killed.metrics()), numbers(&whole.metrics()));
    assert_eq!(killed.learner.bits(), whole.learner.bits());
    let losses = |ground: &Ground| {
        lines::<Held>(&ground.out().join("validation.jsonl"))
            .iter()
            .map(|h| (h.step, h.loss))
            .collect::<Vec<_>>()
    };
    assert_eq!(losses(&killed), losses(&whole));
    let table = |ground: &Ground| fs::read(ground.out().join("table.bin")).unwrap();
    assert_eq!(table(&killed), table(&whole));
}

#[test]
fn half_a_line_of_metrics_and_half_a_checkpoint_are_overcome() {
    let mut whole = Ground::new(recipe(&[]));
    whole.fit(false, &mut Silent).unwrap();
    let mut killed = Ground::new(recipe(&[]));
    killed.fit(false, &mut KillAfter(10)).unwrap();
    let metrics = killed.out().join("metrics.jsonl");
    let mut text = fs::read_to_string(&metrics).unwrap();
    text.push_str("{\"step\": 11, \"sta");
    fs::write(&metrics, text).unwrap();
    let checkpoints = killed.out().join("checkpoints");
    fs::create_dir(checkpoints.join("partial-00000012")).unwrap();
    fs::write(checkpoints.join("partial-00000012/training_state.safetensors"), "half").unwrap();
    // A later step whose files are shorter than its manifest says, as after a power cut.
    fs::create_dir(checkpoints.join("step-00000012")).unwrap();
    for entry in fs::read_dir(checkpoints.join("step-00000008")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), checkpoints.join("step-00000012").join(entry.file_name())).unwrap();
    }
    fs::write(checkpoints.join("step-00000012/training_state.safetensors"), "half").unwrap();
    let summary = killed.fit(true, &mut Silent).unwrap();
    assert_eq!(summary.resumed_from, Some(8));
    assert_eq!(numbers(&killed.metrics()), numbers(&whole.metrics()));
}

#[test]
fn stopping_on_request_leaves_a_checkpoint_of_that_step() {
    struct StopAfter(u64, Vec<u64>);
    impl Observer<Bigram> for StopAfter {
        fn step(&mut self, record: &Record, _: u64, _: bool) -> Next {
            if record.step == self.0 { Next::SaveAndStop } else { Next::Continue }
        }
        fn saved(&mut self, step: u64, _: &Path) {
            self.1.push(step);
        }
    }
    let mut ground = Ground::new(recipe(&[]));
    let mut observer = StopAfter(6, Vec::new());
    let summary = ground.fit(false, &mut observer).unwrap();
    assert_eq!((summary.finished, observer.1), (false, vec![4, 6]));
    assert_eq!(ground.fit(true, &mut KillAfter(7)).unwrap().resumed_from, Some(6));
}

#[test]
fn a_run_is_not_written_over_and_not_resumed_with_other_settings() {
    let mut ground = Ground::new(recipe(&[]));
    ground.fit(false, &mut KillAfter(9)).unwrap();
    let again = ground.fit(false, &mut Silent).unwrap_err();
    assert!(
        again.to_string().ends_with("holds a run already; continue it with --resume or choose another --out")
    );
    ground.recipe.learning_rate = 0.1;
    ground.recipe.max_steps = Some(12);
    let other = ground.fit(true, &mut Silent).unwrap_err().to_string();
    assert!(
        other.ends_with("step-00000008: cannot resume: the recipe has changed since: learning_rate"),
        "{other}"
    );
    ground.recipe.learning_rate = 0.05;
    let longer = ground.fit(true, &mut Silent).unwrap();
    assert_eq!((longer.steps, longer.resumed_from), (12, Some(8)));
}

#[test]
fn other_data_cannot_be_resumed() {
    let mut ground = Ground::new(recipe(&[]));
    ground.fit(false, &mut KillAfter(9)).unwrap();
    ground.recipe.seed = 7;
    let folder = ground.folder.path().to_owned();
    let run = Run {
        recipe: &ground.recipe,
        out: &folder.join("out"),
        learner: &mut ground.learner,
        data: dataset(&folder, "train.txt", &text(1), &ground.recipe),
        held_out: Vec::new(),
        token_bytes: None,
        memory: None,
        checkpointing: Checkpoint::None,
        resume: true,
    };
    let error = run.fit(&mut Silent).unwrap_err().to_string();
    assert!(error.ends_with("the data, their repeats or the tokenizer have changed since"), "{error}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
    let mut ground = Ground::new(recipe(&[]));
    ground.fit(false, &mut KillAfter(5)).unwrap();
    // Stands in for a full disk: the temporary name is taken by something that cannot be removed as a folder.
    let blocked = ground.out().join("checkpoints/partial-00000008");
    fs::write(&blocked, "in the way").unwrap();
    let error = ground.fit(true, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("partial-00000008: cannot remove"), "{error}");
    fs::remove_file(blocked).unwrap();
    assert_eq!(ground.fit(true, &mut Silent).unwrap().resumed_from, Some(4));
}

#[test]
fn a_tensor_without_gradient_stops_the_run() {
    let mut ground = Ground::new(recipe(&[]));
    ground.learner.tensors = 3;
    let error = ground.fit(false, &mut Silent).unwrap_err().to_string();
    assert!(error.starts_with("step 1: the gradient of `unused.weight` is exactly zero; "), "{error}");
    assert_eq!(ground.metrics().len(), 0);
}

#[test]
fn a_loss_that_is_not_a_number_names_step_and_samples() {
    let mut ground = Ground::new(recipe(&[]));
    ground.learner.poison = f64::NAN;
    let error = ground.fit(false, &mut Silent).unwrap_err().to_string();
    assert!(error.starts_with("step 1: the loss is NaN; samples of the step: "), "{error}");
    assert_eq!(error.matches("train.txt window ").count(), 2, "the micro-batch of two: {error}");
}

#[test]
fn one_batch_of_six_equals_three_of_two() {
    let run = |batch: &str, accumulation: &str| {
        let changes = [
            ("per_device_batch = 2", batch),
            ("accumulation = 3", accumulation),
            ("lora_dropout = 0.1", "lora_dropout = 0.0"),
        ];
        let mut ground = Ground::new(recipe(&changes));
        ground.fit(false, &mut Silent).unwrap();
        (ground.metrics(), ground.learner.bits())
    };
    let (one, one_bits) = run("per_device_batch = 6", "accumulation = 1");
    let (three, three_bits) = run("per_device_batch = 2", "accumulation = 3");
    for (a, b) in one.iter().zip(&three) {
        assert!((a.loss - b.loss).abs() < 1e-5, "step {}: {} and {}", a.step, a.loss, b.loss);
        assert_eq!((a.tokens, a.labelled_tokens, a.samples), (b.tokens, b.labelled_tokens, b.samples));
    }
    let far = |(a, b): (&u32, &u32)| (f32::from_bits(*a) - f32::from_bits(*b)).abs() > 1e-3;
    assert_eq!(one_bits.iter().zip(&three_bits).filter(|pair| far((pair.0, pair.1))).count(), 0);
}

#[test]
fn every_micro_batch_has_a_dropout_seed_of_its_own() {
    let mut ground = Ground::new(recipe(&[]));
    ground.fit(false, &mut Silent).unwrap();
    let mut seeds = std::mem::take(&mut ground.learner.seeds);
    let count = seeds.len();
    assert!(seeds.iter().all(Option::is_some));
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), count);
}

#[test]
fn the_observer_hears_the_plan_and_may_score() {
    #[derive(Default)]
    struct Watch {
        steps: u64,
        reports: Vec<u64>,
        names: Vec<String>,
    }
    impl Observer<Bigram> for Watch {
        fn starting(&mut self, plan: &RunPlan<'_>) {
            assert_eq!((plan.total_steps, plan.warmup_steps, plan.epoch_samples), (44, 5, 65));
            assert_eq!((plan.trainable, plan.resumed_from), (512, None));
            assert_eq!(plan.data[0].records, 25);
        }
        fn step(&mut self, record: &Record, _: u64, report: bool) -> Next {
            self.steps += 1;
            if report {
                self.reports.push(record.step);
            }
            Next::Continue
        }
        fn validated(&mut self, held: &Held) {
            self.names.push(format!("{}@{}", held.name, held.step));
        }
        fn score(&mut self, step: u64, _: &mut Bigram) -> Vec<(String, f64)> {
            if step == 44 { vec![("strict_micro_f1".to_owned(), 0.5)] } else { Vec::new() }
        }
    }
    let mut ground = Ground::new(recipe(&[("save_every = 4", "save_every = 0\n    log_every = 20")]));
    let mut watch = Watch::default();
    ground.fit(false, &mut watch).unwrap();
    assert_eq!((watch.steps, watch.reports), (44, vec![20, 40, 44]));
    assert_eq!(watch.names, ["held@10", "held@20", "held@30", "held@40", "held@44", "scores@44"]);
    assert!(!ground.out().join("checkpoints").exists(), "save_every = 0 writes none");
}
