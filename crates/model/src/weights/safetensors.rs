//! The safetensors format: 8 bytes of header length (little-endian), a JSON header
//! `{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {…}}`, then the data, without gaps.
//! Specification: <https://github.com/huggingface/safetensors#format>.
//!
//! The header is read into tensors as it comes, so that a header made of nested nothing takes no memory.

use std::{fmt, path::Path};

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{ElementType, Entry};
use crate::error::Error;

/// The specification's bound on the header.
const MAX_HEADER: usize = 100_000_000;

/// More dimensions than any tensor of a program that writes this format.
const MAX_DIMENSIONS: usize = 64;

/// Reads the header of a mapped file into entries with absolute byte ranges, sorted by name.
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
    if header.trim_ascii_start().first().is_some_and(|b| *b != b'{') {
        let start: String = String::from_utf8_lossy(&header[..header.len().min(20)]).into_owned();
        return Err(Error::malformed(path, "the header", "a JSON object", format!("`{start}…`")));
    }
    let Header(tensors) =
        serde_json::from_slice(header).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    let data_begin = 8 + length;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, described) in tensors {
        let (dtype, shape, begin, end) = described.check(path, &name)?;
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
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let place = format!("tensor `{}`", pair[0].0);
        return Err(Error::malformed(path, place, "each tensor once", "two of it"));
    }
    Ok(entries)
}

/// The tensors of a header, as they are written.
struct Header(Vec<(String, Described)>);

/// What the header says about one tensor, right or wrong.
#[derive(Default)]
struct Described {
    dtype: Option<Field>,
    shape: Option<Field>,
    data_offsets: Option<Field>,
}

/// A value of a description: what it should be, or what kind of thing it is instead.
enum Field {
    Text(String),
    Sizes(Vec<usize>),
    Other(&'static str),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Text(text) => write!(f, "`{text}`"),
            Field::Sizes(sizes) => write!(f, "{sizes:?}"),
            Field::Other(what) => f.write_str(what),
        }
    }
}

impl Described {
    fn check(self, path: &Path, name: &str) -> Result<(ElementType, Vec<usize>, usize, usize), Error> {
        let bad = |expected: &str, found: Option<Field>| {
            let found = found.map_or_else(|| "nothing".to_owned(), |field| field.to_string());
            Error::malformed(path, format!("tensor `{name}`"), expected, found)
        };
        let dtype = match &self.dtype {
            Some(Field::Text(text)) => element_type(text),
            _ => None,
        };
        let Some(dtype) = dtype else {
            return Err(bad("`dtype`: one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL", self.dtype));
        };
        let shape = match self.shape {
            Some(Field::Sizes(shape)) => shape,
            other => return Err(bad("`shape`: an array of non-negative integers", other)),
        };
        match self.data_offsets {
            Some(Field::Sizes(offsets)) if offsets.len() == 2 => Ok((dtype, shape, offsets[0], offsets[1])),
            other => Err(bad("`data_offsets`: two integers", other)),
        }
    }
}

fn element_type(name: &str) -> Option<ElementType> {
    Some(match name {
        "F64" => ElementType::F64,
        "F32" => ElementType::F32,
        "F16" => ElementType::F16,
        "BF16" => ElementType::Bf16,
        "I64" => ElementType::I64,
        "I32" => ElementType::I32,
        "I16" => ElementType::I16,
        "I8" => ElementType::I8,
        "U8" => ElementType::U8,
        "BOOL" => ElementType::Bool,
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

impl<'de> Deserialize<'de> for Described {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Described;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Described, A::Error> {
                let mut described = Described::default();
                while let Some(key) = map.next_key::<String>()? {
                    let field = match key.as_str() {
                        "dtype" => &mut described.dtype,
                        "shape" => &mut described.shape,
                        "data_offsets" => &mut described.data_offsets,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if field.replace(map.next_value()?).is_some() {
                        return Err(A::Error::custom("a key that is there twice"));
                    }
                }
                Ok(described)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array")
            }

            fn visit_str<E>(self, text: &str) -> Result<Field, E> {
                // No name of a type is as long.
                Ok(Field::Text(text.chars().take(40).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Field, A::Error> {
                let mut sizes = Vec::new();
                let mut whole = true;
                while let Some(Size(size)) = sequence.next_element()? {
                    match size {
                        Some(size) if sizes.len() < MAX_DIMENSIONS => sizes.push(size),
                        _ => whole = false,
                    }
                }
                Ok(if whole { Field::Sizes(sizes) } else { Field::Other("an array of something else") })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other("an object"))
            }

            fn visit_unit<E>(self) -> Result<Field, E> {
                Ok(Field::Other("null"))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
                Ok(Field::Other("true or false"))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
                Ok(Field::Other("a number"))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
                Ok(Field::Other("a number"))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
                Ok(Field::Other("a number"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// An element of a shape: a size, or something else.
struct Size(Option<usize>);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a non-negative integer")
            }

            fn visit_u64<E>(self, size: u64) -> Result<Size, E> {
                Ok(Size(usize::try_from(size).ok()))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Size, E> {
                Ok(Size(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Size, E> {
                Ok(Size(None))
            }

            fn visit_str<E>(self, _: &str) -> Result<Size, E> {
                Ok(Size(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Size, E> {
                Ok(Size(None))
            }

            fn visit_unit<E>(self) -> Result<Size, E> {
                Ok(Size(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Size, A::Error> {
                while sequence.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Size(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Size, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Size(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
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
