//! `taiyi quickstart`: the whole line on the shipped samples: instructions, two stages of tuning, scores before and
//! after, one page to look at.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use taiyi_corpus::schema::Document;
use taiyi_corpus::{Catalog, LeakIndex};
use taiyi_eval::baselines::{self, ScoredBaseline};
use taiyi_eval::items::card_labels;
use taiyi_eval::report::figures::Curve;
use taiyi_eval::report::html::Page;
use taiyi_eval::report::write_whole;
use taiyi_eval::{Comparison, Given, ItemOptions, Items, Scored, comparison, score};
use taiyi_infer::{LoadOptions, ReplyModel};
use taiyi_instruct::{Ask, CardSource, MixRecipe, Templates};
use taiyi_train::{Overrides, Recipe};

use crate::commands::train::{Watcher, report as report_training};
use crate::embedded;
use crate::failure::{CommandResult, Failure, Outcome};
use crate::replier::LocalReplier;
use crate::terminal::{self, Progress};

/// Arguments of `taiyi quickstart`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder for everything: data, adapters, predictions, report.
    #[arg(long, value_name = "DIR", default_value = "out/quickstart")]
    out: PathBuf,
    /// Base model folder, in place of the embedded one.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Held-out records scored per task.
    #[arg(long, value_name = "N", default_value_t = 200)]
    items: usize,
}

/// What is scored: a sample dataset, its task, and the longest reply worth waiting for, in tokens.
const TASKS: [(&str, Ask, usize); 5] = [
    ("sample_genetag", Ask::Ner, 96),
    ("sample_drugprot", Ask::Tc, 24),
    ("sample_evidence_inference", Ask::Qa, 24),
    ("taiyi_zh_ner", Ask::Ner, 128),
    ("taiyi_zh_intent", Ask::Tc, 24),
];

const MIX: &str = include_str!("../../../../data/recipes/quickstart/mix.toml");
const STAGES: [(&str, &str); 2] = [
    ("stage1", include_str!("../../../../data/recipes/quickstart/stage1.toml")),
    ("stage2", include_str!("../../../../data/recipes/quickstart/stage2.toml")),
];

/// Seed of the bootstrap and of what baselines draw.
const SEED: u64 = 42;

struct Task {
    id: &'static str,
    name: String,
    max_new_tokens: usize,
    items: Items,
    baselines: Vec<ScoredBaseline>,
}

/// Runs `taiyi quickstart`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let started = Instant::now();
    let out = arguments.out;
    let base = embedded::model_dir(arguments.model)?;
    let source = out.join("samples");
    step(1, "writing the shipped samples and building instruction data");
    fresh(&out)?;
    embedded::write_samples(&source)?;
    let mix = MixRecipe::parse(Path::new("data/recipes/quickstart/mix.toml"), MIX)?;
    let instructions = out.join("instructions.jsonl");
    let cards = CardSource { catalog: Catalog::embedded(), folder: source.clone() };
    let built = taiyi_instruct::build(&mix, Templates::embedded(), &cards, &instructions, None, &mut |_| {})?;
    if let Some(absent) = built.absent.first() {
        return Err(Failure::new(format!("{}:{}: {}", absent.dataset, absent.split, absent.reason)));
    }
    terminal::note(&format!("{} conversations in {}", built.conversations, instructions.display()));

    step(2, "checking that nothing that is scored was trained on");
    let tasks = TASKS
        .iter()
        .map(|&(id, ask, max_new_tokens)| Task::load(id, ask, max_new_tokens, arguments.items, &source))
        .collect::<Result<Vec<_>, _>>()?;

    step(3, "scoring the base model");
    let before = score_all(&tasks, &base, None, &out.join("before"))?;

    let mut adapter: Option<PathBuf> = None;
    let mut curves = Vec::new();
    for (at, (name, text)) in STAGES.into_iter().enumerate() {
        step(4 + at, &format!("fine-tuning, {name}"));
        let recipe = Recipe::parse(Path::new(&format!("data/recipes/quickstart/{name}.toml")), text)?;
        let folder = out.join(name);
        let overrides = Overrides {
            base: Some(base.clone()),
            adapter: adapter.take(),
            data: Some(vec![instructions.clone()]),
            out: Some(folder.clone()),
            ..Overrides::default()
        };
        let mut watcher = Watcher::new(false);
        let summary = taiyi_train::train(&recipe, &overrides, &mut watcher)?;
        watcher.finish();
        report_training(&summary);
        curves.push(loss_curve(name, &folder)?);
        adapter = Some(folder);
    }
    let adapter = adapter.ok_or_else(|| Failure::new("the quickstart has no stage"))?;

    step(6, "scoring the tuned model");
    let after = score_all(&tasks, &base, Some(&adapter), &out.join("after"))?;

    step(7, "writing the report");
    let mut comparisons = Vec::new();
    for (task, (before, after)) in tasks.iter().zip(before.iter().zip(&after)) {
        comparisons.push(Comparison::new(
            task.id,
            &task.name,
            &task.items,
            &task.baselines,
            &before.scored,
            &after.scored,
            SEED,
        )?);
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = Report { tasks: &comparisons, seconds, model: embedded::MODEL_NAME, adapter: &adapter };
    write_whole(&out.join("report.json"), &serde_json::to_string_pretty(&report)?)?;
    let page = page(&tasks, &comparisons, &curves, &after, &adapter, seconds)?;
    let path = out.join("report.html");
    write_whole(&path, &page.render())?;
    summarise(&comparisons, &path, &adapter, seconds);
    Ok(Outcome::Fine)
}

