//! An encoder that answers an evaluation's items by labelling their texts.

use taiyi_corpus::offsets::TextIndex;
use taiyi_eval::predictions::PredictedEntity;
use taiyi_eval::{Answerer, Given, Gold, Item, Items, Prediction, ReplyError};
use taiyi_infer::LabelModel;

/// Answers with the labels of tokens or of texts.
pub(crate) struct Labeller<'a> {
    model: &'a mut LabelModel,
}

impl<'a> Labeller<'a> {
    pub(crate) fn new(model: &'a mut LabelModel) -> Self {
        Self { model }
    }

    /// Why the model cannot answer such items, if so: its head is for something else, or it knows none of their labels.
    pub(crate) fn unfit(model: &LabelModel, items: &Items) -> Option<String> {
        let first = items.items.first()?;
        let known = match (&first.gold, model.types(), model.classes()) {
            (Gold::Entities { .. }, Some(types), _) => types,
            (Gold::Labels(_), _, Some(classes)) => classes,
            (Gold::Choice(_), _, Some(classes)) if first.pair.is_some() => classes,
            (gold, types, _) => {
                let what = match gold {
                    Gold::Entities { .. } => "entities",
                    Gold::Triples { .. } => "relations",
                    Gold::Labels(_) => "labels of texts",
                    Gold::Choice(_) => "answers to questions",
                };
                let head = if types.is_some() { "token" } else { "sequence" };
                return Some(format!(
                    "expected a model for {what}, found an encoder for {head} classification"
                ));
            }
        };
        // Labels are the same for all items but for choices, which may differ.
        let offered = |label: &&String| items.items.iter().take(100).any(|item| offers(item, label));
        if known.iter().any(|label| offered(&label)) {
            return None;
        }
        let wanted = match first.gold {
            Gold::Choice(_) => first.spec.names.join(", "),
            _ => first.names.all().collect::<Vec<_>>().join(", "),
        };
        Some(format!("the encoder's labels ({}) are none of those asked for ({wanted})", known.join(", ")))
    }
}

/// Whether an item asks for a label of the model.
fn offers(item: &Item, label: &str) -> bool {
    if let Gold::Choice(_) = item.gold {
        return item.spec.names.iter().any(|choice| choice == label);
    }
    let reported = item.names.reported(label);
    let listed = item.names.all().any(|name| name == reported);
    let displayed = item.names.displayed(reported);
    listed && (item.spec.names.is_empty() || item.spec.names.iter().any(|name| name == displayed))
}

impl Answerer for Labeller<'_> {
    fn asked(&self, item: &Item) -> String {
        match &item.pair {
            Some((first, second)) => format!("{first}\n{second}"),
            None => item.text.clone(),
        }
    }

    fn answer(&mut self, items: &[&Item]) -> Result<Vec<Given>, ReplyError> {
        if self.model.types().is_some() {
            let texts: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
            let found = self.model.mentions(&texts).map_err(ReplyError::of)?;
            let given = |(item, found): (&&Item, taiyi_infer::TextMentions)| {
                let index = TextIndex::new(&item.text);
                let asked = found.mentions.into_iter().filter(|mention| offers(item, &mention.kind));
                let entity = |mention: taiyi_infer::TextMention| PredictedEntity {
                    kind: item.names.reported(&mention.kind).to_owned(),
                    text: index.slice(mention.span).unwrap_or_default().to_owned(),
                    offsets: Some(vec![mention.span]),
                };
                Given::prediction(Prediction::Entities(asked.map(entity).collect()))
            };
            return Ok(items.iter().zip(found).map(given).collect());
        }
        let inputs: Vec<(&str, Option<&str>)> = items
            .iter()
            .map(|item| match &item.pair {
                Some((first, second)) => (first.as_str(), Some(second.as_str())),
                None => (item.text.as_str(), None),
            })
            .collect();
        let scores = self.model.scores(&inputs).map_err(ReplyError::of)?;
        let given = |(item, scores): (&&Item, Vec<f32>)| {
            let chosen = self.model.chosen(&scores, |label| offers(item, label));
            let prediction = match item.gold {
                Gold::Choice(_) => Prediction::Choice(chosen.first().map(|choice| (*choice).to_owned())),
                _ => Prediction::Labels(
                    chosen.into_iter().map(|label| item.names.reported(label).to_owned()).collect(),
                ),
            };
            Given::prediction(prediction)
        };
        Ok(items.iter().zip(scores).map(given).collect())
    }

    fn batch(&self) -> usize {
        64
    }
}
