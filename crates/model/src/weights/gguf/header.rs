//! The header of a GGUF file: magic, version, metadata, descriptions of tensors.
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 entries:u64
//! entry:  key:string type:u32 value            string: length:u64 bytes
//! tensor: name:string n:u32 dims:u64[n] type:u32 offset:u64      dims: innermost first
//! padding to the alignment, data
//! ```
//!
//! Every count and length is held against the bytes that are left before anything is made of it: what a file can make this
//! reader keep is bounded by the file's own size, and its work is one pass over the header.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{blocks::BlockType, quoted};
use crate::error::Error;

/// What a header says.
pub(super) struct Header {
    pub(super) path: PathBuf,
    entries: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, Stored>,
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) kind: BlockType,
    /// Outermost first, as everywhere in this crate; one to four sizes, none of them zero.
    pub(super) shape: Vec<usize>,
    /// Where its bytes begin and end in the file.
    pub(super) begin: usize,
    pub(super) end: usize,
}

/// A metadata value. Integers of all widths are one of two variants; arrays stay in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    Array(Array),
}

/// An array that was walked over once, so that reading it again cannot run past its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    kind: u32,
    count: usize,
    begin: usize,
    end: usize,
}

/// The value types, by their numbers.
mod kind {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// Arrays of arrays are allowed by the format and used by nobody; deeper ones than this are refused.
const DEEPEST: usize = 4;
/// Tensors start at multiples of this unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;

struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn bad(&self, what: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::malformed(self.path, format!("{what} at byte {}", self.at), expected, found)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], Error> {
        if length > self.left() {
            return Err(self.bad(
                what,
                format!("{length} bytes"),
                format!("{} up to the end of the file; is it truncated?", self.left()),
            ));
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        Ok(*self.take(N, what)?.first_chunk().expect("as many bytes as were taken"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, least: usize, what: &str) -> Result<usize, Error> {
        let found = self.u64(what)?;
        let most = self.left() / least;
        usize::try_from(found).ok().filter(|&n| n <= most).ok_or_else(|| {
            self.at -= 8;
            self.bad(
                what,
                format!("at most {most} (the file has {} bytes after it)", self.left() - 8),
                found.to_string(),
            )
        })
    }

    fn string(&mut self, what: &str) -> Result<&'a str, Error> {
        let length = self.count(1, what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| {
            self.at -= length;
            self.bad(what, "UTF-8", format!("a bad byte {} bytes into the string", error.valid_up_to()))
        })
    }

    fn value(&mut self, kind: u32, what: &str) -> Result<Value, Error> {
        Ok(match kind {
            kind::U8 => Value::Unsigned(u64::from(self.array::<1>(what)?[0])),
            kind::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array(what)?))),
            kind::U32 => Value::Unsigned(u64::from(self.u32(what)?)),
            kind::U64 => Value::Unsigned(self.u64(what)?),
            kind::I8 => Value::Signed(i64::from(self.array::<1>(what)?[0].cast_signed())),
            kind::I16 => Value::Signed(i64::from(i16::from_le_bytes(self.array(what)?))),
            kind::I32 => Value::Signed(i64::from(i32::from_le_bytes(self.array(what)?))),
            kind::I64 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            kind::F32 => Value::Float(f64::from(f32::from_le_bytes(self.array(what)?))),
            kind::F64 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            kind::BOOL => match self.array::<1>(what)? {
                [0] => Value::Flag(false),
                [1] => Value::Flag(true),
                [other] => return Err(self.bad(what, "a boolean, 0 or 1", other.to_string())),
            },
            kind::STRING => Value::Text(self.string(what)?.to_owned()),
            kind::ARRAY => Value::Array(self.walk_array(what, 0)?),
            other => return Err(self.bad(what, "a value type from 0 to 12", other.to_string())),
        })
    }

    fn walk_array(&mut self, what: &str, depth: usize) -> Result<Array, Error> {
        let kind = self.u32(what)?;
        let size = match kind {
            kind::U8 | kind::I8 | kind::BOOL => 1,
            kind::U16 | kind::I16 => 2,
            kind::U32 | kind::I32 | kind::F32 => 4,
            kind::U64 | kind::I64 | kind::F64 | kind::STRING => 8,
            kind::ARRAY if depth < DEEPEST => 12,
            kind::ARRAY => {
                return Err(self.bad(what, format!("arrays at most {DEEPEST} deep"), "a deeper one"));
            }
            other => return Err(self.bad(what, "elements of a type from 0 to 12", other.to_string())),
        };
        let count = self.count(size, what)?;
        let begin = self.at;
        match kind {
            kind::STRING => {
                for _ in 0..count {
                    let length = self.count(1, what)?;
                    self.take(length, what)?;
                }
            }
            kind::ARRAY => {
                for _ in 0..count {
                    self.walk_array(what, depth + 1)?;
                }
            }
            _ => {
                self.take(count * size, what)?;
            }
        }
        Ok(Array { kind, count, begin, end: self.at })
    }
}

