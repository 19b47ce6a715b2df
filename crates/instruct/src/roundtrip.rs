//! The proof that what is learned can be read back: `parse(render(x)) == x` for the answer of every record of a
//! dataset, under every wording.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use taiyi_corpus::Card;
use taiyi_corpus::schema::{Content, Document};

use crate::labels::DatasetLabels;
use crate::prompt::{Ask, AskOptions, Asked, PromptBuilder};
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
pub fn verify<D: Borrow<Document>>(
    documents: impl IntoIterator<Item = D>,
    ask: Ask,
    builder: &PromptBuilder<'_>,
    templates: &Templates,
) -> RoundTrip {
    let mut found = RoundTrip::default();
    for document in documents {
        let document = document.borrow();
        found.documents += 1;
        match builder.asked(document, ask) {
            Ok(records) => {
                for asked in &records {
                    found.record(document, ask, asked, templates);
                }
            }
            Err(skip) => *found.skipped.entry(skip.to_string()).or_default() += 1,
        }
    }
    found
}

/// Verifies everything that can be asked of a dataset's documents, with the embedded templates: all types at once and one
/// at a time, absent types too. Labels that the card does not name are those that the documents use.
pub fn verify_card(card: &Card, documents: &[Document]) -> RoundTrip {
    let mut observed = DatasetLabels::default();
    documents.iter().for_each(|document| observed.observe(document));
    let mut labels = DatasetLabels::from(card);
    labels.multi_label =
        documents.iter().any(|document| matches!(&document.content, Content::Tc(tc) if tc.labels.len() != 1));
    let (entities, relations) = (!observed.entities.is_empty(), !observed.relations.is_empty());
    for (names, seen) in [
        (&mut labels.entities, observed.entities),
        (&mut labels.relations, observed.relations),
        (&mut labels.classes, observed.classes),
    ] {
        if names.is_empty() {
            *names = seen;
        }
    }
    let asks = |content: &Content, ask: Ask| match (content, ask) {
        (Content::Ie(_), Ask::Ner | Ask::NerOne) => entities,
        (Content::Ie(_), Ask::Re | Ask::ReOne) => relations,
        (Content::Tc(_), Ask::Tc)
        | (Content::Tp(_), Ask::Tp)
        | (Content::Qa(_), Ask::Qa)
        | (Content::Mrd(_), Ask::Mrd)
        | (Content::Mt(_), Ask::Mt) => true,
        _ => false,
    };
    let builder = PromptBuilder::new(&labels, AskOptions::default());
    let mut found = RoundTrip::default();
    for ask in Ask::ALL {
        let asked = documents.iter().filter(|document| asks(&document.content, ask));
        found.absorb(verify(asked, ask, &builder, Templates::embedded()));
    }
    found.documents = documents.len() as u64;
    found
}

impl fmt::Display for RoundTrip {
    /// One line of counts, then a line for each reason and each failure.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} documents, {} records, {} checks over all wordings, {} with an escape, {} lost ({:.3} %)",
            self.documents,
            self.records,
            self.checks,
            self.escaped,
            self.failures.len(),
            100.0 * self.failure_rate()
        )?;
        for (reason, count) in &self.skipped {
            write!(f, "\n  not asked: {count} with {reason}")?;
        }
        for Failure { dataset, id, ask, template, reason } in &self.failures {
            write!(f, "\n  lost: {dataset} {id} ({}, {template}): {reason}", ask.name())?;
        }
        Ok(())
    }
}

impl RoundTrip {
    fn absorb(&mut self, other: Self) {
        self.documents += other.documents;
        self.records += other.records;
        self.checks += other.checks;
        self.escaped += other.escaped;
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
        self.failures.extend(other.failures);
    }

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

#[cfg(test)]
mod tests {
    use taiyi_corpus::schema::{Language, Tc};

    use super::*;
    use crate::answers::Answer;
    use crate::question::Question;

    #[test]
    fn a_record_that_does_not_survive_is_counted_once_with_its_reason() {
        let content = Content::Tc(Tc { text: "x".into(), labels: vec![] });
        let document = Document {
            id: "7".into(),
            document_id: "7".into(),
            dataset: "made_up".into(),
            split: "train".into(),
            language: Language::En,
            content,
        };
        let asked = |answer| Asked {
            question: Question::entities("fever", vec!["disease".into()], Language::En),
            answer,
            following: vec![],
            category: "NER",
            span: None,
        };
        let group = |strings: &[&str]| {
            vec![("disease".to_owned(), strings.iter().map(|s| (*s).to_owned()).collect())]
        };
        let mut found = RoundTrip::default();
        for answer in [
            Answer::Entities(group(&["fever; or not"])),
            // Not in normal form: what is read back has the string once.
            Answer::Entities(group(&["fever", "fever"])),
            Answer::Labels(vec!["disease".into()]),
        ] {
            found.record(&document, Ask::Ner, &asked(answer), Templates::embedded());
        }
        assert_eq!((found.records, found.escaped, found.failures.len()), (3, 1, 2));
        let shown = found.to_string();
        assert!(
            shown.contains("2 lost (66.667 %)") && shown.contains("lost: made_up 7 (ner, ner.en:0): "),
            "{shown}"
        );
        assert!(found.failures[1].reason.contains("cannot hold labels"), "{shown}");
    }
}
