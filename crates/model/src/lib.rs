//! Language models: tokenizers, chat formats, the one decoder and the one encoder with their forward and backward passes, weight files and adapters.
//!
//! This crate knows nothing about documents, tasks, optimizers or sampling. The shapes in its docs use these letters: `T`
//! tokens of all sequences together, `D` hidden size, `H` query heads, `G` key and value heads, `d` head size, `F` MLP width,
//! `V` vocabulary, `L` blocks, `r` rank of an adapter.
#![forbid(unsafe_code)]

pub mod adapters;
pub mod architectures;
pub mod batch;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod encoder;
pub mod error;
mod layers;
pub mod plan;
pub mod tokenizer;
pub mod weights;

pub use adapters::{LoraConfig, MergeReport};
pub use batch::{Checkpoint, Logits, Loss, NOT_LEARNED, PackedBatch, Parameter, StepOptions};
pub use config::DecoderConfig;
pub use decoder::{Decoder, Dtype, KvCache};
pub use encoder::{Encoder, EncoderBatch, EncoderConfig, EncoderTask, Labels};
pub use error::Error;
pub use layers::{block::Stage, workspace::Workspace};