impl Header {
    /// Reads the header of a mapped file.
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Header, Error> {
        let mut cursor = Cursor { path, bytes, at: 0 };
        let magic: [u8; 4] = cursor.array("the magic number")?;
        if &magic != b"GGUF" {
            cursor.at = 0;
            return Err(cursor.bad(
                "the magic number",
                "GGUF",
                format!("{:?}", magic.escape_ascii().to_string()),
            ));
        }
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            let hint = if version.swap_bytes() < 16 { " (a big-endian file)" } else { "" };
            return Err(cursor.bad("the version", "2 or 3", format!("{version}{hint}")));
        }
        // A tensor is described in at least 8 + 1 + 4 + 8 + 4 + 8 bytes, an entry in 8 + 1 + 4 + 1.
        let tensors = cursor.count(33, "the number of tensors")?;
        let entries = cursor.count(14, "the number of metadata entries")?;
        let mut header = Header { path: path.to_owned(), entries: BTreeMap::new(), tensors: BTreeMap::new() };
        for _ in 0..entries {
            let key = cursor.string("a metadata key")?;
            let what = format!("metadata {}", quoted(key));
            let kind = cursor.u32(&what)?;
            let value = cursor.value(kind, &what)?;
            if header.entries.insert(key.to_owned(), value).is_some() {
                return Err(cursor.bad(&what, "every key once", "it again"));
            }
        }
        if let Some(parts) = header.unsigned("split.count")?
            && parts > 1
        {
            return Err(header.wrong("split.count", "1: a model in one file", parts.to_string()));
        }
        let alignment = header.unsigned("general.alignment")?.unwrap_or(ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > 1 << 30 {
            return Err(header.wrong("general.alignment", "a power of two", alignment.to_string()));
        }
        let mut described = Vec::new();
        for _ in 0..tensors {
            described.push(describe(&mut cursor)?);
        }
        let data = (cursor.at as u64).next_multiple_of(alignment);
        for (name, mut stored, offset) in described {
            place(path, &name, &mut stored, [data, offset, alignment, bytes.len() as u64])?;
            if header.tensors.insert(name.clone(), stored).is_some() {
                return Err(Error::malformed(
                    path,
                    format!("tensor {}", quoted(&name)),
                    "every tensor once",
                    "it again",
                ));
            }
        }
        header.check_overlaps()?;
        Ok(header)
    }

    fn check_overlaps(&self) -> Result<(), Error> {
        let mut order: Vec<(&String, &Stored)> = self.tensors.iter().collect();
        order.sort_by_key(|(_, stored)| (stored.begin, stored.end));
        for pair in order.windows(2) {
            let ((before, first), (name, second)) = (pair[0], pair[1]);
            if second.begin < first.end {
                return Err(Error::malformed(
                    &self.path,
                    format!("tensor {}", quoted(name)),
                    format!("data after byte {}, where tensor {} ends", first.end, quoted(before)),
                    format!("data that begins at byte {}: tensors overlap", second.begin),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::malformed(&self.path, format!("metadata {}", quoted(key)), expected, found)
    }

    fn found(&self, key: &str) -> String {
        match self.entries.get(key) {
            None => "nothing".to_owned(),
            Some(Value::Text(text)) => quoted(text),
            Some(Value::Array(array)) => format!("an array of {}", array.count),
            Some(Value::Unsigned(n)) => n.to_string(),
            Some(Value::Signed(n)) => n.to_string(),
            Some(Value::Float(x)) => x.to_string(),
            Some(Value::Flag(flag)) => flag.to_string(),
        }
    }

    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, Error> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(*n)),
            Some(Value::Signed(n)) if *n >= 0 => Ok(Some(n.cast_unsigned())),
            Some(_) => Err(self.wrong(key, "a non-negative integer", self.found(key))),
        }
    }

    /// A size, when the key is there.
    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(n) = self.unsigned(key)? else { return Ok(None) };
        usize::try_from(n).map(Some).map_err(|_| self.wrong(key, "a size", n.to_string()))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, Error> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "a non-negative integer", "nothing"))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.wrong(key, "a number", self.found(key))),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "a boolean", self.found(key))),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string", self.found(key))),
        }
    }

    fn list(&self, key: &str, kinds: &[u32], expected: &str) -> Result<Option<&Array>, Error> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) if kinds.contains(&array.kind) => Ok(Some(array)),
            Some(_) => Err(self.wrong(key, expected, self.found(key))),
        }
    }

    /// The strings of an array; `bytes` is the whole file.
    pub(super) fn strings<'a>(&'a self, bytes: &'a [u8], key: &str) -> Result<Option<Vec<&'a str>>, Error> {
        let Some(array) = self.list(key, &[kind::STRING], "an array of strings")? else { return Ok(None) };
        let mut cursor = Cursor { path: &self.path, bytes: &bytes[..array.end], at: array.begin };
        let what = format!("metadata {}", quoted(key));
        (0..array.count).map(|_| cursor.string(&what)).collect::<Result<_, _>>().map(Some)
    }

    /// The numbers of an array of f32 or of 32-bit integers.
    pub(super) fn numbers(&self, bytes: &[u8], key: &str) -> Result<Option<Vec<f64>>, Error> {
        let kinds = [kind::F32, kind::I32, kind::U32];
        let Some(array) = self.list(key, &kinds, "an array of 32-bit numbers")? else { return Ok(None) };
        let elements = bytes[array.begin..array.end].as_chunks::<4>().0.iter();
        Ok(Some(match array.kind {
            kind::F32 => elements.map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            kind::I32 => elements.map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
            _ => elements.map(|b| f64::from(u32::from_le_bytes(*b))).collect(),
        }))
    }
}

