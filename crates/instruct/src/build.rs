//! Building an instruction file from a recipe: one JSONL of conversations and, last, its manifest.
//!
//! What is kept, and in what order, is drawn from the seed and the records' names alone: neither the order of the
//! datasets in memory nor the number of threads has a part in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use taiyi_corpus::LeakIndex;
use taiyi_corpus::card::IdSpace;
use taiyi_corpus::plain_text::Layout;
use taiyi_corpus::schema::{Document, Language};

use crate::answers::Answer;
use crate::atomic::AtomicFile;
use crate::conversation::{Conversation, Turn, stage_of};
use crate::draw::{draw, unit};
use crate::error::Error;
use crate::labels::DatasetLabels;
use crate::mix::{DatasetMix, MixRecipe};
use crate::prompt::{Ask, Asked, PromptBuilder, Skip};
use crate::source::{DocumentSource, Opened};
use crate::spool::{Place, Spool};
use crate::template::Templates;

/// What was built. Written beside the conversations as `<out>.manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BuildReport {
    /// The recipe's name.
    pub recipe: String,
    /// The recipe's version.
    pub recipe_version: u32,
    /// The version of this program.
    pub program_version: String,
    /// The seed that was used.
    pub seed: u64,
    /// Conversations written.
    pub conversations: u64,
    /// Code points of all turns written.
    pub chars: u64,
    /// Conversations per published category.
    pub categories: BTreeMap<String, u64>,
    /// Conversations per language.
    pub languages: BTreeMap<String, u64>,
    /// Conversations per training stage that first learns them.
    pub stages: BTreeMap<u8, u64>,
    /// Each entry of the recipe, in its order.
    pub datasets: Vec<EntryReport>,
    /// Splits that the recipe names and the source does not have.
    pub absent: Vec<Absent>,
}

/// What one entry of the recipe gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EntryReport {
    /// The dataset's id.
    pub dataset: String,
    /// Documents read.
    pub documents: u64,
    /// Conversations made, before any cap.
    pub made: u64,
    /// Conversations written, per task.
    pub written: BTreeMap<Ask, u64>,
    /// Conversations left out, by cap.
    pub capped: BTreeMap<&'static str, u64>,
    /// Documents or conversations that gave nothing, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Records of the source that could not be read.
    pub unreadable: u64,
    /// What the reader said of the first of them.
    pub findings: Vec<String>,
}

/// A split that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Absent {
    /// The dataset's id.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// Why.
    pub reason: String,
}

/// How far a build has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The dataset being read.
    pub dataset: &'a str,
    /// Its split.
    pub split: &'a str,
    /// Documents read in all.
    pub documents: u64,
    /// Conversations made in all.
    pub made: u64,
}

/// A conversation in the spool.
struct Entry {
    place: Place,
    /// Drawn: caps keep the smallest.
    key: u64,
    chars: u32,
    /// Which entry of the recipe.
    entry: u32,
    ask: Ask,
    category: &'static str,
    language: Language,
    stage: u8,
    /// Draws of the answer's labels; only where the entry caps them.
    labels: Vec<u64>,
}

