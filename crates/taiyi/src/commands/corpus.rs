//! `taiyi corpus`: list, build, check, find leaks, collect pre-training text.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use taiyi_corpus::checks::Level;
use taiyi_corpus::leak::LeakIndex;
use taiyi_corpus::plain_text::{TextRecipe, collect};
use taiyi_corpus::{Card, Catalog, CheckReport, OutputFormat, Progress as BuildProgress};

use crate::cards::{CardFiles, Cards};
use crate::failure::{CommandResult, Failure, Outcome};
use crate::terminal::{self, Progress};

/// Arguments of `taiyi corpus`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Lists the dataset cards.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Reads datasets into the one schema and writes them as JSONL or Parquet.
    Build {
        /// Dataset ids, or `all` for every dataset the source folder has.
        #[arg(required_unless_present = "files")]
        ids: Vec<String>,
        #[command(flatten)]
        cards: CardFiles,
        /// Folder with one folder per dataset, in its original files.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// Folder to write into: one folder per dataset.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// File format.
        #[arg(long, value_enum, default_value_t = FileFormat::Jsonl)]
        format: FileFormat,
        /// Source version, where there are several (`pubtator`, `bioc`).
        #[arg(long)]
        variant: Option<String>,
        /// Print the manifests as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Counts each split and type and lists what is wrong; exit 1 for findings the card does not declare.
    Check {
        /// Dataset ids, or `all` for every dataset the source folder has.
        #[arg(required_unless_present = "files")]
        ids: Vec<String>,
        #[command(flatten)]
        cards: CardFiles,
        /// Folder with one folder per dataset, in its original files.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// Source version; all of them by default.
        #[arg(long)]
        variant: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Finds documents shared with test sets: by id, exact, nearly the same, or contained; exit 1 if there are any.
    Leak {
        /// Dataset ids, each as `ID` (all splits) or `ID:SPLIT`.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Test sets as `ID:SPLIT`, or files with one PubMed id a line.
        #[arg(long, required = true, num_args = 1.., value_name = "ID:SPLIT|FILE")]
        against: Vec<String>,
        #[command(flatten)]
        cards: CardFiles,
        /// Folder with one folder per dataset, in its original files.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Collects plain text for pre-training, without any document of the sets its recipe excludes.
    Text {
        /// Text recipe (TOML).
        #[arg(long, value_name = "FILE")]
        recipe: PathBuf,
        #[command(flatten)]
        cards: CardFiles,
        /// Folder with one folder per dataset, in its original files.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// Folder to write into.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Print the manifest as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum FileFormat {
    Jsonl,
    Parquet,
}

/// Runs `taiyi corpus`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    match arguments.verb {
        Verb::List { json } => list(json),
        Verb::Build { ids, cards, source, out, format, variant, json } => {
            build(&ids, &cards.read()?, &source, &out, format, variant.as_deref(), json)
        }
        Verb::Check { ids, cards, source, variant, json } => {
            check(&ids, &cards.read()?, &source, variant.as_deref(), json)
        }
        Verb::Leak { ids, against, cards, source, json } => {
            leak(&ids, &against, &cards.read()?, &source, json)
        }
        Verb::Text { recipe, cards, source, out, json } => text(&recipe, &cards.read()?, &source, &out, json),
    }
}

fn list(json: bool) -> CommandResult {
    #[derive(Serialize)]
    struct Row<'a> {
        id: &'a str,
        display_name: &'a str,
        languages: Vec<&'static str>,
        tasks: &'a [taiyi_corpus::schema::Task],
        license: &'a str,
        redistributable: bool,
        local: bool,
        variants: Vec<&'a str>,
        published: &'a BTreeMap<String, u64>,
        homepage: &'a str,
    }
    let rows: Vec<Row> = Catalog::embedded()
        .iter()
        .map(|card| Row {
            id: &card.id,
            display_name: &card.display_name,
            languages: card.languages.iter().map(|language| language.code()).collect(),
            tasks: &card.tasks,
            license: &card.license,
            redistributable: card.redistributable,
            local: card.local,
            variants: card.variants.iter().map(|variant| variant.id.as_str()).collect(),
            published: &card.published,
            homepage: &card.homepage,
        })
        .collect();
    if json {
        terminal::json(&rows)?;
        return Ok(Outcome::Fine);
    }
    for row in rows {
        let tasks: Vec<String> = row.tasks.iter().map(|task| format!("{task:?}").to_uppercase()).collect();
        let sizes: Vec<String> =
            row.published.iter().map(|(split, size)| format!("{split} {size}")).collect();
        terminal::line(&format!(
            "{:<28} {:<6} {:<14} {:<40} {}",
            row.id,
            row.languages.join(","),
            tasks.join(","),
            row.display_name,
            sizes.join(", ")
        ));
    }
    Ok(Outcome::Fine)
}

