//! Evaluation: run a benchmark, score its replies, report the scores.
//!
//! Predictions are written before they are scored, so that scoring can be repeated without the model. A reply that
//! cannot be parsed is counted, never dropped. This crate does not know where replies come from.
#![forbid(unsafe_code)]

pub mod baselines;
pub mod benchmark;
pub mod bootstrap;
pub mod comparison;
mod error;
pub mod items;
pub mod metrics;
pub mod predictions;
pub mod report;
pub mod run;
pub mod score;

pub use baselines::Baseline;
pub use benchmark::Benchmark;
pub use comparison::Comparison;
pub use error::EvalError;
pub use items::{Gold, Item, ItemOptions, Items, items};
pub use metrics::Metric;
pub use predictions::{Given, Prediction};
pub use report::{BenchmarkReport, EvalReport};
pub use run::{Answerer, Progress, Prompt, Replier, Reply, ReplyError, Run, run, run_with};
pub use score::{Scored, Scores, score};
