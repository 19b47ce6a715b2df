//! Files as memory.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::error::KernelError;

/// A whole file mapped read-only; dereferences to its bytes. The start is aligned to a memory page.
///
/// Another process that shortens the file while it is mapped makes reading the lost part end this process (`SIGBUS`), as
/// with every program that maps files; checkpoints are replaced by renaming for that reason.
#[derive(Debug)]
pub struct MappedFile(Option<memmap2::Mmap>);

impl MappedFile {
    /// Maps the file at `path`; an empty file is an empty slice.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`] when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let fail = |source| KernelError::Map { path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        // Mapping zero bytes is an error of the system call.
        if file.metadata().map_err(fail)?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is private to this value and read-only; the documented rule is that nobody truncates the file.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(fail)?;
        Ok(Self(Some(map)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_is_its_bytes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert_eq!(&*MappedFile::open(&path).unwrap(), std::fs::read(&path).unwrap().as_slice());
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let error = MappedFile::open(Path::new("no/such/file")).unwrap_err();
        assert!(error.to_string().starts_with("no/such/file: "), "{error}");
    }
}
