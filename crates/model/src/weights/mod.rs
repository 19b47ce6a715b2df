//! Reading and writing of weight files: safetensors and `pytorch_model.bin` (single and sharded), fairseq checkpoints, GGUF, and
//! matrices that bitsandbytes stored in 4 bits.
//!
//! This module knows file formats and nothing about architectures. Files come from strangers: every length and offset
//! is checked before it is used, and a broken file gives one error that names file, place, expectation and finding.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use half::bf16;
use serde_json::Value;
use taiyi_kernels::{Element, FloatBytes, MappedFile, MappedSlice, Nf4, Precision, Storage};

use crate::error::Error;

pub mod bitsandbytes;
pub mod fairseq;
pub mod gguf;
mod pickle;
mod place;
mod pytorch;
mod safetensors;
mod write;

pub use place::{check_inside, read_text};
pub use write::{SafetensorsWriter, write_atomically};
pub(crate) use write::{create_dir, write_checkpoint};

/// Bytes of a `config.json`; ten thousand named labels take one of the eight.
const MAX_CONFIG: u64 = 8 << 20;

/// What `config.json` of a model folder says, with the file that errors should name; for a GGUF file or a fairseq checkpoint,
/// which come without, what it would say.
///
/// # Errors
/// When the file is missing, too long, or not JSON, or the checkpoint does not say enough.
pub fn config_json(dir: &Path) -> Result<(PathBuf, Value), Error> {
    if let Some(file) = gguf::find(dir)? {
        let config = gguf::Gguf::open(&file)?.config()?;
        return Ok((file, config));
    }
    let path = dir.join("config.json");
    if !path.exists()
        && let Some(checkpoint) = fairseq::checkpoint(dir)
        && let Some(config) = fairseq::config(dir)?
    {
        return Ok((checkpoint, Value::Object(config)));
    }
    let value = read_json(&path)?;
    Ok((path, value))
}

/// Reads a JSON file of the length that configurations have.
pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
    let text = place::read_text(path, MAX_CONFIG)?;
    serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Whether a path is a model's: a folder with a `config.json`, or a checkpoint or GGUF file that says what it would.
pub fn is_model(path: &Path) -> bool {
    path.join("config.json").is_file()
        || fairseq::checkpoint(path).is_some()
        // Several files in a folder are for the reader to complain of.
        || !matches!(gguf::find(path), Ok(None))
}

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
    map: Arc<MappedFile>,
}

/// The tensors of a checkpoint, mapped into memory and read on demand.
pub struct Weights {
    /// The folder or file that errors name.
    place: PathBuf,
    files: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
    /// What belongs to those of the tensors that are codes of matrices.
    quantised: BTreeMap<String, bitsandbytes::Stored>,
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
    checkpoint.pt, one .gguf file";

/// Bytes of an index of shards: some hundred a tensor.
const MAX_INDEX: u64 = 16 << 20;

impl Weights {
    /// Opens the weights of a model folder, in any of the layouts Hugging Face writes, or a fairseq checkpoint in it, or a GGUF
    /// file, given itself or alone in its folder.
    ///
    /// # Errors
    /// When there are none, or a file breaks its format or lies outside the folder.
    pub fn open(dir: &Path) -> Result<Weights, Error> {
        let mut weights = Weights::none(dir);
        for name in ["model.safetensors", "pytorch_model.bin"] {
            let single = dir.join(name);
            if single.is_file() {
                weights.add_of(dir, &single)?;
                return weights.collected();
            }
            let index = dir.join(format!("{name}.index.json"));
            if index.is_file() {
                weights.add_sharded(dir, &index)?;
                return weights.collected();
            }
        }
        if let Some(checkpoint) = fairseq::checkpoint(dir) {
            weights.add_of(dir, &checkpoint)?;
            return weights.collected();
        }
        if let Some(file) = gguf::find(dir)? {
            if dir.is_dir() {
                check_inside(dir, &file)?;
            }
            return Weights::open_file(&file);
        }
        Err(Error::NoWeights { path: dir.to_owned(), expected: SOUGHT })
    }

