use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Where documents end in a plain text file (`.txt`, `.txt.gz`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextUnit {
    /// Every line that is not blank is a document.
    Line,
    /// Blank lines stand between documents.
    #[default]
    BlankLine,
    /// The file is one document.
    File,
}

/// A data file and its part in the mix. In TOML a plain string is a source with everything else left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Source {
    /// `.jsonl`, `.txt`, or either with `.gz`; relative to the working folder.
    pub path: PathBuf,
    /// Name in reports; the file's name by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many times an epoch shows the file; a fraction shows a random part of it. 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<f64>,
    /// Share of an epoch's tokens, in any unit, from which the repeats follow; on every source or on none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Where documents end in plain text.
    pub unit: TextUnit,
    /// Pre-training: a document is its first so many tokens, twice in a row. A small model learns to copy from such text
    /// long before it would from any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<usize>,
}

impl Source {
    /// Makes a source of a path alone.
    pub fn from_path(path: PathBuf) -> Self {
        Self { path, name: None, repeats: None, weight: None, unit: TextUnit::default(), echo: None }
    }

    /// Returns the name to report the source by.
    pub fn label(&self) -> String {
        let file = || self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        self.name.clone().unwrap_or_else(file)
    }

    pub(super) fn problem(&self) -> Option<(&'static str, String, &'static str)> {
        let bad = |value: f64| !value.is_finite() || value <= 0.0;
        match (self.repeats, self.weight) {
            (Some(_), Some(_)) => {
                Some(("data.weight", "given beside `repeats`".to_owned(), "one of the two"))
            }
            (Some(repeats), _) if bad(repeats) => {
                Some(("data.repeats", repeats.to_string(), "a number above 0"))
            }
            (_, Some(weight)) if bad(weight) => Some(("data.weight", weight.to_string(), "a number above 0")),
            _ if self.echo == Some(0) => Some(("data.echo", "0".to_owned(), "at least 1 token")),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            path: PathBuf,
            name: Option<String>,
            repeats: Option<f64>,
            weight: Option<f64>,
            #[serde(default)]
            unit: TextUnit,
            echo: Option<usize>,
        }

        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a table with `path`")
            }

            fn visit_str<E>(self, path: &str) -> Result<Source, E> {
                Ok(Source::from_path(path.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                let Table { path, name, repeats, weight, unit, echo } =
                    Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Source { path, name, repeats, weight, unit, echo })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Accepts `data = "file"`, `data = ["file", {path = "file"}]` and `[[data]]`.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Source>, D::Error> {
    struct OneOrMany;
    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<Source>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path, or a list of paths or of tables with `path`")
        }

        fn visit_str<E>(self, path: &str) -> Result<Self::Value, E> {
            Ok(vec![Source::from_path(path.into())])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut sources = Vec::new();
            while let Some(source) = seq.next_element()? {
                sources.push(source);
            }
            Ok(sources)
        }
    }
    deserializer.deserialize_any(OneOrMany)
}
