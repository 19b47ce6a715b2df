//! Trivial baselines: what can be reached without a model. A score below them means that nothing was learned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use taiyi_corpus::offsets::{ByteSpan, TextIndex};
use taiyi_corpus::schema::Document;
use taiyi_instruct::{Ask, DatasetLabels, Triple};

use crate::error::EvalError;
use crate::items::{Gold, Item, ItemOptions, Items};
use crate::metrics::Metric;
use crate::predictions::{Given, PredictedEntity, Prediction};
use crate::score::{Scored, score};

/// A baseline, ready to predict.
pub struct Baseline {
    /// Its name in reports.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub description: String,
    rule: Rule,
}

enum Rule {
    /// The most frequent label set.
    Majority(Vec<String>),
    /// The most frequent right choice, by its text, or by its place in the list.
    MajorityChoice { text: Option<String>, place: usize },
    /// A choice drawn for each item.
    RandomChoice { seed: u64 },
    /// The longest training mentions in the text.
    Mentions(Dictionary),
    /// The training pairs whose names stand in the text.
    Pairs { names: Dictionary, relations: HashMap<(usize, usize), Vec<String>> },
}

/// More different answers than this are not a fixed set of choices such as yes, no and maybe.
const FIXED_CHOICES: usize = 10;

/// The trivial baselines of a task, learned from documents asked as the scored ones are.
pub fn learn(documents: &[Document], labels: &DatasetLabels, ask: Ask, seed: u64) -> Vec<Baseline> {
    let training = Items::of(documents, labels.clone(), &ItemOptions::new(ask)).items;
    match ask {
        Ask::Ner | Ask::NerOne => vec![mentions(&training)],
        Ask::Re | Ask::ReOne => vec![pairs(&training)],
        Ask::Tc | Ask::Tp => vec![majority(&training)],
        Ask::Qa => vec![majority_choice(&training), random_choice(seed)],
        Ask::Mrd | Ask::Mt => Vec::new(),
    }
}

/// The baselines that need no training documents.
pub fn untrained(ask: Ask, seed: u64) -> Vec<Baseline> {
    if ask == Ask::Qa { vec![random_choice(seed)] } else { Vec::new() }
}

fn random_choice(seed: u64) -> Baseline {
    Baseline {
        name: "random choice",
        description: format!("Each choice is as likely as any other (seed {seed})."),
        rule: Rule::RandomChoice { seed },
    }
}

fn majority(training: &[Item]) -> Baseline {
    let mut counts: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for item in training {
        if let Gold::Labels(labels) = &item.gold {
            let mut labels = labels.clone();
            labels.sort();
            *counts.entry(labels).or_default() += 1;
        }
    }
    // Of several texts the most frequent set of labels: for one label a text it is the most frequent label.
    let labels = most(counts).unwrap_or_default();
    let named = if labels.is_empty() { "none".to_owned() } else { labels.join("; ") };
    Baseline {
        name: "majority label",
        description: format!("Always the most frequent label of the training texts: {named}."),
        rule: Rule::Majority(labels),
    }
}

fn majority_choice(training: &[Item]) -> Baseline {
    let mut texts: BTreeMap<String, usize> = BTreeMap::new();
    let mut places: BTreeMap<usize, usize> = BTreeMap::new();
    for item in training {
        if let Gold::Choice(choice) = &item.gold {
            *texts.entry(choice.clone()).or_default() += 1;
            let place = item.spec.names.iter().position(|name| name == choice);
            *places.entry(place.unwrap_or_default()).or_default() += 1;
        }
    }
    let fixed = texts.len() <= FIXED_CHOICES;
    let (text, place) = (most(texts).filter(|_| fixed), most(places).unwrap_or_default());
    let description = match &text {
        Some(text) => format!("Always the most frequent answer of the training questions: {text}."),
        None => format!("Always choice {}, most often right in training.", place + 1),
    };
    Baseline { name: "majority answer", description, rule: Rule::MajorityChoice { text, place } }
}

