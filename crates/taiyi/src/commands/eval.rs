//! `taiyi eval`: asks a model or an endpoint a benchmark's questions, and scores replies.

mod endpoint;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use taiyi_corpus::Catalog;
use taiyi_eval::{Benchmark, BenchmarkReport, EvalReport, Item, Replier, Run};
use taiyi_infer::{LabelModel, ReplyModel};

use crate::failure::{CommandResult, Failure, Outcome};
use crate::labeller::Labeller;
use crate::loading::ModelArguments;
use crate::replier::LocalReplier;
use crate::terminal::{self, Progress};
use endpoint::Endpoint;

/// Arguments of `taiyi eval`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Lists the benchmarks.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Asks every question, writes the replies, scores them.
    ///
    /// Writes report.json, report.md, report.html and predictions-ID.jsonl.
    /// A run that was interrupted goes on where it stopped: replies of the same model to the same prompts are not asked for
    /// again.
    Run(RunArguments),
    /// Scores replies or predictions that are there already.
    Score {
        /// Benchmark id.
        #[arg(long, value_name = "ID")]
        benchmark: String,
        /// Predictions, JSON Lines: `id` (or `document_id`) and `reply` or `prediction`.
        #[arg(long, value_name = "FILE")]
        predictions: PathBuf,
        /// Folder with one folder per dataset, in its original files.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// Only the first items.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Folder for report.json, report.md and report.html.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct RunArguments {
    /// Benchmark ids, or `all` for every benchmark whose dataset the source folder has.
    #[arg(long, required = true, num_args = 1.., value_name = "ID|all")]
    benchmark: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    /// In place of a model: an OpenAI-compatible chat completions endpoint, such as `http://127.0.0.1:8000/v1`. Plain HTTP only;
    /// the environment variable TAIYI_API_KEY is sent as bearer token if it is set.
    #[arg(long, value_name = "URL", conflicts_with_all = ["model", "adapter", "dtype", "chat_format"])]
    endpoint: Option<String>,
    /// What the endpoint calls the model (default: the first of its list).
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    endpoint_model: Option<String>,
    /// Folder with one folder per dataset, in its original files.
    #[arg(long, value_name = "DIR")]
    source: PathBuf,
    /// Folder for the report and the predictions.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only the first items of each benchmark.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Most tokens of a reply.
    #[arg(long, value_name = "N", default_value_t = 500)]
    max_new_tokens: usize,
    /// Replies generated side by side, or requests sent to the endpoint at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Let the model write only what the answer format allows: offered names, strings of the text. Published systems reply
    /// freely, so their scores are to be compared with those without it.
    #[arg(long, conflicts_with = "endpoint")]
    constrain: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Seed of the bootstrap and of what baselines draw.
const SEED: u64 = 17;

/// Runs `taiyi eval`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    match arguments.verb {
        Verb::List { json } => list(json),
        Verb::Run(arguments) => ask(&arguments),
        Verb::Score { benchmark, predictions, source, limit, out, json } => {
            let report = score(&benchmark, &predictions, &source, limit)?;
            if let Some(out) = &out {
                report.write(out)?;
            }
            show(&report, json)
        }
    }
}

fn list(json: bool) -> CommandResult {
    let benchmarks = Benchmark::all()?;
    if json {
        let row = |benchmark: &Benchmark| {
            serde_json::json!({
                "id": benchmark.id, "version": benchmark.version, "display_name": benchmark.display_name,
                "dataset": benchmark.dataset, "variant": benchmark.variant, "split": benchmark.split,
                "task": benchmark.task, "language": benchmark.language, "metric": benchmark.metric(),
                "published": benchmark.published,
            })
        };
        terminal::json(&benchmarks.iter().map(row).collect::<Vec<_>>())?;
        return Ok(Outcome::Fine);
    }
    for benchmark in benchmarks {
        terminal::line(&format!(
            "{:<16} {:<20} {:<8} {:<18} {}",
            benchmark.id,
            benchmark.dataset,
            benchmark.split,
            benchmark.metric().name(),
            benchmark.display_name
        ));
    }
    Ok(Outcome::Fine)
}

