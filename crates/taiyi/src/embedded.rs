//! What comes inside the binary, so that nothing must be downloaded: the base model and the samples.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// The embedded base model's name: its folder under `models/`, and in the cache.
pub(crate) const MODEL_NAME: &str = "taiyi-nano";

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../", $folder, "/", $name)))),*]
    };
}

const MODEL: &[(&str, &[u8])] = files!("models/taiyi-nano":
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
    "LICENSE",
    "README.md",
);

const SAMPLES: &[(&str, &[u8])] = files!("data/samples":
    "sample_drugprot/train.jsonl",
    "sample_drugprot/test.jsonl",
    "sample_drugprot/ATTRIBUTION.md",
    "sample_evidence_inference/train.jsonl",
    "sample_evidence_inference/test.jsonl",
    "sample_evidence_inference/ATTRIBUTION.md",
    "sample_genetag/train.jsonl",
    "sample_genetag/test.jsonl",
    "sample_genetag/ATTRIBUTION.md",
    "taiyi_zh_intent/train.jsonl",
    "taiyi_zh_intent/test.jsonl",
    "taiyi_zh_intent/ATTRIBUTION.md",
    "taiyi_zh_ner/train.jsonl",
    "taiyi_zh_ner/test.jsonl",
    "taiyi_zh_ner/ATTRIBUTION.md",
);

/// The folder of a model: the one that was asked for, else the embedded one, unpacked into the user's cache folder
/// (`$XDG_CACHE_HOME`, `~/.cache`, or the temporary folder) once per version.
pub(crate) fn model_dir(chosen: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(dir) = chosen {
        return Ok(dir);
    }
    let mut hash = Sha256::new();
    for (name, bytes) in MODEL {
        hash.update(name.as_bytes());
        hash.update(bytes);
    }
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let dir = cache_dir().join("taiyi").join(format!("{MODEL_NAME}-{digest}"));
    let complete = MODEL.iter().all(|(name, bytes)| {
        std::fs::metadata(dir.join(name)).is_ok_and(|file| file.is_file() && file.len() == bytes.len() as u64)
    });
    if !complete {
        unpack(MODEL, &dir)?;
    }
    Ok(dir)
}

fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("XDG_CACHE_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".cache")))
        .filter(|dir| std::fs::create_dir_all(dir).is_ok())
        .unwrap_or_else(std::env::temp_dir)
}

/// Writes the shipped samples into a folder, one folder per dataset.
pub(crate) fn write_samples(dir: &Path) -> Result<(), Failure> {
    unpack(SAMPLES, dir)
}

/// Writes each file to a temporary name and renames it: another process that unpacks at the same time writes the same.
fn unpack(files: &[(&str, &[u8])], dir: &Path) -> Result<(), Failure> {
    for (name, bytes) in files {
        let path = dir.join(name);
        let written = || -> std::io::Result<()> {
            std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
            let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
            std::fs::write(&temporary, bytes)?;
            std::fs::rename(&temporary, &path)
        };
        written().map_err(|error| Failure::new(format!("{}: cannot be written: {error}", path.display())))?;
    }
    Ok(())
}