fn mentions(training: &[Item]) -> Baseline {
    let mut kinds: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for item in training {
        let Gold::Entities { spans, .. } = &item.gold else { continue };
        let index = TextIndex::new(&item.text);
        for entity in spans {
            // A mention in several pieces is no string that could be looked for.
            if let [span] = entity.spans.as_slice()
                && let Some(text) = index.slice(*span)
            {
                let counts = kinds.entry(text.trim().to_lowercase()).or_default();
                *counts.entry(entity.kind.clone()).or_default() += 1;
            }
        }
    }
    let entries: Vec<(String, String)> = kinds
        .into_iter()
        .filter(|(text, _)| !(text.is_empty() || text.len() == 1 && text.is_ascii()))
        .filter_map(|(text, counts)| Some((text, most(counts)?)))
        .collect();
    let description = format!(
        "The {} distinct mentions of the training texts, looked for without regard to case, the longest first; each with \
         its most frequent type; without single Latin characters.",
        entries.len()
    );
    Baseline {
        name: "dictionary of training mentions",
        description,
        rule: Rule::Mentions(Dictionary::new(entries)),
    }
}

fn pairs(training: &[Item]) -> Baseline {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut relations: HashMap<(usize, usize), Vec<String>> = HashMap::new();
    let mut pairs = 0;
    for item in training {
        let Gold::Triples { triples, .. } = &item.gold else { continue };
        for triple in triples {
            for head in &triple.heads {
                for tail in &triple.tails {
                    let mut number = |name: &String| {
                        let next = numbers.len();
                        *numbers.entry(name.clone()).or_insert(next)
                    };
                    let found = relations.entry((number(head), number(tail))).or_default();
                    if !found.contains(&triple.relation) {
                        found.push(triple.relation.clone());
                        pairs += 1;
                    }
                }
            }
        }
    }
    let mut entries: Vec<(String, String)> = vec![Default::default(); numbers.len()];
    for (name, number) in numbers {
        entries[number].0 = name;
    }
    Baseline {
        name: "dictionary of training pairs",
        description: format!(
            "The {pairs} pairs of names related in the training texts, predicted where both names stand in the text."
        ),
        rule: Rule::Pairs { names: Dictionary::new(entries), relations },
    }
}

/// The most frequent key, the first of several.
fn most<K: Ord>(counts: BTreeMap<K, usize>) -> Option<K> {
    let mut best: Option<(K, usize)> = None;
    for (key, count) in counts {
        if best.as_ref().is_none_or(|(_, most)| count > *most) {
            best = Some((key, count));
        }
    }
    best.map(|(key, _)| key)
}

impl Baseline {
    /// The predictions for items, in their order.
    pub fn predict(&self, items: &[Item]) -> Vec<Option<Given>> {
        let mut rng = match self.rule {
            Rule::RandomChoice { seed } => ChaCha8Rng::seed_from_u64(seed),
            _ => ChaCha8Rng::seed_from_u64(0),
        };
        items.iter().map(|item| Some(Given::prediction(self.predict_one(item, &mut rng)))).collect()
    }

    /// The expected score of a baseline that draws, whatever its seed: the mean of one over the number of choices.
    pub fn expected(&self, items: &[Item]) -> Option<f64> {
        let Rule::RandomChoice { .. } = self.rule else { return None };
        let shares = items.iter().map(|item| 1.0 / item.spec.names.len().max(1) as f64);
        Some(shares.sum::<f64>() / items.len().max(1) as f64)
    }

