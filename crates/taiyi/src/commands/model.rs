//! `taiyi model`: what a checkpoint computes, from the shell: logits, greedy continuations, perplexity, merged weights.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use taiyi_infer::{BatchOptions, Event, Request, Sampling};
use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::weights::{ElementType, SafetensorsWriter, write_atomically};
use taiyi_model::{Decoder, DecoderConfig, EncoderConfig, KvCache, Logits, Workspace};
use taiyi_train::data::{Documents, TextItem};
use taiyi_train::memory::{available_memory_bytes, human_bytes};
use taiyi_train::recipe::Source;
use taiyi_train::{Windows, evaluate_bits_per_byte};

use crate::failure::{CommandResult, Failure, Outcome};
use crate::loading::{Storage, check_folders, check_memory, inference_plan};
use crate::terminal::{self, Progress};

mod convert;
mod encoder;
mod gguf;

use convert::{Conversion, convert};

/// Arguments of `taiyi model`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// A checkpoint and what is put on it.
#[derive(Args)]
struct Checkpoint {
    /// Model folder in the Hugging Face layout.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// PEFT adapter folder to put on the model.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How weights are held in memory; f32 computes exactly, for comparing with other programs.
    #[arg(long, value_enum, default_value_t = Storage::F32)]
    dtype: Storage,
}

#[derive(Subcommand)]
enum Verb {
    /// Configuration, number of weights, memory.
    Info {
        /// Model folder in the Hugging Face layout.
        #[arg(long, value_name = "DIR")]
        model: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Logits of every position: `logits_0`, `logits_1`, … of shape (tokens, vocabulary), f32; of an encoder (tokens, labels) or
    /// (labels).
    Logits {
        #[command(flatten)]
        checkpoint: Checkpoint,
        /// JSON file `{"input_ids": [[…], …]}`.
        #[arg(long, value_name = "FILE.json")]
        tokens: PathBuf,
        /// Safetensors file to write.
        #[arg(long, value_name = "FILE.safetensors")]
        out: PathBuf,
    },
    /// Greedy continuations, without a stop at end marks.
    Generate {
        #[command(flatten)]
        checkpoint: Checkpoint,
        /// JSON file `{"input_ids": [[…], …]}`.
        #[arg(long, value_name = "FILE.json")]
        tokens: PathBuf,
        /// New tokens of each sequence.
        #[arg(long, value_name = "N")]
        max_new: usize,
        /// JSON file to write: `{"output_ids": [[…], …]}`, new ids only.
        #[arg(long, value_name = "FILE.json")]
        out: PathBuf,
    },
    /// Bits per byte and perplexity of text, each document read on its own.
    Perplexity {
        #[command(flatten)]
        checkpoint: Checkpoint,
        /// Documents: JSONL with `text`, or plain text with blank lines between them; either with `.gz`.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Tokens that the model sees at a time (default: all its positions, at most 2048).
        #[arg(long, value_name = "N")]
        length: Option<usize>,
        /// Tokens by which the window moves along a longer document (default: half the length).
        #[arg(long, value_name = "N")]
        stride: Option<usize>,
        /// Documents of each file at most.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Folds an adapter into the weights and writes a folder that loads without it, tokenizer files included.
    Merge {
        /// PEFT adapter folder.
        #[arg(long, value_name = "DIR")]
        adapter: PathBuf,
        #[command(flatten)]
        conversion: Conversion,
    },
    /// Writes a checkpoint in another layout or in fewer bits, tokenizer files included.
    #[command(visible_alias = "quantize")]
    Export {
        /// PEFT adapter folder to fold into the weights.
        #[arg(long, value_name = "DIR")]
        adapter: Option<PathBuf>,
        #[command(flatten)]
        conversion: Conversion,
    },
}

/// Runs `taiyi model`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    match arguments.verb {
        Verb::Info { model, json } => info(&model, json),
        Verb::Logits { checkpoint, tokens, out } => logits(&checkpoint, &tokens, &out),
        Verb::Generate { checkpoint, tokens, max_new, out } => generate(&checkpoint, &tokens, max_new, &out),
        Verb::Perplexity { checkpoint, files, length, stride, limit, json } => {
            perplexity(&checkpoint, &files, length, stride, limit, json)
        }
        Verb::Merge { adapter, conversion } => convert(&conversion, Some(&adapter)),
        Verb::Export { adapter, conversion } => convert(&conversion, adapter.as_deref()),
    }
}

