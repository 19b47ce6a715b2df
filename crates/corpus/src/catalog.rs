//! The catalogue: every card under `data/datasets/`, embedded in the binary.

use std::sync::OnceLock;

use crate::card::Card;
use crate::error::Error;

macro_rules! cards {
    ($($id:literal),* $(,)?) => {
        /// The embedded cards: file name and text. A test compares the list with the folder.
        const CARDS: &[(&str, &str)] =
            &[$((concat!($id, ".toml"), include_str!(concat!("../../../data/datasets/", $id, ".toml")))),*];
    };
}

cards![
    "bc5cdr",
    "bentsao_llamadata",
    "chip_ctc",
    "chip_sts",
    "cmeee_v2",
    "cmeie_v2",
    "cmid",
    "cmid_36",
    "cmid_ner",
    "covid_dialogue_zh",
    "covid_similarity",
    "drugprot",
    "evidence_inference",
    "genetag",
    "gnormplus",
    "hallmarks_of_cancer",
    "kuake_qic",
    "kuake_qqr",
    "linnaeus",
    "meddialog",
    "mqp",
    "ncbi_disease",
    "nlm_gene",
    "nlmchem",
    "pubmed_qa",
    "sample_drugprot",
    "sample_evidence_inference",
    "sample_genetag",
    "taiyi_zh_intent",
    "taiyi_zh_ner",
    "tcm_sd_tc",
    "tmvar_v3",
];

/// Cards by id.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    cards: Vec<Card>,
}

impl Catalog {
    /// The cards this project ships.
    ///
    /// # Panics
    /// Never in a build whose tests pass: a test parses every embedded card.
    pub fn embedded() -> &'static Self {
        static CATALOG: OnceLock<Catalog> = OnceLock::new();
        CATALOG.get_or_init(|| {
            let mut catalog = Self::default();
            for (name, text) in CARDS {
                catalog.insert(
                    Card::parse(name, text).expect("every embedded card parses: a test reads them all"),
                );
            }
            catalog
        })
    }

    /// Adds a card, in place of one with the same id.
    pub fn insert(&mut self, card: Card) {
        match self.cards.binary_search_by(|other| other.id.cmp(&card.id)) {
            Ok(at) => self.cards[at] = card,
            Err(at) => self.cards.insert(at, card),
        }
    }

    /// The card with this id.
    ///
    /// # Errors
    /// Where there is none.
    pub fn card(&self, id: &str) -> Result<&Card, Error> {
        match self.cards.binary_search_by(|card| card.id.as_str().cmp(id)) {
            Ok(at) => Ok(&self.cards[at]),
            Err(_) => Err(Error::Unknown {
                what: "dataset".into(),
                found: id.into(),
                known: self.cards.iter().map(|card| card.id.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The cards in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Card> {
        self.cards.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_file_is_embedded_and_parses() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/datasets");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".toml"))
            .collect();
        files.sort();
        let embedded: Vec<String> = CARDS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(files, embedded, "add the card to the list in catalog.rs, in order");
        for (name, text) in CARDS {
            let card = Card::parse(name, text).unwrap();
            assert_eq!(format!("{}.toml", card.id), *name);
        }
        assert_eq!(Catalog::embedded().iter().count(), CARDS.len());
    }
}
