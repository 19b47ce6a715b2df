//! Scoring: a reply becomes a prediction, a prediction becomes counts.
//!
//! A reply that cannot be parsed, like a missing one, counts as a prediction of nothing.

use std::collections::{BTreeMap, BTreeSet};

use taiyi_corpus::offsets::TextIndex;
use taiyi_instruct::answers::Reason;
use taiyi_instruct::projection::project;
use taiyi_instruct::{Answer, Ask, Triple};

use crate::bootstrap;
use crate::error::EvalError;
use crate::items::{Gold, Item, TypeNames};
use crate::metrics::strict_micro_f1::SpanEntity;
use crate::metrics::surface_micro_f1::{SurfaceSet, normalise, surface_set};
use crate::metrics::triple_micro_f1::PredictedTriple;
use crate::metrics::{
    Counts, ItemScore, Metric, accuracy, label_micro_f1, strict_micro_f1, sum, surface_micro_f1,
    triple_micro_f1,
};
use crate::predictions::{Given, PredictedEntity, Prediction};

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a prediction.
    Read,
    /// The reply could not be parsed; scored as a prediction of nothing.
    Unparsable(Reason),
    /// The predictions say nothing of it; scored as a prediction of nothing.
    Missing,
}

/// Items with their predictions and scores, everything in the order of the items.
#[derive(Clone, Debug)]
pub struct Scored {
    /// What became of each item.
    pub outcomes: Vec<Outcome>,
    /// What was predicted.
    pub predictions: Vec<Prediction>,
    /// Replies that were cut off at the length limit.
    pub cut_off: usize,
    /// A score per metric, the main one first.
    pub scores: Vec<Scores>,
}

/// The scores of all items by one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The metric.
    pub metric: Metric,
    /// The items' counts.
    pub items: Vec<ItemScore>,
}

/// The row of a per-type table for predicted types that were not asked for.
pub const NOT_ASKED_FOR: &str = "(not asked for)";

/// The metrics that are usual for a task, the main one first.
pub fn metrics_of(ask: Ask) -> Vec<Metric> {
    match ask {
        Ask::Ner | Ask::NerOne => vec![Metric::StrictMicroF1, Metric::SurfaceMicroF1],
        Ask::Re | Ask::ReOne => vec![Metric::TripleMicroF1],
        Ask::Tc | Ask::Tp => vec![Metric::LabelMicroF1],
        Ask::Qa | Ask::Mrd | Ask::Mt => vec![Metric::Accuracy],
    }
}

/// Scores what was given for each item; shorter lists are filled up with missing predictions.
///
/// # Errors
/// When a metric cannot be applied to what an item asks.
pub fn score(items: &[Item], given: &[Option<Given>], metrics: &[Metric]) -> Result<Scored, EvalError> {
    let mut outcomes = Vec::with_capacity(items.len());
    let mut predictions = Vec::with_capacity(items.len());
    let mut cut_off = 0;
    for (at, item) in items.iter().enumerate() {
        let (prediction, outcome) = match given.get(at).and_then(Option::as_ref) {
            None => (Prediction::nothing(item), Outcome::Missing),
            Some(given) => {
                cut_off += usize::from(given.cut_off);
                let (prediction, reason) = read(item, given);
                (prediction, reason.map_or(Outcome::Read, Outcome::Unparsable))
            }
        };
        outcomes.push(outcome);
        predictions.push(prediction);
    }
    let scores = metrics
        .iter()
        .map(|&metric| {
            let pairs = items.iter().zip(&predictions);
            let items = pairs
                .map(|(item, prediction)| score_item(item, prediction, metric))
                .collect::<Result<_, _>>()?;
            Ok(Scores { metric, items })
        })
        .collect::<Result<_, EvalError>>()?;
    Ok(Scored { outcomes, predictions, cut_off, scores })
}

/// The prediction that a reply stands for, or the given one where there is no reply; and why the reply could not be
/// read, if so.
pub fn read(item: &Item, given: &Given) -> (Prediction, Option<Reason>) {
    match (&given.reply, &given.prediction) {
        (Some(reply), _) => match item.spec.parse(reply) {
            Ok(answer) => (of_answer(item, answer), None),
            Err(unparsable) => (Prediction::nothing(item), Some(unparsable.reason)),
        },
        (None, Some(prediction)) => (prediction.clone(), None),
        (None, None) => (Prediction::nothing(item), None),
    }
}

