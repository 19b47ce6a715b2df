//! What types and relations that a person names are called in each language.

use taiyi_corpus::Catalog;
use taiyi_corpus::card::Label;
use taiyi_instruct::{LabelName, LabelNames};

/// Which labels of the catalogue to look among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// Entity types.
    Entity,
    /// Relations.
    Relation,
}

/// The label that a person means by a word such as `disease`, `疾病` or `Chemical`.
///
/// A label of the catalogue that is called so, in either language or by a source, lends its other name; otherwise the
/// word is its own name in both languages. `Gene=gene/基因` gives all three: what documents say, the English and the
/// Chinese name. Documents say what was written.
pub fn named(kind: NameKind, written: &str) -> LabelName {
    let written = written.trim();
    if let Some((source, names)) = written.split_once('=')
        && let Some((en, zh)) = names.split_once('/')
    {
        let [source, en, zh] = [source, en, zh].map(|name| name.trim().to_owned());
        return LabelName { source, en, zh };
    }
    let labels = || {
        Catalog::embedded().iter().flat_map(|card| match kind {
            NameKind::Entity => card.labels.entities.iter(),
            NameKind::Relation => card.labels.relations.iter(),
        })
    };
    let same = |name: &str| name.eq_ignore_ascii_case(written);
    let found: Option<&Label> = labels()
        .find(|label| same(&label.en) || same(&label.zh))
        .or_else(|| labels().find(|label| same(&label.name)));
    let (en, zh) = found.map_or((written, written), |label| (&label.en, &label.zh));
    LabelName { source: written.to_owned(), en: en.to_owned(), zh: zh.to_owned() }
}

/// The labels that a person lists; blank words are left out, and what is named twice is asked once.
pub fn all_named<'a>(kind: NameKind, written: impl IntoIterator<Item = &'a str>) -> LabelNames {
    let mut names: Vec<LabelName> = Vec::new();
    for word in written.into_iter().filter(|word| !word.trim().is_empty()) {
        let name = named(kind, word);
        if !names.iter().any(|known| known.source == name.source) {
            names.push(name);
        }
    }
    LabelNames::new(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_lends_the_other_name() {
        let name = |written| {
            let LabelName { source, en, zh } = named(NameKind::Entity, written);
            [source, en, zh]
        };
        assert_eq!(name("disease"), ["disease", "disease", "疾病"]);
        assert_eq!(name(" 疾病 "), ["疾病", "disease", "疾病"]);
        assert_eq!(name("Chemical"), ["Chemical", "chemical", "化学物质"]);
        assert_eq!(name("Unheard of"), ["Unheard of"; 3]);
        assert_eq!(name("Gene = gene / 基因"), ["Gene", "gene", "基因"]);
        let relation = named(NameKind::Relation, "CID");
        assert_eq!(relation.en, "chemical-induced disease");
        assert_eq!(all_named(NameKind::Entity, ["disease", "", "disease", "drug"]).names().len(), 2);
    }
}