    /// Opens one `.safetensors`, `.bin`, `.pt` or `.gguf` file.
    ///
    /// # Errors
    /// When it cannot be read or breaks its format.
    pub fn open_file(path: &Path) -> Result<Weights, Error> {
        let mut weights = Weights::none(path);
        weights.add(path)?;
        weights.collected()
    }

    fn none(place: &Path) -> Weights {
        let (tensors, quantised) = (BTreeMap::new(), BTreeMap::new());
        Weights { place: place.to_owned(), files: Vec::new(), tensors, quantised }
    }

    /// Puts tensors together that are parts of one matrix, once all files are there.
    fn collected(mut self) -> Result<Weights, Error> {
        bitsandbytes::collect(&mut self)?;
        Ok(self)
    }

    /// Adds a file of a model folder.
    fn add_of(&mut self, dir: &Path, path: &Path) -> Result<(), Error> {
        check_inside(dir, path)?;
        self.add(path)
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
        self.files.push(Shard { path: path.to_owned(), map: Arc::new(map) });
        Ok(())
    }

    fn add_sharded(&mut self, dir: &Path, index: &Path) -> Result<(), Error> {
        let text = place::read_text(index, MAX_INDEX)?;
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
        for shard in shards.keys() {
            self.add_of(dir, &dir.join(shard))?;
        }
        for tensor in map.keys() {
            if !self.tensors.contains_key(tensor) {
                return Err(self.missing(tensor));
            }
        }
        Ok(())
    }

    /// Names of all tensors, sorted; a matrix in 4 bits counts as one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape of a tensor; of a matrix in 4 bits that of the matrix, not that of its codes.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let whole = self.quantised.get(name).map(|stored| &stored.shape);
        whole.or_else(|| self.tensors.get(name).map(|entry| &entry.shape)).map(Vec::as_slice)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The folder or file that was opened.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Finds a tensor as it is stored; of a matrix in 4 bits these are its codes.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn get(&self, name: &str) -> Result<TensorView<'_>, Error> {
        let entry = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        Ok(self.view(entry))
    }

    /// Finds a tensor of a known shape as it is stored, without regard to matrices in 4 bits.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Shape`].
    pub fn get_shaped(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, Error> {
        let view = self.get(name)?;
        self.expect_shape(name, shape, view.shape)?;
        Ok(view)
    }

    /// Checks that a tensor has a known shape and can be read as floating-point numbers, without reading it.
    ///
    /// # Errors
    /// As [`Weights::get_shaped`], and [`Error::ElementType`] for what is not a floating-point type.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<(), Error> {
        if let Some(stored) = self.quantised.get(name) {
            return self.expect_shape(name, shape, &stored.shape);
        }
        let view = self.get_shaped(name, shape)?;
        if view.dtype.is_float() { Ok(()) } else { Err(self.wrong_type(name, view)) }
    }

