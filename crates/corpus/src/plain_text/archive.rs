//! Bytes of source files: plain, gzip, and the members of gzipped tar archives.

use std::io::Read;
use std::path::Path;

use super::TextError;

/// Reads a file, unpacking `.gz`.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, TextError> {
    let io = |source| TextError::Io { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes).map_err(io)?;
    } else {
        std::io::BufReader::new(file).read_to_end(&mut bytes).map_err(io)?;
    }
    Ok(bytes)
}

/// The files of a `.tar.gz` archive, in its order: name and bytes; a plain file is its own only member.
pub(super) fn members(path: &Path) -> Result<Vec<(String, Vec<u8>)>, TextError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let bytes = read_bytes(path)?;
    if !name.ends_with(".tar.gz") {
        return Ok(vec![(name, bytes)]);
    }
    let io = |source| TextError::Io { path: path.into(), source };
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut members = Vec::new();
    for entry in archive.entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(io)?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(io)?;
        members.push((name, bytes));
    }
    Ok(members)
}

/// Decodes UTF-8 (a byte order mark is dropped) or, where the bytes are not UTF-8, GB18030; `None` where neither
/// fits. Several Chinese sources are GB18030 and nothing in the file says so.
pub fn decode_text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.to_owned()),
        Err(_) => encoding_rs::GB18030
            .decode_without_bom_handling_and_without_replacement(bytes)
            .map(|text| text.into_owned()),
    }
}
