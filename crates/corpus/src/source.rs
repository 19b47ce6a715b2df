//! Opening source files: a folder or memory, gzip and tar in place, lines of text in a known encoding.
//!
//! Knows nothing of formats: it hands out bytes, lines and archive members, and says clearly when they are not
//! what they should be.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A line or record longer than this is refused: it is no text, or a decompression bomb.
const LONGEST_LINE: u64 = 256 << 20;
/// An archive that unpacks to more than this is refused.
const LARGEST_ARCHIVE: u64 = 2 << 30;

/// The encoding of a source's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// UTF-8; a byte-order mark at the start is skipped.
    #[default]
    Utf8,
    /// GB18030, of which GBK and GB2312 are parts.
    Gb18030,
}

/// Where source files come from.
pub trait Source {
    /// Opens `path`, relative to the source; the bytes are as stored, compressed or not.
    ///
    /// # Errors
    /// Where there is no such file.
    fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Error>;
}

/// A folder with one folder per dataset in its original files.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Source for Folder {
    fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Error> {
        let full = self.0.join(path);
        match File::open(&full) {
            Ok(file) => Ok(Box::new(file)),
            Err(source) => Err(Error::Open { path: full.display().to_string(), source }),
        }
    }
}

impl Source for Path {
    fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Error> {
        Folder(self.to_path_buf()).open(path)
    }
}

/// Files in memory, by path.
#[derive(Clone, Debug, Default)]
pub struct Memory(pub BTreeMap<String, Vec<u8>>);

impl Source for Memory {
    fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Error> {
        match self.0.get(path) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            None => Err(Error::Open { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() }),
        }
    }
}

/// An opened file: its name for messages, its bytes after decompression, its text encoding.
pub struct Input {
    /// The name that messages use.
    pub name: String,
    /// The bytes, decompressed.
    pub bytes: Box<dyn BufRead + Send>,
    /// How the bytes become text.
    pub encoding: Encoding,
}

impl Input {
    /// Opens `path` of `source`, through gzip where the name ends in `.gz`.
    ///
    /// # Errors
    /// Where there is no such file. A truncated archive shows only when it is read.
    pub fn open<S: Source + ?Sized>(source: &S, path: &str, encoding: Encoding) -> Result<Self, Error> {
        let raw = source.open(path)?;
        let bytes: Box<dyn BufRead + Send> = if path.ends_with(".gz") || path.ends_with(".tgz") {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(raw)))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, raw))
        };
        Ok(Self { name: path.to_owned(), bytes, encoding })
    }

    /// Bytes at hand as an input; for tests and for text that never was a file.
    pub fn from_bytes(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), bytes: Box::new(Cursor::new(bytes.into())), encoding: Encoding::Utf8 }
    }

    /// The lines, without their ends, with their numbers from 1.
    pub fn lines(self) -> Lines {
        Lines { input: self, line: 0, done: false }
    }

    /// The whole text.
    ///
    /// # Errors
    /// Where the bytes stop early or are not text in the encoding.
    pub fn text(mut self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        if let Err(source) = (&mut self.bytes).take(LONGEST_LINE).read_to_end(&mut bytes) {
            let line = 1 + bytes.iter().filter(|&&byte| byte == b'\n').count();
            return Err(Error::Read { file: self.name, line, source });
        }
        let text = decode(bytes, self.encoding, &self.name, 1)?;
        Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        })
    }

    /// The members of a tar archive, by name, whole. Members that are not plain files are left out.
    ///
    /// # Errors
    /// Where the archive is truncated, damaged or larger than 2 GiB.
    pub fn members(self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let name = self.name;
        let fail = |source| Error::Read { file: name.clone(), line: 0, source };
        let mut archive = tar::Archive::new(self.bytes);
        let mut members = BTreeMap::new();
        let mut total = 0_u64;
        for entry in archive.entries().map_err(fail)? {
            let mut entry = entry.map_err(fail)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut bytes = Vec::new();
            (&mut entry).take(LARGEST_ARCHIVE - total + 1).read_to_end(&mut bytes).map_err(fail)?;
            total += bytes.len() as u64;
            if total > LARGEST_ARCHIVE {
                return Err(fail(std::io::Error::other("more than 2 GiB of archive members")));
            }
            if (bytes.len() as u64) < entry.size() {
                return Err(fail(std::io::ErrorKind::UnexpectedEof.into()));
            }
            members.insert(path, bytes);
        }
        Ok(members)
    }
}

/// Lines of an [`Input`] with their numbers from 1; a line that is not text is an error of its own.
pub struct Lines {
    input: Input,
    line: usize,
    done: bool,
}

impl Lines {
    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.input.name
    }

    /// The number of the line read last.
    pub fn line(&self) -> usize {
        self.line
    }
}