fn build(
    ids: &[String],
    cards: &Cards,
    source: &std::path::Path,
    out: &std::path::Path,
    format: FileFormat,
    variant: Option<&str>,
    json: bool,
) -> CommandResult {
    let format = match format {
        FileFormat::Jsonl => OutputFormat::Jsonl,
        FileFormat::Parquet => OutputFormat::Parquet,
    };
    let mut manifests = Vec::new();
    let mut unreadable = 0;
    for card in cards.chosen(ids, source)? {
        let progress = Progress::new(&card.id, 0, "documents");
        let manifest = taiyi_corpus::build(card, variant, source, out, format, &mut |event| match event {
            BuildProgress::Documents(split, documents) => progress.set(documents, split),
            BuildProgress::Unreadable(split, error) => {
                unreadable += 1;
                progress.note(&format!("{}:{split}: {error}", card.id));
            }
        })?;
        progress.finish();
        if !json {
            for file in &manifest.splits {
                terminal::line(&format!(
                    "{}: {} {} documents, {} bytes",
                    out.join(&card.id).join(&file.file).display(),
                    file.split,
                    file.documents,
                    file.bytes
                ));
            }
        }
        manifests.push(manifest);
    }
    if json {
        terminal::json(&manifests)?;
    }
    Ok(if unreadable > 0 { Outcome::Findings } else { Outcome::Fine })
}

fn check(
    ids: &[String],
    cards: &Cards,
    source: &std::path::Path,
    variant: Option<&str>,
    json: bool,
) -> CommandResult {
    let mut report = CheckReport::default();
    for card in cards.chosen(ids, source)? {
        let progress = Progress::new(&card.id, 0, "documents");
        let checked = taiyi_corpus::check(card, variant, source, &mut |split, documents| {
            progress.set(documents, split);
        })?;
        progress.finish();
        report.datasets.extend(checked.datasets);
    }
    if json {
        terminal::json(&report)?;
    } else {
        report.datasets.iter().for_each(print_check);
    }
    Ok(if report.is_clean() { Outcome::Fine } else { Outcome::Findings })
}

fn print_check(dataset: &taiyi_corpus::checks::DatasetCheck) {
    terminal::line(&format!("{} ({})", dataset.id, dataset.variant));
    let counted = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
    };
    for (split, counts) in &dataset.splits {
        let mut parts = vec![format!("{} documents", counts.documents)];
        let mut add = |name: &str, map: &BTreeMap<String, u64>| {
            if !map.is_empty() {
                parts.push(format!("{name}: {}", counted(map)));
            }
        };
        add("entities", &counts.entities);
        add("relations", &counts.relations);
        add("events", &counts.events);
        add("labels", &counts.labels);
        if counts.utterances > 0 {
            parts.push(format!("{} utterances", counts.utterances));
        }
        if counts.unreadable > 0 {
            parts.push(format!("{} unreadable", counts.unreadable));
        }
        terminal::line(&format!("  {split}: {}", parts.join("; ")));
    }
    for finding in &dataset.findings {
        let level = match (finding.known, finding.level) {
            (true, _) => "known",
            (_, Level::Info) => "info",
            (_, Level::Warning) => "warning",
            (_, Level::Error) => "error",
        };
        terminal::line(&format!(
            "  {level}: {} [{}] {}: {}",
            finding.split, finding.code, finding.place, finding.message
        ));
    }
}

