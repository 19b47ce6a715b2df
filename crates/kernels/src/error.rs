//! What can go wrong outside the caller's control.

use std::path::PathBuf;

/// An input this crate cannot work with.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file could not be opened or mapped into memory.
    #[error("{path}: cannot map the file into memory: {source}")]
    Map {
        /// The file asked for.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The parts of a stored NF4 matrix do not fit together.
    #[error(
        "NF4 matrix ({rows}, {cols}): {part} has {found} elements, expected {expected}; the file is damaged or not NF4 with blocks of 64"
    )]
    Nf4Parts {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Which stored part is wrong.
        part: &'static str,
        /// Elements the shape asks for.
        expected: usize,
        /// Elements found.
        found: usize,
    },
}
