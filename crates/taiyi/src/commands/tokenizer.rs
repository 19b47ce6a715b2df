//! `taiyi tokenizer train`: a bilingual byte-level BPE of one's own.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use taiyi_model::tokenizer::{Trainer, TrainerOptions, TrainingProgress};

use crate::failure::{CommandResult, Failure, Outcome};
use crate::terminal::{self, Progress};

/// Arguments of `taiyi tokenizer`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Trains a byte-level BPE and writes tokenizer.json and tokenizer_config.json in Hugging Face's layout.
    Train {
        /// Text files (.txt, or .jsonl with a `text` field); `FILE=WEIGHT` counts every occurrence that often.
        #[arg(long, required = true, num_args = 1.., value_name = "FILE[=WEIGHT]")]
        input: Vec<String>,
        /// Ids of the finished tokenizer: bytes, merges and special tokens together.
        #[arg(long, default_value_t = 16_384, value_name = "N")]
        vocab_size: usize,
        /// Folder to write into.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Runs `taiyi tokenizer`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let Verb::Train { input, vocab_size, out } = arguments.verb;
    let inputs = input.iter().map(|name| parse_input(name)).collect::<Result<Vec<_>, _>>()?;
    let mut trainer = Trainer::new(TrainerOptions { vocab_size, ..TrainerOptions::default() })?;
    let sizes: u64 =
        inputs.iter().filter_map(|(path, _)| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
    let counting = Progress::new("counting", sizes, "bytes");
    let mut read = 0;
    for (path, weight) in &inputs {
        each_text(path, &mut |text, bytes| {
            read += bytes;
            counting.set(read, "");
            Ok(trainer.add(text, *weight)?)
        })?;
    }
    counting.finish();
    let merging = Progress::new("merging", vocab_size as u64, "tokens");
    let trained = trainer.finish(&mut |progress| {
        if let TrainingProgress::Merging { tokens, .. } = progress {
            merging.set(tokens as u64, "");
        }
    })?;
    merging.finish();
    trained.save(&out)?;
    terminal::line(&format!("{}: {} ids", out.join("tokenizer.json").display(), trained.vocab_size()));
    Ok(Outcome::Fine)
}

fn parse_input(name: &str) -> Result<(PathBuf, f64), Failure> {
    match name.rsplit_once('=') {
        None => Ok((name.into(), 1.0)),
        Some((path, weight)) => {
            let weight = weight.parse().map_err(|_| {
                Failure::new(format!("--input {name}: expected a number behind `=`, found `{weight}`"))
            })?;
            Ok((path.into(), weight))
        }
    }
}

/// Calls back with each text of a file and the bytes it took.
fn each_text(path: &Path, add: &mut dyn FnMut(&str, u64) -> Result<(), Failure>) -> Result<(), Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(format!("{}: cannot be read as UTF-8 text: {error}", path.display()))
    })?;
    let is_jsonl = path.extension().is_some_and(|extension| extension == "jsonl");
    for (at, line) in text.split_inclusive('\n').enumerate() {
        if !is_jsonl {
            add(line, line.len() as u64)?;
        } else if !line.trim().is_empty() {
            #[derive(serde::Deserialize)]
            struct Line {
                text: String,
            }
            let record: Line = serde_json::from_str(line).map_err(|error| {
                Failure::new(format!("{}:{}: expected JSON with `text`: {error}", path.display(), at + 1))
            })?;
            add(&record.text, line.len() as u64)?;
        }
    }
    Ok(())
}