/// Builds the mix of a recipe and writes `out` and its manifest; both appear only when whole.
///
/// `seed` stands in for the recipe's. Splits that are absent are reported, bad records counted and reported.
///
/// # Errors
/// Where a source file is broken, the recipe asks for nothing that is there, or the disk refuses the output.
pub fn build(
    recipe: &MixRecipe,
    templates: &Templates,
    source: &dyn DocumentSource,
    out: &Path,
    seed: Option<u64>,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<BuildReport, Error> {
    let seed = seed.unwrap_or(recipe.seed);
    let mut builder = Builder {
        recipe,
        templates,
        seed,
        spool: Spool::beside(out)?,
        entries: Vec::new(),
        reports: Vec::new(),
        absent: Vec::new(),
        documents: 0,
        excluded: LeakIndex::new(),
    };
    builder.exclude(source)?;
    for at in 0..recipe.dataset.len() {
        builder.read(at, source, progress)?;
    }
    builder.finish(out)
}

/// Where the manifest of `out` stands: `<out>.manifest.json`.
pub fn manifest_path(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

struct Builder<'a> {
    recipe: &'a MixRecipe,
    templates: &'a Templates,
    seed: u64,
    spool: Spool,
    entries: Vec<Entry>,
    reports: Vec<EntryReport>,
    absent: Vec<Absent>,
    documents: u64,
    excluded: LeakIndex,
}

impl Builder<'_> {
    /// Reads the documents that must not be learned.
    fn exclude(&mut self, source: &dyn DocumentSource) -> Result<(), Error> {
        let nothing =
            |gone: Absent| Absent { reason: format!("nothing to exclude: {}", gone.reason), ..gone };
        for exclude in &self.recipe.exclude {
            let Layout::Card { splits } = &exclude.layout else {
                let gone = source.exclude_files(exclude, &mut self.excluded)?;
                self.absent.extend(gone.into_iter().map(nothing));
                continue;
            };
            for split in splits {
                match source.open(&exclude.dataset, split)? {
                    Opened::Documents(documents) => {
                        for document in documents {
                            // A record that cannot be read cannot be told apart from a leak, so it is no small matter.
                            self.excluded.add_document(&document?, source.ids(&exclude.dataset));
                        }
                    }
                    Opened::Absent(reason) => {
                        let (dataset, split) = (exclude.dataset.clone(), split.clone());
                        self.absent.push(nothing(Absent { dataset, split, reason }));
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads one entry's documents into the spool.
    fn read(
        &mut self,
        at: usize,
        source: &dyn DocumentSource,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<(), Error> {
        let entry = &self.recipe.dataset[at];
        self.reports.push(EntryReport { dataset: entry.id.clone(), ..EntryReport::default() });
        let labels = labels_of(entry, source)?;
        let builder = PromptBuilder::new(&labels, entry.options(self.seed));
        let ids = source.ids(&entry.id);
        for split in &entry.splits {
            let documents = match source.open(&entry.id, split)? {
                Opened::Documents(documents) => documents,
                Opened::Absent(reason) => {
                    self.absent.push(Absent { dataset: entry.id.clone(), split: split.clone(), reason });
                    continue;
                }
            };
            for document in documents {
                match document {
                    Ok(document) => match self.leak(&document, ids) {
                        Some(reason) => *self.reports[at].skipped.entry(reason).or_default() += 1,
                        None => self.document(at, &builder, &document)?,
                    },
                    Err(error) if error.is_record() => {
                        let report = &mut self.reports[at];
                        report.unreadable += 1;
                        if report.findings.len() < 5 {
                            report.findings.push(error.to_string());
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
                self.documents += 1;
                if self.documents.is_multiple_of(512) {
                    progress(&self.progress(entry, split));
                }
            }
            progress(&self.progress(entry, split));
        }
        Ok(())
    }

    fn leak(&self, document: &Document, ids: IdSpace) -> Option<String> {
        if self.excluded.is_empty() {
            return None;
        }
        let leak = self.excluded.find_document(document, ids)?;
        // Names are `dataset:split:id`, or `dataset` where the source has no splits.
        let mut name = leak.against.split(':');
        let dataset = name.next().unwrap_or_default();
        let of = name.next().map_or_else(|| dataset.to_owned(), |split| format!("{dataset}/{split}"));
        Some(format!("also in {of}, which is excluded"))
    }

    fn progress<'b>(&self, entry: &'b DatasetMix, split: &'b str) -> Progress<'b> {
        Progress { dataset: &entry.id, split, documents: self.documents, made: self.entries.len() as u64 }
    }

    fn document(&mut self, at: usize, builder: &PromptBuilder<'_>, document: &Document) -> Result<(), Error> {
        let entry = &self.recipe.dataset[at];
        self.reports[at].documents += 1;
        let chance = unit(draw(self.seed, &["repeat", &at.to_string(), &document.id]));
        // 2.3 times is twice for all and a third time for three in ten.
        let repeats = entry.repeat.floor() as usize + usize::from(chance < entry.repeat.fract());
        if repeats == 0 {
            return Ok(());
        }
        for &ask in &entry.tasks {
            match builder.asked(document, ask) {
                Ok(asked) => {
                    for (number, asked) in asked.iter().enumerate() {
                        self.conversations(at, document, ask, number, asked, repeats)?;
                    }
                }
                Err(skip) => self.skip(at, &skip),
            }
        }
        Ok(())
    }

    fn conversations(
        &mut self,
        at: usize,
        document: &Document,
        ask: Ask,
        number: usize,
        asked: &Asked,
        repeats: usize,
    ) -> Result<(), Error> {
        let entry = &self.recipe.dataset[at];
        let template = self.templates.of(&asked.question);
        let wordings = entry.first_wordings.unwrap_or(usize::MAX).min(template.len());
        let (at_text, number) = (at.to_string(), number.to_string());
        let key = |what: &str, copy: usize| {
            let copy = copy.to_string();
            draw(self.seed, &[what, &at_text, &document.split, &document.id, ask.name(), &number, &copy])
        };
        let first = (key("wording", 0) % wordings as u64) as usize;
        for copy in 0..repeats * entry.wordings.min(wordings) {
            let prompt = match self.templates.prompt(asked, (first + copy) % wordings) {
                Ok(prompt) => prompt,
                Err(reason) => {
                    *self.reports[at].skipped.entry(reason.to_string()).or_default() += 1;
                    return Ok(());
                }
            };
            let stage = entry.stage.unwrap_or_else(|| stage_of(asked.category));
            let mut turns = vec![Turn { human: prompt.human, assistant: prompt.assistant }];
            turns.extend(asked.following.iter().cloned());
            let chars: usize =
                turns.iter().map(|turn| turn.human.chars().count() + turn.assistant.chars().count()).sum();
            if self.recipe.longest_chars.is_some_and(|longest| chars > longest) {
                *self.reports[at].skipped.entry("longer than `longest_chars`".to_owned()).or_default() += 1;
                continue;
            }
            let key = key("keep", copy);
            let place = self.spool.push(&Conversation {
                conversation_id: 0,
                dataset: document.dataset.clone(),
                category: asked.category.to_owned(),
                language: document.language,
                conversation: turns,
                document_id: Some(document.document_id.clone()),
                split: Some(document.split.clone()),
                template: Some(prompt.template),
                stage: Some(stage),
            })?;
            self.reports[at].made += 1;
            self.entries.push(Entry {
                place,
                key,
                chars: u32::try_from(chars).unwrap_or(u32::MAX),
                entry: u32::try_from(at).unwrap_or(u32::MAX),
                ask,
                category: asked.category,
                language: document.language,
                stage,
                labels: if entry.cap_per_label.is_some() { label_draws(&asked.answer) } else { Vec::new() },
            });
        }
        Ok(())
    }

    fn skip(&mut self, at: usize, skip: &Skip) {
        *self.reports[at].skipped.entry(skip.to_string()).or_default() += 1;
    }

    /// Applies the caps, orders, writes.
    fn finish(mut self, out: &Path) -> Result<BuildReport, Error> {
        // Places rise in the order of reading, so ties of 64-bit draws keep a fixed order.
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|&at| self.entries[at].key);
        let mut kept: Vec<usize> = self.capped(order);
        if self.recipe.shuffle {
            // The key itself is small wherever a cap was tight; a second draw from it is even again.
            kept.sort_by_cached_key(|&at| {
                (draw(self.seed, &["order", &self.entries[at].key.to_string()]), at)
            });
        } else {
            kept.sort_unstable();
        }
        let mut report = BuildReport {
            recipe: self.recipe.name.clone(),
            recipe_version: self.recipe.version,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: self.seed,
            conversations: 0,
            chars: 0,
            categories: BTreeMap::new(),
            languages: BTreeMap::new(),
            stages: BTreeMap::new(),
            datasets: Vec::new(),
            absent: std::mem::take(&mut self.absent),
        };
        if kept.is_empty() {
            let absent: Vec<String> = report
                .absent
                .iter()
                .map(|gone| format!("{}/{}: {}", gone.dataset, gone.split, gone.reason))
                .collect();
            return Err(Error::Recipe {
                path: out.to_owned(),
                expected: "a recipe that gives at least one conversation".to_owned(),
                found: if absent.is_empty() {
                    "none".to_owned()
                } else {
                    format!("none; absent: {}", absent.join("; "))
                },
            });
        }
        let mut file = AtomicFile::create(out)?;
        let mut line = Vec::new();
        for (id, &at) in (1..).zip(&kept) {
            let entry = &self.entries[at];
            self.spool.line(entry.place, id, &mut line)?;
            file.write(&line)?;
            report.conversations += 1;
            report.chars += u64::from(entry.chars);
            *report.categories.entry(entry.category.to_owned()).or_default() += 1;
            *report.languages.entry(entry.language.code().to_owned()).or_default() += 1;
            *report.stages.entry(entry.stage).or_default() += 1;
            *self.reports[entry.entry as usize].written.entry(entry.ask).or_default() += 1;
        }
        // A manifest of an older build must not vouch for the new file.
        let manifest = manifest_path(out);
        match std::fs::remove_file(&manifest) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(&manifest, "remove")(error));
            }
            _ => {}
        }
        file.finish()?;
        report.datasets = self.reports;
        let mut text = serde_json::to_vec_pretty(&report).expect("a report holds only strings and numbers");
        text.push(b'\n');
        let mut file = AtomicFile::create(&manifest)?;
        file.write(&text)?;
        file.finish()?;
        Ok(report)
    }

    /// What the caps leave of the conversations, taken in the order of their draws.
    fn capped(&mut self, order: Vec<usize>) -> Vec<usize> {
        let caps = &self.recipe.caps;
        let mut per_entry = vec![0_usize; self.recipe.dataset.len()];
        let mut per_label: BTreeMap<(u32, u64), usize> = BTreeMap::new();
        let mut per_category: BTreeMap<&str, usize> = BTreeMap::new();
        let mut per_language: BTreeMap<&str, usize> = BTreeMap::new();
        let mut kept = Vec::new();
        for at in order {
            let entry = &self.entries[at];
            let mix = &self.recipe.dataset[entry.entry as usize];
            let full = |count: usize, cap: Option<usize>| cap.is_some_and(|cap| count >= cap);
            let used = |label: &u64| per_label.get(&(entry.entry, *label)).copied().unwrap_or(0);
            let category = per_category.get(entry.category).copied().unwrap_or(0);
            let language = per_language.get(entry.language.code()).copied().unwrap_or(0);
            let reason = if !entry.labels.is_empty()
                && entry.labels.iter().all(|label| full(used(label), mix.cap_per_label))
            {
                Some("cap_per_label")
            } else if full(per_entry[entry.entry as usize], mix.cap) {
                Some("cap")
            } else if full(category, caps.category.get(entry.category).copied()) {
                Some("caps.category")
            } else if full(language, caps.language.get(entry.language.code()).copied()) {
                Some("caps.language")
            } else if full(kept.len(), caps.total) {
                Some("caps.total")
            } else {
                None
            };
            if let Some(reason) = reason {
                *self.reports[entry.entry as usize].capped.entry(reason).or_default() += 1;
                continue;
            }
            per_entry[entry.entry as usize] += 1;
            *per_category.entry(entry.category).or_default() += 1;
            *per_language.entry(entry.language.code()).or_default() += 1;
            for label in &entry.labels {
                *per_label.entry((entry.entry, *label)).or_default() += 1;
            }
            kept.push(at);
        }
        kept
    }
}

/// The labels an entry asks with: those of the card, else those that its documents use.
fn labels_of(entry: &DatasetMix, source: &dyn DocumentSource) -> Result<DatasetLabels, Error> {
    let mut labels = source.labels(&entry.id).unwrap_or_default();
    let unlisted = entry.tasks.iter().any(|ask| match ask {
        Ask::Ner | Ask::NerOne => labels.entities.is_empty(),
        Ask::Re | Ask::ReOne => labels.relations.is_empty(),
        Ask::Tc | Ask::Tp => labels.classes.is_empty(),
        Ask::Qa | Ask::Mrd | Ask::Mt => false,
    });
    if unlisted {
        let mut observed = DatasetLabels::default();
        for split in &entry.splits {
            if let Opened::Documents(documents) = source.open(&entry.id, split)? {
                documents.flatten().for_each(|document| observed.observe(&document));
            }
        }
        for (names, seen) in [
            (&mut labels.entities, observed.entities),
            (&mut labels.relations, observed.relations),
            (&mut labels.classes, observed.classes),
        ] {
            if names.is_empty() {
                *names = seen;
            }
        }
    }
    if let Some(only) = &entry.only {
        labels.retain(only);
    }
    labels.rename(&entry.rename);
    labels.multi_label = entry.multi_label;
    Ok(labels)
}

/// The labels of an answer as numbers; an answer without any counts as one label of its own.
fn label_draws(answer: &Answer) -> Vec<u64> {
    let number = |label: &str| draw(0, &[label]);
    let mut labels: Vec<u64> = match answer {
        Answer::Entities(groups) => groups.iter().map(|(kind, _)| number(kind)).collect(),
        Answer::Triples(triples) => triples.iter().map(|triple| number(&triple.relation)).collect(),
        Answer::Labels(labels) => labels.iter().map(|label| number(label)).collect(),
        Answer::Choice(choice) => vec![number(choice)],
        Answer::Text(_) => return Vec::new(),
    };
    labels.sort_unstable();
    labels.dedup();
    if labels.is_empty() { vec![number("")] } else { labels }
}
