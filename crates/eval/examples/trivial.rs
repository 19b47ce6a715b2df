//! Scores the trivial baselines as if they were models and writes the report: what has to be beaten, with the ceilings.
//!
//! ```text
//! cargo run --release -p taiyi-eval --example trivial -- ../shared/data OUT [BENCHMARK...]
//! ```
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use taiyi_corpus::Catalog;
use taiyi_eval::items::{baseline_documents, items};
use taiyi_eval::{Benchmark, BenchmarkReport, EvalError, EvalReport, baselines};

const SEED: u64 = 17;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, out, ids @ ..] = arguments.as_slice() else {
        eprintln!("usage: trivial SOURCE_DIR OUT_DIR [BENCHMARK...]");
        return ExitCode::from(2);
    };
    match report(&PathBuf::from(source), &PathBuf::from(out), ids) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn report(source: &std::path::Path, out: &std::path::Path, ids: &[String]) -> Result<(), EvalError> {
    let catalog = Catalog::embedded();
    let started = Instant::now();
    let mut reports = Vec::new();
    for benchmark in Benchmark::all()? {
        if !ids.is_empty() && !ids.contains(&benchmark.id) {
            continue;
        }
        let set = items(&benchmark, catalog, source, None)?;
        let documents = baseline_documents(&benchmark, catalog, source)?;
        let clock = Instant::now();
        let learned = match &documents {
            Some(documents) => baselines::learn(documents, &set.labels, set.ask, SEED),
            None => baselines::untrained(set.ask, SEED),
        };
        let given = learned.first().map(|baseline| baseline.predict(&set.items)).unwrap_or_default();
        let milliseconds = clock.elapsed().as_secs_f64() * 1000.0;
        let report = BenchmarkReport::evaluate(&benchmark, catalog, source, &set, &given, SEED)?;
        print!("{:<16} {:>5} items, baseline {milliseconds:>5.0} ms", report.id, report.items);
        for metric in &report.scores {
            print!("; {} {:.4}, ceiling {:.4}", metric.metric.name(), metric.score, metric.ceiling);
        }
        println!("; skipped {:?}", report.skipped);
        reports.push(report);
    }
    EvalReport::new("trivial baselines", None, SEED, started.elapsed().as_secs_f64(), reports).write(out)
}
