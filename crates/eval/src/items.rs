//! Items: one prompt, how its reply is read, and what would be right.
//!
//! A benchmark is one source of items ([`items`]); any documents are another ([`Items::of`]), such as the records of the
//! shipped samples that were never trained on. Prompts are worded by the same code that words training data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use taiyi_corpus::schema::{Content, Document, Entity, Ie, Language, Relation, RelationLevel};
use taiyi_corpus::{Card, Catalog};
use taiyi_instruct::labels::prompt_language;
use taiyi_instruct::{
    Answer, AnswerFormat, AnswerSpec, Ask, AskOptions, Classified, DatasetLabels, LabelName, LabelNames,
    PromptBuilder, Question, Templates, Triple,
};

use crate::benchmark::Benchmark;
use crate::error::EvalError;
use crate::metrics::strict_micro_f1::SpanEntity;
use crate::metrics::surface_micro_f1::{SurfaceSet, normalise, surface_set};
use crate::metrics::triple_micro_f1::GoldTriple;

/// One prompt with what is right.
#[derive(Clone, Debug)]
pub struct Item {
    /// Unique within its [`Items`]: the document's id, with `/<type>` behind it where a document is asked type by type.
    pub id: String,
    /// The source's id of the document.
    pub document_id: String,
    /// What the model is asked.
    pub prompt: String,
    /// How its reply is read.
    pub spec: AnswerSpec,
    /// The text that spans count in; of a question, the question.
    pub text: String,
    /// The two texts of a pair, or a question and what its answer rests on, for a model that reads two.
    pub pair: Option<(String, String)>,
    /// What is right.
    pub gold: Gold,
    /// What is right as an answer to the prompt; of a relation between concepts, with one name for each.
    pub answer: Answer,
    /// What types and labels are called in reports.
    pub names: Arc<TypeNames>,
    /// Whether an entity may stand inside another.
    pub nested: bool,
}

/// What is right, in the names of reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Gold {
    /// Entities of a text.
    Entities {
        /// By place; those the source gives no place are not among them.
        spans: BTreeSet<SpanEntity>,
        /// By string.
        surfaces: SurfaceSet,
        /// How many have no place, so that the strict rule cannot be applied.
        unplaced: usize,
    },
    /// Relations of a text.
    Triples {
        /// Each side by all its names.
        triples: Vec<GoldTriple>,
        /// For each name of a concept the one that stands for all names of the same concepts, so that a wrong
        /// relation named twice is wrong once. Empty where relations are between strings.
        canonical: BTreeMap<String, String>,
    },
    /// Labels of a text or a pair.
    Labels(Vec<String>),
    /// The text of the right choice.
    Choice(String),
}

/// How documents become items.
#[derive(Clone, Debug)]
pub struct ItemOptions {
    /// What is asked of each document.
    pub ask: Ask,
    /// The one wording all prompts use, from 0; it counts round.
    pub template: usize,
    /// Whether the gold holds entities inside entities.
    pub nested: bool,
    /// Contexts of questions are cut to so many code points.
    pub context_chars: Option<usize>,
    /// At most this many items, the first ones.
    pub limit: Option<usize>,
}

impl ItemOptions {
    /// All of the documents, in the first wording.
    pub fn new(ask: Ask) -> Self {
        Self { ask, template: 0, nested: false, context_chars: None, limit: None }
    }
}

/// Items in the order of the documents.
#[derive(Clone, Debug)]
pub struct Items {
    /// The items.
    pub items: Vec<Item>,
    /// Documents that give no item, by reason; they are no part of any score.
    pub skipped: BTreeMap<String, usize>,
    /// What is asked of each document.
    pub ask: Ask,
    /// At most so many items were to be taken.
    pub limit: Option<usize>,
    /// The labels that were offered.
    pub labels: DatasetLabels,
    /// The language of the first document; English where there is none.
    pub language: Language,
}

/// What types and labels are called: readable in prompts and replies; as the source spells them in reports where one
/// source type stands behind a readable name, else the readable name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeNames {
    names: Vec<TypeName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TypeName {
    display: String,
    reported: String,
    sources: Vec<String>,
}

