//! `taiyi extract`: entities and relations out of files and folders, with offsets into the input.

mod output;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use taiyi_corpus::schema::{Content, Language};
use taiyi_corpus::writers::Losses;
use taiyi_infer::extract::{NameKind, all_named};
use taiyi_infer::{
    ExtractOptions, ExtractReport, Extracted, Extractor, InferError, LabelExtractor, ModelReplier,
    ReplyOptions, input,
};
use taiyi_instruct::{LabelNames, Templates, Unit};

use crate::failure::{CommandResult, Failure, Outcome};
use crate::loading::ModelArguments;
use crate::terminal::{self, Progress};
use output::{Format, Lines, Output};

/// Arguments of `taiyi extract`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Files and folders: .txt, .jsonl (`{"text"}` lines or documents of the corpus schema), .pubtator, BioC .xml; also .gz.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// Entity types, separated by commas: `disease,gene`, `disease:疾病` to give the Chinese name, or
    /// `Disease=disease/疾病` for what the output says and both names. An encoder finds all types it has labels for, or those named.
    #[arg(long, value_name = "NAMES")]
    types: Option<String>,
    /// Relations, written as the types are. Without `--types`, their arguments become entities.
    #[arg(long, value_name = "NAMES")]
    relations: Option<String>,
    /// Ask for one type or relation at a time: more questions, each an easier one.
    #[arg(long)]
    one_at_a_time: bool,
    /// What an entity question is about: `document`, `sentence`, or whole sentences up to so many characters.
    #[arg(long, value_name = "UNIT", default_value = "400", value_parser = unit)]
    unit: Unit,
    /// What a relation question is about.
    #[arg(long, value_name = "UNIT", default_value = "document", value_parser = unit)]
    relation_unit: Unit,
    /// Let an entity stand inside another.
    #[arg(long)]
    nested: bool,
    /// Language of the questions (default: that of each text).
    #[arg(long, value_enum)]
    language: Option<Tongue>,
    /// Which wording of the question, from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    wording: usize,
    /// Let the model write what it likes. Without this it can only write the types asked for and strings of the text, as what
    /// is not in the text has no offsets.
    #[arg(long)]
    unconstrained: bool,
    /// System message that opens each conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of a reply.
    #[arg(long, value_name = "N", default_value_t = 500)]
    max_new_tokens: usize,
    /// Replies generated side by side.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Format of the output.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    to: Format,
    /// File to write, or folder for brat (default: stdout).
    #[arg(long, value_name = "PATH", required_if_eq("to", "brat"))]
    out: Option<PathBuf>,
    /// File for one JSON line a document: what was asked, which replies could not be read, which strings were not found.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the counts as JSON.
    #[arg(long, requires = "out")]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Tongue {
    En,
    Zh,
}

fn unit(written: &str) -> Result<Unit, String> {
    match written {
        "document" => Ok(Unit::Document),
        "sentence" => Ok(Unit::Sentence),
        number => match number.parse() {
            Ok(characters @ 1..) => Ok(Unit::Window(characters)),
            _ => Err("expected `document`, `sentence` or a number of characters".to_owned()),
        },
    }
}

/// The names a person lists; `en:zh` is short for `en=en/zh`.
fn names(kind: NameKind, written: Option<&str>) -> LabelNames {
    let words: Vec<String> = written
        .unwrap_or_default()
        .split([',', '，'])
        .map(|word| match word.split_once([':', '：']) {
            Some((en, zh)) if !word.contains('=') => format!("{en}={en}/{zh}"),
            _ => word.to_owned(),
        })
        .collect();
    all_named(kind, words.iter().map(String::as_str))
}

/// What came of it all.
#[derive(Default, Serialize)]
struct Summary {
    files: usize,
    documents: usize,
    entities: BTreeMap<String, usize>,
    relations: BTreeMap<String, usize>,
    questions: usize,
    /// Replies that could not be read.
    unparsable: usize,
    /// Replies cut off at the length limit; what they hold is used.
    cut_off: usize,
    /// Pieces too long for the model however small they were cut.
    too_long: usize,
    /// Strings of replies that do not stand in the text.
    unfound: usize,
    /// Strings and triples under types that were not asked for.
    not_asked: usize,
    /// Relations whose arguments are no entities of the text.
    unplaced: usize,
    /// Documents that hold no single text; passed on as they were.
    skipped: usize,
    /// What the format of the output could not hold as it was.
    losses: Losses,
    /// Files and records that could not be read.
    unreadable: usize,
    /// Files of folders in no known format, by extension.
    unsupported: BTreeMap<String, usize>,
    seconds: f64,
}

