//! A flat file of tokens. The highest bit marks one: as learned in conversations, as the border of a document in text, as one
//! of the second text in pairs.

use crate::TrainError;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const MARK: u32 = 1 << 31;

pub(crate) fn stored(id: u32, marked: bool) -> u32 {
    debug_assert!(id < MARK, "a vocabulary has fewer than 2^31 tokens");
    if marked { id | MARK } else { id }
}

pub(crate) fn id(stored: u32) -> u32 {
    stored & !MARK
}

pub(crate) fn is_marked(stored: u32) -> bool {
    stored & MARK != 0
}

/// The label of a conversation's token.
pub(crate) fn label(stored: u32) -> i32 {
    if is_marked(stored) { id(stored) as i32 } else { super::IGNORED }
}

/// A file that goes when nothing needs it any more, also when it was never finished.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // A leftover is harmless: the next run writes over it.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[derive(Debug)]
pub(crate) struct Store {
    file: File,
    path: Temporary,
    fingerprint: u64,
}

pub(crate) struct StoreWriter {
    file: BufWriter<File>,
    path: Temporary,
    hash: Xxh3,
    tokens: u64,
}

impl StoreWriter {
    pub(crate) fn create(path: &Path) -> Result<Self, TrainError> {
        let create = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true).open(path)
        };
        let file = create().map_err(TrainError::file(path, "cannot create the token store"))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            path: Temporary(path.to_owned()),
            hash: Xxh3::new(),
            tokens: 0,
        })
    }

    /// Tokens written so far, which is where the next one goes.
    pub(crate) fn position(&self) -> u64 {
        self.tokens
    }

    pub(crate) fn push(&mut self, tokens: &[u32]) -> Result<(), TrainError> {
        self.hash.update(&(tokens.len() as u64).to_le_bytes());
        for token in tokens {
            let bytes = token.to_le_bytes();
            self.hash.update(&bytes);
            self.file
                .write_all(&bytes)
                .map_err(TrainError::file(&self.path.0, "cannot write the token store"))?;
        }
        self.tokens += tokens.len() as u64;
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Store, TrainError> {
        let Self { file, path, hash, .. } = self;
        let file = file
            .into_inner()
            .map_err(|error| TrainError::file(&path.0, "cannot write the token store")(error.into_error()))?;
        Ok(Store { file, path, fingerprint: hash.digest() })
    }
}

impl Store {
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(crate) fn read(&mut self, start: u64, length: usize) -> Result<Vec<u32>, TrainError> {
        let mut bytes = vec![0; length * 4];
        self.file
            .seek(SeekFrom::Start(start * 4))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(TrainError::file(&self.path.0, "cannot read the token store"))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&chunk| u32::from_le_bytes(chunk)).collect())
    }
}
