//! Reading and writing of weight files: safetensors (single and sharded), `pytorch_model.bin` and GGUF.
//!
//! This module knows file formats and nothing about architectures. Files come from strangers: every length and offset
//! is checked before it is used, and a broken file gives one error that names file, place, expectation and finding.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use serde_json::Value;
use taiyi_kernels::MappedFile;

use crate::error::Error;

pub mod gguf;
mod pickle;
mod pytorch;
mod safetensors;
mod write;

pub(crate) use write::create_dir;
pub use write::{SafetensorsWriter, write_atomically};

/// The element types of tensors in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ElementType {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl ElementType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            ElementType::F64 | ElementType::I64 => 8,
            ElementType::F32 | ElementType::I32 => 4,
            ElementType::F16 | ElementType::Bf16 | ElementType::I16 => 2,
            ElementType::I8 | ElementType::U8 | ElementType::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, ElementType::F64 | ElementType::F32 | ElementType::F16 | ElementType::Bf16)
    }
}

/// Where one tensor lies.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    file: usize,
    dtype: ElementType,
    shape: Vec<usize>,
    begin: usize,
    end: usize,
    /// How the values are worked out, where they do not lie in the file as they are.
    packed: Option<gguf::Packed>,
}

struct Shard {
    path: PathBuf,
    map: MappedFile,
}

/// The tensors of a checkpoint, mapped into memory and read on demand.
pub struct Weights {
    /// The folder or file that errors name.
    place: PathBuf,
    files: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

/// One tensor of a file: row-major little-endian elements, or a recipe for them (GGUF).
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Type of the elements; F32 where they are worked out.
    pub dtype: ElementType,
    /// Shape, outermost first.
    pub shape: &'a [usize],
    /// The elements, not necessarily aligned; nothing where they are worked out: read those with [`TensorView::to_f32`] or
    /// [`TensorView::read_rows`], which know both.
    pub bytes: &'a [u8],
    /// How they are worked out, from all of the file.
    packed: Option<(&'a gguf::Packed, &'a [u8])>,
}

/// File names looked for in a model folder, in order.
const SOUGHT: &str = "model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json, \
                      one .gguf file";

impl Weights {
    /// Opens the weights of a model folder, in any of the layouts Hugging Face writes, or of a GGUF file, given itself or
    /// alone in its folder.
    ///
    /// # Errors
    /// When there are none, or a file breaks its format.
    pub fn open(dir: &Path) -> Result<Weights, Error> {
        let mut weights = Weights { place: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        for name in ["model.safetensors", "pytorch_model.bin"] {
            let single = dir.join(name);
            if single.is_file() {
                weights.add(&single)?;
                return Ok(weights);
            }
            let index = dir.join(format!("{name}.index.json"));
            if index.is_file() {
                weights.add_sharded(&index)?;
                return Ok(weights);
            }
        }
        if let Some(file) = gguf::find(dir)? {
            return Weights::open_file(&file);
        }
        Err(Error::NoWeights { path: dir.to_owned(), expected: SOUGHT })
    }

    /// Opens one `.safetensors`, `.bin` or `.gguf` file.
    ///
    /// # Errors
    /// When it cannot be read or breaks its format.
    pub fn open_file(path: &Path) -> Result<Weights, Error> {
        let mut weights = Weights { place: path.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        weights.add(path)?;
        Ok(weights)
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let map = MappedFile::open(path).map_err(Error::kernels(path))?;
        let file = self.files.len();
        let ending = path.extension().unwrap_or_default();
        let entries = if ending == "safetensors" {
            safetensors::read(path, &map, file)?
        } else if ending.eq_ignore_ascii_case("gguf") {
            gguf::read(path, &map, file)?
        } else {
            pytorch::read(path, &map, file)?
        };
        for (name, entry) in entries {
            if let Some(other) = self.tensors.get(&name) {
                let other = self.files[other.file].path.display().to_string();
                return Err(Error::malformed(
                    path,
                    format!("tensor `{name}`"),
                    "each tensor once",
                    format!("a copy of it in {other}"),
                ));
            }
            self.tensors.insert(name, entry);
        }
        self.files.push(Shard { path: path.to_owned(), map });
        Ok(())
    }

    fn add_sharded(&mut self, index: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|source| Error::Json { path: index.to_owned(), source })?;
        let bad = |found: &str| {
            Error::malformed(index, "`weight_map`", "an object of tensor names and file names", found)
        };
        let map = value.get("weight_map").and_then(Value::as_object).ok_or_else(|| bad("none"))?;
        let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
        for (tensor, file) in map {
            let file = file.as_str().ok_or_else(|| bad(&format!("{file} for `{tensor}`")))?;
            // A file name, not a path: an index must not reach outside its folder.
            if file.is_empty() || file.contains(['/', '\\']) || file == ".." {
                return Err(bad(&format!("the file name `{file}`")));
            }
            *shards.entry(file).or_default() += 1;
        }
        let dir = index.parent().unwrap_or(Path::new("."));
        for shard in shards.keys() {
            self.add(&dir.join(shard))?;
        }
        for tensor in map.keys() {
            if !self.tensors.contains_key(tensor) {
                return Err(self.missing(tensor));
            }
        }
        Ok(())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The folder or file that was opened.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Finds a tensor.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn get(&self, name: &str) -> Result<TensorView<'_>, Error> {
        let entry = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let file: &[u8] = &self.files[entry.file].map;
        let bytes = &file[entry.begin..entry.end];
        let packed = entry.packed.as_ref().map(|packed| (packed, file));
        Ok(TensorView { dtype: entry.dtype, shape: &entry.shape, bytes, packed })
    }

    /// Finds a tensor of a known shape.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Shape`].
    pub fn get_shaped(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, Error> {
        let view = self.get(name)?;
        if view.shape != shape {
            return Err(Error::Shape {
                path: self.path_of(name),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: view.shape.to_vec(),
            });
        }
        Ok(view)
    }

    /// Finds a floating-point tensor of a known shape.
    ///
    /// # Errors
    /// As [`Weights::get_shaped`], and [`Error::ElementType`] for what is not a floating-point type.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, Error> {
        let view = self.get_shaped(name, shape)?;
        if view.dtype.is_float() { Ok(view) } else { Err(self.wrong_type(name, view)) }
    }

    /// Reads a tensor of a known shape as f32.
    ///
    /// # Errors
    /// As [`Weights::floats`].
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let view = self.get_shaped(name, shape)?;
        view.to_f32().ok_or_else(|| self.wrong_type(name, view))
    }

