//! Checkpoints: everything a run needs to go on as if it had never stopped.
//!
//! ```text
//! OUT/checkpoints/step-00000200/
//!     training_state.safetensors   for every trainable tensor NAME: `parameter.NAME`, `exp_avg.NAME` and, but for Muon's matrices, `exp_avg_sq.NAME`, f32
//!     adapter_model.safetensors …  what other programs load
//!     manifest.json                step, places, fingerprints, file sizes; written last
//! ```
//!
//! A checkpoint is written under a temporary name, flushed to the disk and renamed; only then are older ones removed.
//! A run killed, or a disk filled, at any moment leaves the newest complete checkpoint as it was.

use crate::TrainError;
use crate::learner::Learner;
use crate::optimizer::Optimizer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const STATE: &str = "training_state.safetensors";
const MANIFEST: &str = "manifest.json";
const PARTIAL: &str = "partial-";
const COMPLETE: &str = "step-";

/// What a checkpoint says of itself.
///
/// The place in the data, the dropout streams and the learning rate all follow from `step` and the recipe, so the step
/// is the whole of the position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of this layout.
    pub(crate) format: u32,
    /// Steps taken.
    pub(crate) step: u64,
    /// [`crate::data::Dataset::fingerprint`] in hexadecimal.
    pub(crate) data: String,
    /// The recipe with defaults, as TOML.
    pub(crate) recipe: String,
    /// Files of the checkpoint with their sizes in bytes.
    pub(crate) files: BTreeMap<String, u64>,
}

pub(crate) const FORMAT: u32 = 1;

/// Writes a checkpoint and removes the older ones.
pub(crate) fn write<L: Learner + ?Sized>(
    folder: &Path,
    mut manifest: Manifest,
    learner: &mut L,
    optimizer: &Optimizer,
) -> Result<PathBuf, TrainError> {
    let partial = folder.join(format!("{PARTIAL}{:08}", manifest.step));
    let complete = folder.join(format!("{COMPLETE}{:08}", manifest.step));
    let mut fill = || {
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(TrainError::file(&partial, "cannot remove"))?;
        }
        fs::create_dir_all(&partial).map_err(TrainError::file(&partial, "cannot create"))?;
        learner.save(&partial)?;
        write_state(&partial.join(STATE), learner, optimizer)?;
        manifest.files = sync_files(&partial).map_err(TrainError::file(&partial, "cannot flush"))?;
        let json = serde_json::to_vec_pretty(&manifest).expect("a manifest holds only numbers and names");
        let path = partial.join(MANIFEST);
        fs::write(&path, json).map_err(TrainError::file(&path, "cannot write"))?;
        sync(&path).map_err(TrainError::file(&path, "cannot flush"))?;
        // A run resumed at an older step writes this step again.
        if complete.exists() {
            fs::remove_dir_all(&complete).map_err(TrainError::file(&complete, "cannot remove"))?;
        }
        fs::rename(&partial, &complete).map_err(TrainError::file(&complete, "cannot rename into place"))?;
        sync(folder).map_err(TrainError::file(folder, "cannot flush"))
    };
    if let Err(error) = fill() {
        // Room for whoever frees the disk; the error at hand matters more than one here.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    for name in entries(folder)? {
        if (name.starts_with(COMPLETE) || name.starts_with(PARTIAL))
            && complete.file_name() != Some(name.as_ref())
        {
            let old = folder.join(&name);
            fs::remove_dir_all(&old).map_err(TrainError::file(&old, "cannot remove"))?;
        }
    }
    Ok(complete)
}

/// Finds the complete checkpoint of the latest step.
pub(crate) fn newest(folder: &Path) -> Result<Option<(PathBuf, Manifest)>, TrainError> {
    if !folder.exists() {
        return Ok(None);
    }
    let mut names: Vec<String> =
        entries(folder)?.into_iter().filter(|name| name.starts_with(COMPLETE)).collect();
    names.sort_unstable();
    for name in names.into_iter().rev() {
        let path = folder.join(name);
        if let Some(manifest) = complete_manifest(&path) {
            return Ok(Some((path, manifest)));
        }
        tracing::warn!(checkpoint = %path.display(), "passed over: its files do not fit its manifest");
    }
    Ok(None)
}

