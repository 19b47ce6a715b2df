//! A folder to work in, the program, and models small enough to make in a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use taiyi_model::tokenizer::{Trainer, TrainerOptions};
use taiyi_model::{Decoder, DecoderConfig, Dtype};
use tempfile::TempDir;

/// What a run of the program left.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }

    /// Asserts exit 0.
    #[track_caller]
    pub(crate) fn fine(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Asserts exit 2 (or 1), nothing on stdout, and one error line that holds all of `parts`, with at most a hint behind it.
    #[track_caller]
    pub(crate) fn refused(self, parts: &[&str]) -> Self {
        assert!(matches!(self.code, Some(1 | 2)), "exit {:?}: {}", self.code, self.stderr);
        assert_eq!(self.stdout, "", "{}", self.stderr);
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.is_empty()).collect();
        let [error, hints @ ..] = lines.as_slice() else { panic!("no error line") };
        assert!(error.starts_with("error: ") && hints.len() <= 1, "{}", self.stderr);
        assert!(hints.iter().all(|hint| hint.starts_with("hint: ")), "{}", self.stderr);
        for part in parts {
            assert!(error.contains(part), "expected `{part}` in: {error}");
        }
        self
    }
}

pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and the folders above it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Names in a folder, hidden ones too, sorted; none where there is no folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program in this folder, so that relative names in arguments are names of the folder.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taiyi"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.root())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("TAIYI_THREADS", "1")
            .env_remove("TAIYI_API_KEY")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program; arguments are parted by blanks.
    pub(crate) fn taiyi(&self, arguments: &str) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }
}

/// Enough text for a vocabulary of two languages.
pub(crate) const TEXT: &str = "aspirin helps against headache and fever; warfarin thins the blood. \
    aspirin and warfarin together may cause bleeding. the patient has diabetes and a headache.\n\
    患者有糖尿病，头痛三天。阿司匹林可以缓解头痛和发热。华法林与阿司匹林合用可引起出血。糖尿病患者头痛。\n";

/// The configuration of a Qwen2 model of a few thousand weights.
pub(crate) fn config(vocab_size: usize) -> serde_json::Value {
    serde_json::json!({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": vocab_size, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu", "initializer_range": 0.4, "torch_dtype": "float32"
    })
}

/// Writes a model folder: random weights, a tokenizer trained on [`TEXT`].
pub(crate) fn tiny_model(dir: &Path, seed: u64) {
    fs::create_dir_all(dir).unwrap();
    let vocab_size = tiny_tokenizer(dir, 400);
    fs::write(dir.join("config.json"), config(vocab_size).to_string()).unwrap();
    let decoder = Decoder::random(DecoderConfig::load(dir).unwrap(), seed).unwrap();
    decoder.save(dir, Dtype::F32).unwrap();
}

/// Writes a tokenizer of at most so many ids, and returns how many it has.
pub(crate) fn tiny_tokenizer(dir: &Path, vocab_size: usize) -> usize {
    let mut trainer = Trainer::new(TrainerOptions { vocab_size, ..TrainerOptions::default() }).unwrap();
    trainer.add(TEXT, 2.0).unwrap();
    let trained = trainer.finish(&mut |_| {}).unwrap();
    trained.save(dir).unwrap();
    trained.vocab_size()
}

/// Puts an adapter with weights that matter beside a model.
pub(crate) fn tiny_adapter(model: &Path, dir: &Path) {
    let mut decoder = Decoder::load(model, Dtype::F32).unwrap();
    let lora = taiyi_model::LoraConfig {
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        targets: vec!["all-linear".to_owned()],
        rslora: false,
        dora: false,
    };
    decoder.add_lora(&lora, 3).unwrap();
    for (at, parameter) in decoder.parameters().into_iter().enumerate() {
        for (i, value) in parameter.data.iter_mut().enumerate() {
            *value += ((i * 31 + at * 17) % 13) as f32 / 13.0 - 0.5;
        }
    }
    decoder.save_adapter(dir, "model").unwrap();
}

/// Question and answer pairs as instruction data.
pub(crate) fn conversations(pairs: &[(&str, &str)]) -> String {
    let line = |(at, (human, assistant)): (usize, &(&str, &str))| {
        let line = serde_json::json!({
            "conversation_id": at + 1, "dataset": "made_up", "category": "QA", "language": "en",
            "conversation": [{"human": human, "assistant": assistant}]
        });
        line.to_string() + "\n"
    };
    pairs.iter().enumerate().map(line).collect()
}

/// A recipe that tunes an adapter on `data.jsonl` with `model`.
pub(crate) const RECIPE: &str = r#"
kind = "sft"
stage = "stage1"
base = "model"
data = "data.jsonl"
seed = 5
dtype = "f32"
lora_rank = 8
lora_alpha = 16
learning_rate = 1e-2
warmup_ratio = 0.1
max_length = 256
per_device_batch = 3
accumulation = 1
epochs = 10
save_every = 5
"#;

pub(crate) const PAIRS: [(&str, &str); 6] = [
    ("Drug in: aspirin helps", "aspirin"),
    ("Drug in: no relief from warfarin, he said", "warfarin"),
    ("疾病：患者有糖尿病", "糖尿病"),
    ("意图：多少钱", "价格"),
    ("Is it fever?", "yes"),
    ("Is it rain? It has been raining for a long, long time and nobody knows", "no"),
];

/// A folder of `../shared` beside the repository, or a line on stderr and `None`.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared/{name} beside the repository");
    None
}
