//! The one error type of this crate: every variant says where, what was expected and what was found.

use std::path::{Path, PathBuf};

/// Everything that can go wrong while models, tokenizers and adapters are read, run or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read, mapped or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be mapped, or holds a quantised matrix whose parts do not fit together.
    #[error("{}: {source}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: taiyi_kernels::KernelError,
    },
    /// A file that should be JSON is not.
    #[error("{}: not valid JSON: {}", path.display(), clipped(&source.to_string()))]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        source: serde_json::Error,
    },
    /// A weight file breaks its own format.
    #[error("{}: {}: expected {}, found {}", path.display(), clipped(place), clipped(expected), clipped(found))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file: a tensor name, a byte offset, a part of the format.
        place: String,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// No weight file under any of the known names.
    #[error("{}: no weights: expected one of {expected}", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// The file names looked for.
        expected: &'static str,
    },
    /// The architecture needs a tensor that the files do not hold.
    #[error("{}: tensor `{}` is missing (the files hold {held} tensors{})", path.display(), clipped(name), nearest.as_ref().map(|n| format!(", the nearest name is `{}`", clipped(n))).unwrap_or_default())]
    MissingTensor {
        /// The folder or file.
        path: PathBuf,
        /// The tensor asked for.
        name: String,
        /// How many tensors there are.
        held: usize,
        /// A tensor whose name ends alike, if there is one.
        nearest: Option<String>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("{}: tensor `{name}`: expected shape {expected:?}, found {found:?}", path.display())]
    Shape {
        /// The folder or file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that follows from `config.json`.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that cannot become a weight.
    #[error("{}: tensor `{name}`: expected f32, f16 or bf16, found {found}", path.display())]
    ElementType {
        /// The folder or file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type in the file.
        found: String,
    },
    /// `config.json` names an architecture that this program does not have.
    #[error("{}: model_type `{}` is not supported; known: {known}", path.display(), clipped(found))]
    UnknownModelType {
        /// The file.
        path: PathBuf,
        /// The name in the file.
        found: String,
        /// The names that are known, comma-separated.
        known: String,
    },
    /// A key of a configuration file is missing, of the wrong kind or out of range.
    #[error("{}: `{key}`: expected {expected}, found {}", path.display(), clipped(found))]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The input of a forward or training step cannot be run.
    #[error("{place}: expected {expected}, found {found}")]
    Input {
        /// Which input, and where in it.
        place: String,
        /// What is acceptable.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A key/value cache has no room for the tokens it is asked to take.
    #[error("key/value cache: {held} of {capacity} positions are used and {asked} more are asked for")]
    CacheFull {
        /// Positions in use.
        held: usize,
        /// Positions there are.
        capacity: usize,
        /// Positions asked for.
        asked: usize,
    },
    /// An adapter does not fit the model, or uses a method this program does not have.
    #[error("{}: {}: expected {expected}, found {}", path.display(), clipped(place), clipped(found))]
    Adapter {
        /// The adapter's folder or file.
        path: PathBuf,
        /// The key or tensor.
        place: String,
        /// What fits.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// Text out of a stranger's file as it may stand in a message: on one line and not longer than one reads.
pub(crate) fn clipped(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut clipped: String =
        text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        clipped.push('…');
    }
    clipped
}

impl Error {
    /// Wraps an input or output error with the path it concerns.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    /// Wraps an error of the kernels crate, which concerns a file.
    pub(crate) fn kernels(path: &Path) -> impl FnOnce(taiyi_kernels::KernelError) -> Error + '_ {
        move |source| Error::Kernel { path: path.to_owned(), source }
    }

    /// Reports a broken weight file.
    pub(crate) fn malformed(
        path: &Path,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Malformed {
            path: path.to_owned(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Reports an input that cannot be run.
    pub(crate) fn input(
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Input { place: place.into(), expected: expected.into(), found: found.into() }
    }
}
