//! Writing of safetensors: a sibling temporary file, filled and flushed to the disk, then renamed.

use std::{
    fs::File,
    io::{BufWriter, Write},
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
    tensors: Vec<Planned<'a>>,
}

struct Planned<'a> {
    name: String,
    dtype: ElementType,
    shape: Vec<usize>,
    fill: Box<dyn Fn() -> Vec<f32> + 'a>,
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
        self.tensors.push(Planned {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            fill: Box::new(values),
        });
    }

    /// Bytes of tensor data.
    pub fn data_bytes(&self) -> usize {
        self.tensors.iter().map(Planned::bytes).sum()
    }

    /// Writes the file, temporary first.
    ///
    /// # Errors
    /// As [`write_atomically`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        write_atomically(path, |out| self.write_to(out))
    }

    fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut header = Map::new();
        // Readers of transformers ask for this entry.
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut at = 0;
        for tensor in &self.tensors {
            let end = at + tensor.bytes();
            let entry =
                json!({"dtype": tensor.dtype_name(), "shape": tensor.shape, "data_offsets": [at, end]});
            header.insert(tensor.name.clone(), entry);
            at = end;
        }
        let mut header = serde_json::to_vec(&Value::Object(header))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in &self.tensors {
            tensor.write_to(out)?;
        }
        Ok(())
    }
}

impl Planned<'_> {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    fn dtype_name(&self) -> &'static str {
        match self.dtype {
            ElementType::Bf16 => "BF16",
            ElementType::F16 => "F16",
            _ => "F32",
        }
    }

    fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let values = (self.fill)();
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

/// The folder of `path`, made if it is not there.
pub(crate) fn create_dir(path: &Path) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(path).map_err(Error::io(path))?;
    Ok(path.to_owned())
}