/// Reads the description of one tensor: name, the tensor without its place, offset.
fn describe(cursor: &mut Cursor<'_>) -> Result<(String, Stored, u64), Error> {
    let name = cursor.string("the name of a tensor")?.to_owned();
    let what = format!("tensor {}", quoted(&name));
    let dims = cursor.u32(&what)?;
    if !(1..=4).contains(&dims) {
        return Err(cursor.bad(&what, "one to four dimensions", dims.to_string()));
    }
    let mut shape = Vec::with_capacity(4);
    for _ in 0..dims {
        let size = cursor.u64(&what)?;
        let fits = usize::try_from(size).ok().filter(|&n| n > 0);
        shape.push(fits.ok_or_else(|| cursor.bad(&what, "sizes above zero", size.to_string()))?);
    }
    shape.reverse();
    let id = cursor.u32(&what)?;
    let kind = BlockType::of_id(id).ok_or_else(|| {
        let known = BlockType::ALL.map(|t| format!("{} ({})", t.name(), t.id())).join(", ");
        cursor.bad(&what, format!("one of the types {known}"), format!("type {id}"))
    })?;
    let offset = cursor.u64(&what)?;
    Ok((name, Stored { kind, shape, begin: 0, end: 0 }, offset))
}

/// Finds where a tensor's data lie.
fn place(
    path: &Path,
    name: &str,
    stored: &mut Stored,
    [data, offset, alignment, length]: [u64; 4],
) -> Result<(), Error> {
    let bad = |expected: String, found: String| {
        Error::malformed(path, format!("tensor {}", quoted(name)), expected, found)
    };
    let (columns, rows) = stored.shape.split_last().expect("at least one dimension was read");
    let kind = stored.kind;
    if !columns.is_multiple_of(kind.values()) {
        let expected = format!("rows of whole {} blocks of {}", kind.name(), kind.values());
        return Err(bad(expected, format!("rows of {columns}")));
    }
    let rows = rows.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    let size = rows.and_then(|n| n.checked_mul(kind.row_bytes(*columns)?));
    let values = rows.and_then(|n| n.checked_mul(*columns));
    let (Some(size), Some(_)) = (size, values) else {
        return Err(bad("a shape whose values can be counted".to_owned(), format!("{:?}", stored.shape)));
    };
    if !offset.is_multiple_of(alignment) {
        return Err(bad(format!("an offset that is a multiple of {alignment}"), offset.to_string()));
    }
    let begin = data.checked_add(offset);
    let end = begin.and_then(|begin| begin.checked_add(size as u64)).filter(|&end| end <= length);
    let (Some(begin), Some(end)) = (begin, end) else {
        return Err(bad(
            format!("{size} bytes within the file's {length}"),
            format!("an offset of {offset} into the data at byte {data}; is the file truncated?"),
        ));
    };
    // Not past the end of a mapped file, so they fit a `usize`.
    (stored.begin, stored.end) = (begin as usize, end as usize);
    Ok(())
}