/// Who answers.
enum Answers {
    Model(Box<ReplyModel>),
    Encoder(Box<LabelModel>),
    Endpoint(Endpoint),
}

fn ask(arguments: &RunArguments) -> CommandResult {
    let started = Instant::now();
    let (benchmarks, mut absent) = chosen(&arguments.benchmark, &arguments.source)?;
    let catalog = Catalog::embedded();
    // Whatever is wrong with a test set is said before a model is loaded.
    let sets = benchmarks
        .iter()
        .map(|benchmark| taiyi_eval::items(benchmark, catalog, &arguments.source, arguments.limit))
        .collect::<Result<Vec<_>, _>>()?;
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| Failure::new(format!("{}: cannot be created: {error}", arguments.out.display())))?;
    let (mut answerer, shown, label) = match &arguments.endpoint {
        Some(url) => {
            let endpoint =
                Endpoint::connect(url, arguments.endpoint_model.as_deref(), arguments.max_new_tokens)?;
            let name = endpoint.model().to_owned();
            let shown = format!("{name} at {url}");
            let label = format!("{shown} greedy {}", arguments.max_new_tokens);
            (Answers::Endpoint(endpoint), shown, label)
        }
        None => {
            let folder = arguments.model.folder()?;
            let label = arguments.model.label(&folder)?;
            let greedy = format!("{label} greedy {}", arguments.max_new_tokens);
            if arguments.model.is_encoder() {
                // Of all benchmarks those are taken that it can answer; one that was named must be.
                let fits = |model: &LabelModel| {
                    let named = benchmarks.iter().zip(&sets).filter(|_| arguments.benchmark != ["all"]);
                    let mut reasons = named.filter_map(|(benchmark, set)| {
                        Some(format!("{}: {}", benchmark.id, Labeller::unfit(model, set)?))
                    });
                    reasons.next().map_or(Ok(()), |reason| Err(Failure::new(reason)))
                };
                let model = arguments.model.load_encoder(&folder, fits)?;
                (Answers::Encoder(Box::new(model)), folder.display().to_string(), label)
            } else {
                let model = arguments.model.load(&folder)?;
                let constrained = if arguments.constrain { " (constrained decoding)" } else { "" };
                (Answers::Model(Box::new(model)), format!("{}{constrained}", folder.display()), greedy)
            }
        }
    };
    let mut reports = Vec::new();
    for (benchmark, set) in benchmarks.iter().zip(&sets) {
        if let Answers::Encoder(model) = &answerer
            && let Some(reason) = Labeller::unfit(model, set)
        {
            terminal::note(&format!("{}: left out: {reason}", benchmark.id));
            absent = true;
            continue;
        }
        let out = arguments.out.join(format!("predictions-{}.jsonl", benchmark.id));
        let progress = Progress::new(&benchmark.id, set.items.len() as u64, "replies");
        let run = replies(&mut answerer, arguments, &set.items, &label, &out, &progress)?;
        progress.finish();
        let mut report =
            BenchmarkReport::evaluate(benchmark, catalog, &arguments.source, set, &run.given, SEED)?;
        report.seconds = Some(run.seconds);
        terminal::note(&format!(
            "{}: {} {:.4} on {} items ({} reused, {:.0} s)",
            report.id,
            report.metric.name(),
            report.score,
            report.items,
            run.reused,
            run.seconds
        ));
        reports.push(report);
    }
    if reports.is_empty() {
        return Err(Failure::new(format!("{shown}: expected a benchmark that it can answer, found none")));
    }
    let adapter = arguments.model.adapter.as_ref().map(|adapter| adapter.display().to_string());
    let report = EvalReport::new(&shown, adapter.as_deref(), SEED, started.elapsed().as_secs_f64(), reports);
    report.write(&arguments.out)?;
    terminal::note(&format!("{}", arguments.out.join("report.html").display()));
    show(&report, arguments.json)?;
    Ok(if absent { Outcome::Findings } else { Outcome::Fine })
}

