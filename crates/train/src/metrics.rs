//! `metrics.jsonl` and `validation.jsonl`: one line a step, one line a measurement.

use crate::TrainError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One optimizer step. The fields are what other people's scripts read: they stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Name of the stage.
    pub stage: String,
    /// Nats per labelled token of the step's samples.
    pub loss: f64,
    /// Learning rate that the step used.
    pub learning_rate: f64,
    /// Euclidean norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Tokens of the step that are learned.
    pub labelled_tokens: u64,
    /// Samples of the step.
    pub samples: u64,
    /// Wall-clock time of the step.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_second: f64,
    /// Largest resident size of the process so far; null where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
}

/// One measurement on held-out data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Optimizer step after which it was made.
    pub step: u64,
    /// Name of the stage.
    pub stage: String,
    /// Name of the held-out source, or "scores" for task metrics.
    pub name: String,
    /// Nats per labelled token; null for task metrics.
    pub loss: Option<f64>,
    /// Tokens that were predicted.
    pub labelled_tokens: u64,
    /// Bits needed per byte of text; null for conversations.
    pub bits_per_byte: Option<f64>,
    /// Task metrics by name, from the scorer the caller hands in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f64>,
    /// Wall-clock time of the measurement.
    pub seconds: f64,
}

/// A JSON-lines file whose lines carry a step.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

/// A line that belongs to a step.
pub(crate) trait Stepped: Serialize + DeserializeOwned {
    fn step(&self) -> u64;
}

impl Stepped for Record {
    fn step(&self) -> u64 {
        self.step
    }
}

impl Stepped for Held {
    fn step(&self) -> u64 {
        self.step
    }
}

impl Log {
    /// Opens a log for appending, cut after the last line of `last_step`, and returns the lines that are kept.
    ///
    /// A killed run may have logged steps after its last checkpoint, and half a line: both go.
    pub(crate) fn open<T: Stepped>(path: PathBuf, last_step: u64) -> Result<(Self, Vec<T>), TrainError> {
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(TrainError::file(&path, "cannot read")(error)),
        };
        let mut kept = Vec::new();
        let mut length = 0;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            match serde_json::from_slice::<T>(line) {
                Ok(record) if line.ends_with(b"\n") && record.step() <= last_step => kept.push(record),
                _ => break,
            }
            length += line.len() as u64;
        }
        let open = || {
            let file = File::options().create(true).append(true).open(&path)?;
            file.set_len(length)?;
            Ok(file)
        };
        let file = open().map_err(TrainError::file(&path, "cannot open"))?;
        Ok((Self { path, file }, kept))
    }

    pub(crate) fn push<T: Stepped>(&mut self, record: &T) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(record).expect("a record holds only numbers and names");
        line.push(b'\n');
        self.file.write_all(&line).map_err(TrainError::file(&self.path, "cannot write"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
