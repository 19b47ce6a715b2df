//! The safetensors format: 8 bytes of header length (little-endian), a JSON header
//! `{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {…}}`, then the data, without gaps.
//! Specification: <https://github.com/huggingface/safetensors#format>.

use std::path::Path;

use serde_json::Value;

use super::{ElementType, Entry};
use crate::error::Error;

/// The specification's bound on the header.
const MAX_HEADER: usize = 100_000_000;

/// Reads the header of a mapped file into entries with absolute byte ranges.
pub(super) fn read(path: &Path, bytes: &[u8], file: usize) -> Result<Vec<(String, Entry)>, Error> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::malformed(
            path,
            "the header length",
            "8 bytes",
            format!("a file of {} bytes", bytes.len()),
        ));
    };
    let stated = u64::from_le_bytes(*length);
    let length = usize::try_from(stated).unwrap_or(usize::MAX);
    if length > MAX_HEADER || length > rest.len() {
        return Err(Error::malformed(
            path,
            "the header length",
            format!("at most {} bytes (the file has {} after it)", MAX_HEADER, rest.len()),
            format!("{stated} bytes; is the file truncated, or not safetensors?"),
        ));
    }
    let (header, data) = rest.split_at(length);
    let header: Value =
        serde_json::from_slice(header).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    let Value::Object(header) = header else {
        return Err(Error::malformed(path, "the header", "a JSON object", header.to_string()));
    };
    let data_begin = 8 + length;
    let mut entries = Vec::with_capacity(header.len());
    for (name, value) in header {
        if name == "__metadata__" {
            continue;
        }
        let (dtype, shape, begin, end) = tensor(path, &name, &value)?;
        let place = || format!("tensor `{name}`");
        if begin > end || end > data.len() {
            return Err(Error::malformed(
                path,
                place(),
                format!("data_offsets within the {} bytes of data", data.len()),
                format!("{begin}..{end}; is the file truncated?"),
            ));
        }
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let needed = elements.and_then(|n| n.checked_mul(dtype.size()));
        if needed != Some(end - begin) {
            return Err(Error::malformed(
                path,
                place(),
                format!(
                    "{} bytes for shape {shape:?} of {dtype:?}",
                    needed.map_or("countable".to_owned(), |n| n.to_string())
                ),
                format!("{} bytes", end - begin),
            ));
        }
        entries.push((
            name,
            Entry { file, dtype, shape, begin: data_begin + begin, end: data_begin + end, packed: None },
        ));
    }
    check_cover(path, &entries, data_begin, bytes.len())?;
    Ok(entries)
}

fn tensor(path: &Path, name: &str, value: &Value) -> Result<(ElementType, Vec<usize>, usize, usize), Error> {
    let bad = |expected: &str, found: Option<&Value>| {
        let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
        Error::malformed(path, format!("tensor `{name}`"), expected, found)
    };
    let sizes = |key: &str| -> Result<Vec<usize>, Error> {
        let found = value.get(key);
        let list =
            found.and_then(Value::as_array).ok_or_else(|| bad(&format!("`{key}`: an array"), found))?;
        let sizes = list.iter().map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok())).collect();
        let sizes: Option<Vec<usize>> = sizes;
        sizes.ok_or_else(|| bad(&format!("`{key}`: non-negative integers"), found))
    };
    let dtype = match value.get("dtype").and_then(Value::as_str) {
        Some("F64") => ElementType::F64,
        Some("F32") => ElementType::F32,
        Some("F16") => ElementType::F16,
        Some("BF16") => ElementType::Bf16,
        Some("I64") => ElementType::I64,
        Some("I32") => ElementType::I32,
        Some("I16") => ElementType::I16,
        Some("I8") => ElementType::I8,
        Some("U8") => ElementType::U8,
        Some("BOOL") => ElementType::Bool,
        _ => return Err(bad("`dtype`: one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL", value.get("dtype"))),
    };
    let shape = sizes("shape")?;
    let offsets = sizes("data_offsets")?;
    let [begin, end] = offsets[..] else {
        return Err(bad("`data_offsets`: two integers", value.get("data_offsets")));
    };
    Ok((dtype, shape, begin, end))
}

/// Tensors must tile the data: overlaps and holes are the signs of a damaged or doctored file.
fn check_cover(path: &Path, entries: &[(String, Entry)], begin: usize, end: usize) -> Result<(), Error> {
    let mut order: Vec<&(String, Entry)> = entries.iter().collect();
    order.sort_by_key(|(_, e)| (e.begin, e.end));
    let mut at = begin;
    for (name, entry) in order {
        if entry.begin != at {
            return Err(Error::malformed(
                path,
                format!("tensor `{name}`"),
                format!("data that begins at byte {at}, where the tensor before it ends"),
                format!(
                    "byte {}: {}",
                    entry.begin,
                    if entry.begin < at { "tensors overlap" } else { "a hole" }
                ),
            ));
        }
        at = entry.end;
    }
    if at != end {
        return Err(Error::malformed(
            path,
            "the end of the data",
            format!("byte {at}"),
            format!("a file of {end} bytes"),
        ));
    }
    Ok(())
}
