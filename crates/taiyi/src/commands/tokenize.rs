//! `taiyi tokenize`: text to ids and back.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use taiyi_model::tokenizer::Tokenizer;

use crate::failure::{CommandResult, Failure, Outcome};
use crate::terminal;

/// Arguments of `taiyi tokenize`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Turn `{"ids": [...]}` into `{"text"}` instead.
    #[arg(long)]
    decode: bool,
    /// Do not recognise special tokens written in the text.
    #[arg(long)]
    no_special: bool,
    /// JSONL file with `{"text"}` lines; stdin by default.
    file: Option<PathBuf>,
}

/// Runs `taiyi tokenize`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    #[derive(Deserialize)]
    struct Text {
        text: String,
    }
    #[derive(Deserialize)]
    struct Ids {
        ids: Vec<u32>,
    }
    let tokenizer = Tokenizer::load(&arguments.model)?;
    let (name, input): (String, Box<dyn Read>) = match &arguments.file {
        None => ("stdin".into(), Box::new(std::io::stdin())),
        Some(path) => {
            let file = std::fs::File::open(path)
                .map_err(|error| Failure::new(format!("{}: cannot be opened: {error}", path.display())))?;
            (path.display().to_string(), Box::new(file))
        }
    };
    for (at, line) in BufReader::new(input).lines().enumerate() {
        let place = |error: &dyn std::fmt::Display, expected: &str| {
            Failure::new(format!("{name}:{}: expected {expected}: {error}", at + 1))
        };
        let line = line.map_err(|error| place(&error, "UTF-8 text"))?;
        if line.trim().is_empty() {
            continue;
        }
        if arguments.decode {
            let record: Ids =
                serde_json::from_str(&line).map_err(|error| place(&error, "JSON with `ids`"))?;
            if let Some(id) = record.ids.iter().find(|&&id| id as usize >= tokenizer.vocab_size()) {
                let expected = format!("ids under {}", tokenizer.vocab_size());
                return Err(Failure::new(format!("{name}:{}: expected {expected}, found {id}", at + 1)));
            }
            terminal::line(&serde_json::json!({ "text": tokenizer.decode(&record.ids) }).to_string());
        } else {
            let record: Text =
                serde_json::from_str(&line).map_err(|error| place(&error, "JSON with `text`"))?;
            let mut ids = if arguments.no_special {
                tokenizer.encode(&record.text)
            } else {
                tokenizer.encode_with_special(&record.text)
            };
            tokenizer.frame_text(&mut ids);
            terminal::line(&serde_json::json!({ "ids": ids }).to_string());
        }
    }
    Ok(Outcome::Fine)
}
