//! What an encoder computes, from the shell.

use std::cell::RefCell;
use std::path::Path;

use serde::{Deserialize, Serialize};
use taiyi_model::weights::{ElementType, SafetensorsWriter};
use taiyi_model::{Encoder, EncoderBatch, EncoderConfig, EncoderTask, Workspace};

use super::{Checkpoint, make_parent};
use crate::failure::{CommandResult, Failure, Outcome};
use crate::terminal::{self, Progress};

/// Sequences of ids, and the types of their tokens where the file has them.
#[derive(Deserialize)]
struct Tokens {
    input_ids: Vec<Vec<u32>>,
    #[serde(default)]
    token_type_ids: Vec<Vec<u32>>,
}

/// Writes `logits_0`, `logits_1`, …: (tokens, outputs), or (labels) of a classifier of sequences.
pub(super) fn logits(checkpoint: &Checkpoint, tokens: &Path, out: &Path) -> CommandResult {
    if let Some(adapter) = &checkpoint.adapter {
        return Err(Failure::new(format!(
            "--adapter {}: expected none, {} is an encoder and its adapters are not supported",
            adapter.display(),
            checkpoint.model.display()
        )));
    }
    let bytes = std::fs::read(tokens)
        .map_err(|error| Failure::new(format!("{}: cannot be read: {error}", tokens.display())))?;
    let expected =
        "expected {\"input_ids\": [[…], …]}, with or without \"token_type_ids\" of the same lengths";
    let given: Tokens = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(format!("{}: {expected}: {error}", tokens.display())))?;
    let lengths = |rows: &[Vec<u32>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
    let typed = !given.token_type_ids.is_empty();
    if given.input_ids.is_empty() || typed && lengths(&given.token_type_ids) != lengths(&given.input_ids) {
        return Err(Failure::new(format!("{}: {expected}", tokens.display())));
    }
    let encoder = Encoder::load(&checkpoint.model, checkpoint.dtype.dtype())?;
    let state = RefCell::new(Workspace::default());
    let run = |at: usize| {
        let ids = &given.input_ids[at];
        let cu_seqlens = [0, ids.len() as u32];
        let token_types = given.token_type_ids.get(at).map_or(&[][..], Vec::as_slice);
        let batch = EncoderBatch { ids, token_types, cu_seqlens: &cu_seqlens };
        encoder.forward(&batch, &mut state.borrow_mut()).map(<[f32]>::to_vec)
    };
    make_parent(out)?;
    let progress = Progress::new("logits", given.input_ids.len() as u64, "sequences");
    // Sequences of an encoder are short; all are run before anything is written, because any of them may be refused.
    let mut all = Vec::with_capacity(given.input_ids.len());
    for at in 0..given.input_ids.len() {
        all.push(run(at)?);
        progress.set(at as u64 + 1, "");
    }
    progress.finish();
    let outputs = encoder.config().outputs();
    let mut writer = SafetensorsWriter::default();
    for (at, logits) in all.iter().enumerate() {
        let shape = match encoder.config().task {
            EncoderTask::SequenceClassification { .. } => vec![outputs],
            _ => vec![logits.len() / outputs, outputs],
        };
        writer.add(format!("logits_{at}"), ElementType::F32, &shape, || logits.clone());
    }
    writer.write(out)?;
    Ok(Outcome::Fine)
}

/// Prints what an encoder is.
pub(super) fn info(model: &Path, json: bool) -> CommandResult {
    #[derive(Serialize)]
    struct Info {
        model_type: String,
        task: &'static str,
        labels: Vec<String>,
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_hidden_layers: usize,
        num_attention_heads: usize,
        head_dim: usize,
        max_position_embeddings: usize,
        /// Whether the folder holds the weights, or a configuration alone.
        has_weights: bool,
    }
    let (config, has_weights) = match Encoder::check(model) {
        Err(taiyi_model::Error::NoWeights { .. }) => (EncoderConfig::load(model)?, false),
        checked => (checked?, true),
    };
    let info = Info {
        model_type: config.model_type.clone(),
        task: match config.task {
            EncoderTask::MaskedLm => "masked language model",
            EncoderTask::TokenClassification => "token classification",
            EncoderTask::SequenceClassification { multi_label: false } => "sequence classification",
            EncoderTask::SequenceClassification { multi_label: true } => {
                "sequence classification, several labels"
            }
        },
        labels: config.labels.clone(),
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        head_dim: config.head_dim(),
        max_position_embeddings: config.longest(),
        has_weights,
    };
    if json {
        terminal::json(&info)?;
        return Ok(Outcome::Fine);
    }
    let row = |name: &str, value: String| terminal::line(&format!("{name:<26}{value}"));
    row("architecture", format!("{}, an encoder", info.model_type));
    row("task", info.task.to_owned());
    if !info.labels.is_empty() {
        row("labels", info.labels.join(", "));
    }
    row("vocabulary", info.vocab_size.to_string());
    row("hidden size", format!("{} (MLP {})", info.hidden_size, info.intermediate_size));
    row("blocks", info.num_hidden_layers.to_string());
    row("heads", format!("{} of {}", info.num_attention_heads, info.head_dim));
    row("positions", info.max_position_embeddings.to_string());
    if !has_weights {
        row("files", "a configuration without weights".to_owned());
    }
    Ok(Outcome::Fine)
}