/// The prediction that an answer stands for; entities are projected onto the text.
fn of_answer(item: &Item, answer: Answer) -> Prediction {
    let reported = |name: &str| item.names.reported(name).to_owned();
    match answer {
        Answer::Entities(groups) => {
            let strings: Vec<(String, String)> = groups
                .into_iter()
                .flat_map(|(kind, strings)| {
                    let kind = reported(&kind);
                    strings.into_iter().map(move |string| (kind.clone(), string.trim().to_owned()))
                })
                .filter(|(_, string)| !string.is_empty())
                .collect();
            Prediction::Entities(placed(item, strings))
        }
        Answer::Triples(triples) => Prediction::Relations(
            triples
                .into_iter()
                .map(|triple| Triple { relation: reported(&triple.relation), ..triple })
                .collect(),
        ),
        Answer::Labels(labels) => Prediction::Labels(labels.iter().map(|label| reported(label)).collect()),
        Answer::Choice(choice) => Prediction::Choice(Some(choice)),
        // A question of free text gives no item.
        Answer::Text(_) => Prediction::nothing(item),
    }
}

/// An entity for each place of the strings, and one without for each string that has no place of its own.
fn placed(item: &Item, strings: Vec<(String, String)>) -> Vec<PredictedEntity> {
    let index = TextIndex::new(&item.text);
    let projection = project(&item.text, &strings, item.nested);
    let mut entities: Vec<PredictedEntity> = projection
        .found
        .into_iter()
        .map(|place| PredictedEntity {
            kind: place.kind,
            text: index.slice(place.span).unwrap_or_default().to_owned(),
            offsets: Some(vec![place.span]),
        })
        .collect();
    let with_place = entities.len();
    for (kind, text) in strings {
        let known = |entity: &PredictedEntity| entity.kind == kind && entity.text.eq_ignore_ascii_case(&text);
        let has_place = entities[..with_place].iter().any(known);
        let repeated = entities[with_place..].iter().any(|entity| entity.kind == kind && entity.text == text);
        if !has_place && !repeated {
            entities.push(PredictedEntity { kind, text, offsets: Some(Vec::new()) });
        }
    }
    entities
}

/// Scores one item by one metric.
fn score_item(item: &Item, prediction: &Prediction, metric: Metric) -> Result<ItemScore, EvalError> {
    let mismatch = |gold: &'static str| EvalError::Metric { metric, id: item.id.clone(), gold };
    Ok(match (metric, &item.gold) {
        (Metric::StrictMicroF1, Gold::Entities { unplaced: 1.., .. }) => {
            return Err(mismatch("entities without offsets"));
        }
        (Metric::StrictMicroF1, Gold::Entities { spans, .. }) => {
            let (predicted, unfound) = places(item, prediction);
            let mut score = strict_micro_f1::score(spans, &predicted);
            for (kind, _) in unfound {
                *score.per_type.entry(kind).or_default() +=
                    Counts { false_positives: 1, ..Counts::default() };
            }
            score
        }
        (Metric::SurfaceMicroF1, Gold::Entities { surfaces, .. }) => {
            surface_micro_f1::score(surfaces, &surfaces_of(prediction))
        }
        (Metric::TripleMicroF1, Gold::Triples { triples, canonical }) => {
            let stands_for = |name: &str| {
                let name = normalise(name);
                canonical.get(&name).cloned().unwrap_or(name)
            };
            let predicted: Vec<PredictedTriple> = match prediction {
                Prediction::Relations(triples) => triples
                    .iter()
                    .map(|triple| PredictedTriple {
                        relation: triple.relation.clone(),
                        head: stands_for(&triple.head),
                        tail: stands_for(&triple.tail),
                    })
                    .collect(),
                _ => Vec::new(),
            };
            triple_micro_f1::score(triples, &predicted)
        }
        (Metric::LabelMicroF1, Gold::Labels(gold)) => label_micro_f1::score(gold, labels_of(prediction)),
        (Metric::Accuracy, Gold::Labels(gold)) => {
            let joined = |labels: &[String]| {
                labels.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")
            };
            let predicted = labels_of(prediction);
            accuracy::score(&joined(gold), (!predicted.is_empty()).then(|| joined(predicted)).as_deref())
        }
        (Metric::Accuracy, Gold::Choice(gold)) => match prediction {
            Prediction::Choice(choice) => accuracy::score(gold, choice.as_deref()),
            _ => accuracy::score(gold, None),
        },
        (_, Gold::Entities { .. }) => return Err(mismatch("entities")),
        (_, Gold::Triples { .. }) => return Err(mismatch("relations")),
        (_, Gold::Labels(_)) => return Err(mismatch("labels")),
        (_, Gold::Choice(_)) => return Err(mismatch("a choice")),
    })
}

fn labels_of(prediction: &Prediction) -> &[String] {
    match prediction {
        Prediction::Labels(labels) => labels,
        _ => &[],
    }
}

fn surfaces_of(prediction: &Prediction) -> SurfaceSet {
    match prediction {
        Prediction::Entities(entities) => {
            surface_set(entities.iter().map(|entity| (entity.kind.as_str(), entity.text.as_str())))
        }
        _ => SurfaceSet::new(),
    }
}

