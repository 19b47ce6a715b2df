//! Dataset cards: what a dataset is, where its files are, how they are read, what must be found in them.
//!
//! A card is one TOML file, `data/datasets/<dataset_id>.toml`; unknown keys are refused. It names formats and
//! fields, never functions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::readers::Format;
use crate::schema::{Language, Task};
use crate::source::Encoding;

/// A dataset card.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The dataset's id, snake_case; the same string in files, fields and on the command line.
    pub id: String,
    /// The name people know it by.
    pub display_name: String,
    /// Languages of its text; the first is that of the documents.
    pub languages: Vec<Language>,
    /// The tasks it is used for.
    pub tasks: Vec<Task>,
    /// The licence, with its source.
    pub license: String,
    /// Whether excerpts may be shipped with this project.
    pub redistributable: bool,
    /// Whether the data may only be had under an agreement, so that everybody fetches their own copy.
    pub local: bool,
    /// Where it comes from.
    pub homepage: String,
    /// The publication to cite.
    pub citation: String,
    /// What its document ids name, so that ids are compared only where they mean the same.
    pub document_ids: IdSpace,
    /// What one must know about it: differences between source versions, traps, what is missing.
    pub notes: String,
    /// Published sizes of the splits; compared in the notes where they differ from the source.
    #[serde(default)]
    pub published: BTreeMap<String, u64>,
    /// The types and labels, with names a person can read, in the order in which prompts list them.
    #[serde(default)]
    pub labels: Labels,
    /// Versions of the source; the first is the one that is used unless another is asked for.
    pub variants: Vec<Variant>,
}

/// What document ids name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdSpace {
    /// PubMed ids.
    Pmid,
    /// PubMed Central ids, without `PMC`.
    Pmcid,
    /// Ids that mean something within the dataset only.
    Dataset,
    /// Ids that mean something within one split only, or no ids at all.
    Split,
}

/// Readable names of types and labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// Entity types.
    #[serde(default)]
    pub entities: Vec<Label>,
    /// Relation types.
    #[serde(default)]
    pub relations: Vec<Label>,
    /// Event types.
    #[serde(default)]
    pub events: Vec<Label>,
    /// Labels of classification and pairs, choices of questions.
    #[serde(default)]
    pub labels: Vec<Label>,
}

/// A type or label and what people call it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// As the source spells it.
    pub name: String,
    /// In English.
    pub en: String,
    /// In Chinese.
    pub zh: String,
}

impl Label {
    /// The readable name in a language; Chinese for Chinese text, English otherwise.
    pub fn display(&self, language: Language) -> &str {
        match language {
            Language::Zh => &self.zh,
            _ => &self.en,
        }
    }
}

/// One version of a source: its files, its format, what must be found in it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// `pubtator`, `bioc`, …
    pub id: String,
    /// How this version differs from the others.
    #[serde(default)]
    pub notes: String,
    /// The text encoding of its files.
    #[serde(default)]
    pub encoding: Encoding,
    /// The format and its options.
    pub format: Format,
    /// The splits, by name.
    pub splits: BTreeMap<String, Split>,
    /// Errors of the source that are known, and how many.
    #[serde(default)]
    pub known: Vec<Known>,
}

/// The files of a split and what must be counted in them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Its files.
    pub files: Vec<FileEntry>,
    /// What a reader must count in them.
    #[serde(default)]
    pub expected: Option<Expected>,
}

/// One file of a split.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative to the source folder.
    pub path: String,
    /// What the reader uses it for.
    #[serde(default)]
    pub role: Role,
    /// Size as stored.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Hash as stored, in lower-case hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// What a reader uses a file for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The documents.
    #[default]
    Documents,
    /// Annotations kept beside the documents.
    Annotations,
    /// Ids of the documents that belong to the split.
    Include,
    /// Ids of the documents that do not.
    Exclude,
    /// Types of relations and their arguments.
    Schema,
}

/// What must be counted in a split; what is left out is not compared.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Documents.
    #[serde(default)]
    pub documents: Option<u64>,
    /// Entities per type.
    #[serde(default)]
    pub entities: Option<BTreeMap<String, u64>>,
    /// Relations per type.
    #[serde(default)]
    pub relations: Option<BTreeMap<String, u64>>,
    /// Events per type.
    #[serde(default)]
    pub events: Option<BTreeMap<String, u64>>,
    /// Items of classification, pairs, questions, dialogues.
    #[serde(default)]
    pub items: Option<u64>,
    /// Items per label.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, u64>>,
}

/// Errors of the source that are known. A finding beyond the declared number is a new one.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The finding's code.
    pub code: String,
    /// The split they are in.
    pub split: String,
    /// How many.
    pub count: u64,
    /// Why they are there.
    pub note: String,
}