impl Checkpoint {
    fn load(&self) -> Result<Decoder, Failure> {
        let mut decoder = Decoder::load(&self.model, self.dtype.dtype())?;
        if let Some(adapter) = &self.adapter {
            decoder.load_adapter(adapter, false)?;
        }
        Ok(decoder)
    }

    /// Everything that can be refused before the weights are read. Continuations end at the model's last position; logits
    /// may be asked for beyond it.
    fn check(
        &self,
        sequences: &[Vec<u32>],
        tokens: &Path,
        max_new: Option<usize>,
    ) -> Result<DecoderConfig, Failure> {
        check_folders(&self.model, self.adapter.as_deref())?;
        let config = DecoderConfig::load(&self.model)?;
        for (at, sequence) in sequences.iter().enumerate() {
            let place = format!("{}: input_ids[{at}]", tokens.display());
            if sequence.is_empty() {
                return Err(Failure::new(format!("{place}: expected at least one id, found none")));
            }
            if let Some(id) = sequence.iter().find(|&&id| id as usize >= config.vocab_size) {
                return Err(Failure::new(format!(
                    "{place}: expected ids under {} (the vocabulary of the model), found {id}",
                    config.vocab_size
                )));
            }
            let positions = sequence.len().saturating_add(max_new.unwrap_or(0));
            if max_new.is_some() && positions > config.max_position_embeddings {
                return Err(Failure::new(format!(
                    "{place}: expected at most {} positions (max_position_embeddings of the model), found {positions}",
                    config.max_position_embeddings
                )));
            }
        }
        check_memory(&self.model, self.dtype)?;
        Ok(config)
    }
}

/// Reads `{"input_ids": [[…], …]}`.
fn read_ids(path: &Path) -> Result<Vec<Vec<u32>>, Failure> {
    #[derive(Deserialize)]
    struct Tokens {
        input_ids: Vec<Vec<u32>>,
    }
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::new(format!("{}: cannot be read: {error}", path.display())))?;
    let expected = "expected {\"input_ids\": [[…], …]} with ids from 0 to 4294967295";
    let tokens: Tokens = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(format!("{}: {expected}: {error}", path.display())))?;
    if tokens.input_ids.is_empty() {
        return Err(Failure::new(format!("{}: {expected}: found no sequence", path.display())));
    }
    Ok(tokens.input_ids)
}

/// Makes the folder that a file is going to be written into: better refused before the work than after it.
fn make_parent(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder
        .map_or(Ok(()), std::fs::create_dir_all)
        .map_err(|error| Failure::new(format!("{}: the folder cannot be made: {error}", path.display())))
}

fn logits(checkpoint: &Checkpoint, tokens: &Path, out: &Path) -> CommandResult {
    check_folders(&checkpoint.model, checkpoint.adapter.as_deref())?;
    if EncoderConfig::is_of(&checkpoint.model) {
        return encoder::logits(checkpoint, tokens, out);
    }
    let sequences = read_ids(tokens)?;
    let config = checkpoint.check(&sequences, tokens, None)?;
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    // The engine's buffer and the copy that is written; one sequence at a time.
    let needed = 2 * 4 * (longest as u64) * config.vocab_size as u64;
    if let Some(available) = available_memory_bytes()
        && needed > available
    {
        let (needed, available) = (human_bytes(needed), human_bytes(available));
        return Err(Failure::new(format!(
            "{}: the logits of {longest} tokens need {needed} and {available} is available",
            tokens.display()
        ))
        .hint("cut the sequence into shorter ones"));
    }
    make_parent(out)?;
    let decoder = checkpoint.load()?;
    let progress = Progress::new("logits", sequences.len() as u64, "sequences");
    let state = RefCell::new((Workspace::default(), 0));
    let mut writer = SafetensorsWriter::default();
    for (at, ids) in sequences.iter().enumerate() {
        let (state, decoder, progress) = (&state, &decoder, &progress);
        writer.add(format!("logits_{at}"), ElementType::F32, &[ids.len(), config.vocab_size], move || {
            let (workspace, done) = &mut *state.borrow_mut();
            let mut cache = KvCache::new(decoder.config(), ids.len());
            let logits = decoder
                .forward(&mut [(ids.as_slice(), &mut cache)], Logits::All, workspace)
                .expect("ids were checked against the vocabulary, and the cache is this model's")
                .to_vec();
            *done += 1;
            progress.set(*done, "");
            logits
        });
    }
    writer.write(out)?;
    progress.finish();
    Ok(Outcome::Fine)
}

