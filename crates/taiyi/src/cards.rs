//! The dataset cards a command works with: the shipped ones, and the user's own.

use std::path::{Path, PathBuf};

use clap::Args;
use taiyi_corpus::{Card, Catalog};

use crate::failure::Failure;

/// Card files on the command line.
#[derive(Args)]
pub(crate) struct CardFiles {
    /// A card file of your own, beside the shipped cards or in place of the one with its id; may be repeated.
    #[arg(long = "card", value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// The cards to choose from.
pub(crate) struct Cards {
    pub(crate) catalog: Catalog,
    /// Ids of the user's own, in the order of the command line.
    own: Vec<String>,
}

impl CardFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or is no card.
    pub(crate) fn read(&self) -> Result<Cards, Failure> {
        let mut cards = Cards { catalog: Catalog::embedded().clone(), own: Vec::new() };
        for path in &self.files {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::new(format!("{}: cannot be read: {error}", path.display())))?;
            let card = Card::parse(&path.display().to_string(), &text)?;
            cards.own.push(card.id.clone());
            cards.catalog.insert(card);
        }
        Ok(cards)
    }
}

impl Cards {
    /// The cards of the ids; `all` stands for those whose files the source folder has, no id for the user's own.
    ///
    /// # Errors
    /// When there is no card of an id, or none at all.
    pub(crate) fn chosen(&self, ids: &[String], source: &Path) -> Result<Vec<&Card>, Failure> {
        if ids == ["all"] {
            let there: Vec<&Card> =
                self.catalog.iter().filter(|card| source.join(&card.id).is_dir()).collect();
            if there.is_empty() {
                return Err(Failure::new(format!(
                    "{}: expected folders named after datasets, found none",
                    source.display()
                ))
                .hint("`taiyi corpus list` names the datasets"));
            }
            return Ok(there);
        }
        let ids = if ids.is_empty() { &self.own } else { ids };
        ids.iter().map(|id| Ok(self.catalog.card(id)?)).collect()
    }
}
