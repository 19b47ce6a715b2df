//! taiyi-train
#![forbid(unsafe_code)]

pub mod data;
mod error;
pub mod recipe;
pub mod schedule;
mod shuffle;

pub use error::TrainError;