    fn predict_one(&self, item: &Item, rng: &mut ChaCha8Rng) -> Prediction {
        let choices = &item.spec.names;
        match &self.rule {
            Rule::Majority(labels) => Prediction::Labels(labels.clone()),
            Rule::MajorityChoice { text, place } => {
                let known = text.as_ref().filter(|text| choices.contains(text));
                Prediction::Choice(known.or_else(|| choices.get(*place)).or_else(|| choices.first()).cloned())
            }
            Rule::RandomChoice { .. } => {
                // Drawn for an item without choices, too, so that items do not depend on each other's choices.
                let drawn: f64 = rng.random();
                let at = (drawn * choices.len() as f64) as usize;
                Prediction::Choice(choices.get(at).cloned())
            }
            Rule::Mentions(dictionary) => Prediction::Entities(dictionary.longest(item)),
            Rule::Pairs { names, relations } => {
                let found: BTreeSet<usize> =
                    names.occurrences(&item.text).into_iter().map(|(_, entry)| entry).collect();
                let mut triples = Vec::new();
                for head in &found {
                    for tail in &found {
                        for relation in relations.get(&(*head, *tail)).into_iter().flatten() {
                            let name = |entry: &usize| names.entries[*entry].0.clone();
                            triples.push(Triple {
                                relation: relation.clone(),
                                head: name(head),
                                tail: name(tail),
                            });
                        }
                    }
                }
                Prediction::Relations(triples)
            }
        }
    }
}

/// Lower-cased strings to look for, each with a type.
struct Dictionary {
    entries: Vec<(String, String)>,
    automaton: Option<AhoCorasick>,
}

impl Dictionary {
    fn new(entries: Vec<(String, String)>) -> Self {
        // The contiguous form is the fastest to search and takes no longer to build than thousands of texts to read.
        let automaton = AhoCorasickBuilder::new()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(entries.iter().map(|(text, _)| text))
            .ok();
        Self { entries, automaton }
    }

    /// All places of all entries in the text, in bytes of its lower-cased form. As in projection, a Latin letter or digit at an entry's
    /// end may not be followed by another.
    fn occurrences(&self, text: &str) -> Vec<(ByteSpan, usize)> {
        self.occurrences_in(&lowered(text))
    }

    fn occurrences_in(&self, text: &str) -> Vec<(ByteSpan, usize)> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let bytes = text.as_bytes();
        let joined = |at: usize| {
            at > 0
                && at < bytes.len()
                && bytes[at - 1].is_ascii_alphanumeric()
                && bytes[at].is_ascii_alphanumeric()
        };
        automaton
            .find_overlapping_iter(text)
            .filter(|found| !joined(found.start()) && !joined(found.end()))
            .map(|found| (ByteSpan { start: found.start(), end: found.end() }, found.pattern().as_usize()))
            .collect()
    }

    /// The mentions in the text, from left to right, the longest at each place; none overlaps another.
    fn longest(&self, item: &Item) -> Vec<PredictedEntity> {
        let text = lowered(&item.text);
        let mut found = self.occurrences_in(&text);
        found.sort_by_key(|(place, _)| (place.start, std::cmp::Reverse(place.end)));
        let index = TextIndex::new(&item.text);
        let mut entities = Vec::new();
        let mut end = 0;
        for (place, entry) in found {
            if place.start < end || place.start == place.end {
                continue;
            }
            end = place.end;
            if let (Some(span), Some(string)) = (index.chars_of(place), item.text.get(place.start..place.end))
            {
                entities.push(PredictedEntity {
                    kind: self.entries[entry].1.clone(),
                    text: string.to_owned(),
                    offsets: Some(vec![span]),
                });
            }
        }
        entities
    }
}

/// The text in lower case, every character in the bytes where it stands: one whose lower case takes another number of
/// bytes stays as it is.
fn lowered(text: &str) -> String {
    let lower = |c: char| {
        let mut low = c.to_lowercase();
        match (low.next(), low.next()) {
            (Some(low), None) if low.len_utf8() == c.len_utf8() => low,
            _ => c,
        }
    };
    text.chars().map(lower).collect()
}

/// A baseline with its scores.
pub struct ScoredBaseline {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub description: String,
    /// Its predictions and scores.
    pub scored: Scored,
    /// The expected score of one that draws.
    pub expected: Option<f64>,
}

