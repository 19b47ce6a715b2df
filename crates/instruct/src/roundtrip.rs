//! The proof that what is learned can be read back: `parse(render(x)) == x` for the answer of every record of a
//! dataset, under every wording.

use std::collections::BTreeMap;

use serde::Serialize;
use taiyi_corpus::schema::Document;

use crate::prompt::{Ask, Asked, PromptBuilder};
use crate::question::Slot;
use crate::template::Templates;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoundTrip {
    /// Documents looked at.
    pub documents: u64,
    /// Questions made of them.
    pub records: u64,
    /// Records times the wordings of their task.
    pub checks: u64,
    /// Records whose written answer holds an escape, that is, does not look as published.
    pub escaped: u64,
    /// Documents that gave no question, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Records that do not survive, each once.
    pub failures: Vec<Failure>,
}

/// A record that does not survive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The dataset's id.
    pub dataset: String,
    /// The document's id.
    pub id: String,
    /// What was asked.
    pub ask: Ask,
    /// The wording, as `ner.en:3`.
    pub template: String,
    /// Why.
    pub reason: String,
}

impl RoundTrip {
    /// The share of records that do not survive; 0 where there is none.
    pub fn failure_rate(&self) -> f64 {
        if self.records == 0 { 0.0 } else { self.failures.len() as f64 / self.records as f64 }
    }
}

/// Renders and parses the answer of every question that `ask` makes of the documents, under every wording, and looks for the
/// question's texts in every prompt.
pub fn verify(
    documents: impl IntoIterator<Item = Document>,
    ask: Ask,
    builder: &PromptBuilder<'_>,
    templates: &Templates,
) -> RoundTrip {
    let mut found = RoundTrip::default();
    for document in documents {
        found.documents += 1;
        match builder.asked(&document, ask) {
            Ok(records) => {
                for asked in &records {
                    found.record(&document, ask, asked, templates);
                }
            }
            Err(skip) => *found.skipped.entry(skip.to_string()).or_default() += 1,
        }
    }
    found
}

impl RoundTrip {
    fn record(&mut self, document: &Document, ask: Ask, asked: &Asked, templates: &Templates) {
        self.records += 1;
        let template = templates.of(&asked.question);
        let mut read: Option<String> = None;
        for wording in 0..template.len() {
            self.checks += 1;
            let result =
                templates.prompt(asked, wording).map_err(|reason| reason.to_string()).and_then(|prompt| {
                    if let Some(slot) = lost_slot(asked, &prompt.human) {
                        return Err(format!("the prompt does not hold `{}` verbatim", slot.name()));
                    }
                    // The written answer is the same under every wording; what was read once need not be read again.
                    if read.as_ref() != Some(&prompt.assistant) {
                        match asked.question.spec.parse(&prompt.assistant) {
                            Ok(answer) if answer == asked.answer => {}
                            Ok(answer) => {
                                return Err(format!("{:?} was read back as {answer:?}", asked.answer));
                            }
                            Err(reason) => {
                                return Err(format!("`{}` is unparsable: {reason}", prompt.assistant));
                            }
                        }
                        self.escaped += u64::from(is_escaped(asked, &prompt.assistant));
                        read = Some(prompt.assistant);
                    }
                    Ok(())
                });
            if let Err(reason) = result {
                self.failures.push(Failure {
                    dataset: document.dataset.clone(),
                    id: document.id.clone(),
                    ask,
                    template: format!("{}:{wording}", template.name()),
                    reason,
                });
                return;
            }
        }
    }
}

fn lost_slot(asked: &Asked, human: &str) -> Option<Slot> {
    let slots = asked.question.task.slots();
    slots.iter().copied().find(|slot| !human.contains(asked.question.slot(*slot)))
}

fn is_escaped(asked: &Asked, written: &str) -> bool {
    use crate::answers::AnswerFormat::{Choice, Text};
    !matches!(asked.question.spec.format, Choice | Text) && written.contains('\\')
}
