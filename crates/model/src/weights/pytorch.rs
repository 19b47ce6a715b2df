//! `pytorch_model.bin`: since PyTorch 1.6 a zip archive (`<any>/data.pkl` describes the tensors, `<any>/data/<key>` are the
//! storages, never compressed), before that pickles one after the other and the storages behind them. The pickle holds a
//! state dictionary, or what [fairseq](super::fairseq) wraps around one.

use std::{collections::BTreeMap, path::Path};

use super::{
    ElementType, Entry, fairseq,
    pickle::{self, MAX_NAME, Node, Unpickled, Value},
};
use crate::error::Error;

/// Byte range of each storage in the file, by its key.
type Storages = BTreeMap<String, (usize, usize)>;

/// Members of an archive that are looked at; a checkpoint has one a tensor.
const MAX_MEMBERS: usize = 1 << 18;

/// Reads the tensors of a mapped file into entries with absolute byte ranges.
pub(super) fn read(path: &Path, bytes: &[u8], file: usize) -> Result<Vec<(String, Entry)>, Error> {
    let (pickle, storages) = open(path, bytes)?;
    entries(path, file, &pickle, &storages)
}

/// The pickle that describes the tensors, and where the storages lie.
pub(super) fn open(path: &Path, bytes: &[u8]) -> Result<(Unpickled, Storages), Error> {
    if bytes.starts_with(b"PK\x03\x04") { open_zip(path, bytes) } else { open_legacy(path, bytes) }
}

fn open_zip(path: &Path, bytes: &[u8]) -> Result<(Unpickled, Storages), Error> {
    let members = zip_members(path, bytes)?;
    let ending = "/data.pkl";
    let mut indices = members.keys().filter(|name| name.ends_with(ending));
    let (Some(index), None) = (indices.next(), indices.next()) else {
        return Err(Error::malformed(
            path,
            "the archive",
            "one member `data.pkl`",
            format!("{} members, that one not once", members.len()),
        ));
    };
    let folder = &index[..index.len() - ending.len()];
    if let Some(&(begin, end)) = members.get(&format!("{folder}/byteorder"))
        && &bytes[begin..end] != b"little"
    {
        return Err(Error::malformed(path, "`byteorder`", "little", "another order of bytes"));
    }
    let (begin, end) = members[index];
    let pickle = pickle::read(path, &bytes[begin..end], begin)?;
    let prefix = format!("{folder}/data/");
    let storages =
        members.iter().filter_map(|(n, range)| Some((n.strip_prefix(&prefix)?.to_owned(), *range))).collect();
    Ok((pickle, storages))
}

