//! The arguments that name a model, and what loading it says.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};
use taiyi_infer::{LabelModel, LoadOptions, ReplyModel};
use taiyi_model::plan::{OptimizerBytes, Plan, PlanOptions, Training, plan};
use taiyi_model::{Checkpoint, DecoderConfig, Dtype, EncoderConfig, LoraConfig};
use taiyi_train::memory::{available_memory_bytes, human_bytes};

use crate::embedded;
use crate::failure::Failure;
use crate::terminal;

/// How weights are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Storage {
    /// 4 bytes a weight, exact products.
    F32,
    /// 2 bytes a weight, products of bf16 operands.
    Bf16,
    /// About half a byte a weight (bitsandbytes' NF4 with double quantisation).
    Nf4,
}

impl Storage {
    /// The engine's name for it.
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            Self::Nf4 => Dtype::Nf4,
        }
    }

    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Nf4 => "nf4",
        }
    }
}

/// The model that replies.
#[derive(Args)]
pub(crate) struct ModelArguments {
    /// Model folder in the Hugging Face layout (default: the embedded taiyi-nano).
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// PEFT adapter folder to put on the model.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// How weights are held in memory.
    #[arg(long, value_enum, default_value_t = Storage::Bf16)]
    pub(crate) dtype: Storage,
    /// Chat format in place of the model folder's own, such as taiyi1, chatml, glm4 or llama3.
    #[arg(long, value_name = "NAME")]
    pub(crate) chat_format: Option<String>,
}

impl ModelArguments {
    /// The model's folder.
    pub(crate) fn folder(&self) -> Result<PathBuf, Failure> {
        let folder = embedded::model_dir(self.model.clone())?;
        check_folders(&folder, self.adapter.as_deref())?;
        Ok(folder)
    }

    /// Loads the model of a folder that [`ModelArguments::folder`] gave.
    pub(crate) fn load(&self, folder: &Path) -> Result<ReplyModel, Failure> {
        check_memory(folder, self.dtype)?;
        let options = LoadOptions {
            dtype: self.dtype.dtype(),
            adapter: self.adapter.clone(),
            chat_format: self.chat_format.clone(),
        };
        let model = ReplyModel::load(folder, &options)?;
        terminal::note(&format!(
            "{}{}: {} weights as {}, chat format {}",
            folder.display(),
            self.adapter.as_ref().map(|adapter| format!(" with {}", adapter.display())).unwrap_or_default(),
            model.decoder().config().parameter_count(),
            self.dtype.name(),
            model.format().name(),
        ));
        Ok(model)
    }

    /// Whether the folder holds an encoder, which labels and does not reply. One that cannot be read does not.
    pub(crate) fn is_encoder(&self) -> bool {
        self.model.as_deref().is_some_and(EncoderConfig::is_of)
    }

    /// Loads the encoder of a folder, and says what it is once `fits` finds it fit for what it is to do.
    pub(crate) fn load_encoder(
        &self,
        folder: &Path,
        fits: impl FnOnce(&LabelModel) -> Result<(), Failure>,
    ) -> Result<LabelModel, Failure> {
        let unused = [
            ("adapter", self.adapter.as_ref().map(|adapter| adapter.display().to_string())),
            ("chat-format", self.chat_format.clone()),
        ];
        for (name, value) in unused {
            if let Some(value) = value {
                return Err(Failure::new(format!(
                    "--{name} {value}: expected none, {} is an encoder",
                    folder.display()
                )));
            }
        }
        let model = LabelModel::load(folder, self.dtype.dtype()).map_err(|error| {
            Failure::new(format!("{}: {}", folder.display(), Failure::from(error).message))
        })?;
        fits(&model)?;
        let labels = model.types().or_else(|| model.classes()).unwrap_or_default();
        terminal::note(&format!(
            "{}: {} weights as {}, labels: {}",
            folder.display(),
            model.encoder().parameter_count(),
            self.dtype.name(),
            labels.join(", "),
        ));
        Ok(model)
    }

    /// A name that tells models apart: replies of one are never taken for another's. The folder's and the adapter's names,
    /// each with a hash of its files.
    pub(crate) fn label(&self, folder: &Path) -> Result<String, Failure> {
        let mut parts = vec![named(folder)?];
        if let Some(adapter) = &self.adapter {
            parts.push(named(adapter)?);
        }
        parts.push(self.dtype.name().to_owned());
        parts.extend(self.chat_format.clone());
        Ok(parts.join(" "))
    }
}