/// The benchmarks of some ids, and whether `all` left out some whose dataset is not there.
fn chosen(ids: &[String], source: &Path) -> Result<(Vec<Benchmark>, bool), Failure> {
    if ids != ["all"] {
        return Ok((ids.iter().map(|id| Benchmark::by_id(id)).collect::<Result<_, _>>()?, false));
    }
    let (there, absent): (Vec<_>, Vec<_>) =
        Benchmark::all()?.into_iter().partition(|benchmark| source.join(&benchmark.dataset).is_dir());
    if there.is_empty() {
        return Err(Failure::new(format!(
            "{}: expected folders named after datasets, found none",
            source.display()
        ))
        .hint("`taiyi eval list` names the benchmarks and their datasets"));
    }
    for benchmark in &absent {
        terminal::note(&format!(
            "{}: left out: {} has no folder {}",
            benchmark.id,
            source.display(),
            benchmark.dataset
        ));
    }
    Ok((there, !absent.is_empty()))
}

fn replies(
    answerer: &mut Answers,
    arguments: &RunArguments,
    items: &[Item],
    label: &str,
    out: &Path,
    progress: &Progress,
) -> Result<Run, Failure> {
    let batch = usize::from(arguments.batch);
    // Replies of the batches before; within a batch the replier tells.
    let before = Cell::new(0);
    let watch = |done: usize, tokens: usize| {
        let remark = if tokens == 0 { String::new() } else { format!("{tokens} tokens in this batch") };
        progress.set((before.get() + done) as u64, &remark);
    };
    let answered = |done: usize| watch(done, 0);
    let mut local;
    let mut remote;
    let replier: &mut dyn Replier = match answerer {
        Answers::Encoder(model) => {
            return Ok(taiyi_eval::run_with(items, label, &mut Labeller::new(model), out, &mut |at| {
                progress.set(at.done as u64, "");
            })?);
        }
        Answers::Model(model) => {
            local = LocalReplier::new(model, arguments.max_new_tokens)
                .with_batch(batch)
                .watched(|at| watch(at.done, at.tokens));
            &mut local
        }
        Answers::Endpoint(endpoint) => {
            remote = endpoint.replier(batch, &answered);
            &mut remote
        }
    };
    Ok(taiyi_eval::run(items, label, arguments.constrain, replier, out, &mut |at| {
        before.set(at.done);
        progress.set(at.done as u64, "");
    })?)
}

fn score(
    benchmark: &str,
    predictions: &Path,
    source: &Path,
    limit: Option<usize>,
) -> Result<EvalReport, Failure> {
    let started = Instant::now();
    let benchmark = Benchmark::by_id(benchmark)?;
    let catalog = Catalog::embedded();
    let set = taiyi_eval::items(&benchmark, catalog, source, limit)?;
    let given = taiyi_eval::predictions::read(predictions, &set.items)?;
    let report = BenchmarkReport::evaluate(&benchmark, catalog, source, &set, &given, SEED)?;
    if report.missing > 0 {
        terminal::note(&format!(
            "{}: {} of {} items have no prediction and count as empty ones",
            predictions.display(),
            report.missing,
            report.items
        ));
    }
    let name = predictions.display().to_string();
    Ok(EvalReport::new(&name, None, SEED, started.elapsed().as_secs_f64(), vec![report]))
}

fn show(report: &EvalReport, json: bool) -> CommandResult {
    if json {
        terminal::json(report)?;
        return Ok(Outcome::Fine);
    }
    for benchmark in &report.benchmarks {
        for metric in &benchmark.scores {
            terminal::line(&format!(
                "{:<16} {:<18} {:.4} [{:.4}, {:.4}]  {} items, {} unparsable, {} missing",
                benchmark.id,
                metric.metric.name(),
                metric.score,
                metric.interval.0,
                metric.interval.1,
                benchmark.items,
                benchmark.unparsable,
                benchmark.missing,
            ));
        }
    }
    Ok(Outcome::Fine)
}
