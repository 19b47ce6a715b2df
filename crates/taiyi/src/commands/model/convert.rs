//! Other forms of a checkpoint: an adapter folded in, the weights in 4 bits.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use taiyi_model::tokenizer::is_text_side;
use taiyi_model::weights::check_inside;
use taiyi_model::weights::gguf::Mixture;
use taiyi_model::{Decoder, Dtype, Encoder, EncoderConfig};

use super::make_parent;
use crate::failure::{CommandResult, Failure, Outcome};
use crate::loading::{Storage, check_folders, check_memory};
use crate::terminal;

/// What is converted, and to what.
#[derive(Args)]
pub(super) struct Conversion {
    /// Model folder in the Hugging Face layout.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Layout to write.
    #[arg(long, value_enum, default_value_t = Layout::Hf)]
    to: Layout,
    /// Folder to write, or for gguf-… a file that ends in .gguf; must not exist yet.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Type of the written weights, and in bnb-nf4 of those that stay whole; sums are made in f32 either way. GGUF files have
    /// types of their own.
    #[arg(long, value_enum, default_value_t = Written::Bf16)]
    dtype: Written,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// `config.json` and `model.safetensors`, as Hugging Face's transformers reads them.
    Hf,
    /// As hf, in the layout of Qwen2: for a Qwen of the first generation, which is the same within its trained length.
    Qwen2,
    /// As hf, in the layout of transformers' GLM: for a GLM-4 in ChatGLM's layout.
    Glm,
    /// As hf with the linear layers in 4 bits, as transformers reads them with bitsandbytes.
    BnbNf4,
    /// One file for llama.cpp, the matrices in half precision.
    GgufF16,
    /// One file for llama.cpp, the matrices in 8 bits.
    #[value(name = "gguf-q8_0")]
    GgufQ8,
    /// One file for llama.cpp, the matrices in 4 bits, the output head in 6.
    #[value(name = "gguf-q4_0")]
    GgufQ4,
    /// One file for llama.cpp, the matrices in 4 or 6 bits with scales of their own (Q4_K_M).
    #[value(name = "gguf-q4_k")]
    GgufQ4K,
}