/// Runs `taiyi extract`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let started = Instant::now();
    let options = ExtractOptions {
        entities: names(NameKind::Entity, arguments.types.as_deref()),
        relations: names(NameKind::Relation, arguments.relations.as_deref()),
        one_at_a_time: arguments.one_at_a_time,
        unit: arguments.unit,
        relation_unit: arguments.relation_unit,
        nested: arguments.nested,
        language: arguments.language.map(|tongue| match tongue {
            Tongue::En => Language::En,
            Tongue::Zh => Language::Zh,
        }),
        wording: arguments.wording,
        constrained: !arguments.unconstrained,
    };
    let labels = arguments.model.is_encoder();
    if labels && !options.relations.is_empty() {
        return Err(Failure::new(
            "--relations: expected none, the model is an encoder, which finds entities",
        ));
    }
    if !labels && options.entities.is_empty() && options.relations.is_empty() {
        return Err(Failure::new("expected a name in --types or --relations, found none"));
    }
    let found = input::find(&arguments.paths)?;
    if found.files.is_empty() {
        return Err(Failure::new(format!(
            "expected a .txt, .jsonl, .pubtator or BioC .xml file, found none and {} of other kinds",
            found.unsupported_count()
        )));
    }
    let mut summary =
        Summary { files: found.files.len(), unsupported: found.unsupported, ..Summary::default() };
    let mut output = Output::create(arguments.to, arguments.out.as_deref())?;
    let mut report = arguments.report.as_deref().map(Lines::create).transpose()?;
    let folder = arguments.model.folder()?;
    let progress = Progress::new("extracting", 0, "documents");
    let done = Cell::new(0);
    let mut documents = input::read(found.files);
    let mut sink = |extracted: Result<Extracted, InferError>| {
        match extracted {
            Ok(extracted) => {
                summary.count(&extracted.document.content, &extracted.report);
                output.write(&extracted.document)?;
                if let Some(report) = &mut report {
                    report.write(&extracted.report)?;
                }
                done.set(done.get() + 1);
                progress.set(done.get(), "");
            }
            Err(error) => {
                summary.unreadable += 1;
                progress.note(&Failure::from(error).message);
            }
        }
        Ok(())
    };
    if labels {
        let mut model = arguments
            .model
            .load_encoder(&folder, |model| Ok(LabelExtractor::check(model, &options.entities)?))?;
        LabelExtractor::new(&mut model, &options.entities)?.extract_each(&mut documents, &mut sink)?;
    } else {
        let mut model = arguments.model.load(&folder)?;
        let replies = ReplyOptions {
            max_new_tokens: arguments.max_new_tokens,
            batch: usize::from(arguments.batch),
            ..ReplyOptions::default()
        };
        let mut replier = ModelReplier::new(&mut model, replies)
            .with_system(arguments.system)
            .with_progress(|at| progress.set(done.get(), &format!("{} of {} replies", at.done, at.total)));
        let extractor = Extractor::new(&options, Templates::embedded());
        extractor.extract_each(&mut documents, &mut replier, &mut sink)?;
    }
    progress.finish();
    summary.losses = output.finish()?;
    report.map(Lines::finish).transpose()?;
    summary.seconds = started.elapsed().as_secs_f64();
    summary.tell();
    if arguments.json {
        terminal::json(&summary)?;
    }
    Ok(if summary.unreadable > 0 { Outcome::Findings } else { Outcome::Fine })
}

impl Summary {
    fn count(&mut self, content: &Content, report: &ExtractReport) {
        self.documents += 1;
        // The annotations of what was skipped are not ours.
        if let (Content::Ie(ie), None) = (content, &report.skipped) {
            for entity in &ie.entities {
                *self.entities.entry(entity.kind.clone()).or_default() += 1;
            }
            for relation in &ie.relations {
                *self.relations.entry(relation.kind.clone()).or_default() += 1;
            }
        }
        self.questions += report.questions;
        self.unparsable += report.unparsable.len();
        self.cut_off += report.cut_off;
        self.too_long += report.too_long;
        self.unfound += report.unfound.len();
        self.not_asked += report.not_asked;
        self.unplaced += report.unplaced.len();
        self.skipped += usize::from(report.skipped.is_some());
    }

    fn tell(&self) {
        let by_name = |counts: &BTreeMap<String, usize>| match counts.is_empty() {
            true => String::new(),
            false => {
                let parts: Vec<String> =
                    counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
                format!(" ({})", parts.join(", "))
            }
        };
        terminal::note(&format!(
            "{} documents: {} entities{}, {} relations{}",
            self.documents,
            self.entities.values().sum::<usize>(),
            by_name(&self.entities),
            self.relations.values().sum::<usize>(),
            by_name(&self.relations),
        ));
        terminal::note(&format!(
            "{} questions: {} replies unparsable, {} cut off; {} strings unfound in the text, {} not asked for, {} relations \
             unplaced; {} pieces too long",
            self.questions,
            self.unparsable,
            self.cut_off,
            self.unfound,
            self.not_asked,
            self.unplaced,
            self.too_long,
        ));
        if !self.losses.is_none() {
            let Losses { characters, discontinuous, unplaced, left_out, renamed, documents } = self.losses;
            terminal::note(&format!(
                "the format of the output holds less: {characters} characters as blanks, {discontinuous} mentions in one piece, {} \
                 annotations left out, {renamed} names changed, {documents} documents left out",
                unplaced + left_out,
            ));
        }
        let unsupported: usize = self.unsupported.values().sum();
        if self.skipped + self.unreadable + unsupported > 0 {
            terminal::note(&format!(
                "{} inputs unreadable, {} documents without a text skipped, {unsupported} files of no known format{}",
                self.unreadable,
                self.skipped,
                by_name(&self.unsupported),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_in_three_ways() {
        let names = names(NameKind::Entity, Some("disease, sign:体征，Drug=drug/药物,,disease"));
        let found: Vec<[&str; 3]> = names
            .names()
            .iter()
            .map(|name| [name.source.as_str(), name.en.as_str(), name.zh.as_str()])
            .collect();
        assert_eq!(
            found,
            [["disease", "disease", "疾病"], ["sign", "sign", "体征"], ["Drug", "drug", "药物"]]
        );
    }

    #[test]
    fn units_are_words_or_sizes() {
        assert_eq!(unit("document"), Ok(Unit::Document));
        assert_eq!(unit("sentence"), Ok(Unit::Sentence));
        assert_eq!(unit("120"), Ok(Unit::Window(120)));
        for wrong in ["0", "-1", "page", "99999999999999999999999"] {
            assert!(unit(wrong).is_err(), "{wrong}");
        }
    }
}