impl TypeNames {
    /// The names of labels in the language of the prompts.
    pub fn new(labels: &LabelNames, language: Language) -> Self {
        let name = |display: String| {
            let sources: Vec<String> =
                labels.sources(&display, language).into_iter().map(str::to_owned).collect();
            let reported = if let [only] = sources.as_slice() { only.clone() } else { display.clone() };
            TypeName { display, reported, sources }
        };
        Self { names: labels.displays(language).into_iter().map(name).collect() }
    }

    /// The report's name for a readable or a source's one; a name that is not known is its own.
    pub fn reported<'a>(&'a self, name: &'a str) -> &'a str {
        let find = |fits: &dyn Fn(&TypeName) -> bool| self.names.iter().find(|known| fits(known));
        find(&|known| known.display == name)
            .or_else(|| find(&|known| known.reported == name))
            .or_else(|| find(&|known| known.sources.iter().any(|source| source == name)))
            .or_else(|| {
                let name = name.to_lowercase();
                find(&|known| known.display.to_lowercase() == name || known.reported.to_lowercase() == name)
            })
            .map_or(name, |known| known.reported.as_str())
    }

    /// The readable name behind a report's one.
    pub fn displayed<'a>(&'a self, reported: &'a str) -> &'a str {
        self.names.iter().find(|known| known.reported == reported).map_or(reported, |known| &known.display)
    }

    /// The report's names, in the order of the prompts.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|known| known.reported.as_str())
    }
}

/// The labels of a card under its readable names.
pub fn card_labels(card: &Card, multi_label: bool) -> DatasetLabels {
    DatasetLabels { multi_label, ..DatasetLabels::from(card) }
}

/// The items of a benchmark; at most `limit`, the first ones.
///
/// # Errors
/// When the dataset is not in the catalogue, its files cannot be read, or a record is broken: a test set is whole or it
/// is no test set.
pub fn items(
    benchmark: &Benchmark,
    catalog: &Catalog,
    source_dir: &Path,
    limit: Option<usize>,
) -> Result<Items, EvalError> {
    let documents = documents(benchmark, catalog, source_dir, &benchmark.split)?;
    let labels = benchmark_labels(benchmark, catalog.card(&benchmark.dataset)?);
    let options = ItemOptions {
        template: benchmark.template,
        nested: benchmark.nested,
        limit,
        ..ItemOptions::new(benchmark.ask()?)
    };
    Ok(Items::of(&documents, labels, &options))
}

/// The documents that a benchmark's trivial baselines learn from; `None` where the source has no such split.
///
/// # Errors
/// As for [`items`].
pub fn baseline_documents(
    benchmark: &Benchmark,
    catalog: &Catalog,
    source_dir: &Path,
) -> Result<Option<Vec<Document>>, EvalError> {
    let card = catalog.card(&benchmark.dataset)?;
    let variant = card.variant(benchmark.variant.as_deref())?;
    if !variant.splits.contains_key(&benchmark.baseline_split) {
        return Ok(None);
    }
    documents(benchmark, catalog, source_dir, &benchmark.baseline_split).map(Some)
}

fn documents(
    benchmark: &Benchmark,
    catalog: &Catalog,
    source_dir: &Path,
    split: &str,
) -> Result<Vec<Document>, EvalError> {
    let card = catalog.card(&benchmark.dataset)?;
    let documents = taiyi_corpus::read(card, benchmark.variant.as_deref(), split, source_dir)?;
    Ok(documents.collect::<Result<_, _>>()?)
}

fn benchmark_labels(benchmark: &Benchmark, card: &Card) -> DatasetLabels {
    let mut labels = card_labels(card, benchmark.multi_label);
    if !benchmark.types.is_empty() {
        labels.retain(&benchmark.types);
    }
    if let Some(readable) = &benchmark.collapse {
        for names in [&mut labels.entities, &mut labels.relations, &mut labels.classes] {
            let collapsed = names.names().iter().map(|name| LabelName {
                source: name.source.clone(),
                en: readable.en.clone(),
                zh: readable.zh.clone(),
            });
            *names = LabelNames::new(collapsed.collect());
        }
    }
    labels
}

