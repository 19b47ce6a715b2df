//! Files as memory.

use std::fs::File;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use half::bf16;

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

/// Numbers that can be used where they lie in a file: of any bits, and stored as a processor with little-endian order holds them.
pub trait Element: Copy + Send + Sync + std::fmt::Debug + sealed::Sealed + 'static {}

impl Element for f32 {}
impl Element for bf16 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// Numbers that lie in a mapped file, which it keeps mapped; cloning shares them.
///
/// They take no memory of their own: the system keeps what is used and may drop and read again the rest.
#[derive(Clone, Debug)]
pub struct MappedSlice<T> {
    file: Arc<MappedFile>,
    /// First byte; a multiple of the alignment of `T` in memory.
    start: usize,
    /// Numbers.
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> MappedSlice<T> {
    /// The bytes of a range of a file as numbers; nothing where they cannot be used as they lie: past the end of the file, not
    /// a whole count, not aligned, or on a processor of another byte order.
    pub fn new(file: &Arc<MappedFile>, bytes: Range<usize>) -> Option<Self> {
        let found = file.get(bytes.clone())?;
        let usable = cfg!(target_endian = "little")
            && found.len().is_multiple_of(size_of::<T>())
            && found.as_ptr().cast::<T>().is_aligned();
        let len = found.len() / size_of::<T>();
        usable.then(|| Self { file: Arc::clone(file), start: bytes.start, len, element: PhantomData })
    }
}

impl<T: Element> Deref for MappedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes = &self.file[self.start..self.start + self.len * size_of::<T>()];
        // SAFETY: as many bytes as the numbers take (just sliced), aligned (checked in `new`, and a file is mapped once), alive
        // as long as `self.file`; every bit pattern is a value of an `Element`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), self.len) }
    }
}

/// Numbers in memory of their own, or in a mapped file.
#[derive(Clone, Debug)]
pub enum Storage<T> {
    /// In memory of their own.
    Owned(Vec<T>),
    /// In a file.
    Mapped(MappedSlice<T>),
}

impl<T: Element> Storage<T> {
    /// The numbers for writing; those of a file are copied first.
    pub fn to_mut(&mut self) -> &mut Vec<T> {
        if let Self::Mapped(slice) = self {
            *self = Self::Owned(slice.to_vec());
        }
        match self {
            Self::Owned(values) => values,
            Self::Mapped(_) => unreachable!("copied above"),
        }
    }

    /// The numbers in memory of their own; those of a file are copied.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::Owned(values) => values,
            Self::Mapped(slice) => slice.to_vec(),
        }
    }

    /// Bytes of memory of their own.
    pub fn owned_bytes(&self) -> usize {
        match self {
            Self::Owned(values) => size_of_val(values.as_slice()),
            Self::Mapped(_) => 0,
        }
    }
}

impl<T: Element> Deref for Storage<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Mapped(slice) => slice,
        }
    }
}

impl<T> From<Vec<T>> for Storage<T> {
    fn from(values: Vec<T>) -> Self {
        Self::Owned(values)
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

    /// A file of the numbers 1, 2, ... behind `front` bytes.
    fn numbers(front: usize) -> (tempfile::NamedTempFile, Arc<MappedFile>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; front];
        bytes.extend((1..=100).flat_map(|x| bf16::from_f32(x as f32).to_le_bytes()));
        std::fs::write(file.path(), bytes).unwrap();
        let map = Arc::new(MappedFile::open(file.path()).unwrap());
        (file, map)
    }

    #[test]
    fn numbers_are_used_where_they_lie() {
        let (_file, map) = numbers(6);
        let slice = MappedSlice::<bf16>::new(&map, 6..206).unwrap();
        assert_eq!(slice.as_ptr().cast(), map[6..].as_ptr());
        // The slice keeps the file mapped.
        drop(map);
        assert!(slice.iter().zip(1..=100).all(|(x, i)| x.to_f32() == i as f32) && slice.len() == 100);

        let mut storage = Storage::Mapped(slice.clone());
        assert_eq!((storage.owned_bytes(), &storage[..]), (0, &slice[..]));
        storage.to_mut()[0] = bf16::ZERO;
        assert_eq!((storage.owned_bytes(), storage[0], slice[0]), (200, bf16::ZERO, bf16::ONE));
        assert_eq!(storage.into_vec()[1..], slice[1..]);
        assert_eq!(Storage::Mapped(slice.clone()).into_vec(), slice.to_vec());
    }

    #[test]
    fn numbers_that_cannot_be_used_where_they_lie_are_refused() {
        let (_file, map) = numbers(6);
        assert!(MappedSlice::<bf16>::new(&map, 7..201).is_none(), "not aligned");
        assert!(MappedSlice::<bf16>::new(&map, 6..201).is_none(), "half a number");
        assert!(MappedSlice::<bf16>::new(&map, 6..208).is_none(), "past the end");
        let (start, end) = (206, 6);
        assert!(MappedSlice::<bf16>::new(&map, start..end).is_none(), "backwards");
        assert!(MappedSlice::<f32>::new(&map, 6..206).is_none(), "not aligned");
        assert!(MappedSlice::<f32>::new(&map, 8..204).is_some());
        assert_eq!(MappedSlice::<f32>::new(&map, 8..8).unwrap().len(), 0);
    }
}
