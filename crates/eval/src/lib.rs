//! Evaluation: run a benchmark, score its replies, report the scores.
//!
//! Predictions are written before they are scored, so that scoring can be repeated without the model. A reply that
//! cannot be parsed is counted, never dropped. This crate does not know where replies come from.
#![forbid(unsafe_code)]

pub mod benchmark;
pub mod bootstrap;
mod error;
pub mod metrics;
pub mod report;

pub use error::EvalError;
