//! Reports: JSON for programs, Markdown and HTML with figures for people.
//!
//! Scores are fractions, 0..=1, in JSON and percent in what people read.

mod example;
pub mod figures;
pub mod html;
mod markdown;
mod page;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Serialize, Serializer};
use taiyi_corpus::Catalog;

use crate::baselines::{self, ScoredBaseline};
use crate::benchmark::{Benchmark, Published};
use crate::bootstrap::RESAMPLES;
use crate::error::EvalError;
use crate::items::{Items, baseline_documents};
use crate::metrics::{Counts, Metric};
use crate::predictions::Given;
use crate::score::{self, Scored, Scores};

pub use example::{Example, Problem};
pub use page::add_examples;

/// Everything one `eval` says.
#[derive(Clone, Debug, Serialize)]
pub struct EvalReport {
    /// The program and its version.
    pub program: String,
    /// The model that was asked, or the file of predictions.
    pub model: String,
    /// Its adapter.
    pub adapter: Option<String>,
    /// Seed of the bootstrap and of baselines that draw.
    pub seed: u64,
    /// Bootstrap resamples behind each interval.
    pub resamples: usize,
    /// Seconds spent in all.
    pub seconds: f64,
    /// The benchmarks in order.
    pub benchmarks: Vec<BenchmarkReport>,
}

/// One benchmark's scores.
#[derive(Clone, Debug, Serialize)]
pub struct BenchmarkReport {
    /// The benchmark's id.
    pub id: String,
    /// Its version; scores of different versions cannot be compared.
    pub version: u32,
    /// Its readable name.
    pub display_name: String,
    /// The main metric.
    pub metric: Metric,
    /// Its score.
    pub score: f64,
    /// The 95 % bootstrap interval of the score over items.
    #[serde(serialize_with = "pair")]
    pub interval: (f64, f64),
    /// Items that were scored.
    pub items: usize,
    /// Replies that could not be parsed; scored as empty.
    pub unparsable: usize,
    /// The same by reason.
    pub unparsable_reasons: BTreeMap<String, usize>,
    /// Items without a prediction; scored as empty.
    pub missing: usize,
    /// Replies that were cut off at the length limit.
    pub cut_off: usize,
    /// Documents that gave no item, by reason.
    pub skipped: BTreeMap<String, usize>,
    /// At most so many items were taken.
    pub limit: Option<usize>,
    /// The main metric per type.
    #[serde(serialize_with = "rows")]
    pub per_type: Vec<(String, TypeScore)>,
    /// The readable names of the types, by the name they are reported under.
    pub readable_types: BTreeMap<String, String>,
    /// All metrics, the main one first.
    pub scores: Vec<MetricReport>,
    /// Trivial baselines; empty where the source has no training split, which `baselines_absent` says.
    pub baselines: Vec<BaselineReport>,
    /// Why there is no trained baseline.
    pub baselines_absent: Option<String>,
    /// What others published.
    pub published: Vec<Published>,
    /// Dataset, version of its source and split.
    pub dataset: String,
    /// The version of the source.
    pub variant: Option<String>,
    /// The split.
    pub split: String,
    /// The task's code.
    pub task: String,
    /// Language of texts and prompts.
    pub language: String,
    /// What counts as gold, in words.
    pub gold: String,
    /// Seconds spent on asking; unset where predictions were given.
    pub seconds: Option<f64>,
    /// A few items as they look, for people.
    #[serde(skip)]
    pub examples: Vec<Example>,
}

/// One metric of a benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct MetricReport {
    /// The metric.
    pub metric: Metric,
    /// What it compares, in a sentence.
    pub rule: &'static str,
    /// The score.
    pub score: f64,
    /// Its 95 % bootstrap interval.
    #[serde(serialize_with = "pair")]
    pub interval: (f64, f64),
    /// Precision, recall and counts over all types.
    pub all: TypeScore,
    /// The same per type.
    #[serde(serialize_with = "rows")]
    pub per_type: Vec<(String, TypeScore)>,
    /// The score of the gold answers, written as a reply and read back: the best that replies can reach.
    pub ceiling: f64,
}

/// Counts and what follows from them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TypeScore {
    /// TP / (TP + FP).
    pub precision: f64,
    /// TP / (TP + FN).
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
    /// The counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// A baseline's scores.
#[derive(Clone, Debug, Serialize)]
pub struct BaselineReport {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Its score by the main metric.
    pub score: f64,
    /// Its scores by metric.
    #[serde(serialize_with = "rows")]
    pub scores: Vec<(String, f64)>,
    /// The expected score of one that draws.
    pub expected: Option<f64>,
}

impl From<Counts> for TypeScore {
    fn from(counts: Counts) -> Self {
        Self { precision: counts.precision(), recall: counts.recall(), f1: counts.f1(), counts }
    }
}

fn pair<S: Serializer>(pair: &(f64, f64), serializer: S) -> Result<S::Ok, S::Error> {
    [pair.0, pair.1].serialize(serializer)
}