fn generate(checkpoint: &Checkpoint, tokens: &Path, max_new: usize, out: &Path) -> CommandResult {
    #[derive(Serialize)]
    struct Generated {
        output_ids: Vec<Vec<u32>>,
    }
    let sequences = read_ids(tokens)?;
    checkpoint.check(&sequences, tokens, Some(max_new))?;
    make_parent(out)?;
    let decoder = checkpoint.load()?;
    let request = |prompt: Vec<u32>| Request {
        prompt,
        max_new_tokens: max_new,
        sampling: Sampling::GREEDY,
        constraint: None,
    };
    let requests: Vec<Request> = sequences.into_iter().map(request).collect();
    let progress = Progress::new("generating", (requests.len() * max_new) as u64, "tokens");
    let mut done = 0;
    let options = BatchOptions { stop_ids: &[], batch: 16 };
    let generations = taiyi_infer::generate(&decoder, &requests, options, &mut |_, event| {
        if let Event::Token(_) = event {
            done += 1;
            progress.set(done, "");
        }
        true
    })?;
    progress.finish();
    let generated =
        Generated { output_ids: generations.into_iter().map(|generation| generation.ids).collect() };
    let json = serde_json::to_vec(&generated)?;
    write_atomically(out, |writer| {
        writer.write_all(&json)?;
        writer.write_all(b"\n")
    })?;
    Ok(Outcome::Fine)
}

/// Longest window where none is asked for: attention over more costs more than it tells.
const LONGEST_WINDOW: usize = 2048;

fn perplexity(
    checkpoint: &Checkpoint,
    files: &[PathBuf],
    length: Option<usize>,
    stride: Option<usize>,
    limit: Option<usize>,
    json: bool,
) -> CommandResult {
    #[derive(Serialize)]
    struct Row {
        file: PathBuf,
        documents: usize,
        tokens: u64,
        /// Bytes of UTF-8 of the texts.
        bytes: u64,
        bits_per_byte: f64,
        /// Of a token, the marks between documents included.
        perplexity: f64,
    }
    check_folders(&checkpoint.model, checkpoint.adapter.as_deref())?;
    let positions = DecoderConfig::load(&checkpoint.model)?.max_position_embeddings;
    let length = length.unwrap_or(positions.min(LONGEST_WINDOW));
    let stride = stride.unwrap_or(length.div_ceil(2));
    if length == 0 || length > positions || stride == 0 || stride > length {
        return Err(Failure::new(format!(
            "expected a window of 1 to {positions} tokens (max_position_embeddings) and a stride of 1 to its length, \
             found {length} and {stride}"
        )));
    }
    let tokenizer = Tokenizer::load(&checkpoint.model)?;
    let texts = files.iter().map(|file| read_texts(file, limit)).collect::<Result<Vec<_>, _>>()?;
    check_memory(&checkpoint.model, checkpoint.dtype)?;
    let decoder = checkpoint.load()?;
    let mut rows = Vec::new();
    for (file, texts) in files.iter().zip(texts) {
        let progress = Progress::new(&file.display().to_string(), texts.len() as u64, "documents");
        let watched = texts.iter().enumerate().map(|(at, text)| {
            progress.set(at as u64, "");
            text.as_str()
        });
        let measured = evaluate_bits_per_byte(&decoder, &tokenizer, watched, Windows { length, stride })?;
        progress.finish();
        let row = Row {
            file: file.clone(),
            documents: texts.len(),
            tokens: measured.tokens,
            bytes: measured.bytes,
            bits_per_byte: measured.bits_per_byte,
            perplexity: (measured.bits / measured.tokens.max(1) as f64).exp2(),
        };
        if !json {
            terminal::line(&format!(
                "{}: {:.4} bits per byte, perplexity {:.2} ({} documents, {} tokens, {} bytes)",
                row.file.display(),
                row.bits_per_byte,
                row.perplexity,
                row.documents,
                row.tokens,
                row.bytes
            ));
        }
        rows.push(row);
    }
    if json {
        terminal::json(&serde_json::json!({ "length": length, "stride": stride, "files": rows }))?;
    }
    Ok(Outcome::Fine)
}

