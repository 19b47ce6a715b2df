//! Collects the text of a recipe: reads, cuts, drops leaks and copies, splits off what is held out, writes.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Layout, TextDocument, TextError, TextRecipe, TextSource, cut, read_text, text_of};
use crate::card::IdSpace;
use crate::catalog::Catalog;
use crate::leak::{How, LeakIndex, fingerprint};

/// How far [`collect`] is.
#[derive(Clone, Debug)]
pub struct TextProgress {
    /// Sources done, excluded ones included.
    pub done: usize,
    /// Sources in all.
    pub total: usize,
    /// The dataset being read.
    pub dataset: String,
}

/// What was collected, written as `manifest.json` when everything else is complete.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TextReport {
    /// Version of the program.
    pub version: &'static str,
    /// What is kept, per `train.<language>` and `held_out.<language>` file.
    pub splits: BTreeMap<String, TextSplit>,
    /// What is kept, per dataset.
    pub datasets: BTreeMap<String, TextSplit>,
    /// Pieces dropped, per reason: `short`, `leak_id`, `leak_exact`, `leak_contained`, `leak_near`, `copy`, `near_copy`.
    pub dropped: BTreeMap<String, u64>,
    /// Leaks per dataset and the set they leak from: `dataset <- dataset:id` counts.
    pub leaks: BTreeMap<String, u64>,
    /// Texts that must not occur.
    pub excluded_texts: usize,
}

/// Size of a file of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TextSplit {
    /// Texts.
    pub documents: u64,
    /// Bytes of UTF-8, without JSON.
    pub bytes: u64,
}

impl TextSplit {
    fn add(&mut self, text: &str) {
        self.documents += 1;
        self.bytes += text.len() as u64;
    }
}

/// Collects the text of a recipe into `out`: `train.<language>.jsonl`, `held_out.<language>.jsonl` (JSONL with
/// [`TextDocument`]'s fields), and `manifest.json`, written last.
///
/// # Errors
/// When a source is missing or damaged, or a file cannot be written; nothing is left under its final name then.
pub fn collect(
    recipe: &TextRecipe,
    catalog: &Catalog,
    source_dir: &Path,
    out: &Path,
    progress: &mut dyn FnMut(TextProgress),
) -> Result<TextReport, TextError> {
    let total = recipe.exclude.len() + recipe.source.len();
    let mut done = 0;
    let mut step = |dataset: &str| {
        progress(TextProgress { done, total, dataset: dataset.to_owned() });
        done += 1;
    };
    let mut forbidden = LeakIndex::new();
    for source in &recipe.exclude {
        step(&source.dataset);
        exclude(source, catalog, source_dir, &mut forbidden)?;
    }
    let mut report = TextReport {
        version: env!("CARGO_PKG_VERSION"),
        excluded_texts: forbidden.len(),
        ..TextReport::default()
    };
    std::fs::create_dir_all(out).map_err(|source| TextError::Io { path: out.into(), source })?;
    let mut files = Files { out, open: BTreeMap::new() };
    let mut seen: HashSet<u64> = HashSet::new();
    let mut kept = LeakIndex::new();
    for source in &recipe.source {
        step(&source.dataset);
        for (document, space) in read_source(source, catalog, source_dir)? {
            if let Some(leak) = space.and_then(|(space, id)| forbidden.find_id(space, &id)) {
                *report.dropped.entry("leak_id".into()).or_default() += 1;
                *report.leaks.entry(between(&document, &leak.against)).or_default() += 1;
                continue;
            }
            for piece in cut(&document.text, recipe.max_chars) {
                let mut drop = |reason: &str| *report.dropped.entry(reason.to_owned()).or_default() += 1;
                if piece.chars().count() < recipe.min_chars {
                    drop("short");
                    continue;
                }
                if let Some(leak) = forbidden.find_text(piece) {
                    drop(match leak.how {
                        How::Id => "leak_id",
                        How::Exact => "leak_exact",
                        How::Contained => "leak_contained",
                        How::Near => "leak_near",
                    });
                    *report.leaks.entry(between(&document, &leak.against)).or_default() += 1;
                    continue;
                }
                let print = fingerprint(&[piece]);
                if !seen.insert(print) {
                    drop("copy");
                    continue;
                }
                if kept.find_text(piece).is_some() {
                    drop("near_copy");
                    continue;
                }
                kept.add_text("", piece);
                let held_out = print.is_multiple_of(recipe.held_out_one_in.max(1));
                let name =
                    format!("{}.{}", if held_out { "held_out" } else { "train" }, document.language.code());
                report.splits.entry(name.clone()).or_default().add(piece);
                report.datasets.entry(document.dataset.clone()).or_default().add(piece);
                files.write(&name, &TextDocument { text: piece.to_owned(), ..document.clone() })?;
            }
        }
    }
    files.finish()?;
    let manifest = serde_json::to_vec_pretty(&report).expect("a report is plain data");
    let path = out.join("manifest.json");
    write_atomic(&path, &manifest)?;
    Ok(report)
}

/// The two datasets of a leak; names in the index are `dataset:split` or `dataset`.
fn between(document: &TextDocument, against: &str) -> String {
    let against = against.split_whitespace().next().unwrap_or(against);
    format!("{} <- {against}", document.dataset)
}

type Identified = (TextDocument, Option<(IdSpace, String)>);