/// Names and data ranges of the members of a zip archive, from its central directory (PKWARE APPNOTE 4.3).
fn zip_members(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, (usize, usize)>, Error> {
    let wrong = |place: &str, found: &str| {
        Error::malformed(
            path,
            place.to_owned(),
            "a whole zip archive",
            format!("{found}; is the file truncated?"),
        )
    };
    let u16_at = |at: usize| bytes.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let u32_at =
        |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let u64_at = |at: usize| -> Option<usize> {
        let bytes = bytes.get(at..at.checked_add(8)?)?.first_chunk::<8>()?;
        usize::try_from(u64::from_le_bytes(*bytes)).ok()
    };
    // The end record is 22 bytes and a comment of at most 65,535.
    let lowest = bytes.len().saturating_sub(22 + 65_535);
    let end =
        (lowest..=bytes.len().saturating_sub(22)).rev().find(|&at| bytes[at..].starts_with(b"PK\x05\x06"));
    let end = end.ok_or_else(|| wrong("the end of the archive", "no end record"))?;
    let damaged = || wrong("the central directory", "a record cut short");
    let (mut count, mut at) = (u16_at(end + 10).ok_or_else(damaged)?, u32_at(end + 16).ok_or_else(damaged)?);
    if end >= 20 && bytes[end - 20..].starts_with(b"PK\x06\x07") {
        let record = u64_at(end - 12).ok_or_else(damaged)?;
        if !bytes.get(record..).is_some_and(|b| b.starts_with(b"PK\x06\x06") && b.len() >= 56) {
            return Err(wrong("the 64-bit end record", "none where the locator points"));
        }
        (count, at) = (u64_at(record + 32).ok_or_else(damaged)?, u64_at(record + 48).ok_or_else(damaged)?);
    }
    if count > MAX_MEMBERS {
        return Err(Error::malformed(
            path,
            "the central directory",
            format!("at most {MAX_MEMBERS} members"),
            count.to_string(),
        ));
    }
    let mut members = BTreeMap::new();
    for _ in 0..count {
        if !bytes.get(at..).is_some_and(|b| b.starts_with(b"PK\x01\x02") && b.len() >= 46) {
            return Err(damaged());
        }
        let field = |offset: usize| u16_at(at + offset).ok_or_else(damaged);
        let (method, name_len, extra_len, comment_len) = (field(10)?, field(28)?, field(30)?, field(32)?);
        let mut size = u32_at(at + 24).ok_or_else(damaged)?;
        let mut local = u32_at(at + 42).ok_or_else(damaged)?;
        let name = bytes.get(at + 46..at + 46 + name_len).ok_or_else(damaged)?;
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME).ok_or_else(|| {
            Error::malformed(
                path,
                "the central directory",
                format!("names of at most {MAX_NAME} bytes of UTF-8"),
                "a longer name or other bytes",
            )
        })?;
        let extra_begin = at + 46 + name_len;
        let extra_end = extra_begin + extra_len;
        let mut extra = extra_begin;
        while extra + 4 <= extra_end {
            let (id, len) = (u16_at(extra).ok_or_else(damaged)?, u16_at(extra + 2).ok_or_else(damaged)?);
            if id == 1 {
                // 64-bit values, present only for the fields that are all ones, in this order.
                let mut value = extra + 4;
                if size == 0xFFFF_FFFF {
                    size = u64_at(value).ok_or_else(damaged)?;
                    value += 8;
                }
                if u32_at(at + 20) == Some(0xFFFF_FFFF) {
                    value += 8;
                }
                if local == 0xFFFF_FFFF {
                    local = u64_at(value).ok_or_else(damaged)?;
                }
            }
            extra += 4 + len;
        }
        // Nothing is ever unpacked, so that no archive is larger than it looks.
        if method != 0 || field(8)? & 1 != 0 {
            return Err(Error::malformed(
                path,
                format!("member `{name}`"),
                "stored data",
                "compressed or encrypted data",
            ));
        }
        if !bytes.get(local..).is_some_and(|b| b.starts_with(b"PK\x03\x04") && b.len() >= 30) {
            return Err(wrong(&format!("member `{name}`"), "no local header"));
        }
        let begin =
            local + 30 + u16_at(local + 26).ok_or_else(damaged)? + u16_at(local + 28).ok_or_else(damaged)?;
        let end = begin.checked_add(size).filter(|&end| end <= bytes.len());
        let end = end
            .ok_or_else(|| wrong(&format!("member `{name}`"), &format!("{size} bytes from byte {begin}")))?;
        if members.insert(name.to_owned(), (begin, end)).is_some() {
            return Err(Error::malformed(path, format!("member `{name}`"), "each member once", "two of it"));
        }
        at = extra_end + comment_len;
    }
    Ok(members)
}

/// The long integer that opens every legacy file.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

fn open_legacy(path: &Path, bytes: &[u8]) -> Result<(Unpickled, Storages), Error> {
    let mut at = 0;
    let mut next = || -> Result<Unpickled, Error> {
        let pickle = pickle::read(path, &bytes[at..], at)?;
        at += pickle.length;
        Ok(pickle)
    };
    let magic = next()?;
    if !matches!(magic.node(magic.root), Some(Node::Long(n)) if n[..] == LEGACY_MAGIC) {
        return Err(Error::malformed(path, "the start of the file", "a PyTorch archive", "another pickle"));
    }
    let (_version, _system, state, keys) = (next()?, next()?, next()?, next()?);
    let types: BTreeMap<&str, (ElementType, usize)> = state
        .arena
        .iter()
        .filter_map(|n| match n {
            Node::Storage { key, dtype, elements } => Some((key.as_str(), (*dtype, *elements))),
            _ => None,
        })
        .collect();
    let Some(Node::List(list)) = keys.node(keys.root) else {
        return Err(Error::malformed(path, "the storage keys", "a list", "another value"));
    };
    let mut storages = Storages::new();
    for &key in list {
        let key = keys.text(key).unwrap_or_default();
        let place = || format!("storage `{key}`");
        let Some(&(dtype, elements)) = types.get(key) else {
            return Err(Error::malformed(
                path,
                place(),
                "a storage that a tensor uses",
                "one that none uses",
            ));
        };
        let count = bytes.get(at..at + 8).and_then(|b| b.first_chunk::<8>()).map(|b| u64::from_le_bytes(*b));
        if count != Some(elements as u64) {
            let found = count.map_or("the end of the file".to_owned(), |n| n.to_string());
            return Err(Error::malformed(path, place(), format!("{elements} elements"), found));
        }
        let begin = at + 8;
        let end = elements
            .checked_mul(dtype.size())
            .and_then(|n| begin.checked_add(n))
            .filter(|&e| e <= bytes.len());
        let Some(end) = end else {
            let left = bytes.len() - begin;
            return Err(Error::malformed(
                path,
                place(),
                format!("{elements} elements of {dtype:?}"),
                format!("{left} bytes; is the file truncated?"),
            ));
        };
        storages.insert(key.to_owned(), (begin, end));
        at = end;
    }
    Ok((state, storages))
}