impl Items {
    /// The items of documents of one dataset. Labels that a document uses and `labels` does not list are neither asked
    /// for nor scored.
    pub fn of(documents: &[Document], labels: DatasetLabels, options: &ItemOptions) -> Self {
        // A document without a relation says nothing of what the corpus relates.
        let by_concept = documents.iter().any(|document| match &document.content {
            Content::Ie(ie) => ie.relations.iter().any(|relation| relation.level == RelationLevel::Concept),
            _ => false,
        });
        let ask_options = AskOptions {
            // Every type is asked of every text, whatever the gold holds.
            negatives: f64::INFINITY,
            context_chars: options.context_chars,
            ..AskOptions::default()
        };
        let mut set = Self {
            items: Vec::new(),
            skipped: BTreeMap::new(),
            ask: options.ask,
            limit: options.limit,
            labels: DatasetLabels::default(),
            language: Language::En,
        };
        let limit = options.limit.unwrap_or(usize::MAX);
        let mut names: Option<(Language, Arc<TypeNames>)> = None;
        for document in documents {
            if set.items.len() >= limit {
                break;
            }
            if names.is_none() {
                set.language = document.language;
            }
            let listed = match options.ask {
                Ask::Ner | Ask::NerOne => &labels.entities,
                Ask::Re | Ask::ReOne => &labels.relations,
                Ask::Tc | Ask::Tp | Ask::Qa | Ask::Mrd | Ask::Mt => &labels.classes,
            };
            let language = prompt_language(document.language);
            let types = match &names {
                Some((known, types)) if *known == language => Arc::clone(types),
                _ => {
                    let types = Arc::new(TypeNames::new(listed, language));
                    names = Some((language, Arc::clone(&types)));
                    types
                }
            };
            match Self::of_document(document, &labels, &ask_options, options, &types, by_concept) {
                Ok(items) => set.items.extend(items),
                Err(reason) => *set.skipped.entry(reason).or_default() += 1,
            }
        }
        set.items.truncate(limit);
        set.labels = labels;
        set
    }

    fn of_document(
        document: &Document,
        labels: &DatasetLabels,
        ask_options: &AskOptions,
        options: &ItemOptions,
        types: &Arc<TypeNames>,
        by_concept: bool,
    ) -> Result<Vec<Item>, String> {
        let templates = Templates::embedded();
        let pair = Classified::of(&document.content)
            .and_then(|classified| Some((classified.first.to_owned(), classified.second?.into_owned())));
        let item = |suffix: Option<&str>, question: &Question, text: &str, gold: Gold, answer: Answer| Item {
            id: suffix.map_or_else(|| document.id.clone(), |suffix| format!("{}/{suffix}", document.id)),
            document_id: document.document_id.clone(),
            prompt: templates.of(question).fill(question, options.template),
            spec: question.spec.clone(),
            text: text.to_owned(),
            pair: pair.clone(),
            gold,
            answer,
            names: Arc::clone(types),
            nested: options.nested,
        };
        match (options.ask, &document.content) {
            (Ask::Re | Ask::ReOne, Content::Ie(ie)) => {
                // Asked here, not by the builder: it leaves out a document where an argument has no mention to answer
                // with, and a test set must not.
                let text = ie.text();
                if text.trim().is_empty() {
                    return Err("a blank text".to_owned());
                }
                let relations = labels.relations.displays(document.language);
                if relations.is_empty() {
                    return Err("no labels to offer".to_owned());
                }
                if options.ask == Ask::Re {
                    let question = Question::relations(&text, relations, document.language);
                    let (gold, answer) = gold_triples(ie, labels, types, None, by_concept);
                    return Ok(vec![item(None, &question, &text, gold, answer)]);
                }
                let one = |relation: &String| {
                    let question = Question::relations_of(&text, relation, document.language);
                    let name = types.reported(relation);
                    let (gold, answer) = gold_triples(ie, labels, types, Some(name), by_concept);
                    item(Some(name), &question, &text, gold, answer)
                };
                Ok(relations.iter().map(one).collect())
            }
            (ask, content) => {
                let asked = PromptBuilder::new(labels, ask_options.clone())
                    .asked(document, ask)
                    .map_err(|skip| skip.to_string())?;
                asked
                    .into_iter()
                    .map(|asked| {
                        let question = &asked.question;
                        let reported = |labels: &[String]| {
                            Gold::Labels(
                                labels.iter().map(|label| types.reported(label).to_owned()).collect(),
                            )
                        };
                        let (suffix, text, gold) = match (content, &asked.answer) {
                            (Content::Ie(ie), _) if ask == Ask::Ner => {
                                (None, ie.text(), gold_entities(ie, labels, types, None))
                            }
                            (Content::Ie(ie), _) => {
                                let name =
                                    types.reported(question.spec.names.first().map_or("", String::as_str));
                                (Some(name), ie.text(), gold_entities(ie, labels, types, Some(name)))
                            }
                            (Content::Tc(tc), Answer::Labels(found)) => {
                                (None, tc.text.clone(), reported(found))
                            }
                            (Content::Tp(tp), Answer::Labels(found)) => {
                                (None, format!("{}\n{}", tp.text_1, tp.text_2), reported(found))
                            }
                            (Content::Qa(qa), Answer::Choice(choice))
                                if question.spec.format == AnswerFormat::Choice =>
                            {
                                (None, qa.question.clone(), Gold::Choice(choice.clone()))
                            }
                            _ => return Err("an answer in free text, which has no metric".to_owned()),
                        };
                        Ok(item(suffix, question, &text, gold, asked.answer))
                    })
                    .collect()
            }
        }
    }