/// Says early, and in one line, that a folder is none.
pub(crate) fn check_folders(model: &Path, adapter: Option<&Path>) -> Result<(), Failure> {
    for (folder, what, file) in [
        (Some(model), "a model folder", "config.json"),
        (adapter, "an adapter folder", "adapter_config.json"),
    ] {
        let Some(folder) = folder else { continue };
        let is_one = match file {
            "config.json" => taiyi_model::weights::is_model(folder),
            _ => folder.join(file).is_file(),
        };
        if !is_one {
            let found = match (folder.is_dir(), folder.exists()) {
                (true, _) => "a folder without one",
                (false, true) => "a file",
                (false, false) => "nothing there",
            };
            return Err(Failure::new(format!(
                "{}: expected {what} with `{file}`, found {found}",
                folder.display()
            )));
        }
    }
    Ok(())
}

/// Weights of the largest model worth a plan; far more is a damaged configuration.
const MOST_WEIGHTS: f64 = 1e13;

/// Where the memory of an inference goes; `None` where the configuration is no model's.
pub(crate) fn inference_plan(
    config: &DecoderConfig,
    storage: Storage,
    cached_tokens: usize,
) -> Result<Option<Plan>, Failure> {
    // In floating point, because the products of a damaged configuration overflow.
    let [d, f, v, layers] =
        [config.hidden_size, config.intermediate_size, config.vocab_size, config.num_hidden_layers]
            .map(|n| n as f64);
    let heads = (config.query_size() + config.key_size()) as f64;
    if layers * (2.0 * d * heads + 3.0 * d * f) + 2.0 * v * d > MOST_WEIGHTS || layers > 1e4 {
        return Ok(None);
    }
    // Nothing is trained: an adapter without a target.
    let untrained =
        LoraConfig { rank: 1, alpha: 1.0, dropout: 0.0, targets: Vec::new(), rslora: false, dora: false };
    Ok(Some(plan(
        config,
        &PlanOptions {
            dtype: storage.dtype(),
            precision: storage.dtype().precision(),
            training: Training::Lora(&untrained),
            optimizer: OptimizerBytes::NONE,
            tokens: 0,
            longest: 1,
            labelled: 0,
            checkpoint: Checkpoint::EveryBlock,
            cached_tokens,
        },
    )?))
}

/// Refuses a model whose weights alone are more than the memory left.
pub(crate) fn check_memory(folder: &Path, storage: Storage) -> Result<(), Failure> {
    let config = DecoderConfig::load(folder)?;
    let Some(available) = available_memory_bytes() else { return Ok(()) };
    // What is no model at all is the loader's to refuse, with the tensor that is wrong.
    let Some(plan) = inference_plan(&config, storage, 0)? else { return Ok(()) };
    let needed = plan.weights as u64;
    if needed <= available {
        return Ok(());
    }
    let mut smaller = Vec::new();
    for other in [Storage::Bf16, Storage::Nf4] {
        if inference_plan(&config, other, 0)?.is_some_and(|plan| plan.weights as u64 <= available) {
            smaller.push(format!("--dtype {}", other.name()));
        }
    }
    let failure = Failure::new(format!(
        "{}: the weights as {} need {} and {} is available",
        folder.display(),
        storage.name(),
        human_bytes(needed),
        human_bytes(available)
    ));
    Err(match smaller.first() {
        Some(option) => failure.hint(format!("{option} fits")),
        None => failure.hint("use a smaller model or a machine with more memory"),
    })
}

/// Bytes at each end of a file that go into its hash; a trained file differs in both.
const SAMPLED: u64 = 1 << 20;

/// A folder's name with a hash of what decides its replies.
fn named(folder: &Path) -> Result<String, Failure> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| Failure::new(format!("{path}: cannot be read: {error}"))
    };
    let decides = |path: &PathBuf| {
        let ending = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let endings = ["json", "safetensors", "bin", "tiktoken", "model", "jinja", "txt", "gguf"];
        path.is_file() && endings.contains(&ending)
    };
    // A GGUF file is a model without a folder.
    let mut files: Vec<PathBuf> = if folder.is_file() {
        vec![folder.to_owned()]
    } else {
        let entries = std::fs::read_dir(folder).map_err(failed(folder))?;
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(decides).collect()
    };
    files.sort();
    let mut hash = Sha256::new();
    for path in files {
        let mut file = std::fs::File::open(&path).map_err(failed(&path))?;
        let length = file.metadata().map_err(failed(&path))?.len();
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(length.to_le_bytes());
        let mut bytes = Vec::new();
        file.by_ref().take(SAMPLED).read_to_end(&mut bytes).map_err(failed(&path))?;
        if length > 2 * SAMPLED {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(-(SAMPLED as i64)))
                .map_err(failed(&path))?;
        }
        file.take(SAMPLED).read_to_end(&mut bytes).map_err(failed(&path))?;
        hash.update(&bytes);
    }
    let digest: String = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    // `.` and `..` have no name of their own.
    let folder = folder.canonicalize().map_err(failed(folder))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("{name}#{digest}"))
}