fn read_texts(file: &Path, limit: Option<usize>) -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    for item in Documents::open(&Source::from_path(file.to_owned()))?.take(limit.unwrap_or(usize::MAX)) {
        match item? {
            TextItem::Document(text) => texts.push(text),
            TextItem::Conversation(_) => {
                return Err(Failure::new(format!(
                    "{}: expected documents in `text`, found a conversation",
                    file.display()
                )));
            }
        }
    }
    if texts.is_empty() {
        return Err(Failure::new(format!("{}: expected text, found none", file.display())));
    }
    Ok(texts)
}

fn info(model: &Path, json: bool) -> CommandResult {
    #[derive(Serialize)]
    struct Info {
        model_type: String,
        parameters: usize,
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_hidden_layers: usize,
        num_attention_heads: usize,
        num_key_value_heads: usize,
        head_dim: usize,
        max_position_embeddings: usize,
        tie_word_embeddings: bool,
        /// Bytes of the weights by storage type.
        weight_bytes: std::collections::BTreeMap<&'static str, usize>,
        /// Bytes of keys and values a token, f32.
        cache_bytes_per_token: usize,
        /// Whether the folder holds the weights, or a configuration alone.
        has_weights: bool,
    }
    check_folders(model, None)?;
    if EncoderConfig::is_of(model) {
        return encoder::info(model, json);
    }
    let (config, has_weights) = match Decoder::check(model) {
        Err(taiyi_model::Error::NoWeights { .. }) => (DecoderConfig::load(model)?, false),
        checked => (checked?, true),
    };
    let no_model = || {
        Failure::new(format!("{}: config.json describes a model of more than 10^13 weights", model.display()))
    };
    let mut weight_bytes = std::collections::BTreeMap::new();
    for storage in [Storage::F32, Storage::Bf16, Storage::Nf4] {
        let plan = inference_plan(&config, storage, 0)?.ok_or_else(no_model)?;
        weight_bytes.insert(storage.name(), plan.weights);
    }
    let info = Info {
        model_type: config.model_type.clone(),
        parameters: config.parameter_count(),
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
        weight_bytes,
        cache_bytes_per_token: KvCache::planned_bytes(&config, 1),
        has_weights,
    };
    if json {
        terminal::json(&info)?;
        return Ok(Outcome::Fine);
    }
    let row = |name: &str, value: String| terminal::line(&format!("{name:<26}{value}"));
    row("architecture", info.model_type.clone());
    row("weights", info.parameters.to_string());
    row("vocabulary", info.vocab_size.to_string());
    row("hidden size", format!("{} (MLP {})", info.hidden_size, info.intermediate_size));
    row("blocks", info.num_hidden_layers.to_string());
    row(
        "heads",
        format!(
            "{} of {} (keys and values {})",
            info.num_attention_heads, info.head_dim, info.num_key_value_heads
        ),
    );
    row("positions", info.max_position_embeddings.to_string());
    row("head tied to embedding", if info.tie_word_embeddings { "yes" } else { "no" }.to_owned());
    for (name, bytes) in &info.weight_bytes {
        row(&format!("weights as {name}"), human_bytes(*bytes as u64));
    }
    row("cache of 1000 tokens", human_bytes(1000 * info.cache_bytes_per_token as u64));
    if !info.has_weights {
        row("weights in the folder", "none".to_owned());
    }
    Ok(Outcome::Fine)
}