    /// What types and labels are called; empty names where there is no item.
    pub fn names(&self) -> Arc<TypeNames> {
        self.items.first().map(|item| Arc::clone(&item.names)).unwrap_or_default()
    }
}

fn listed<'a>(
    labels: &LabelNames,
    types: &'a TypeNames,
    source: &'a str,
    only: Option<&str>,
) -> Option<&'a str> {
    labels.names().iter().find(|name| name.source == source)?;
    let reported = types.reported_of_source(source);
    only.is_none_or(|only| only == reported).then_some(reported)
}

impl TypeNames {
    /// The report's name of a source's type.
    fn reported_of_source<'a>(&'a self, source: &'a str) -> &'a str {
        let known = self.names.iter().find(|known| known.sources.iter().any(|name| name == source));
        known.map_or(source, |known| &known.reported)
    }
}

fn gold_entities(ie: &Ie, labels: &DatasetLabels, types: &TypeNames, only: Option<&str>) -> Gold {
    let mut spans = BTreeSet::new();
    let mut surfaces = Vec::new();
    let mut unplaced = 0;
    for entity in &ie.entities {
        let Some(kind) = listed(&labels.entities, types, &entity.kind, only) else { continue };
        if entity.offsets.is_empty() {
            unplaced += 1;
        } else {
            spans.insert(SpanEntity { spans: entity.offsets.clone(), kind: kind.to_owned() });
        }
        let surface = entity.surface();
        if !surface.trim().is_empty() {
            surfaces.push((kind, surface));
        }
    }
    Gold::Entities { spans, surfaces: surface_set(surfaces), unplaced }
}

