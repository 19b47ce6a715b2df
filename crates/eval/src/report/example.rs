//! Examples: a few items as a person would look at them.

use std::collections::BTreeSet;

use taiyi_corpus::offsets::CharSpan;

use super::html::{Highlight, Verdict};
use crate::items::{Gold, Item, Items};
use crate::metrics::strict_micro_f1::SpanEntity;
use crate::predictions::{Given, Prediction};
use crate::score::{self, Outcome, Scored};

/// An item as it looks.
#[derive(Clone, Debug)]
pub struct Example {
    /// The item's id.
    pub id: String,
    /// The text that spans count in; of a question, the question.
    pub text: String,
    /// The gold entities, right or missed; `None` where the task has no spans.
    pub gold_spans: Option<Vec<Highlight>>,
    /// The predicted entities, right or wrong.
    pub predicted_spans: Option<Vec<Highlight>>,
    /// Predicted strings that are not in the text, with their types.
    pub unfound: Vec<(String, String)>,
    /// The gold as an answer.
    pub gold: String,
    /// The reply, or the prediction where there was none.
    pub reply: String,
    /// Whether everything is right.
    pub right: bool,
    /// Why nothing was predicted.
    pub problem: Option<Problem>,
}

/// Why nothing was predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The predictions say nothing of the item.
    Missing,
    /// The reply could not be read, because of this.
    Unparsable(String),
}

/// How many examples a benchmark shows.
const SHOWN: usize = 3;
/// Longer texts are shown only where there is no shorter one, in code points.
const COMFORTABLE: usize = 900;

/// The first items that show both something right and something wrong, short texts before long ones; where there are
/// too few, wrong and right ones in turn.
pub(super) fn choose(set: &Items, given: &[Option<Given>], scored: &Scored) -> Vec<Example> {
    let mut piles: [Vec<usize>; 4] = Default::default();
    for (at, outcome) in scored.outcomes.iter().enumerate() {
        let total = scored.scores.first().map(|scores| scores.items[at].total()).unwrap_or_default();
        let (right, wrong) = (total.true_positives > 0, total.false_positives + total.false_negatives > 0);
        // Nothing to find and nothing found is right, but shows nothing.
        let pile = match (right, wrong) {
            _ if *outcome == Outcome::Missing => 3,
            (true, true) => 0,
            (false, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
        };
        piles[pile].push(at);
    }
    let long = |at: &usize| set.items[*at].text.chars().count() > COMFORTABLE;
    piles.iter_mut().for_each(|pile| pile.sort_by_key(long));
    let [mixed, wrong, right, others] = piles;
    let mut turns = Vec::new();
    let (mut wrong, mut right) = (wrong.into_iter(), right.into_iter());
    for _ in 0..SHOWN {
        turns.extend(wrong.next());
        turns.extend(right.next());
    }
    let order: Vec<usize> = mixed.into_iter().chain(turns).chain(others).collect();
    let one = |&at: &usize| {
        let right = scored.scores.first().is_some_and(|scores| {
            let total = scores.items[at].total();
            total.false_positives + total.false_negatives == 0
        });
        example(
            &set.items[at],
            given.get(at).and_then(Option::as_ref),
            &scored.predictions[at],
            right,
            scored.outcomes[at],
        )
    };
    order.iter().take(SHOWN).map(one).collect()
}

/// How one item and what was predicted look.
fn example(
    item: &Item,
    given: Option<&Given>,
    prediction: &Prediction,
    right: bool,
    outcome: Outcome,
) -> Example {
    let mut shown = Example {
        id: item.id.clone(),
        text: item.text.clone(),
        gold_spans: None,
        predicted_spans: None,
        unfound: Vec::new(),
        gold: score::gold_reply(item).unwrap_or_default(),
        reply: given.and_then(|given| given.reply.clone()).unwrap_or_else(|| written(prediction)),
        right,
        problem: match outcome {
            Outcome::Unparsable(reason) => Some(Problem::Unparsable(reason.to_string())),
            Outcome::Read => None,
            Outcome::Missing => Some(Problem::Missing),
        },
    };
    if let Gold::Entities { spans, .. } = &item.gold {
        let (predicted, unfound) = score::places(item, prediction);
        shown.gold_spans = Some(highlights(item, spans, &predicted, Verdict::Missed));
        shown.predicted_spans = Some(highlights(item, &predicted, spans, Verdict::Wrong));
        shown.unfound =
            unfound.into_iter().map(|(kind, text)| (item.names.displayed(&kind).to_owned(), text)).collect();
    }
    shown
}

fn highlights(
    item: &Item,
    entities: &BTreeSet<SpanEntity>,
    others: &BTreeSet<SpanEntity>,
    otherwise: Verdict,
) -> Vec<Highlight> {
    let one = |entity: &SpanEntity| {
        let verdict = if others.contains(entity) { Verdict::Right } else { otherwise };
        let kind = item.names.displayed(&entity.kind).to_owned();
        let mark = move |span: &CharSpan| Highlight { span: *span, kind: kind.clone(), verdict };
        entity.spans.iter().map(mark).collect::<Vec<_>>()
    };
    entities.iter().flat_map(one).collect()
}

/// A prediction in words.
fn written(prediction: &Prediction) -> String {
    match prediction {
        Prediction::Entities(entities) => {
            let strings: Vec<String> =
                entities.iter().map(|entity| format!("{}: {}", entity.kind, entity.text)).collect();
            strings.join("; ")
        }
        Prediction::Relations(triples) => {
            let strings: Vec<String> = triples
                .iter()
                .map(|triple| format!("{}: [{}, {}]", triple.relation, triple.head, triple.tail))
                .collect();
            strings.join("; ")
        }
        Prediction::Labels(labels) => labels.join("; "),
        Prediction::Choice(choice) => choice.clone().unwrap_or_default(),
    }
}