/// `ID` or `ID:SPLIT`.
fn splits_of<'a>(cards: &'a Cards, name: &str) -> Result<(&'a Card, Vec<String>), Failure> {
    let (id, split) = name.split_once(':').map_or((name, None), |(id, split)| (id, Some(split)));
    let card = cards.catalog.card(id)?;
    let all: Vec<String> = card.variant(None)?.split_names().into_iter().map(str::to_owned).collect();
    match split {
        None => Ok((card, all)),
        Some(split) if all.iter().any(|known| known == split) => Ok((card, vec![split.to_owned()])),
        Some(split) => {
            Err(Failure::new(format!("{id}: expected a split among {}, found `{split}`", all.join(", "))))
        }
    }
}

fn leak(
    ids: &[String],
    against: &[String],
    cards: &Cards,
    source: &std::path::Path,
    json: bool,
) -> CommandResult {
    #[derive(Serialize)]
    struct Row {
        dataset: String,
        split: String,
        id: String,
        #[serde(flatten)]
        leak: taiyi_corpus::leak::Leak,
    }
    let mut index = LeakIndex::new();
    for name in against {
        let file = [source.join(name), PathBuf::from(name)].into_iter().find(|path| path.is_file());
        if let Some(file) = file {
            let ids = std::fs::read_to_string(&file)
                .map_err(|error| Failure::new(format!("{}: cannot be read: {error}", file.display())))?;
            for id in ids.lines().map(str::trim).filter(|id| !id.is_empty()) {
                index.add_id(name, taiyi_corpus::card::IdSpace::Pmid, id);
            }
            continue;
        }
        let (card, splits) = splits_of(cards, name)?;
        for split in splits {
            for document in taiyi_corpus::read(card, None, &split, source)? {
                match document {
                    Ok(document) => index.add_document(&document, card.document_ids),
                    Err(error) if error.is_record() => terminal::note(&error.to_string()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    let mut rows = Vec::new();
    let mut read = 0u64;
    for name in ids {
        let (card, splits) = splits_of(cards, name)?;
        let progress = Progress::new(name, 0, "documents");
        for split in splits {
            for document in taiyi_corpus::read(card, None, &split, source)? {
                let document = match document {
                    Ok(document) => document,
                    Err(error) if error.is_record() => continue,
                    Err(error) => return Err(error.into()),
                };
                read += 1;
                progress.set(read, &split);
                let own = format!("{}:{}", document.dataset, document.split);
                if against.contains(&own) {
                    continue;
                }
                if let Some(leak) = index.find_document(&document, card.document_ids) {
                    rows.push(Row {
                        dataset: document.dataset,
                        split: document.split,
                        id: document.id,
                        leak,
                    });
                }
            }
        }
        progress.finish();
    }
    if json {
        terminal::json(&serde_json::json!({ "documents": read, "leaks": rows }))?;
    } else {
        for row in &rows {
            terminal::line(&format!(
                "{}:{}:{} {:?} {} ({:.2})",
                row.dataset, row.split, row.id, row.leak.how, row.leak.against, row.leak.score
            ));
        }
        terminal::note(&format!("{} of {read} documents leak", rows.len()));
    }
    Ok(if rows.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

fn text(
    recipe: &std::path::Path,
    cards: &Cards,
    source: &std::path::Path,
    out: &std::path::Path,
    json: bool,
) -> CommandResult {
    let recipe = TextRecipe::load(recipe)?;
    let progress =
        Progress::new("collecting", (recipe.exclude.len() + recipe.source.len()) as u64, "sources");
    let report = collect(&recipe, &cards.catalog, source, out, &mut |at| {
        progress.set(at.done as u64, &at.dataset);
    })?;
    progress.finish();
    if json {
        terminal::json(&report)?;
        return Ok(Outcome::Fine);
    }
    for (name, split) in &report.splits {
        let path = out.join(format!("{name}.jsonl"));
        terminal::line(&format!("{}: {} texts, {} bytes", path.display(), split.documents, split.bytes));
    }
    let dropped: Vec<String> =
        report.dropped.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    terminal::line(&format!("dropped: {}", dropped.join(", ")));
    Ok(Outcome::Fine)
}