impl Layout {
    /// The types of a GGUF file, where one is to be written.
    fn mixture(self) -> Option<Mixture> {
        match self {
            Layout::GgufF16 => Some(Mixture::F16),
            Layout::GgufQ8 => Some(Mixture::Q8_0),
            Layout::GgufQ4 => Some(Mixture::Q4_0),
            Layout::GgufQ4K => Some(Mixture::Q4KM),
            Layout::Hf | Layout::Qwen2 | Layout::Glm | Layout::BnbNf4 => None,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Written {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    Bf16,
}

impl Written {
    fn dtype(self) -> Dtype {
        match self {
            Written::F32 => Dtype::F32,
            Written::Bf16 => Dtype::Bf16,
        }
    }
}

/// Writes a checkpoint in another form, with an adapter folded in if there is one.
pub(super) fn convert(conversion: &Conversion, adapter: Option<&Path>) -> CommandResult {
    let Conversion { model, to, out, dtype } = conversion;
    if let Some(mixture) = to.mixture() {
        return super::gguf::write(model, adapter, mixture, out);
    }
    check_folders(model, adapter)?;
    if out.exists() {
        return Err(Failure::new(format!(
            "{}: expected a folder that does not exist yet, found one",
            out.display()
        ))
        .hint("choose another --out, or remove it"));
    }
    let loaded = load(model, adapter, *to, *dtype)?;
    make_parent(out)?;
    let name = out.file_name().ok_or_else(|| {
        Failure::new(format!("--out {}: expected the name of a folder to write", out.display()))
    })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.partial", std::process::id()));
    let partial = out.with_file_name(hidden);
    let write = || -> Result<(), Failure> {
        terminal::note(&format!("writing {}", out.display()));
        match (&loaded, to) {
            (Loaded::Encoder(encoder), _) => encoder.save(&partial, dtype.dtype())?,
            (Loaded::Decoder(decoder), Layout::Qwen2) => {
                decoder.to_layout("qwen2")?.save(&partial, dtype.dtype())?;
            }
            (Loaded::Decoder(decoder), Layout::Glm) => {
                decoder.to_layout("glm")?.save(&partial, dtype.dtype())?;
            }
            (Loaded::Decoder(decoder), Layout::BnbNf4) => decoder.save_nf4(&partial, dtype.dtype())?,
            // GGUF went its own way above.
            (Loaded::Decoder(decoder), _) => decoder.save(&partial, dtype.dtype())?,
        }
        copy_beside(model, &partial)?;
        std::fs::rename(&partial, out).map_err(failed(out, "written"))
    };
    let written = write();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_dir_all(&partial);
    }
    written?;
    terminal::line(&out.display().to_string());
    Ok(Outcome::Fine)
}

/// A model of either kind.
enum Loaded {
    Decoder(Box<Decoder>),
    Encoder(Box<Encoder>),
}

/// The model as it is going to be written. Without an adapter the matrices are quantised while they are loaded, so that the
/// whole weights are never in memory; a sum with an adapter needs them.
fn load(model: &Path, adapter: Option<&Path>, to: Layout, dtype: Written) -> Result<Loaded, Failure> {
    terminal::note(&format!("loading {}", model.display()));
    if EncoderConfig::is_of(model) {
        if adapter.is_some() || to != Layout::Hf {
            return Err(Failure::new(format!(
                "{}: an encoder is written with --to hf and without an adapter only",
                model.display()
            )));
        }
        return Ok(Loaded::Encoder(Box::new(Encoder::load(model, dtype.dtype())?)));
    }
    let whole = match dtype {
        Written::F32 => Storage::F32,
        Written::Bf16 => Storage::Bf16,
    };
    let Some(adapter) = adapter else {
        let storage = if to == Layout::BnbNf4 { Storage::Nf4 } else { whole };
        check_memory(model, storage)?;
        return Ok(Loaded::Decoder(Box::new(match to {
            Layout::BnbNf4 => Decoder::load_with(model, Dtype::Nf4, dtype.dtype().precision())?,
            _ => Decoder::load(model, dtype.dtype())?,
        })));
    };
    check_memory(model, Storage::F32)?;
    let mut decoder = Decoder::load(model, Dtype::F32)?;
    decoder.load_adapter(adapter, false)?;
    terminal::note("merging");
    let written = if to == Layout::BnbNf4 { Dtype::Nf4 } else { dtype.dtype() };
    let report = decoder.merge(Some(written));
    terminal::note(&format!(
        "{} layers: the adapter adds {:.3} % of the weights (root mean square), {} takes {:.3} % from the exact sums",
        report.layers,
        100.0 * report.update,
        if to == Layout::BnbNf4 { "NF4" } else { whole.name() },
        100.0 * report.error
    ));
    Ok(Loaded::Decoder(Box::new(decoder)))
}

/// Copies what belongs to a model beside weights and configuration.
fn copy_beside(model: &Path, out: &Path) -> Result<(), Failure> {
    if model.is_file() {
        terminal::note(
            "the tokenizer of a GGUF file stays in it: put the model's tokenizer files beside the weights",
        );
        return Ok(());
    }
    for entry in std::fs::read_dir(model).map_err(failed(model, "read"))? {
        let entry = entry.map_err(failed(model, "read"))?;
        if entry.file_name().to_str().is_some_and(travels_along) && entry.path().is_file() {
            check_inside(model, &entry.path())?;
            let to = out.join(entry.file_name());
            std::fs::copy(entry.path(), &to).map_err(failed(&to, "written"))?;
        }
    }
    Ok(())
}

fn failed(path: &Path, verb: &'static str) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::new(format!("{path}: cannot be {verb}: {error}"))
}

/// Files of a model folder that are neither weights nor configuration and that a converted model needs as they are.
fn travels_along(name: &str) -> bool {
    is_text_side(name) || name.starts_with("LICENSE") || name.starts_with("NOTICE")
}
