//! Writing documents: JSON Lines, each file under a temporary name until it is whole, a manifest last.
//!
//! A folder with a `manifest.json` is complete: building takes an old manifest away before it touches anything else.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::card::Card;
use crate::error::Error;
use crate::parquet;
use crate::readers::{Documents, read_from};
use crate::schema::Document;
use crate::source::Source;
use crate::writers::temporary_beside;

/// The format of built documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// One document per line, in the schema of this crate.
    #[default]
    Jsonl,
    /// Apache Parquet, in the layout of [`crate::parquet`].
    Parquet,
}

impl OutputFormat {
    /// The file name's extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

/// What a build has to say while it runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Documents of a split written so far.
    Documents(&'a str, u64),
    /// A record that could not be read; the rest goes on.
    Unreadable(&'a str, &'a Error),
}

/// What was built: the content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The dataset's id.
    pub dataset: String,
    /// The source version.
    pub variant: String,
    /// The format of the files.
    pub format: OutputFormat,
    /// The licence, from the card.
    pub license: String,
    /// The files, one per split.
    pub splits: Vec<SplitFile>,
}

/// A written split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitFile {
    /// The split's name.
    pub split: String,
    /// The file's name in the folder.
    pub file: String,
    /// Documents in it.
    pub documents: u64,
    /// Records of the source that could not be read.
    pub unreadable: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Hash of the file, in lower-case hexadecimal.
    pub sha256: String,
}

/// Builds all splits of a source version into `out/<dataset>/<split>.<format>` and `manifest.json`.
///
/// # Errors
/// Where the source cannot be opened, stops early, or the output cannot be written; then there is no manifest, and no
/// file that is not whole.
pub fn build<S: Source + ?Sized>(
    card: &Card,
    variant: Option<&str>,
    source: &S,
    out: &Path,
    format: OutputFormat,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest, Error> {
    let variant = card.variant(variant)?;
    let folder = out.join(&card.id);
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    std::fs::create_dir_all(&folder).map_err(fail(&folder))?;
    let manifest_path = folder.join("manifest.json");
    match std::fs::remove_file(&manifest_path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(fail(&manifest_path)(error));
        }
        _ => {}
    }
    let mut splits = Vec::new();
    for split in variant.split_names() {
        let file = format!("{split}.{}", format.extension());
        let mut documents = Counted {
            documents: read_from(card, Some(&variant.id), split, source)?,
            split,
            progress: &mut *progress,
            read: 0,
            unreadable: 0,
            fatal: None,
        };
        let path = folder.join(&file);
        let written = match format {
            OutputFormat::Jsonl => write_jsonl(&path, documents.by_ref()),
            OutputFormat::Parquet => parquet::write(&path, documents.by_ref()),
        };
        let Counted { read, unreadable, fatal, .. } = documents;
        written?;
        if let Some(error) = fatal {
            // The file holds only what stood before the fault: a half-read split is none.
            std::fs::remove_file(&path).map_err(fail(&path))?;
            return Err(error);
        }
        let (bytes, sha256) = hash(&path)?;
        splits.push(SplitFile { split: split.to_owned(), file, documents: read, unreadable, bytes, sha256 });
    }
    let manifest = Manifest {
        dataset: card.id.clone(),
        variant: variant.id.clone(),
        format,
        license: card.license.clone(),
        splits,
    };
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(std::io::Error::other)
        .map_err(fail(&manifest_path))?;
    write_atomically(&manifest_path, |writer| writeln!(writer, "{text}"))?;
    Ok(manifest)
}

/// Passes documents on, counts them, reports bad records, stops at a fault of the whole file.
struct Counted<'a> {
    documents: Documents,
    split: &'a str,
    progress: &'a mut dyn FnMut(Progress),
    read: u64,
    unreadable: u64,
    fatal: Option<Error>,
}

impl Iterator for Counted<'_> {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        loop {
            match self.documents.next() {
                Some(Ok(document)) => {
                    self.read += 1;
                    if self.read.is_multiple_of(256) {
                        (self.progress)(Progress::Documents(self.split, self.read));
                    }
                    return Some(document);
                }
                Some(Err(error)) if error.is_record() => {
                    self.unreadable += 1;
                    (self.progress)(Progress::Unreadable(self.split, &error));
                }
                Some(Err(error)) => {
                    self.fatal = Some(error);
                    return None;
                }
                None => {
                    (self.progress)(Progress::Documents(self.split, self.read));
                    return None;
                }
            }
        }
    }
}

/// Writes documents as JSON Lines; the file appears whole or not at all. Returns how many.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_jsonl(path: &Path, documents: impl Iterator<Item = Document>) -> Result<u64, Error> {
    let mut count = 0;
    write_atomically(path, |writer| {
        for document in documents {
            serde_json::to_writer(&mut *writer, &document)?;
            writer.write_all(b"\n")?;
            count += 1;
        }
        Ok(())
    })?;
    Ok(count)
}

/// Writes a file under a temporary name beside it and renames it when it is whole and on the disk.
///
/// # Errors
/// Where something cannot be written; the temporary file is gone then.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> std::io::Result<()>,
) -> Result<(), Error> {
    let fail = |source| Error::Write { path: path.to_owned(), source };
    let mut file = temporary_beside(path).map_err(fail)?;
    let mut writer = BufWriter::with_capacity(1 << 16, file.as_file_mut());
    write(&mut writer).and_then(|()| writer.flush()).map_err(fail)?;
    drop(writer);
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

fn hash(path: &Path) -> Result<(u64, String), Error> {
    let fail = |source| Error::Open { path: path.display().to_string(), source };
    let mut file = File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let length = file.read(&mut buffer).map_err(fail)?;
        if length == 0 {
            let digest = hash.finalize();
            return Ok((bytes, digest.iter().map(|byte| format!("{byte:02x}")).collect()));
        }
        bytes += length as u64;
        hash.update(&buffer[..length]);
    }
}