/// Copies a checkpoint's parameters and moments into the learner and the optimizer.
pub(crate) fn restore<L: Learner + ?Sized>(
    folder: &Path,
    manifest: &Manifest,
    learner: &mut L,
    optimizer: &mut Optimizer,
) -> Result<(), TrainError> {
    let path = folder.join(STATE);
    let bytes = fs::read(&path).map_err(TrainError::file(&path, "cannot read"))?;
    let refuse = |message: String| TrainError::Resume { path: path.clone(), message };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| refuse(error.to_string()))?;
    let copy = |part: &str, name: &str, shape: &[usize], into: &mut [f32]| {
        let key = format!("{part}.{name}");
        let tensor = tensors.tensor(&key).map_err(|error| refuse(error.to_string()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(refuse(format!("`{key}` is {found}; expected F32 {shape:?}")));
        }
        for (value, chunk) in into.iter_mut().zip(tensor.data().as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*chunk);
        }
        Ok(())
    };
    let parameters = learner.parameters();
    let seconds = optimizer.moments.iter().filter(|moments| moments.second.is_some()).count();
    let expected = 2 * parameters.len() + seconds;
    if tensors.len() != expected {
        return Err(refuse(format!("{} tensors; expected {expected}", tensors.len())));
    }
    for (parameter, moments) in parameters.into_iter().zip(&mut optimizer.moments) {
        copy("parameter", parameter.name, parameter.shape, parameter.data)?;
        copy("exp_avg", parameter.name, parameter.shape, &mut moments.first)?;
        if let Some(second) = &mut moments.second {
            copy("exp_avg_sq", parameter.name, parameter.shape, second)?;
        }
    }
    optimizer.step = manifest.step;
    Ok(())
}

fn write_state<L: Learner + ?Sized>(
    path: &Path,
    learner: &mut L,
    optimizer: &Optimizer,
) -> Result<(), TrainError> {
    let parameters = learner.parameters();
    let mut tensors = Vec::with_capacity(3 * parameters.len());
    for (parameter, moments) in parameters.iter().zip(&optimizer.moments) {
        let second = moments.second.as_ref().map(|second| ("exp_avg_sq", second.as_slice()));
        let parts = [("parameter", &*parameter.data), ("exp_avg", moments.first.as_slice())];
        for (part, values) in parts.into_iter().chain(second) {
            let view = TensorView::new(Dtype::F32, parameter.shape.to_vec(), bytemuck::cast_slice(values))
                .expect("a parameter's shape is that of its data");
            tensors.push((format!("{part}.{}", parameter.name), view));
        }
    }
    serialize_to_file(tensors, None, path)
        .map_err(|error| TrainError::file(path, "cannot write")(io::Error::other(error)))
}

fn complete_manifest(folder: &Path) -> Option<Manifest> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
    let fits =
        |(name, size): (&String, &u64)| fs::metadata(folder.join(name)).is_ok_and(|file| file.len() == *size);
    manifest.files.iter().all(fits).then_some(manifest)
}

fn entries(folder: &Path) -> Result<Vec<String>, TrainError> {
    let list = || {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(folder)?.map(name).collect::<io::Result<Vec<String>>>()
    };
    list().map_err(TrainError::file(folder, "cannot list"))
}

fn sync(path: &Path) -> io::Result<()> {
    // Folders cannot be opened for this everywhere; their flush only shortens a window.
    match File::open(path) {
        Ok(file) if path.is_dir() => file.sync_all().or(Ok(())),
        Ok(file) => file.sync_all(),
        Err(error) if path.is_dir() => {
            tracing::debug!(folder = %path.display(), %error, "not flushed");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn sync_files(folder: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            sync(&entry.path())?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), metadata.len());
        }
    }
    Ok(files)
}
