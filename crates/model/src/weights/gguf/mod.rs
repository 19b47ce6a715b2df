//! GGUF, the file format of llama.cpp, in and out.
//!
//! A file holds everything: sizes, vocabulary, tensors. [`Gguf`] reads what `config.json` and the tokenizer files say
//! elsewhere; the tensors are read through [`Weights`](super::Weights), under their Hugging Face names, and are worked out
//! when they are asked for. [`export`] writes a file from a Hugging Face checkpoint.
//!
//! What this module knows of architectures is tables of names (`architectures`); what a tensor is for it does not know.
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; versions 2 and 3, little-endian, one file.

use std::path::{Path, PathBuf};

use serde_json::Value;
use taiyi_kernels::MappedFile;

use super::{ElementType, Entry};
use crate::error::Error;

mod architectures;
mod blocks;
mod export;
mod header;
mod mixture;
mod quantize;
mod rows;
mod vocabulary;
mod write;

pub use blocks::BlockType;
pub use export::{ExportReport, ExportTensor, Exported, Fallback, TensorSource, TypeReport, export};
pub use mixture::Mixture;
pub(crate) use rows::Packed;
pub use vocabulary::{Token, TokenKind, Vocabulary};

/// An opened GGUF file.
pub struct Gguf {
    map: MappedFile,
    header: header::Header,
}

impl Gguf {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// When it cannot be read or breaks its format.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let map = MappedFile::open(path).map_err(Error::kernels(path))?;
        let header = header::Header::read(path, &map)?;
        Ok(Gguf { map, header })
    }

    /// What the `config.json` of the same model says: `model_type`, sizes, switches.
    ///
    /// # Errors
    /// When the architecture is unknown, or its metadata are missing or make no sense.
    pub fn config(&self) -> Result<Value, Error> {
        let architecture = architectures::of_header(&self.header)?;
        let described = architecture.described(&self.header, &self.map)?;
        (architecture.config)(&described).map(Value::Object)
    }

    /// The tokenizer; `None` in a file without one.
    ///
    /// # Errors
    /// When its parts do not fit together.
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>, Error> {
        Vocabulary::read(&self.header, &self.map)
    }
}

/// The GGUF file that a path names: the path itself, or the only one in a folder without a `config.json`. `None` for any other
/// path: a model folder in the Hugging Face layout, nothing at all.
///
/// # Errors
/// When a folder holds several, or cannot be read.
pub fn find(path: &Path) -> Result<Option<PathBuf>, Error> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if !path.is_dir() {
        return Ok(is_gguf(path).then(|| path.to_owned()));
    }
    if path.join("config.json").exists() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        let file = entry.map_err(Error::io(path))?.path();
        if is_gguf(&file) && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        [first, second, ..] => Err(Error::malformed(
            path,
            "the folder",
            "one GGUF file",
            format!("{} and {}", first.display(), second.display()),
        )),
    }
}

/// Reads the tensors of a mapped file into entries under their Hugging Face names.
pub(super) fn read(path: &Path, bytes: &[u8], file: usize) -> Result<Vec<(String, Entry)>, Error> {
    let header = header::Header::read(path, bytes)?;
    let architecture = architectures::of_header(&header)?;
    let sizes = architecture.described(&header, bytes)?.sizes;
    let mut entries = Vec::new();
    let mut taken = std::collections::BTreeSet::new();
    for tensor in architecture.tensors {
        // A damaged count of layers must not make work: no layer is without a tensor.
        let layers = if tensor.hf.contains("{}") { sizes.layers.min(header.tensors.len()) } else { 1 };
        for layer in 0..layers {
            let name = in_layer(tensor.hf, layer);
            let parts: Vec<(String, _)> =
                tensor.parts.iter().map(|(part, rows)| (in_layer(part, layer), rows.order(&sizes))).collect();
            let held: Vec<_> =
                parts.iter().filter_map(|(part, order)| Some((header.tensors.get(part)?, *order))).collect();
            if held.is_empty() {
                continue;
            }
            if held.len() < parts.len() {
                let absent = parts.iter().find(|(part, _)| !header.tensors.contains_key(part));
                return Err(Error::MissingTensor {
                    path: path.to_owned(),
                    name: absent.map(|(part, _)| part.clone()).unwrap_or_default(),
                    held: header.tensors.len(),
                    nearest: None,
                });
            }
            entries.push((name, entry(path, &parts[0].0, &held, file)?));
            taken.extend(parts.into_iter().map(|(part, _)| part));
        }
    }
    for (name, stored) in &header.tensors {
        if !taken.contains(name) && !architecture.described.contains(&name.as_str()) {
            entries.push((name.clone(), entry(path, name, &[(stored, rows::Order::Same)], file)?));
        }
    }
    Ok(entries)
}

/// Puts a layer's number into a tensor name.
fn in_layer(name: &str, layer: usize) -> String {
    name.replacen("{}", &layer.to_string(), 1)
}

fn entry(
    path: &Path,
    name: &str,
    held: &[(&header::Stored, rows::Order)],
    file: usize,
) -> Result<Entry, Error> {
    let plain = |kind| match kind {
        BlockType::F32 => Some(ElementType::F32),
        BlockType::F16 => Some(ElementType::F16),
        BlockType::Bf16 => Some(ElementType::Bf16),
        _ => None,
    };
    if let [(stored, rows::Order::Same)] = held
        && let Some(dtype) = plain(stored.kind)
    {
        let (begin, end) = (stored.begin, stored.end);
        return Ok(Entry { file, dtype, shape: stored.shape.clone(), begin, end, packed: None });
    }
    let (packed, shape) = Packed::new(held).ok_or_else(|| {
        let shapes: Vec<_> = held.iter().map(|(stored, _)| &stored.shape).collect();
        Error::malformed(
            path,
            format!("tensor {}", quoted(name)),
            "a shape that suits the number of heads, and parts of one width",
            format!("{shapes:?}"),
        )
    })?;
    Ok(Entry { file, dtype: ElementType::F32, shape, begin: 0, end: 0, packed: Some(packed) })
}

/// Foreign text for a message: quoted, on one line, not long.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    format!("`{short}`")
}

/// Cuts rows among the threads; `work` gets the number of its first row and the values of its rows.
fn in_parallel<T: Send>(values: &mut [T], columns: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    /// Less work than this is not worth a thread.
    const LEAST: usize = 1 << 16;
    let rows = values.len() / columns.max(1);
    let threads = taiyi_kernels::threads().min(values.len() / LEAST).min(rows);
    if threads < 2 {
        return work(0, values);
    }
    let share = rows.div_ceil(threads);
    std::thread::scope(|scope| {
        for (at, values) in values.chunks_mut(share * columns).enumerate() {
            let work = &work;
            scope.spawn(move || work(at * share, values));
        }
    });
}
