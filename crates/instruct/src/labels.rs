//! What labels are called in prompts and answers: a source's spelling against a readable name in each language.

use serde::{Deserialize, Serialize};
use taiyi_corpus::card::{Card, Label, Labels};
use taiyi_corpus::schema::{Content, Document, Language};

/// One label of a dataset: an entity type, a relation type or a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelName {
    /// As the source spells it: `dis`, `CID`, `1`.
    pub source: String,
    /// Readable English name: `disease`.
    pub en: String,
    /// Readable Chinese name: `疾病`.
    pub zh: String,
}

/// The labels of one kind of a dataset, in the order in which prompts list them.
///
/// Several source labels may share one readable name (the four types of `ncbi_disease` are all `disease`): what is asked
/// and answered is the readable name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelNames {
    names: Vec<LabelName>,
}

impl LabelNames {
    /// The labels in order.
    pub fn new(names: Vec<LabelName>) -> Self {
        Self { names }
    }

    /// Labels that are readable as the source spells them, in both languages.
    pub fn plain<S: AsRef<str>>(sources: impl IntoIterator<Item = S>) -> Self {
        let mut names = Self::default();
        for source in sources {
            names.add_plain(source.as_ref());
        }
        names
    }

    /// Adds a label under its own spelling unless it is known.
    pub fn add_plain(&mut self, source: &str) {
        if !self.names.iter().any(|name| name.source == source) {
            let own = source.to_owned();
            self.names.push(LabelName { source: own.clone(), en: own.clone(), zh: own });
        }
    }

    /// The labels in order.
    pub fn names(&self) -> &[LabelName] {
        &self.names
    }

    /// Keeps only the labels with these source spellings.
    pub fn retain(&mut self, sources: &[String]) {
        self.names.retain(|name| sources.contains(&name.source));
    }

    /// Calls labels otherwise: each of `names` replaces the readable names of the label with its source spelling.
    pub fn rename(&mut self, names: &[LabelName]) {
        for name in &mut self.names {
            if let Some(other) = names.iter().find(|other| other.source == name.source) {
                name.clone_from(other);
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The readable name of a source label: Chinese for [`Language::Zh`] and [`Language::ZhEn`], else English. A label
    /// that is not listed is its own name.
    pub fn display<'a>(&'a self, source: &'a str, language: Language) -> &'a str {
        self.names.iter().find(|name| name.source == source).map_or(source, |name| name.text(language))
    }

    /// The distinct readable names in order.
    pub fn displays(&self, language: Language) -> Vec<String> {
        let mut displays: Vec<String> = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let text = name.text(language);
            if !displays.iter().any(|known| known == text) {
                displays.push(text.to_owned());
            }
        }
        displays
    }

    /// The source labels behind a readable name, in order; the name itself where none is listed under it.
    pub fn sources<'a>(&'a self, display: &'a str, language: Language) -> Vec<&'a str> {
        let listed: Vec<&str> = self
            .names
            .iter()
            .filter(|name| name.text(language) == display)
            .map(|name| name.source.as_str())
            .collect();
        if listed.is_empty() { vec![display] } else { listed }
    }
}

impl LabelName {
    fn text(&self, language: Language) -> &str {
        match prompt_language(language) {
            Language::Zh => &self.zh,
            _ => &self.en,
        }
    }
}

/// The language that prompts about a text are worded in: the text's own; for translation the source's.
pub fn prompt_language(language: Language) -> Language {
    match language {
        Language::Zh | Language::ZhEn => Language::Zh,
        Language::En | Language::EnZh => Language::En,
    }
}

/// All labels of one dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetLabels {
    /// Entity types.
    pub entities: LabelNames,
    /// Relation types.
    pub relations: LabelNames,
    /// Classes of texts or pairs.
    pub classes: LabelNames,
    /// Whether a text may have several classes, or none. A card does not say; recipes and benchmarks do.
    pub multi_label: bool,
}

impl From<&Card> for DatasetLabels {
    fn from(card: &Card) -> Self {
        let names = |labels: &[Label]| {
            let name = |label: &Label| LabelName {
                source: label.name.clone(),
                en: label.en.clone(),
                zh: label.zh.clone(),
            };
            LabelNames::new(labels.iter().map(name).collect())
        };
        let Labels { entities, relations, labels, .. } = &card.labels;
        Self {
            entities: names(entities),
            relations: names(relations),
            classes: names(labels),
            multi_label: false,
        }
    }
}

impl DatasetLabels {
    /// Keeps only the labels with these source spellings, of whatever kind.
    pub fn retain(&mut self, sources: &[String]) {
        self.entities.retain(sources);
        self.relations.retain(sources);
        self.classes.retain(sources);
    }

    /// Calls labels otherwise, of whatever kind: that is how several types of a source become one.
    pub fn rename(&mut self, names: &[LabelName]) {
        self.entities.rename(names);
        self.relations.rename(names);
        self.classes.rename(names);
    }

    /// Adds the labels of a document that are not yet known, under their own spelling. Where a card names none, the
    /// label sets are what its documents use.
    pub fn observe(&mut self, document: &Document) {
        match &document.content {
            Content::Ie(ie) => {
                ie.entities.iter().for_each(|entity| self.entities.add_plain(&entity.kind));
                ie.relations.iter().for_each(|relation| self.relations.add_plain(&relation.kind));
            }
            Content::Tc(tc) => {
                tc.labels.iter().for_each(|label| self.classes.add_plain(label));
            }
            Content::Tp(tp) => self.classes.add_plain(&tp.label),
            Content::Qa(_) | Content::Mrd(_) | Content::Mt(_) | Content::Tt(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_share_a_name_are_asked_once() {
        let name =
            |source: &str| LabelName { source: source.into(), en: "disease".into(), zh: "疾病".into() };
        let mut names = LabelNames::new(vec![name("DiseaseClass"), name("Modifier")]);
        names.add_plain("Other");
        names.add_plain("Modifier");
        assert_eq!(names.displays(Language::Zh), ["疾病", "Other"]);
        assert_eq!(names.displays(Language::EnZh), ["disease", "Other"]);
        assert_eq!(names.sources("疾病", Language::Zh), ["DiseaseClass", "Modifier"]);
        assert_eq!(names.sources("药物", Language::Zh), ["药物"]);
        assert_eq!(names.display("unseen", Language::En), "unseen");
    }
}
