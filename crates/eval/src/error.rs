//! What can go wrong in evaluation.

use std::path::{Path, PathBuf};

use crate::metrics::Metric;
use crate::report::figures::FigureError;
use crate::run::ReplyError;

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
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a predictions file is not a prediction.
    #[error("{}:{line}: expected a prediction with `id` or `document_id`, and `reply` or `prediction`; found {found}", path.display())]
    Prediction {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there.
        found: String,
    },
    /// A prediction names a document that the benchmark does not have, or names one twice.
    #[error("{}:{line}: `{id}` {problem}", path.display())]
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
    /// A metric cannot be applied to what an item asks.
    #[error("{metric} cannot be applied to item `{id}`: its gold is {gold}", metric = metric.name())]
    Metric {
        /// The metric.
        metric: Metric,
        /// The item.
        id: String,
        /// What its gold is.
        gold: &'static str,
    },
    /// The model or endpoint gave up.
    #[error("no reply: {0}")]
    Reply(#[from] ReplyError),
    /// The model or endpoint does not answer prompt by prompt.
    #[error("expected a reply to each of {asked} prompts, found {replied} replies")]
    Replies {
        /// Prompts.
        asked: usize,
        /// Replies.
        replied: usize,
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

impl EvalError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
