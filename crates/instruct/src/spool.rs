//! Conversations on disk until it is known which are kept and in what order, so that memory holds only their places.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::conversation::Conversation;
use crate::error::Error;

/// What every spooled line starts with: the id is not known before the order is.
const HEAD: &[u8] = b"{\"conversation_id\":0";

/// Where one conversation stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    offset: u64,
    length: u32,
}

/// A temporary file of conversations; gone when dropped.
pub(crate) struct Spool {
    path: PathBuf,
    writer: BufWriter<File>,
    end: u64,
}

impl Spool {
    /// Starts a spool beside `out`.
    pub(crate) fn beside(out: &Path) -> Result<Self, Error> {
        let mut name = std::ffi::OsString::from(".");
        name.push(out.file_name().unwrap_or_default());
        name.push(format!(".{}.spool.tmp", std::process::id()));
        let path = out.with_file_name(name);
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        }
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(Error::io(&path, "create"))?;
        Ok(Self { path, writer: BufWriter::with_capacity(1 << 16, file), end: 0 })
    }

    /// Appends a conversation, whose id must be 0.
    pub(crate) fn push(&mut self, conversation: &Conversation) -> Result<Place, Error> {
        let line = serde_json::to_vec(conversation).expect("a conversation holds only strings and numbers");
        debug_assert!(line.starts_with(HEAD));
        self.writer.write_all(&line[HEAD.len()..]).map_err(Error::io(&self.path, "write"))?;
        let length = line.len() - HEAD.len();
        let place = Place {
            offset: self.end,
            // A line of 4 GiB would be no conversation: sources refuse records of 256 MiB.
            length: u32::try_from(length).unwrap_or(u32::MAX),
        };
        self.end += length as u64;
        Ok(place)
    }

    /// The line of a conversation under its id, with its line feed; `line` is reused.
    pub(crate) fn line(&mut self, place: Place, id: u64, line: &mut Vec<u8>) -> Result<(), Error> {
        line.clear();
        line.extend_from_slice(&HEAD[..HEAD.len() - 1]);
        line.extend_from_slice(id.to_string().as_bytes());
        let start = line.len();
        line.resize(start + place.length as usize, 0);
        // Seeking the writer flushes it; without anything pending that costs nothing.
        self.writer.seek(SeekFrom::Start(place.offset)).map_err(Error::io(&self.path, "write"))?;
        self.writer.get_mut().read_exact(&mut line[start..]).map_err(Error::io(&self.path, "read"))?;
        line.push(b'\n');
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