impl Card {
    /// Reads a card; `name` is its file, for messages.
    ///
    /// # Errors
    /// Where the text is no TOML, has an unknown or missing key, or contradicts itself.
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let fail = |found: String| Error::Card { card: name.to_owned(), found };
        let card: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let place = line.map_or(String::new(), |line| format!(" on line {line}"));
            fail(format!("{}{place}", error.message().replace('\n', " ")))
        })?;
        card.consistent().map_err(fail)?;
        Ok(card)
    }

    fn consistent(&self) -> Result<(), String> {
        let snake = |id: &str| {
            !id.is_empty() && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !snake(&self.id) {
            return Err(format!("id `{}`, which is not snake_case", self.id));
        }
        if self.languages.is_empty() || self.tasks.is_empty() || self.variants.is_empty() {
            return Err("an empty list of languages, tasks or variants".into());
        }
        for (at, variant) in self.variants.iter().enumerate() {
            let id = &variant.id;
            if !snake(id) {
                return Err(format!("variant `{id}`, which is not snake_case"));
            }
            if self.variants[..at].iter().any(|other| other.id == *id) {
                return Err(format!("two variants `{id}`"));
            }
            if variant.splits.is_empty() {
                return Err(format!("variant `{id}` without splits"));
            }
            for (name, split) in &variant.splits {
                if !snake(name) {
                    return Err(format!("split `{name}`, which is not snake_case"));
                }
                if !split.files.iter().any(|file| file.role == Role::Documents) {
                    return Err(format!("split `{name}` of `{id}` without a file of documents"));
                }
                for file in &split.files {
                    let path = std::path::Path::new(&file.path);
                    if !path.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
                        return Err(format!("path `{}`, which leaves the source folder", file.path));
                    }
                }
            }
            for known in &variant.known {
                if !variant.splits.contains_key(&known.split) {
                    return Err(format!("known errors in split `{}`, which `{id}` has not", known.split));
                }
            }
        }
        for labels in
            [&self.labels.entities, &self.labels.relations, &self.labels.events, &self.labels.labels]
        {
            for (at, label) in labels.iter().enumerate() {
                if labels[..at].iter().any(|other| other.name == label.name) {
                    return Err(format!("label `{}` twice", label.name));
                }
            }
        }
        Ok(())
    }

    /// The variant with this id, or the first where none is asked for.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn variant(&self, id: Option<&str>) -> Result<&Variant, Error> {
        let found = match id {
            None => self.variants.first(),
            Some(id) => self.variants.iter().find(|variant| variant.id == id),
        };
        found.ok_or_else(|| Error::Unknown {
            what: format!("variant of {}", self.id),
            found: id.unwrap_or_default().to_owned(),
            known: self.variants.iter().map(|variant| variant.id.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The language of the documents.
    pub fn language(&self) -> Language {
        self.languages[0]
    }
}

impl Variant {
    /// The split with this name; `card` is the dataset's id, for the message.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn split(&self, card: &str, name: &str) -> Result<&Split, Error> {
        self.splits.get(name).ok_or_else(|| Error::Unknown {
            what: format!("split of {card}/{}", self.id),
            found: name.to_owned(),
            known: self.split_names().join(", "),
        })
    }

    /// The splits in the order train, dev, test, then the others by name.
    pub fn split_names(&self) -> Vec<&str> {
        let usual = ["train", "dev", "test"];
        let mut names: Vec<&str> = usual.into_iter().filter(|name| self.splits.contains_key(*name)).collect();
        names.extend(self.splits.keys().map(String::as_str).filter(|name| !usual.contains(name)));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = r#"
        id = "made_up"
        display_name = "Made up"
        languages = ["en"]
        tasks = ["NER"]
        license = "none"
        redistributable = true
        local = false
        homepage = "https://example.org"
        citation = "nobody"
        document_ids = "dataset"
        notes = ""
        [[variants]]
        id = "jsonl"
        format = { name = "jsonl" }
        splits.test.files = [{ path = "made_up/test.jsonl" }]
        splits.train.files = [{ path = "made_up/train.jsonl" }]
    "#;

    #[test]
    fn a_card_reads() {
        let card = Card::parse("made_up.toml", CARD).unwrap();
        assert_eq!(card.variants[0].split_names(), ["train", "test"]);
        assert!(card.variant(Some("bioc")).unwrap_err().to_string().contains("expected one of jsonl"));
    }

    #[test]
    fn unknown_keys_are_refused_everywhere() {
        let broken = [
            CARD.replace("notes = \"\"", "notes = \"\"\nremark = \"x\""),
            CARD.replace("id = \"jsonl\"", "id = \"jsonl\"\nremark = \"x\""),
            CARD.replace("{ name = \"jsonl\" }", "{ name = \"jsonl\", remark = \"x\" }"),
            CARD.replace("made_up/test.jsonl\"", "made_up/test.jsonl\", remark = \"x\""),
        ];
        for text in broken {
            let message = Card::parse("made_up.toml", &text).unwrap_err().to_string();
            assert!(message.contains("remark"), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn paths_stay_inside_the_source() {
        for path in ["../x", "/etc/passwd", "a/../../b"] {
            let text = CARD.replace("made_up/test.jsonl", path);
            assert!(Card::parse("c", &text).unwrap_err().to_string().contains("leaves the source folder"));
        }
    }
}