/// Writes rows as an object that keeps their order.
fn rows<V: Serialize, S: Serializer>(rows: &[(String, V)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(rows.iter().map(|(name, value)| (name, value)))
}

fn type_rows(scores: &Scores, set: &Items) -> Vec<(String, TypeScore)> {
    let rows = scores.per_type(&set.names()).into_iter();
    rows.map(|(name, counts)| (name, TypeScore::from(counts))).collect()
}

impl MetricReport {
    fn new(scores: &Scores, set: &Items, seed: u64) -> Result<Self, EvalError> {
        Ok(Self {
            metric: scores.metric,
            rule: scores.metric.rule(),
            score: scores.value(),
            interval: scores.interval(seed),
            all: scores.total().into(),
            per_type: type_rows(scores, set),
            ceiling: score::ceiling(&set.items, scores.metric)?,
        })
    }
}

impl BenchmarkReport {
    /// Scores what was given for a benchmark's items and sets the trivial baselines beside it.
    ///
    /// # Errors
    /// When the training documents cannot be read, or a metric cannot be applied.
    pub fn evaluate(
        benchmark: &Benchmark,
        catalog: &Catalog,
        source_dir: &Path,
        set: &Items,
        given: &[Option<Given>],
        seed: u64,
    ) -> Result<Self, EvalError> {
        let scored = score::score(&set.items, given, &benchmark.metrics)?;
        let training = baseline_documents(benchmark, catalog, source_dir)?;
        let (learned, absent) = match &training {
            Some(documents) => (baselines::learn(documents, &set.labels, set.ask, seed), None),
            None => {
                let absent = format!("the source has no split `{}`", benchmark.baseline_split);
                (baselines::untrained(set.ask, seed), Some(absent))
            }
        };
        let beside = baselines::score_all(&learned, &set.items, &benchmark.metrics)?;
        Self::new(benchmark, set, given, &scored, &beside, absent, seed)
    }

    /// The report of what is scored already.
    ///
    /// # Errors
    /// When a metric cannot be applied.
    pub fn new(
        benchmark: &Benchmark,
        set: &Items,
        given: &[Option<Given>],
        scored: &Scored,
        baselines: &[ScoredBaseline],
        baselines_absent: Option<String>,
        seed: u64,
    ) -> Result<Self, EvalError> {
        let scores: Vec<MetricReport> = scored
            .scores
            .iter()
            .map(|scores| MetricReport::new(scores, set, seed))
            .collect::<Result<_, _>>()?;
        let main = scores.first().ok_or_else(|| EvalError::Benchmark {
            id: benchmark.id.clone(),
            message: "expected a score by at least one metric, found none".to_owned(),
        })?;
        let reasons = scored.unparsable();
        Ok(Self {
            id: benchmark.id.clone(),
            version: benchmark.version,
            display_name: benchmark.display_name.clone(),
            metric: main.metric,
            score: main.score,
            interval: main.interval,
            items: set.items.len(),
            unparsable: reasons.values().sum(),
            unparsable_reasons: reasons.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
            missing: scored.missing(),
            cut_off: scored.cut_off,
            skipped: set.skipped.clone(),
            limit: set.limit,
            per_type: main.per_type.clone(),
            readable_types: {
                let names = set.names();
                names.all().map(|name| (name.to_owned(), names.displayed(name).to_owned())).collect()
            },
            baselines: baselines.iter().map(BaselineReport::new).collect(),
            baselines_absent,
            published: benchmark.published.clone(),
            dataset: benchmark.dataset.clone(),
            variant: benchmark.variant.clone(),
            split: benchmark.split.clone(),
            task: format!("{:?}", benchmark.task).to_uppercase(),
            language: benchmark.language.code().to_owned(),
            gold: benchmark.gold.clone(),
            seconds: None,
            examples: example::choose(set, given, scored),
            scores,
        })
    }

    /// The baseline with the best score.
    pub fn best_baseline(&self) -> Option<&BaselineReport> {
        self.baselines.iter().max_by(|a, b| a.score.total_cmp(&b.score))
    }
}

impl BaselineReport {
    fn new(baseline: &ScoredBaseline) -> Self {
        let scores: Vec<(String, f64)> = baseline
            .scored
            .scores
            .iter()
            .map(|scores| (scores.metric.name().to_owned(), scores.value()))
            .collect();
        Self {
            name: baseline.name.to_owned(),
            description: baseline.description.clone(),
            score: scores.first().map_or(0.0, |(_, score)| *score),
            scores,
            expected: baseline.expected,
        }
    }
}

impl EvalReport {
    /// A report of benchmarks; `seconds` is what the whole evaluation took.
    pub fn new(
        model: &str,
        adapter: Option<&str>,
        seed: u64,
        seconds: f64,
        benchmarks: Vec<BenchmarkReport>,
    ) -> Self {
        Self {
            program: format!("taiyi {}", env!("CARGO_PKG_VERSION")),
            model: model.to_owned(),
            adapter: adapter.map(str::to_owned),
            seed,
            resamples: RESAMPLES,
            seconds,
            benchmarks,
        }
    }

    /// The report for programs.
    pub fn json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("a report holds texts and finite numbers only");
        text.push('\n');
        text
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        markdown::render(self)
    }

    /// The report as a self-contained HTML page.
    ///
    /// # Errors
    /// When a figure cannot be drawn.
    pub fn html(&self) -> Result<String, EvalError> {
        page::render(self)
    }

    /// Writes `report.json`, `report.md` and `report.html` into a folder, the JSON last.
    ///
    /// # Errors
    /// When a file cannot be written or a figure cannot be drawn.
    pub fn write(&self, folder: &Path) -> Result<(), EvalError> {
        std::fs::create_dir_all(folder).map_err(EvalError::io(folder))?;
        write_whole(&folder.join("report.md"), &self.markdown())?;
        write_whole(&folder.join("report.html"), &self.html()?)?;
        write_whole(&folder.join("report.json"), &self.json())
    }
}

