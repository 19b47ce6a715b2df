//! Benchmarks: data files that say what is asked of whom and how it is scored.

use serde::{Deserialize, Serialize};
use taiyi_corpus::schema::{Language, Task};
use taiyi_instruct::Ask;

use crate::error::EvalError;
use crate::metrics::Metric;

/// One test set with its rules. Scores of different versions are not comparable.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// Its id: the name of the file.
    pub id: String,
    /// Raised whenever a change makes old scores incomparable.
    pub version: u32,
    /// Its readable name.
    pub display_name: String,
    /// Dataset id of the card.
    pub dataset: String,
    /// Source version of the dataset, where there are several.
    pub variant: Option<String>,
    /// Split that is scored.
    pub split: String,
    /// What is asked.
    pub task: Task,
    /// Language of text and prompt.
    pub language: Language,
    /// Source types that are asked for and scored; empty for all.
    #[serde(default)]
    pub types: Vec<String>,
    /// One readable name for all types, where they are asked for and scored as one.
    #[serde(default)]
    pub collapse: Option<Readable>,
    /// Whether a text may have several labels, or none.
    #[serde(default)]
    pub multi_label: bool,
    /// What is asked of a document, where it is not what the task says: all types or labels in one question.
    #[serde(default)]
    pub ask: Option<Ask>,
    /// The one wording all prompts use, from 0.
    pub template: usize,
    /// The metrics, the main one first.
    pub metrics: Vec<Metric>,
    /// Whether the gold holds entities inside entities.
    #[serde(default)]
    pub nested: bool,
    /// Split the trivial baselines learn from; reported as absent where the source has none.
    pub baseline_split: String,
    /// What counts as gold, in words.
    pub gold: String,
    /// Published scores.
    #[serde(default)]
    pub published: Vec<Published>,
}

/// A readable name in both languages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readable {
    /// In English.
    pub en: String,
    /// In Chinese.
    pub zh: String,
}

/// A score somebody published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Who.
    pub system: String,
    /// The score; percent in benchmark files, 0..=1 in reports.
    pub score: f64,
    /// Where it is published.
    pub source: String,
}

macro_rules! benchmarks {
    ($($id:literal),* $(,)?) => {
        const FILES: &[(&str, &str)] = &[$(($id, include_str!(concat!("../../../data/benchmarks/", $id, ".toml")))),*];
    };
}

benchmarks!(
    "bc5cdr_chemical",
    "bc5cdr_disease",
    "ncbi_disease",
    "bc5cdr_re",
    "hoc",
    "kuake_qic_dev",
    "pubmedqa",
    "cmeee_v2_dev",
    "cmeie_v2_dev",
);

impl Benchmark {
    /// Reads a benchmark file; unknown keys are refused.
    ///
    /// # Errors
    /// When the text is not a benchmark, names no metric, or has another id than `id`.
    pub fn parse(id: &str, text: &str) -> Result<Self, EvalError> {
        let invalid = |message: String| EvalError::Benchmark { id: id.to_owned(), message };
        let mut benchmark: Self = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if benchmark.id != id {
            return Err(invalid(format!("expected id `{id}`, found `{}`", benchmark.id)));
        }
        if benchmark.metrics.is_empty() {
            return Err(invalid("expected at least one metric, found none".into()));
        }
        for published in &mut benchmark.published {
            published.score /= 100.0;
        }
        Ok(benchmark)
    }

    /// The benchmarks that are built in, in the order of the published tables.
    ///
    /// # Errors
    /// Never for a released build: a test reads every file.
    pub fn all() -> Result<Vec<Self>, EvalError> {
        FILES.iter().map(|(id, text)| Self::parse(id, text)).collect()
    }

    /// The benchmark with this id.
    ///
    /// # Errors
    /// When there is none; the message lists those there are.
    pub fn by_id(id: &str) -> Result<Self, EvalError> {
        let (id, text) =
            FILES.iter().find(|(known, _)| *known == id).ok_or_else(|| EvalError::UnknownBenchmark {
                id: id.to_owned(),
                known: FILES.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", "),
            })?;
        Self::parse(id, text)
    }

    /// What is asked of each document.
    ///
    /// # Errors
    /// Where the benchmark's task has no metric here.
    pub fn ask(&self) -> Result<Ask, EvalError> {
        match (self.ask, self.task) {
            (Some(ask), _) => Ok(ask),
            (None, Task::Ner) => Ok(Ask::Ner),
            (None, Task::Re) => Ok(Ask::Re),
            (None, Task::Tc) => Ok(Ask::Tc),
            (None, Task::Tp) => Ok(Ask::Tp),
            (None, Task::Qa) => Ok(Ask::Qa),
            (None, task) => Err(EvalError::Benchmark {
                id: self.id.clone(),
                message: format!("expected a task with a metric (NER, RE, TC, TP, QA), found {task:?}"),
            }),
        }
    }

    /// The main metric.
    pub fn metric(&self) -> Metric {
        self.metrics[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_and_reads() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/benchmarks");
        let mut on_disk: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let mut listed: Vec<String> =
            Benchmark::all().unwrap().into_iter().map(|benchmark| benchmark.id).collect();
        on_disk.sort();
        listed.sort();
        assert_eq!(on_disk, listed);
        assert!(
            Benchmark::all()
                .unwrap()
                .iter()
                .all(|b| b.published.iter().all(|p| p.score > 0.0 && p.score < 1.0))
        );
    }

    #[test]
    fn an_unknown_key_and_an_unknown_id_are_refused() {
        let text = FILES[0].1.replace("version = 1", "version = 1\nversoin = 2");
        assert!(Benchmark::parse("bc5cdr_chemical", &text).unwrap_err().to_string().contains("versoin"));
        assert!(Benchmark::by_id("bc5").unwrap_err().to_string().contains("bc5cdr_chemical"));
    }
}