    /// Reads a tensor of a known shape as f32; a matrix in 4 bits is dequantised.
    ///
    /// # Errors
    /// As [`Weights::floats`].
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        if let Some(matrix) = self.nf4(name, shape)? {
            let mut values = vec![0.0; matrix.rows() * matrix.cols()];
            matrix.dequantize_into(&mut values);
            return Ok(values);
        }
        let view = self.get_shaped(name, shape)?;
        view.to_f32().ok_or_else(|| self.wrong_type(name, view))
    }

    /// Reads a tensor of a known shape as bf16, rounding to the nearest, ties to even; a matrix in 4 bits is dequantised.
    ///
    /// # Errors
    /// As [`Weights::f32`].
    pub fn bf16(&self, name: &str, shape: &[usize]) -> Result<Vec<bf16>, Error> {
        if self.quantised.contains_key(name) {
            return Ok(self.f32(name, shape)?.into_iter().map(bf16::from_f32).collect());
        }
        let view = self.get_shaped(name, shape)?;
        view.to_bf16().ok_or_else(|| self.wrong_type(name, view))
    }

    /// Reads a matrix of a known shape that is stored in 4 bits, codes and scales as they are; `None` for any other tensor.
    ///
    /// # Errors
    /// As [`Weights::get_shaped`].
    pub fn nf4(&self, name: &str, shape: &[usize]) -> Result<Option<Nf4>, Error> {
        let Some(stored) = self.quantised.get(name) else { return Ok(None) };
        self.expect_shape(name, shape, &stored.shape)?;
        stored.read(self, name).map(Some)
    }

    /// As [`Weights::f32`], used where it lies in the file when that is possible.
    pub(crate) fn f32_storage(&self, name: &str, shape: &[usize]) -> Result<Storage<f32>, Error> {
        match self.mapped(name, shape, ElementType::F32)? {
            Some(slice) => Ok(Storage::Mapped(slice)),
            None => Ok(self.f32(name, shape)?.into()),
        }
    }

    /// As [`Weights::bf16`], used where it lies in the file when that is possible.
    pub(crate) fn bf16_storage(&self, name: &str, shape: &[usize]) -> Result<Storage<bf16>, Error> {
        match self.mapped(name, shape, ElementType::Bf16)? {
            Some(slice) => Ok(Storage::Mapped(slice)),
            None => Ok(self.bf16(name, shape)?.into()),
        }
    }

    fn mapped<T: Element>(
        &self,
        name: &str,
        shape: &[usize],
        dtype: ElementType,
    ) -> Result<Option<MappedSlice<T>>, Error> {
        let Some(entry) = self.tensors.get(name).filter(|_| !self.quantised.contains_key(name)) else {
            return Ok(None);
        };
        self.expect_shape(name, shape, &entry.shape)?;
        if entry.dtype != dtype || entry.packed.is_some() {
            return Ok(None);
        }
        Ok(MappedSlice::new(&self.files[entry.file].map, entry.begin..entry.end))
    }

    /// Reads a matrix (rows, cols) as NF4 with double quantisation: as it is stored in 4 bits, or quantised block by block from the
    /// bytes of the file, each number rounded to bf16 first where `rounding` says so.
    ///
    /// # Errors
    /// As [`Weights::floats`].
    pub(crate) fn quantised(&self, name: &str, shape: [usize; 2], rounding: Precision) -> Result<Nf4, Error> {
        if let Some(matrix) = self.nf4(name, &shape)? {
            return Ok(matrix);
        }
        let view = self.get_shaped(name, &shape)?;
        let [rows, cols] = shape;
        if let Some(bytes) = view.float_bytes() {
            return Ok(Nf4::quantize_bytes(bytes, rounding, rows, cols, true));
        }
        let values = match rounding {
            Precision::F32 => self.f32(name, &shape)?,
            Precision::Bf16 => self.bf16(name, &shape)?.into_iter().map(bf16::to_f32).collect(),
        };
        Ok(Nf4::quantize(&values, rows, cols, true))
    }

    fn expect_shape(&self, name: &str, expected: &[usize], found: &[usize]) -> Result<(), Error> {
        if found == expected {
            return Ok(());
        }
        Err(Error::Shape {
            path: self.path_of(name),
            name: name.to_owned(),
            expected: expected.to_vec(),
            found: found.to_vec(),
        })
    }

    /// A tensor's view by its place.
    fn view<'a>(&'a self, entry: &'a Entry) -> TensorView<'a> {
        let file: &[u8] = &self.files[entry.file].map;
        let bytes = &file[entry.begin..entry.end];
        let packed = entry.packed.as_ref().map(|packed| (packed, file));
        TensorView { dtype: entry.dtype, shape: &entry.shape, bytes, packed }
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
        let bytes = self.float_bytes()?;
        let mut values = vec![0.0; bytes.len()];
        bytes.to_f32(&mut values);
        Some(values)
    }

    /// The elements as they lie in the file, where the type is a floating-point one and they need not be worked out.
    fn float_bytes(&self) -> Option<FloatBytes<'_>> {
        if self.packed.is_some() {
            return None;
        }
        match self.dtype {
            ElementType::F64 => Some(FloatBytes::F64(self.bytes)),
            ElementType::F32 => Some(FloatBytes::F32(self.bytes)),
            ElementType::F16 => Some(FloatBytes::F16(self.bytes)),
            ElementType::Bf16 => Some(FloatBytes::Bf16(self.bytes)),
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
        let Some(bytes) = self.float_bytes() else {
            return Some(self.to_f32()?.into_iter().map(bf16::from_f32).collect());
        };
        let mut values = vec![bf16::ZERO; bytes.len()];
        bytes.to_bf16(&mut values);
        Some(values)
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
