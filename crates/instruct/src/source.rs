//! Where a mix takes documents and label names from.

use std::path::PathBuf;

use taiyi_corpus::card::IdSpace;
use taiyi_corpus::plain_text::{TextSource, exclude};
use taiyi_corpus::schema::Document;
use taiyi_corpus::{Catalog, LeakIndex, read};

use crate::build::Absent;
use crate::error::Error;
use crate::labels::DatasetLabels;

/// The documents of one split, or why there are none.
pub enum Opened<'a> {
    /// Documents in the order of the source; a bad record is an error, and the next call goes on.
    Documents(Box<dyn Iterator<Item = Result<Document, taiyi_corpus::Error>> + 'a>),
    /// The dataset or its split is not there: reported, never silently left out.
    Absent(String),
}

/// Documents and labels by dataset.
pub trait DocumentSource {
    /// The labels of a dataset; `None` where it is unknown.
    fn labels(&self, dataset: &str) -> Option<DatasetLabels>;

    /// What a dataset's document ids name; [`IdSpace::Split`] where it is unknown, so that no id matches by accident.
    fn ids(&self, dataset: &str) -> IdSpace;

    /// Opens a split.
    ///
    /// # Errors
    /// Where the dataset is there and cannot be read.
    fn open(&self, dataset: &str, split: &str) -> Result<Opened<'_>, Error>;

    /// Adds the texts and ids of a source that is laid out in files, with no card to read it by, to those that must not be
    /// learned; answers with what of it is not there.
    ///
    /// # Errors
    /// Where it is there and cannot be read.
    fn exclude_files(&self, source: &TextSource, excluded: &mut LeakIndex) -> Result<Vec<Absent>, Error>;
}

/// A folder of datasets in their original files, read as the catalogue's cards say.
pub struct CardSource<'a> {
    /// The cards.
    pub catalog: &'a Catalog,
    /// One folder per dataset.
    pub folder: PathBuf,
}

impl DocumentSource for CardSource<'_> {
    fn labels(&self, dataset: &str) -> Option<DatasetLabels> {
        self.catalog.card(dataset).ok().map(DatasetLabels::from)
    }

    fn ids(&self, dataset: &str) -> IdSpace {
        self.catalog.card(dataset).map_or(IdSpace::Split, |card| card.document_ids)
    }

    fn open(&self, dataset: &str, split: &str) -> Result<Opened<'_>, Error> {
        let absent = |error: taiyi_corpus::Error| Ok(Opened::Absent(error.to_string()));
        let card = match self.catalog.card(dataset) {
            Ok(card) => card,
            Err(error) => return absent(error),
        };
        match read(card, None, split, &self.folder) {
            Ok(documents) => Ok(Opened::Documents(Box::new(documents))),
            Err(error @ taiyi_corpus::Error::Unknown { .. }) => absent(error),
            Err(taiyi_corpus::Error::Open { path, source })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(Opened::Absent(format!("no file {path}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn exclude_files(&self, source: &TextSource, excluded: &mut LeakIndex) -> Result<Vec<Absent>, Error> {
        let path = |file: &String| self.folder.join(&source.dataset).join(file);
        let (files, gone) = source.files.iter().cloned().partition(|file| path(file).exists());
        exclude(&TextSource { files, ..source.clone() }, self.catalog, &self.folder, excluded)?;
        let absent = |file: String| Absent {
            dataset: source.dataset.clone(),
            reason: format!("no file {}", path(&file).display()),
            split: file,
        };
        let gone: Vec<String> = gone;
        Ok(gone.into_iter().map(absent).collect())
    }
}