    /// Reads a tensor of a known shape as bf16, rounding to the nearest, ties to even.
    ///
    /// # Errors
    /// As [`Weights::f32`].
    pub fn bf16(&self, name: &str, shape: &[usize]) -> Result<Vec<bf16>, Error> {
        let view = self.get_shaped(name, shape)?;
        view.to_bf16().ok_or_else(|| self.wrong_type(name, view))
    }

    fn wrong_type(&self, name: &str, view: TensorView<'_>) -> Error {
        Error::ElementType {
            path: self.path_of(name),
            name: name.to_owned(),
            found: format!("{:?}", view.dtype),
        }
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.tensors.get(name).map_or_else(|| self.place.clone(), |e| self.files[e.file].path.clone())
    }

    fn missing(&self, name: &str) -> Error {
        let tail = |n: &str| n.rsplit('.').take(3).map(str::to_owned).collect::<Vec<_>>();
        let sought = tail(name);
        let nearest = self.tensors.keys().find(|n| tail(n) == sought).cloned();
        Error::MissingTensor {
            path: self.place.clone(),
            name: name.to_owned(),
            held: self.tensors.len(),
            nearest,
        }
    }
}

impl TensorView<'_> {
    /// The elements as f32, where the type is a floating-point one.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        if let Some((packed, file)) = self.packed {
            return Some(packed.read(file));
        }
        fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|c| f(*c)).collect()
        }
        match self.dtype {
            ElementType::F32 => Some(each(self.bytes, f32::from_le_bytes)),
            ElementType::F64 => Some(each(self.bytes, |b| f64::from_le_bytes(b) as f32)),
            ElementType::F16 => Some(each(self.bytes, |b| f16::from_le_bytes(b).to_f32())),
            ElementType::Bf16 => Some(each(self.bytes, |b| bf16::from_le_bytes(b).to_f32())),
            _ => None,
        }
    }

    /// Reads some rows as f32, a row being all elements of one outermost index; `false` where the type is not a
    /// floating-point one.
    pub fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> bool {
        if let Some((packed, file)) = self.packed {
            packed.read_rows(file, rows, out);
            return true;
        }
        let row = self.shape.get(1..).unwrap_or_default().iter().product::<usize>() * self.dtype.size();
        let bytes = &self.bytes[rows.start * row..rows.end * row];
        let part = TensorView { bytes, ..*self };
        let Some(values) = part.to_f32() else { return false };
        out.copy_from_slice(&values);
        true
    }

    /// The elements as bf16, where the type is a floating-point one.
    pub fn to_bf16(&self) -> Option<Vec<bf16>> {
        match self.dtype {
            ElementType::Bf16 => {
                Some(self.bytes.as_chunks::<2>().0.iter().map(|c| bf16::from_le_bytes(*c)).collect())
            }
            _ => Some(self.to_f32()?.into_iter().map(bf16::from_f32).collect()),
        }
    }

    /// The elements as i64, where the type is an integer one.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        match self.dtype {
            ElementType::I64 => {
                Some(self.bytes.as_chunks::<8>().0.iter().map(|c| i64::from_le_bytes(*c)).collect())
            }
            ElementType::I32 => Some(
                self.bytes.as_chunks::<4>().0.iter().map(|c| i64::from(i32::from_le_bytes(*c))).collect(),
            ),
            ElementType::U8 | ElementType::Bool => Some(self.bytes.iter().map(|&b| i64::from(b)).collect()),
            _ => None,
        }
    }
}