/// The spans of predicted entities, and the typed strings that do not stand in the text: each is a false positive.
pub fn places(item: &Item, prediction: &Prediction) -> (BTreeSet<SpanEntity>, BTreeSet<(String, String)>) {
    let Prediction::Entities(entities) = prediction else { return Default::default() };
    let mut spans = BTreeSet::new();
    let mut open: Vec<(String, String)> = Vec::new();
    let mut unfound = BTreeSet::new();
    for entity in entities {
        let string = || (entity.kind.clone(), entity.text.clone());
        match &entity.offsets {
            Some(offsets) if !offsets.is_empty() => {
                spans.insert(SpanEntity { spans: offsets.clone(), kind: entity.kind.clone() });
            }
            // Its places may be claimed by longer entities, which is no error.
            Some(_) => unfound.extend(project(&item.text, &[string()], true).unfound),
            None => open.push(string()),
        }
    }
    let projection = project(&item.text, &open, item.nested);
    unfound.extend(projection.unfound);
    let found = projection.found.into_iter();
    spans.extend(found.map(|place| SpanEntity { spans: vec![place.span], kind: place.kind }));
    (spans, unfound)
}

/// What is right, as a prediction: entities with their spans.
pub fn gold_prediction(item: &Item) -> Prediction {
    match &item.gold {
        Gold::Entities { spans, surfaces, .. } => {
            let index = TextIndex::new(&item.text);
            let mut entities: Vec<PredictedEntity> = spans
                .iter()
                .map(|entity| {
                    let text: Vec<&str> = entity.spans.iter().filter_map(|span| index.slice(*span)).collect();
                    PredictedEntity {
                        kind: entity.kind.clone(),
                        text: text.join(" "),
                        offsets: Some(entity.spans.clone()),
                    }
                })
                .collect();
            let placed: BTreeSet<(String, String)> =
                entities.iter().map(|entity| (entity.kind.clone(), normalise(&entity.text))).collect();
            entities.extend(surfaces.iter().filter(|string| !placed.contains(*string)).map(
                |(kind, text)| PredictedEntity { kind: kind.clone(), text: text.clone(), offsets: None },
            ));
            Prediction::Entities(entities)
        }
        Gold::Triples { .. } | Gold::Labels(_) | Gold::Choice(_) => of_answer(item, item.answer.clone()),
    }
}

/// What is right, as the reply that a perfect model would give; `None` where the answer cannot be written.
pub fn gold_reply(item: &Item) -> Option<String> {
    item.spec.render(&item.answer).ok()
}

/// The best that replies can reach: the score of the gold answers, written and read back. Of the strict rule it is
/// below 1, because a reply names strings and each of its places is counted, annotated or not: 0.9974 for BC5CDR chemical,
/// 0.9990 for BC5CDR disease, 0.9826 for NCBI disease, 0.9513 for CMeEE-V2 dev. Of every other metric of the benchmarks it is 1.
///
/// # Errors
/// As for [`score`].
pub fn ceiling(items: &[Item], metric: Metric) -> Result<f64, EvalError> {
    let given: Vec<Option<Given>> = items.iter().map(|item| gold_reply(item).map(Given::reply)).collect();
    let scored = score(items, &given, &[metric])?;
    Ok(scored.scores[0].value())
}

impl Scored {
    /// The scores by one metric.
    pub fn of(&self, metric: Metric) -> Option<&Scores> {
        self.scores.iter().find(|scores| scores.metric == metric)
    }

    /// How many items have no prediction.
    pub fn missing(&self) -> usize {
        self.outcomes.iter().filter(|outcome| **outcome == Outcome::Missing).count()
    }

    /// How many replies could not be parsed, by reason.
    pub fn unparsable(&self) -> BTreeMap<Reason, usize> {
        let mut reasons = BTreeMap::new();
        for outcome in &self.outcomes {
            if let Outcome::Unparsable(reason) = outcome {
                *reasons.entry(*reason).or_default() += 1;
            }
        }
        reasons
    }
}

impl Scores {
    /// The counts over all items and types.
    pub fn total(&self) -> Counts {
        sum(&self.items).total()
    }

    /// The score: the micro-F1 of the sums, or the accuracy; 0 where there is no item.
    pub fn value(&self) -> f64 {
        if self.items.is_empty() { 0.0 } else { self.total().f1() }
    }

    /// Its 95 % bootstrap interval over items.
    pub fn interval(&self, seed: u64) -> (f64, f64) {
        bootstrap::interval(&self.items, seed)
    }

    /// Counts per type: those of `names` that occur, in that order, then others of the gold, then in one row what was not asked for.
    pub fn per_type(&self, names: &TypeNames) -> Vec<(String, Counts)> {
        let mut sums = sum(&self.items).per_type;
        let mut rows: Vec<(String, Counts)> =
            names.all().filter_map(|name| sums.remove_entry(name)).collect();
        let mut others = Counts::default();
        for (name, counts) in sums {
            if counts.true_positives + counts.false_negatives > 0 {
                rows.push((name, counts));
            } else {
                others += counts;
            }
        }
        if others != Counts::default() {
            rows.push((NOT_ASKED_FOR.to_owned(), others));
        }
        rows
    }
}
