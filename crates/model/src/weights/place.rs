//! Where the files of a model folder may lie, and how long those that are read as a whole may be.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use crate::error::Error;

/// Checks that a file of a model folder is an ordinary file inside it. A link that leads out of the folder would make a
/// downloaded model read, and a converted one publish, whatever file of this machine it names; only the layout of the Hugging
/// Face cache (`snapshots/<revision>/name -> ../../blobs/<hash>`) has such links by design.
///
/// # Errors
/// [`Error::Malformed`] otherwise, [`Error::Io`] when it is not there.
pub fn check_inside(dir: &Path, path: &Path) -> Result<(), Error> {
    let real = path.canonicalize().map_err(Error::io(path))?;
    let folder = dir.canonicalize().map_err(Error::io(dir))?;
    // Anything else, a pipe or a device, may block or never end.
    if !real.is_file() {
        return Err(Error::malformed(path, "the file", "an ordinary file", "something else"));
    }
    if real.starts_with(&folder) || blobs(&folder).is_some_and(|blobs| real.starts_with(blobs)) {
        return Ok(());
    }
    Err(Error::malformed(
        path,
        "the file",
        "a file inside the model folder",
        format!("a link to {}; copy or move the file into the folder if it is meant", real.display()),
    ))
}

/// Where the Hugging Face cache keeps the contents of a snapshot folder.
fn blobs(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    Some(snapshots.parent()?.join("blobs"))
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// [`Error::Io`], also where it is not UTF-8; [`Error::Malformed`] for a longer file.
pub fn read_text(path: &Path, limit: u64) -> Result<String, Error> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text).map_err(Error::io(path))?;
    if text.len() as u64 > limit {
        return Err(Error::malformed(path, "the file", format!("at most {limit} bytes"), "a longer file"));
    }
    Ok(text)
}