/// The tensors of the state dictionary, with their ranges in the file.
fn entries(
    path: &Path,
    file: usize,
    pickle: &Unpickled,
    storages: &Storages,
) -> Result<Vec<(String, Entry)>, Error> {
    let Some(Node::Dict(items)) = pickle.node(pickle.root) else {
        return Err(Error::malformed(path, "the pickle", "a dictionary of tensors", "another value"));
    };
    if let Some(model) = fairseq::state_dictionary(pickle) {
        return tensors(path, file, pickle, storages, model, &|name| fairseq::hugging_face_name(path, name));
    }
    // A state dictionary alone has no use for anything else.
    if let Some((name, at)) = &pickle.foreign {
        return Err(pickle::more_than_tensors(path, name, *at));
    }
    tensors(path, file, pickle, storages, items, &|name| Ok(Some(name.to_owned())))
}

/// The tensors of a dictionary, under the names that `rename` gives them, if it gives one.
fn tensors(
    path: &Path,
    file: usize,
    pickle: &Unpickled,
    storages: &Storages,
    items: &[(Value, Value)],
    rename: &dyn Fn(&str) -> Result<Option<String>, Error>,
) -> Result<Vec<(String, Entry)>, Error> {
    let mut found: BTreeMap<String, Entry> = BTreeMap::new();
    for &(key, value) in items {
        let Some(name) = pickle.text(key).filter(|name| name.len() <= MAX_NAME) else {
            return Err(Error::malformed(path, "the state dictionary", "names as keys", "another key"));
        };
        let Some(name) = rename(name)? else { continue };
        let Some(Node::Tensor(tensor)) = pickle.node(value) else {
            return Err(Error::malformed(path, format!("`{name}`"), "a tensor", "another value"));
        };
        let entry = entry(path, file, &name, tensor, pickle, storages)?;
        if found.insert(name.clone(), entry).is_some() {
            return Err(Error::malformed(path, format!("tensor `{name}`"), "each tensor once", "two of it"));
        }
    }
    Ok(found.into_iter().collect())
}

fn entry(
    path: &Path,
    file: usize,
    name: &str,
    tensor: &pickle::Tensor,
    pickle: &Unpickled,
    storages: &Storages,
) -> Result<Entry, Error> {
    let wrong =
        |expected: String, found: String| Error::malformed(path, format!("tensor `{name}`"), expected, found);
    let Node::Storage { key, dtype, .. } = &pickle.arena[tensor.storage] else {
        return Err(wrong("a storage".to_owned(), "another value".to_owned()));
    };
    let Some(&(begin, end)) = storages.get(key) else {
        return Err(wrong(format!("storage `{key}`"), "no data under that key".to_owned()));
    };
    let mut elements: usize = 1;
    for (&size, &stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        if size != 1 && stride != elements {
            return Err(wrong("a contiguous tensor".to_owned(), format!("strides {:?}", tensor.strides)));
        }
        elements = elements.saturating_mul(size);
    }
    let whole = |n: usize| n.checked_mul(dtype.size());
    let from = whole(tensor.offset).and_then(|n| begin.checked_add(n));
    let to = from.zip(whole(elements)).and_then(|(from, n)| from.checked_add(n)).filter(|&to| to <= end);
    match (from, to) {
        (Some(from), Some(to)) if tensor.shape.len() == tensor.strides.len() => {
            Ok(Entry { file, dtype: *dtype, shape: tensor.shape.clone(), begin: from, end: to, packed: None })
        }
        _ => Err(wrong(
            format!(
                "shape {:?} at element {} within the storage's {} bytes",
                tensor.shape,
                tensor.offset,
                end - begin
            ),
            "a tensor that reaches past its end".to_owned(),
        )),
    }
}
