use std::io;
use std::path::{Path, PathBuf};

/// Everything that can stop a training run, with where it happened and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe is not valid TOML or holds a key or a type it should not.
    #[error("{}:{line}: {message}", file.display())]
    Recipe {
        /// The recipe file.
        file: PathBuf,
        /// One-based line of the offending key.
        line: usize,
        /// What is wrong, with the nearest known key where the key is unknown.
        message: String,
    },
    /// The recipe is well formed, but a value (or a pair of values) makes no sense.
    #[error("{}: `{key}` is {found}; expected {expected}", file.display())]
    Value {
        /// The recipe file.
        file: PathBuf,
        /// The key in question.
        key: &'static str,
        /// The value it has.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A file could not be read or written.
    #[error("{}: {action}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done with it, as a verb phrase ("cannot read").
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A line of a data file cannot be used.
    #[error("{}:{line}: {message}", path.display())]
    Data {
        /// The data file.
        path: PathBuf,
        /// One-based line.
        line: u64,
        /// What was expected and what was found.
        message: String,
    },
    /// The data files hold nothing that can be learned.
    #[error("{}: {message}", path.display())]
    Empty {
        /// The data file (the first, if there are several).
        path: PathBuf,
        /// What was counted on the way.
        message: String,
    },
    /// The plan needs more memory than the machine has left.
    #[error("the run needs {needed} and {available} is available; {hint}")]
    Memory {
        /// Bytes the plan adds up to, for people.
        needed: String,
        /// Bytes available, for people.
        available: String,
        /// Changes of the recipe that would fit.
        hint: String,
    },
    /// A trainable tensor received no gradient: it would never train.
    #[error(
        "step {step}: the gradient of `{tensor}` is exactly zero{more}; the tensor takes no part in the loss, \
         so training it is a mistake in `lora_targets` or in the checkpoint"
    )]
    ZeroGradient {
        /// One-based optimizer step.
        step: u64,
        /// The first such tensor in the model's order.
        tensor: String,
        /// " (and 11 more)" or nothing.
        more: String,
    },
    /// The loss or a gradient stopped being a number.
    #[error("step {step}: {what} is {found}; samples of the step: {samples}")]
    NotFinite {
        /// One-based optimizer step.
        step: u64,
        /// "the loss", or the name of the first tensor in question.
        what: String,
        /// `NaN` or `inf`.
        found: String,
        /// Where the samples of the step come from.
        samples: String,
    },
    /// `--resume` found a checkpoint of another recipe, model or data.
    #[error("{}: cannot resume: {message}", path.display())]
    Resume {
        /// The checkpoint folder.
        path: PathBuf,
        /// What differs: expected and found.
        message: String,
    },
    /// The output folder holds a run already, and `--resume` was not given.
    #[error("{} holds a run already; continue it with --resume or choose another --out", path.display())]
    Occupied {
        /// The output folder.
        path: PathBuf,
    },
    /// The model could not be loaded, trained or saved.
    #[error(transparent)]
    Model(#[from] taiyi_model::Error),
    /// The tokenizer or the chat format could not be loaded, or does not fit the model.
    #[error(transparent)]
    Tokenizer(#[from] taiyi_model::tokenizer::TokenizerError),
    /// The loss plot could not be drawn.
    #[error("{}: cannot draw the loss: {message}", path.display())]
    Plot {
        /// The SVG file.
        path: PathBuf,
        /// The drawing library's reason.
        message: String,
    },
}

impl TrainError {
    pub(crate) fn file(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, action, source }
    }
}