/// Writes a text beside its place, then renames it into it.
///
/// # Errors
/// When it cannot be written; nothing half-written is left.
pub fn write_whole(path: &Path, text: &str) -> Result<(), EvalError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        // What could not be written whole must not be found later.
        let _ = std::fs::remove_file(&temporary);
        EvalError::Io { path: path.to_owned(), source }
    })
}

/// A fraction as percent with one decimal.
pub fn percent(fraction: f64) -> String {
    format!("{:.1}", 100.0 * fraction)
}

/// The two specialised columns of published tables are one: its cell names the system.
pub(crate) fn specialised(system: &str) -> Option<&str> {
    system.strip_suffix(" (specialised)")
}

/// The published systems of all benchmarks in order of appearance, without the specialised ones.
pub(crate) fn systems(benchmarks: &[BenchmarkReport]) -> Vec<&str> {
    let mut systems: Vec<&str> = Vec::new();
    for published in benchmarks.iter().flat_map(|benchmark| &benchmark.published) {
        if specialised(&published.system).is_none() && !systems.contains(&published.system.as_str()) {
            systems.push(&published.system);
        }
    }
    systems
}

impl BenchmarkReport {
    pub(crate) fn published_by(&self, system: &str) -> Option<f64> {
        self.published.iter().find(|published| published.system == system).map(|published| published.score)
    }

    /// The best specialised system and its score.
    pub(crate) fn best_specialised(&self) -> Option<(&str, f64)> {
        let scores = self
            .published
            .iter()
            .filter_map(|published| Some((specialised(&published.system)?, published.score)));
        scores.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The cells of the overview: name, metric, ours, interval, best baseline, the systems, the specialised one.
    pub(crate) fn overview(&self, systems: &[&str]) -> Vec<String> {
        let dash = || "–".to_owned();
        let mut cells = vec![
            self.display_name.clone(),
            self.metric.name().to_owned(),
            percent(self.score),
            interval(self.interval),
            self.best_baseline().map_or_else(dash, |baseline| percent(baseline.score)),
        ];
        cells.extend(systems.iter().map(|system| self.published_by(system).map_or_else(dash, percent)));
        cells.push(
            self.best_specialised()
                .map_or_else(dash, |(system, score)| format!("{} {system}", percent(score))),
        );
        cells
    }

    /// What a reader must know beside the score, as sentences.
    pub(crate) fn facts(&self) -> Vec<String> {
        let source = self.variant.as_ref().map_or(String::new(), |variant| format!("/{variant}"));
        let mut facts = vec![
            format!(
                "{}{source}, split {}, version {} of the benchmark. {}",
                self.dataset, self.split, self.version, self.gold
            ),
            format!(
                "{} items; {} unparsable replies and {} missing predictions, scored as empty; {} replies cut off.",
                self.items, self.unparsable, self.missing, self.cut_off
            ),
        ];
        if let Some(limit) = self.limit {
            facts.push(format!("Only the first {limit} items: not comparable with published scores."));
        }
        for (reason, count) in &self.unparsable_reasons {
            facts.push(format!("Unparsable because {reason}: {count}."));
        }
        for (reason, count) in &self.skipped {
            facts.push(format!("Documents without an item, because of {reason}: {count}."));
        }
        for metric in &self.scores {
            let mut fact = format!("{}: {}", metric.metric.name(), metric.rule);
            if metric.ceiling < 1.0 {
                fact.push_str(&format!(
                    " The gold answers themselves, written as replies, reach {}.",
                    percent(metric.ceiling)
                ));
            }
            facts.push(fact);
        }
        if let Some(absent) = &self.baselines_absent {
            facts.push(format!("No trained baseline: {absent}."));
        }
        facts
    }
}

pub(crate) fn interval((low, high): (f64, f64)) -> String {
    format!("{}–{}", percent(low), percent(high))
}