#[derive(Serialize)]
struct Report<'a> {
    tasks: &'a [Comparison],
    seconds: f64,
    model: &'static str,
    adapter: &'a Path,
}

fn step(number: usize, what: &str) {
    terminal::note(&format!("[{number}/7] {what}"));
}

/// Removes what an earlier quickstart left in its folder, and nothing else.
fn fresh(out: &Path) -> Result<(), Failure> {
    for name in ["samples", "before", "after", "stage1", "stage2"] {
        let path = out.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .map_err(|error| Failure::new(format!("{}: cannot be removed: {error}", path.display())))?;
        }
    }
    std::fs::create_dir_all(out)
        .map_err(|error| Failure::new(format!("{}: cannot be created: {error}", out.display())))
}

impl Task {
    fn load(
        id: &'static str,
        ask: Ask,
        max_new_tokens: usize,
        limit: usize,
        source: &Path,
    ) -> Result<Self, Failure> {
        let card = Catalog::embedded().card(id)?;
        let read = |split: &str| -> Result<Vec<Document>, Failure> {
            Ok(taiyi_corpus::read(card, None, split, source)?.collect::<Result<_, _>>()?)
        };
        let (train, test) = (read("train")?, read("test")?);
        let mut trained = LeakIndex::new();
        for document in &train {
            trained.add_document(document, card.document_ids);
        }
        for document in &test {
            if let Some(leak) = trained.find_document(document, card.document_ids) {
                return Err(Failure::new(format!(
                    "{id}: test record {} was trained on: {:?} of {}",
                    document.id, leak.how, leak.against
                )));
            }
        }
        let labels = card_labels(card, false);
        let items =
            Items::of(&test, labels.clone(), &ItemOptions { limit: Some(limit), ..ItemOptions::new(ask) });
        let metrics = taiyi_eval::score::metrics_of(ask);
        let learned = baselines::learn(&train, &labels, ask, SEED);
        let baselines = baselines::score_all(&learned, &items.items, &metrics)?;
        Ok(Self { id, name: card.display_name.clone(), max_new_tokens, items, baselines })
    }
}

struct Replies {
    given: Vec<Option<Given>>,
    scored: Scored,
}

fn score_all(
    tasks: &[Task],
    base: &Path,
    adapter: Option<&Path>,
    out: &Path,
) -> Result<Vec<Replies>, Failure> {
    let options = LoadOptions { adapter: adapter.map(Path::to_owned), ..LoadOptions::default() };
    let mut model = ReplyModel::load(base, &options)?;
    let name = if adapter.is_some() { "tuned" } else { "base" };
    std::fs::create_dir_all(out)
        .map_err(|error| Failure::new(format!("{}: cannot be created: {error}", out.display())))?;
    let mut all = Vec::new();
    for task in tasks {
        let progress =
            Progress::new(&format!("{name}: {}", task.name), task.items.items.len() as u64, "replies");
        let mut replier = LocalReplier::new(&mut model, task.max_new_tokens);
        let path = out.join(format!("{}.jsonl", task.id));
        let run = taiyi_eval::run(&task.items.items, name, true, &mut replier, &path, &mut |at| {
            progress.set(at.done as u64, "");
        })?;
        progress.finish();
        let scored = score(&task.items.items, &run.given, &taiyi_eval::score::metrics_of(task.items.ask))?;
        if let Some(scores) = scored.scores.first() {
            terminal::note(&format!(
                "{name}: {}: {} {:.3} on {} records ({:.0} s)",
                task.name,
                scores.metric.name(),
                scores.value(),
                task.items.items.len(),
                run.seconds
            ));
        }
        all.push(Replies { given: run.given, scored });
    }
    Ok(all)
}