fn read_source(
    source: &TextSource,
    catalog: &Catalog,
    source_dir: &Path,
) -> Result<Vec<Identified>, TextError> {
    let Layout::Card { splits } = &source.layout else {
        let with_id = |document: TextDocument| {
            let id = document.pmid.clone().map(|pmid| (IdSpace::Pmid, pmid));
            (document, id)
        };
        return Ok(read_text(source, source_dir)?.into_iter().map(with_id).collect());
    };
    let card = catalog.card(&source.dataset)?;
    let mut texts = Vec::new();
    for split in splits {
        for document in crate::read(card, None, split, source_dir)? {
            let document = match document {
                Ok(document) => document,
                Err(error) if error.is_record() => continue,
                Err(error) => return Err(error.into()),
            };
            let id = (card.document_ids, document.document_id.clone());
            let text = TextDocument {
                dataset: source.dataset.clone(),
                id: document.id.clone(),
                pmid: (card.document_ids == IdSpace::Pmid).then(|| document.document_id.clone()),
                language: source.language,
                text: text_of(&document),
            };
            texts.push((text, Some(id)));
        }
    }
    Ok(texts)
}

/// Adds the documents of a source to those that must not be learned: their ids, and their texts where it has any.
///
/// # Errors
/// When the source is missing or damaged.
pub fn exclude(
    source: &TextSource,
    catalog: &Catalog,
    source_dir: &Path,
    forbidden: &mut LeakIndex,
) -> Result<(), TextError> {
    if let Layout::Card { splits } = &source.layout {
        let card = catalog.card(&source.dataset)?;
        for split in splits {
            for document in crate::read(card, None, split, source_dir)? {
                match document {
                    Ok(document) => forbidden.add_document(&document, card.document_ids),
                    Err(error) if error.is_record() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        return Ok(());
    }
    for document in read_text(source, source_dir)? {
        if let Some(pmid) = &document.pmid {
            forbidden.add_id(&source.dataset, IdSpace::Pmid, pmid);
        }
        if !document.text.is_empty() {
            forbidden.add_text(&source.dataset, &document.text);
        }
    }
    Ok(())
}

/// The output files, written under temporary names until all are complete.
struct Files<'a> {
    out: &'a Path,
    open: BTreeMap<String, (PathBuf, std::io::BufWriter<std::fs::File>)>,
}

impl Files<'_> {
    fn write(&mut self, name: &str, document: &TextDocument) -> Result<(), TextError> {
        if !self.open.contains_key(name) {
            let path = self.out.join(format!("{name}.jsonl.tmp"));
            let file = std::fs::File::create(&path)
                .map_err(|source| TextError::Io { path: path.clone(), source })?;
            self.open.insert(name.to_owned(), (path, std::io::BufWriter::new(file)));
        }
        let (path, file) = self.open.get_mut(name).expect("it was just opened");
        let line = serde_json::to_string(document).expect("a text document is plain data");
        writeln!(file, "{line}").map_err(|source| TextError::Io { path: path.clone(), source })
    }

    fn finish(self) -> Result<(), TextError> {
        for (path, mut file) in self.open.into_values() {
            let io = |source| TextError::Io { path: path.clone(), source };
            file.flush().map_err(io)?;
            std::fs::rename(&path, path.with_extension("")).map_err(io)?;
        }
        Ok(())
    }
}

fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), TextError> {
    let temporary = path.with_extension("json.tmp");
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|source| TextError::Io { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Language;

    #[test]
    fn leaks_and_copies_are_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("made_up");
        std::fs::create_dir(&dir).unwrap();
        let secret =
            "Naloxone reverses the antihypertensive effect of clonidine in unanesthetized hypertensive rats.";
        std::fs::write(dir.join("test.txt"), format!("111|t|{secret}\n111|a|\n")).unwrap();
        let train = [
            ("111", "Some other text of the same article, long enough to be kept as a document.".to_owned()),
            ("222", format!("A longer text. {secret} It goes on for quite a while after the sentence.")),
            (
                "333",
                "Metformin lowered fasting glucose in forty adults with newly found diabetes.".to_owned(),
            ),
            (
                "444",
                "Metformin lowered  fasting glucose in forty adults with newly found diabetes".to_owned(),
            ),
            ("555", "Too short.".to_owned()),
        ];
        let lines: String = train.iter().map(|(id, text)| format!("{id}|t|{text}\n{id}|a|\n")).collect();
        std::fs::write(dir.join("train.txt"), lines).unwrap();
        let source = |file: &str| TextSource {
            dataset: "made_up".into(),
            language: Language::En,
            files: vec![file.into()],
            layout: Layout::Pubtator {},
        };
        let recipe = TextRecipe {
            min_chars: 24,
            max_chars: 1000,
            held_out_one_in: u64::MAX,
            exclude: vec![source("test.txt")],
            source: vec![source("train.txt")],
        };
        let out = folder.path().join("out");
        let report = collect(&recipe, Catalog::embedded(), folder.path(), &out, &mut |_| {}).unwrap();
        assert_eq!(report.splits["train.en"].documents, 1);
        let expected = [("copy", 1), ("leak_contained", 1), ("leak_id", 1), ("short", 1)];
        assert_eq!(report.dropped, expected.map(|(reason, count)| (reason.to_owned(), count)).into());
        let written = std::fs::read_to_string(out.join("train.en.jsonl")).unwrap();
        assert!(written.contains("Metformin") && !written.contains("Naloxone"));
    }
}