/// Scores baselines on items.
///
/// # Errors
/// When a metric cannot be applied to what an item asks.
pub fn score_all(
    baselines: &[Baseline],
    items: &[Item],
    metrics: &[Metric],
) -> Result<Vec<ScoredBaseline>, EvalError> {
    let one = |baseline: &Baseline| {
        Ok(ScoredBaseline {
            name: baseline.name,
            description: baseline.description.clone(),
            scored: score(items, &baseline.predict(items), metrics)?,
            expected: baseline.expected(items),
        })
    };
    baselines.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use taiyi_corpus::schema::{Content, Language, Qa, QaKind, Tc};

    use super::*;

    fn found(entries: &[(&str, &str)], text: &str) -> Vec<(usize, usize)> {
        let entries = entries.iter().map(|(text, kind)| ((*text).to_owned(), (*kind).to_owned())).collect();
        let content = Content::Tc(Tc { text: text.to_owned(), labels: Vec::new() });
        let labels = DatasetLabels { multi_label: true, ..labels(&["x"]) };
        let set = Items::of(&[document("1", content)], labels, &ItemOptions::new(Ask::Tc));
        let spans = Dictionary::new(entries).longest(&set.items[0]).into_iter();
        spans.flat_map(|entity| entity.offsets.unwrap()).map(|span| (span.start, span.end)).collect()
    }

    fn labels(classes: &[&str]) -> DatasetLabels {
        DatasetLabels { classes: taiyi_instruct::LabelNames::plain(classes), ..DatasetLabels::default() }
    }

    fn document(id: &str, content: Content) -> Document {
        Document {
            id: id.to_owned(),
            document_id: id.to_owned(),
            dataset: "made_up".to_owned(),
            split: "train".to_owned(),
            language: Language::En,
            content,
        }
    }

    #[test]
    fn the_longest_mention_counts_and_none_inside_a_word() {
        let entries = [("lithium", "c"), ("lithium c", "c"), ("adr", "g"), ("carbonate salt", "c")];
        // `lithium c` would be longer, but goes on as a word.
        assert_eq!(found(&entries, "Lithium carbonate salt, ADRB2, adr"), [(0, 7), (8, 22), (31, 34)]);
        assert_eq!(found(&[("胃", "b"), ("胃癌", "d"), ("癌症", "d")], "患者胃癌症状"), [(2, 4)]);
        assert_eq!(found(&[], "anything"), []);
        // The lower case of the first letter takes another number of bytes.
        assert_eq!(found(&[("ab", "c")], "İ AB"), [(2, 4)]);
    }

    #[test]
    fn majorities() {
        let text = |at: usize, labels: &[&str]| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            document(&at.to_string(), Content::Tc(Tc { text: "t".to_owned(), labels }))
        };
        let documents = [text(0, &["b"]), text(1, &["a"]), text(2, &["b"])];
        let learned = learn(&documents, &labels(&["a", "b"]), Ask::Tc, 0);
        let items = Items::of(&documents, labels(&["a", "b"]), &ItemOptions::new(Ask::Tc)).items;
        let scored = score_all(&learned, &items, &[Metric::LabelMicroF1]).unwrap();
        assert!((scored[0].scored.scores[0].value() - 2.0 / 3.0).abs() < 1e-12);
        assert!(scored[0].description.ends_with(": b."));
    }

    #[test]
    fn where_answers_are_not_a_fixed_set_their_place_is_learned() {
        let question = |at: usize| {
            let choices: Vec<String> = (0..4).map(|choice| format!("{at}-{choice}")).collect();
            let answers = vec![choices[if at.is_multiple_of(3) { 1 } else { 2 }].clone()];
            let (question, contexts, kind) = ("q".to_owned(), Vec::new(), QaKind::MultipleChoice);
            document(&at.to_string(), Content::Qa(Qa { question, contexts, choices, answers, kind }))
        };
        let documents: Vec<Document> = (0..30).map(question).collect();
        let learned = learn(&documents, &DatasetLabels::default(), Ask::Qa, 3);
        let items = Items::of(&documents, DatasetLabels::default(), &ItemOptions::new(Ask::Qa)).items;
        let scored = score_all(&learned, &items, &[Metric::Accuracy]).unwrap();
        assert!((scored[0].scored.scores[0].value() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(scored[0].description, "Always choice 3, most often right in training.");
        assert!((scored[1].expected.unwrap() - 0.25).abs() < 1e-12);
        assert_eq!(learned[1].predict(&items), learned[1].predict(&items), "drawn by seed");
    }
}