fn loss_curve(name: &str, folder: &Path) -> Result<Curve, Failure> {
    let path = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Failure::new(format!("{}: cannot be read: {error}", path.display())))?;
    let records =
        text.lines().map(serde_json::from_str::<taiyi_train::Record>).collect::<Result<Vec<_>, _>>()?;
    Ok(Curve { name: name.to_owned(), points: records.iter().map(|r| (r.step as f64, r.loss)).collect() })
}

fn page(
    tasks: &[Task],
    comparisons: &[Comparison],
    curves: &[Curve],
    after: &[Replies],
    adapter: &Path,
    seconds: f64,
) -> Result<Page, Failure> {
    let mut page = Page::new(
        "Taiyi quickstart · 太一快速上手",
        &format!(
            "{} tuned in two stages on the shipped samples; scored on records it has never seen, before and after alike with \
             replies constrained to the answer format and the text · 前后评测均采用约束解码，回答限于给定格式与原文. {:.0} seconds, version \
             {}.",
            embedded::MODEL_NAME,
            seconds,
            env!("CARGO_PKG_VERSION")
        ),
    );
    comparison::add_scores(&mut page, comparisons)?;
    let missed: Vec<&str> =
        comparisons.iter().filter(|c| !c.improved()).map(|c| c.display_name.as_str()).collect();
    if !missed.is_empty() {
        page.warning(&format!(
            "Not shown to be better than the base model and the trivial baseline (the interval reaches zero) · 未能证明优于基座与平凡基线: {}",
            missed.join("; ")
        ));
    }
    comparison::add_losses(&mut page, curves)?;
    page.heading("What the tuned model says 微调后的输出");
    for (task, replies) in tasks.iter().zip(after) {
        page.subheading(&task.name);
        taiyi_eval::report::add_examples(&mut page, &task.items, &replies.given, &replies.scored);
    }
    page.heading("What to try next 下一步");
    page.code(&next_steps(adapter));
    Ok(page)
}

fn next_steps(adapter: &Path) -> String {
    let adapter = adapter.display();
    format!(
        "taiyi chat --adapter {adapter}\n\
         taiyi extract notes/ --types \"gene or protein\" --adapter {adapter} --to brat --out out/extracted\n\
         taiyi corpus list\n\
         taiyi train --recipe data/recipes/taiyi1/stage1.toml --base YOUR_MODEL --data YOUR_DATA.jsonl --out out/stage1"
    )
}

fn summarise(comparisons: &[Comparison], report: &Path, adapter: &Path, seconds: f64) {
    terminal::note("");
    for c in comparisons {
        terminal::note(&format!(
            "{:<42} {:<16} trivial {:.3}  before {:.3}  after {:.3}  [{:+.3}, {:+.3}]{}",
            c.display_name,
            c.metric.name(),
            c.trivial,
            c.before,
            c.after,
            c.interval.0,
            c.interval.1,
            if c.improved() { "" } else { "  not shown to be better" }
        ));
    }
    terminal::note(&format!("\n{seconds:.0} seconds. Open {} in a browser. Then try:\n", report.display()));
    terminal::note(&next_steps(adapter));
    terminal::line(&report.display().to_string());
}

#[cfg(test)]
mod tests {
    use taiyi_corpus::schema::Content;

    use super::*;

    #[test]
    fn the_recipes_read_and_every_task_is_in_the_mix() {
        let mix = MixRecipe::parse(Path::new("mix.toml"), MIX).unwrap();
        for (id, ..) in TASKS {
            let entry = mix.dataset.iter().find(|entry| entry.id == id).expect(id);
            assert_eq!(entry.splits, ["train"], "{id} must not learn its test split");
        }
        for (name, text) in STAGES {
            Recipe::parse(Path::new(name), text).unwrap();
        }
    }

    #[test]
    fn samples_unpack_and_read() {
        let folder = tempfile::tempdir().unwrap();
        embedded::write_samples(folder.path()).unwrap();
        for (id, ask, _) in TASKS {
            let task = Task::load(id, ask, 8, 150, folder.path()).unwrap();
            assert_eq!(task.items.items.len(), 150, "{id}");
        }
    }

    #[test]
    fn documents_of_the_samples_are_of_the_kinds_that_are_scored() {
        let folder = tempfile::tempdir().unwrap();
        embedded::write_samples(folder.path()).unwrap();
        for (id, ask, _) in TASKS {
            let card = Catalog::embedded().card(id).unwrap();
            let document =
                taiyi_corpus::read(card, None, "test", folder.path()).unwrap().next().unwrap().unwrap();
            let fits = matches!(
                (&document.content, ask),
                (Content::Ie(_), Ask::Ner) | (Content::Tc(_), Ask::Tc) | (Content::Qa(_), Ask::Qa)
            );
            assert!(fits, "{id}");
        }
    }
}
