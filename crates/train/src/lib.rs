//! Trains a decoder: continued pre-training on raw text, and supervised tuning on conversations with (Q)LoRA; and an encoder: labels of
//! tokens or of texts, on documents.
//!
//! A [`Recipe`] says everything; [`train`] does it. A run writes, into its `out` folder:
//!
//! ```text
//! recipe.toml          the recipe with defaults and overrides
//! metrics.jsonl        one line an optimizer step ([`Record`])
//! validation.jsonl     one line a measurement on held-out data ([`Held`])
//! loss.svg             both, drawn
//! checkpoints/step-N/  everything needed to go on; the newest is kept
//! adapter_model.safetensors, adapter_config.json     (or model.safetensors, config.json, tokenizer): the result
//! manifest.json        the [`Summary`]; written last, so that its presence means "complete"
//! ```
//!
//! The crate knows nothing of tasks, scores or terminals: the caller watches through an [`Observer`].
#![forbid(unsafe_code)]

mod checkpoint;
pub mod data;
mod decoder;
mod encoder;
mod error;
mod fit;
mod labelling;
mod learner;
pub mod memory;
mod metrics;
mod observer;
mod optimizer;
mod plan;
mod plot;
pub mod recipe;
pub mod schedule;
mod shuffle;
mod train;
mod validate;

pub use decoder::DecoderLearner;
pub use encoder::EncoderLearner;
pub use error::TrainError;
pub use fit::{HeldOut, Run, Summary};
pub use learner::Learner;
pub use metrics::{Held, Record};
pub use observer::{Next, Observer, RunPlan, Silent};
pub use plan::MemoryPlan;
pub use recipe::{Overrides, Recipe};
pub use train::{evaluate_bits_per_byte, train};
pub use validate::{BitsPerByte, LossOf, TokenBytes, Windows, bits_per_byte};