fn gold_triples(
    ie: &Ie,
    labels: &DatasetLabels,
    types: &TypeNames,
    only: Option<&str>,
    by_concept: bool,
) -> (Gold, Answer) {
    let concepts = concepts_by_name(&ie.entities);
    let mut triples: Vec<GoldTriple> = Vec::new();
    let mut answer = Vec::new();
    let mut concept_pairs = BTreeSet::new();
    for relation in &ie.relations {
        let Some(kind) = listed(&labels.relations, types, &relation.kind, only) else { continue };
        let names = |id: &str| argument_names(ie, relation, id, &concepts);
        let (heads, tails) = (names(&relation.arg1_id), names(&relation.arg2_id));
        let first = |names: &[String]| names.first().cloned().unwrap_or_default();
        let name = types.displayed(kind).to_owned();
        answer.push(Triple { relation: name, head: first(&heads), tail: first(&tails) });
        let triple = GoldTriple::new(kind, heads, tails);
        // What a source says twice is one relation: of concepts by their ids, of strings by the strings.
        let repeated = match relation.level {
            RelationLevel::Concept => !concept_pairs.insert((kind, &relation.arg1_id, &relation.arg2_id)),
            RelationLevel::Mention => triples.contains(&triple),
        };
        if !repeated {
            triples.push(triple);
        }
    }
    let mut canonical = BTreeMap::new();
    if by_concept {
        let mut first: BTreeMap<&BTreeSet<&str>, &String> = BTreeMap::new();
        for (name, ids) in &concepts {
            let stands_for_all = *first.entry(ids).or_insert(name);
            canonical.insert(name.clone(), stands_for_all.clone());
        }
    }
    (Gold::Triples { triples, canonical }, Answer::Triples(answer).normalized())
}

/// The concepts that each normalised mention names, over all its occurrences: a composite mention names several.
fn concepts_by_name(entities: &[Entity]) -> BTreeMap<String, BTreeSet<&str>> {
    let mut concepts: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for entity in entities.iter().filter(|entity| !entity.normalized.is_empty()) {
        let ids = entity.normalized.iter().map(|concept| concept.db_id.as_str());
        concepts.entry(normalise(&entity.surface())).or_default().extend(ids);
    }
    concepts
}

/// The names of a relation's argument: every mention of a concept, in the order of the text, or the mention's own string. What has no mention goes by
/// its id: it stays in the gold, where nobody can find it.
fn argument_names(
    ie: &Ie,
    relation: &Relation,
    id: &str,
    concepts: &BTreeMap<String, BTreeSet<&str>>,
) -> Vec<String> {
    let names_concept =
        |entity: &&Entity| concepts.get(&normalise(&entity.surface())).is_some_and(|ids| ids.contains(id));
    let names: Vec<String> = match relation.level {
        RelationLevel::Mention => ie.entity(id).map(Entity::surface).into_iter().collect(),
        RelationLevel::Concept => {
            let mut mentions: Vec<&Entity> = ie.entities.iter().filter(names_concept).collect();
            mentions.sort_by_key(|entity| {
                (entity.normalized.len() > 1, entity.offsets.first().map(|span| span.start))
            });
            mentions.into_iter().map(Entity::surface).collect()
        }
    };
    if names.is_empty() { vec![id.to_owned()] } else { names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_reported_as_its_source_spells_it_unless_several_share_its_name() {
        let name =
            |source: &str, en: &str| LabelName { source: source.into(), en: en.into(), zh: "某".into() };
        let labels = LabelNames::new(vec![name("dis", "disease"), name("Y", "gene"), name("N", "gene")]);
        let names = TypeNames::new(&labels, Language::En);
        assert_eq!(names.all().collect::<Vec<_>>(), ["dis", "gene"]);
        for (written, reported) in [
            ("disease", "dis"),
            ("DIS", "dis"),
            ("Disease", "dis"),
            ("gene", "gene"),
            ("N", "gene"),
            ("odd", "odd"),
        ] {
            assert_eq!(names.reported(written), reported, "{written}");
        }
        assert_eq!(names.displayed("dis"), "disease");
        assert_eq!(TypeNames::new(&labels, Language::Zh).all().collect::<Vec<_>>(), ["某"]);
    }

    #[test]
    fn a_benchmark_may_ask_for_some_types_or_for_all_as_one() {
        let catalog = Catalog::embedded();
        let labels = |id: &str| {
            let benchmark = Benchmark::by_id(id).unwrap();
            benchmark_labels(&benchmark, catalog.card(&benchmark.dataset).unwrap())
        };
        assert_eq!(labels("bc5cdr_chemical").entities.displays(Language::En), ["chemical"]);
        let ncbi = labels("ncbi_disease").entities;
        assert_eq!((ncbi.names().len(), ncbi.displays(Language::En)), (4, vec!["disease".to_owned()]));
        assert!(labels("hoc").multi_label && !labels("kuake_qic_dev").multi_label);
    }
}
