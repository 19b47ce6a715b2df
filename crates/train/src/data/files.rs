//! Lines of plain and gzipped UTF-8 files, with errors that name the line.

use crate::TrainError;
use flate2::read::MultiGzDecoder;
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Lines without their line ends; the last may lack one.
pub(super) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Self, TrainError> {
        let file = File::open(path).map_err(TrainError::file(path, "cannot open"))?;
        let raw: Box<dyn Read + Send> = if has_extension(path, "gz") {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file)))
        } else {
            Box::new(file)
        };
        let reader = Box::new(BufReader::with_capacity(1 << 18, raw));
        Ok(Self { path: path.to_owned(), reader, line: 0, buffer: Vec::new() })
    }

    /// Returns the next line with its one-based number.
    pub(super) fn next(&mut self) -> Result<Option<(u64, &str)>, TrainError> {
        self.buffer.clear();
        let read = self.reader.read_until(b'\n', &mut self.buffer);
        if read.map_err(TrainError::file(&self.path, "cannot read"))? == 0 {
            return Ok(None);
        }
        self.line += 1;
        let mut bytes = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if self.line == 1 {
            bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some((self.line, text))),
            Err(error) => {
                let message = format!(
                    "not UTF-8 from byte {} of the line on; if the file is GB18030, convert it first",
                    error.valid_up_to() + 1
                );
                Err(TrainError::Data { path: self.path.clone(), line: self.line, message })
            }
        }
    }
}

/// Lines worked on at a time, by all threads together.
const CHUNK: usize = 1024;

/// Turns every line that is not blank into something, several at a time, and hands each on with its one-based number, in the
/// order of the file. What `read` refuses is an error that names the line.
pub(super) fn each_line<T: Send>(
    path: &Path,
    read: &(dyn Fn(&str) -> Result<T, String> + Sync),
    sink: &mut dyn FnMut(u64, T) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut lines = Lines::open(path)?;
    loop {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK
            && let Some((line, text)) = lines.next()?
        {
            if !text.trim().is_empty() {
                chunk.push((line, text.to_owned()));
            }
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let done: Vec<Result<T, String>> = chunk.par_iter().map(|(_, text)| read(text)).collect();
        for ((line, _), done) in chunk.into_iter().zip(done) {
            let refuse = |message| TrainError::Data { path: path.to_owned(), line, message };
            sink(line, done.map_err(refuse)?)?;
        }
    }
}

/// Says whether the last extension is `extension`.
pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Says whether the file is JSON lines, gzipped or not.
pub(super) fn is_json_lines(path: &Path) -> bool {
    let inner = if has_extension(path, "gz") { path.with_extension("") } else { path.to_owned() };
    has_extension(&inner, "jsonl") || has_extension(&inner, "ndjson")
}
