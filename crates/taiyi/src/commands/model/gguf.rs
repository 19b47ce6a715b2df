//! A checkpoint as one GGUF file, for llama.cpp and programs built on it.

use std::path::Path;

use taiyi_model::tokenizer::gguf_vocabulary;
use taiyi_model::weights::gguf::{Exported, Mixture, TensorSource, export};
use taiyi_model::weights::{Weights, config_json};
use taiyi_model::{Decoder, Dtype};
use taiyi_train::memory::human_bytes;

use super::make_parent;
use crate::failure::{CommandResult, Failure, Outcome};
use crate::loading::{Storage, check_folders, check_memory};
use crate::terminal::{self, Progress};

/// Writes the file. Without an adapter the weights go through a few rows at a time and are never in memory; a sum with an
/// adapter needs them.
pub(super) fn write(model: &Path, adapter: Option<&Path>, mixture: Mixture, out: &Path) -> CommandResult {
    check_folders(model, adapter)?;
    if out.extension().is_none_or(|ending| ending != "gguf") {
        return Err(Failure::new(format!(
            "--out {}: expected the name of a file that ends in .gguf",
            out.display()
        )));
    }
    if out.exists() {
        return Err(Failure::new(format!(
            "{}: expected a file that does not exist yet, found one",
            out.display()
        ))
        .hint("choose another --out, or remove it"));
    }
    let (_, config) = config_json(model)?;
    let vocabulary = gguf_vocabulary(model)?;
    let name = model.canonicalize().ok();
    let name = name.as_deref().and_then(Path::file_stem).unwrap_or_default().to_string_lossy().into_owned();
    make_parent(out)?;
    let source: Box<dyn TensorSource> = match adapter {
        None => Box::new(Weights::open(model)?),
        Some(adapter) => {
            check_memory(model, Storage::F32)?;
            terminal::note(&format!("loading {}", model.display()));
            let mut decoder = Decoder::load(model, Dtype::F32)?;
            decoder.load_adapter(adapter, false)?;
            terminal::note("merging");
            decoder.merge(None);
            Box::new(decoder)
        }
    };
    let asked = Exported { config: &config, place: model, name: &name, vocabulary, mixture };
    let mut progress: Option<Progress> = None;
    let report = export(source.as_ref(), asked, out, &mut |done, all| {
        progress.get_or_insert_with(|| Progress::new("writing", all, "values")).set(done, "");
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    for kind in &report.types {
        terminal::note(&format!(
            "{:<5} {:>4} tensors, {:>9}, {:.3} % from the given values (root mean square)",
            kind.kind.name(),
            kind.tensors,
            human_bytes(kind.bytes),
            100.0 * kind.relative_rms_error
        ));
    }
    for fallback in &report.fallbacks {
        terminal::note(&format!(
            "{} is {} instead of {}: its rows of {} are no whole blocks",
            fallback.tensor,
            fallback.used.name(),
            fallback.wanted.name(),
            fallback.columns
        ));
    }
    for note in &report.notes {
        terminal::note(note);
    }
    terminal::line(&out.display().to_string());
    Ok(Outcome::Fine)
}
