//! Writing of a GGUF file: version 3, aligned to 32 bytes, tensors in the order they are planned.

use std::io::{Result, Write};

use super::blocks::BlockType;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    U32(u32),
    F32(f32),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor as the header describes it.
#[derive(Debug, Clone)]
pub(super) struct Outline {
    pub(super) name: String,
    pub(super) kind: BlockType,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
}

impl Outline {
    /// Bytes of the data, without padding.
    pub(super) fn bytes(&self) -> usize {
        let (columns, rows) = self.shape.split_last().unwrap_or((&1, &[]));
        let row = self.kind.row_bytes(*columns).expect("a type whose blocks fill the rows was chosen");
        rows.iter().product::<usize>() * row
    }
}

/// The default alignment, which need not be written.
const ALIGNMENT: usize = 32;

fn text(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())
}

fn array(out: &mut dyn Write, kind: u32, count: usize) -> Result<()> {
    out.write_all(&9_u32.to_le_bytes())?;
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&(count as u64).to_le_bytes())
}

fn scalar(out: &mut dyn Write, kind: u32, bytes: &[u8]) -> Result<()> {
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(bytes)
}

impl Entry {
    fn write(&self, out: &mut dyn Write) -> Result<()> {
        match self {
            Entry::U32(n) => scalar(out, 4, &n.to_le_bytes()),
            Entry::F32(x) => scalar(out, 6, &x.to_le_bytes()),
            Entry::Flag(flag) => scalar(out, 7, &[u8::from(*flag)]),
            Entry::Text(value) => {
                out.write_all(&8_u32.to_le_bytes())?;
                text(out, value)
            }
            Entry::Texts(values) => {
                array(out, 8, values.len())?;
                values.iter().try_for_each(|value| text(out, value))
            }
            Entry::I32s(values) => {
                array(out, 5, values.len())?;
                values.iter().try_for_each(|n| out.write_all(&n.to_le_bytes()))
            }
            Entry::F32s(values) => {
                array(out, 6, values.len())?;
                values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))
            }
        }
    }
}

/// Writes magic, metadata and descriptions, and the padding before the data.
pub(super) fn header(out: &mut dyn Write, entries: &[(String, Entry)], tensors: &[Outline]) -> Result<()> {
    let mut bytes = Vec::new();
    bytes.write_all(b"GGUF")?;
    bytes.write_all(&3_u32.to_le_bytes())?;
    bytes.write_all(&(tensors.len() as u64).to_le_bytes())?;
    bytes.write_all(&(entries.len() as u64).to_le_bytes())?;
    for (key, entry) in entries {
        text(&mut bytes, key)?;
        entry.write(&mut bytes)?;
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut bytes, &tensor.name)?;
        bytes.write_all(&(tensor.shape.len() as u32).to_le_bytes())?;
        for &size in tensor.shape.iter().rev() {
            bytes.write_all(&(size as u64).to_le_bytes())?;
        }
        bytes.write_all(&tensor.kind.id().to_le_bytes())?;
        bytes.write_all(&(offset as u64).to_le_bytes())?;
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&bytes)
}

/// Writes the padding after the data of a tensor.
pub(super) fn padding(out: &mut dyn Write, tensor: &Outline) -> Result<()> {
    let bytes = tensor.bytes();
    out.write_all(&[0; ALIGNMENT][..bytes.next_multiple_of(ALIGNMENT) - bytes])
}