impl Iterator for Lines {
    type Item = Result<(usize, String), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut bytes = Vec::new();
        let read = (&mut self.input.bytes).take(LONGEST_LINE).read_until(b'\n', &mut bytes);
        self.line += 1;
        let fail = |source| Some(Err(Error::Read { file: self.input.name.clone(), line: self.line, source }));
        match read {
            Ok(0) => {
                self.done = true;
                return None;
            }
            Ok(length) if length as u64 == LONGEST_LINE && bytes.last() != Some(&b'\n') => {
                self.done = true;
                return fail(std::io::Error::other("a line of more than 256 MiB"));
            }
            Ok(_) => {}
            Err(source) => {
                self.done = true;
                return fail(source);
            }
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if self.line == 1 && bytes.starts_with(b"\xEF\xBB\xBF") {
            bytes.drain(..3);
        }
        let text = decode(bytes, self.input.encoding, &self.input.name, self.line);
        if matches!(text, Err(Error::Encoding { whole_file: true, .. })) {
            self.done = true;
        }
        Some(text.map(|text| (self.line, text)))
    }
}

/// Turns bytes into text, or says which byte is none; `line` is the number of the first line.
pub(crate) fn decode(bytes: Vec<u8>, encoding: Encoding, file: &str, line: usize) -> Result<String, Error> {
    match encoding {
        Encoding::Utf8 => String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let bytes = error.as_bytes();
            let whole_file = looks_like_gb18030(bytes);
            let hint = if whole_file {
                "it reads as GB18030: convert the file, or set `encoding = \"gb18030\"` in the card"
            } else {
                "repair the line or leave it out"
            };
            let before = &bytes[..at];
            let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
            Error::Encoding {
                file: file.to_owned(),
                line: line + before.iter().filter(|&&byte| byte == b'\n').count(),
                expected: "UTF-8",
                byte: bytes[at],
                column: at - start + 1,
                hint,
                whole_file,
            }
        }),
        Encoding::Gb18030 => {
            match encoding_rs::GB18030.decode_without_bom_handling_and_without_replacement(&bytes) {
                Some(text) => Ok(text.into_owned()),
                None => {
                    // encoding_rs does not say where; the first high byte is the best that can be shown.
                    let at = bytes.iter().position(|byte| *byte >= 0x80).unwrap_or(0);
                    Err(Error::Encoding {
                        file: file.to_owned(),
                        line,
                        expected: "GB18030",
                        byte: bytes.get(at).copied().unwrap_or(0),
                        column: at + 1,
                        hint: "set the encoding of the card to `utf8`, or repair the line",
                        whole_file: false,
                    })
                }
            }
        }
    }
}

/// Whether bytes that are not UTF-8 read as GB18030 text that is mostly Chinese.
fn looks_like_gb18030(bytes: &[u8]) -> bool {
    let Some(text) = encoding_rs::GB18030.decode_without_bom_handling_and_without_replacement(bytes) else {
        return false;
    };
    let high = text.chars().filter(|c| !c.is_ascii()).count();
    let chinese = text
        .chars()
        .filter(|c| matches!(*c, '\u{3000}'..='\u{303f}' | '\u{4e00}'..='\u{9fff}' | '\u{ff00}'..='\u{ffef}'))
        .count();
    high > 0 && chinese * 10 >= high * 9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_the_mark() {
        let input = Input::from_bytes("made-up.txt", "\u{feff}one\r\ntwo\n\nlast");
        let lines: Vec<_> = input.lines().map(Result::unwrap).collect();
        let expected = [(1, "one"), (2, "two"), (3, ""), (4, "last")].map(|(n, text)| (n, text.to_owned()));
        assert_eq!(lines, expected);
    }

    #[test]
    fn gb18030_read_as_utf8_is_one_clear_error() {
        let (bytes, ..) = encoding_rs::GB18030.encode("患者：头痛三天\n医生：请描述一下\n病史不详\n");
        let mut lines = Input::from_bytes("talk.txt", bytes.into_owned()).lines();
        let message = lines.next().unwrap().unwrap_err().to_string();
        assert!(message.starts_with("talk.txt:1: expected UTF-8 text, found byte 0x"), "{message}");
        assert!(message.contains("encoding = \"gb18030\""), "{message}");
        assert!(lines.next().is_none(), "one error for the whole file");
    }

    #[test]
    fn gb18030_reads_as_such() {
        let (bytes, ..) = encoding_rs::GB18030.encode("头痛三天");
        let mut input = Input::from_bytes("talk.txt", bytes.into_owned());
        input.encoding = Encoding::Gb18030;
        assert_eq!(input.lines().next().unwrap().unwrap(), (1, "头痛三天".to_owned()));
    }

    #[test]
    fn one_bad_byte_loses_one_line() {
        let lines: Vec<_> = Input::from_bytes("a.txt", b"good\nb\xFFd\ngood\n".to_vec()).lines().collect();
        assert!(lines[0].is_ok() && lines[2].is_ok());
        let error = lines[1].as_ref().unwrap_err();
        assert!(error.is_record());
        assert!(
            error.to_string().starts_with("a.txt:2: expected UTF-8 text, found byte 0xFF at byte 2"),
            "{error}"
        );
    }

    #[test]
    fn a_truncated_gzip_says_so() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for number in 0..2000 {
            writeln!(encoder, "line {number}").unwrap();
        }
        let mut bytes = encoder.finish().unwrap();
        bytes.truncate(bytes.len() / 2);
        let memory = Memory([("a.txt.gz".to_owned(), bytes)].into());
        let input = Input::open(&memory, "a.txt.gz", Encoding::Utf8).unwrap();
        let last = input.lines().last().unwrap().unwrap_err();
        assert!(matches!(last, Error::Read { line, .. } if line > 1), "{last}");
    }
}
