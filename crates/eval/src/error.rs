//! What can go wrong in evaluation.

use std::path::PathBuf;

use crate::report::figures::FigureError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// No such benchmark.
    #[error("no benchmark is called `{id}`; there are {known}")]
    UnknownBenchmark {
        /// What was asked for.
        id: String,
        /// What there is.
        known: String,
    },
    /// A benchmark file is not right.
    #[error("benchmark `{id}`: {message}")]
    Benchmark {
        /// The benchmark.
        id: String,
        /// What is wrong.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a predictions file is not a prediction.
    #[error("{path}:{line}: expected a prediction with `id` or `document_id`, and `reply` or `prediction`; found {found}")]
    Prediction {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there.
        found: String,
    },
    /// A prediction names a document that the benchmark does not have, or names one twice.
    #[error("{path}:{line}: `{id}` {problem}")]
    PredictionId {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The id.
        id: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The documents cannot be read.
    #[error(transparent)]
    Corpus(#[from] taiyi_corpus::Error),
    /// The prompts cannot be made.
    #[error(transparent)]
    Instruct(#[from] taiyi_instruct::Error),
    /// A figure cannot be drawn.
    #[error(transparent)]
    Figure(#[from] FigureError),
}
