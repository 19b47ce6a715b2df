//! Writing of safetensors: a sibling temporary file, filled and flushed to the disk, then renamed.

use std::{
    fs::File,
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use half::bf16;
use serde_json::{Map, Value, json};

use super::ElementType;
use crate::error::Error;

/// Writes a file so that at every moment either the old or the whole new one is there.
///
/// # Errors
/// When the disk is full or the folder cannot be written; the temporary file is removed.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Error> {
    atomically(path, |out| fill(out))
}

fn atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        fill(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    written.map_err(|source| {
        // The first error is the one to tell; a leftover that cannot be removed either is named in it by its path.
        let _ = std::fs::remove_file(&temporary);
        Error::Io { path: path.to_owned(), source }
    })
}

/// Collects names and shapes, then streams the data: no copy of the whole file is held.
#[derive(Default)]
pub struct SafetensorsWriter<'a> {
    planned: Vec<Planned<'a>>,
}

/// One tensor, or several that are made together.
struct Planned<'a> {
    parts: Vec<Part>,
    fill: Fill<'a>,
}

struct Part {
    name: String,
    dtype: ElementType,
    shape: Vec<usize>,
}

enum Fill<'a> {
    /// The values of the one part.
    Values(Box<dyn Fn() -> Vec<f32> + 'a>),
    /// The bytes of each part.
    Bytes(Box<dyn Fn() -> Vec<Vec<u8>> + 'a>),
}

impl<'a> SafetensorsWriter<'a> {
    /// Adds a floating-point tensor; `values` is called once, when its turn comes. `dtype` is F32, F16 or Bf16.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        dtype: ElementType,
        shape: &[usize],
        values: impl Fn() -> Vec<f32> + 'a,
    ) {
        let parts = vec![Part { name: name.into(), dtype, shape: shape.to_vec() }];
        self.planned.push(Planned { parts, fill: Fill::Values(Box::new(values)) });
    }

    /// Adds tensors of any types that are made together: name, type and shape of each; `bytes` is called once.
    pub(super) fn add_bytes(
        &mut self,
        parts: Vec<(String, ElementType, Vec<usize>)>,
        bytes: impl Fn() -> Vec<Vec<u8>> + 'a,
    ) {
        let parts = parts.into_iter().map(|(name, dtype, shape)| Part { name, dtype, shape }).collect();
        self.planned.push(Planned { parts, fill: Fill::Bytes(Box::new(bytes)) });
    }

    /// Bytes of tensor data.
    pub fn data_bytes(&self) -> usize {
        self.planned.iter().flat_map(|planned| &planned.parts).map(Part::bytes).sum()
    }

    /// Writes the file, temporary first.
    ///
    /// # Errors
    /// As [`write_atomically`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        atomically(path, |out| self.write_to(out))
    }

    fn write_to(&self, out: &mut BufWriter<File>) -> std::io::Result<()> {
        let (header, offsets) = self.layout()?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        let data = 8 + header.len() as u64;
        let mut at = data;
        let mut offsets = offsets.into_iter();
        for planned in &self.planned {
            match &planned.fill {
                Fill::Values(values) => {
                    let (part, offset) = (&planned.parts[0], offsets.next().unwrap_or(0));
                    seek(out, &mut at, data + offset)?;
                    part.write_values(&values(), out)?;
                    at += part.bytes() as u64;
                }
                Fill::Bytes(bytes) => {
                    let bytes = bytes();
                    assert_eq!(bytes.len(), planned.parts.len(), "as many as were planned");
                    for ((part, bytes), offset) in planned.parts.iter().zip(bytes).zip(&mut offsets) {
                        assert_eq!(bytes.len(), part.bytes(), "tensor `{}` fills its shape", part.name);
                        seek(out, &mut at, data + offset)?;
                        out.write_all(&bytes)?;
                        at += bytes.len() as u64;
                    }
                }
            }
        }
        Ok(())
    }

    /// The header and the place of each part in the data. Larger elements stand first, so that every tensor is aligned:
    /// readers take views of the mapped file.
    fn layout(&self) -> std::io::Result<(Vec<u8>, Vec<u64>)> {
        let parts: Vec<&Part> = self.planned.iter().flat_map(|planned| &planned.parts).collect();
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(parts[i].dtype.size()));
        let mut header = Map::new();
        // Readers of transformers ask for this entry.
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut offsets = vec![0; parts.len()];
        let mut at = 0;
        for i in order {
            let part = parts[i];
            let end = at + part.bytes();
            let entry = json!({"dtype": part.dtype_name(), "shape": part.shape, "data_offsets": [at, end]});
            header.insert(part.name.clone(), entry);
            offsets[i] = at as u64;
            at = end;
        }
        let mut header = serde_json::to_vec(&Value::Object(header))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok((header, offsets))
    }
}

/// Goes to a place in the file; the buffer is kept where that is the place already.
fn seek(out: &mut BufWriter<File>, at: &mut u64, place: u64) -> std::io::Result<()> {
    if *at != place {
        out.seek(SeekFrom::Start(place))?;
        *at = place;
    }
    Ok(())
}

impl Part {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    fn dtype_name(&self) -> &'static str {
        match self.dtype {
            ElementType::F64 => "F64",
            ElementType::F32 => "F32",
            ElementType::F16 => "F16",
            ElementType::Bf16 => "BF16",
            ElementType::I64 => "I64",
            ElementType::I32 => "I32",
            ElementType::I16 => "I16",
            ElementType::I8 => "I8",
            ElementType::U8 => "U8",
            ElementType::Bool => "BOOL",
        }
    }

    fn write_values(&self, values: &[f32], out: &mut dyn Write) -> std::io::Result<()> {
        assert_eq!(
            values.len(),
            self.shape.iter().product::<usize>(),
            "tensor `{}` fills its shape",
            self.name
        );
        let mut bytes = Vec::with_capacity(1 << 16);
        for chunk in values.chunks(1 << 14) {
            bytes.clear();
            for &v in chunk {
                match self.dtype {
                    ElementType::Bf16 => bytes.extend_from_slice(&bf16::from_f32(v).to_le_bytes()),
                    ElementType::F16 => bytes.extend_from_slice(&half::f16::from_f32(v).to_le_bytes()),
                    _ => bytes.extend_from_slice(&v.to_le_bytes()),
                }
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Writes `config.json` and `model.safetensors` of a checkpoint folder, which is made if it is not there.
pub(crate) fn write_checkpoint(
    dir: &Path,
    weights: &SafetensorsWriter<'_>,
    config: &Map<String, Value>,
) -> Result<(), Error> {
    create_dir(dir)?;
    weights.write(&dir.join("model.safetensors"))?;
    write_atomically(&dir.join("config.json"), |out| {
        serde_json::to_writer_pretty(&mut *out, config)?;
        out.write_all(b"\n")
    })
}

/// The folder of `path`, made if it is not there.
pub(crate) fn create_dir(path: &Path) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(path).map_err(Error::io(path))?;
    Ok(path.to_owned())
}
