//! A file that appears whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Writes to a sibling temporary file and renames it into place; dropped before [`finish`](Self::finish), it leaves nothing.
pub(crate) struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    pub(crate) fn create(target: &Path) -> Result<Self, Error> {
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        // The process id keeps two builds into one folder apart.
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = target.with_file_name(name);
        let file = File::create(&temporary).map_err(Error::io(&temporary, "create"))?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
            writer: Some(BufWriter::with_capacity(1 << 16, file)),
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let writer =
            self.writer.as_mut().expect("the writer is taken by `finish` alone, which consumes self");
        writer.write_all(bytes).map_err(Error::io(&self.target, "write"))
    }

    /// Flushes to the disk, then renames.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let writer = self.writer.take().expect("`finish` consumes self");
        let file = writer.into_inner().map_err(|full| Error::io(&self.target, "write")(full.into_error()))?;
        file.sync_all().map_err(Error::io(&self.target, "write"))?;
        drop(file);
        std::fs::rename(&self.temporary, &self.target).map_err(Error::io(&self.target, "rename"))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a successful rename the temporary name is gone and this does nothing.
        drop(self.writer.take());
        let _ = std::fs::remove_file(&self.temporary);
    }
}
