//! What an instruction file holds, as plain data for a person to look at; the binary prints it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::conversation::Conversation;
use crate::error::Error;

/// One conversation, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Dataset, category, language, stage, and where the record came from: name and value, unknown ones left out.
    pub facts: Vec<(&'static str, String)>,
    /// Who speaks and what is said, in order.
    pub lines: Vec<(Side, String)>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The prompt: not learned.
    Human,
    /// The reply: learned.
    Assistant,
}

/// Prepares a conversation for showing.
pub fn sample(conversation: &Conversation) -> Sample {
    let mut facts = vec![("conversation", conversation.conversation_id.to_string())];
    let known = [
        ("dataset", Some(conversation.dataset.clone()).filter(|dataset| !dataset.is_empty())),
        ("category", Some(conversation.category.clone())),
        ("language", Some(conversation.language.code().to_owned())),
        ("stage", Some(conversation.first_stage().to_string())),
        ("document", conversation.document_id.clone()),
        ("split", conversation.split.clone()),
        ("template", conversation.template.clone()),
    ];
    facts.extend(known.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let lines = conversation
        .conversation
        .iter()
        .flat_map(|turn| [(Side::Human, turn.human.clone()), (Side::Assistant, turn.assistant.clone())])
        .collect();
    Sample { facts, lines }
}

/// Counts over an instruction file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Conversations.
    pub conversations: u64,
    /// Turns of all conversations.
    pub turns: u64,
    /// Code points of the prompts.
    pub human_chars: u64,
    /// Code points of the replies, which are learned.
    pub assistant_chars: u64,
    /// Code points of the longest conversation.
    pub longest_chars: u64,
    /// Conversations per dataset, then category.
    pub datasets: BTreeMap<String, BTreeMap<String, u64>>,
    /// Conversations per language.
    pub languages: BTreeMap<&'static str, u64>,
    /// Conversations per training stage that first learns them.
    pub stages: BTreeMap<u8, u64>,
    /// One conversation per dataset and category, the first.
    #[serde(skip)]
    pub examples: Vec<Conversation>,
}

impl Summary {
    /// Counts conversations.
    ///
    /// # Errors
    /// The first error of the reader.
    pub fn of(conversations: impl IntoIterator<Item = Result<Conversation, Error>>) -> Result<Self, Error> {
        let mut summary = Self::default();
        for conversation in conversations {
            summary.add(&conversation?);
        }
        Ok(summary)
    }

    /// Counts one conversation.
    pub fn add(&mut self, conversation: &Conversation) {
        let human: u64 = conversation.conversation.iter().map(|turn| turn.human.chars().count() as u64).sum();
        let assistant: u64 =
            conversation.conversation.iter().map(|turn| turn.assistant.chars().count() as u64).sum();
        self.conversations += 1;
        self.turns += conversation.conversation.len() as u64;
        self.human_chars += human;
        self.assistant_chars += assistant;
        self.longest_chars = self.longest_chars.max(human + assistant);
        *self.languages.entry(conversation.language.code()).or_default() += 1;
        *self.stages.entry(conversation.first_stage()).or_default() += 1;
        let categories = self.datasets.entry(conversation.dataset.clone()).or_default();
        let count = categories.entry(conversation.category.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.examples.push(conversation.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use taiyi_corpus::schema::Language;

    use super::*;
    use crate::conversation::Turn;

    #[test]
    fn counts_and_examples() {
        let turn = |human: &str, assistant: &str| Turn { human: human.into(), assistant: assistant.into() };
        let talk = Conversation {
            conversation_id: 4,
            dataset: "meddialog".into(),
            category: "MRD".into(),
            language: Language::En,
            conversation: vec![turn("头痛", "多久了？"), turn("三天", "好")],
            document_id: Some("12".into()),
            split: None,
            template: None,
            stage: None,
        };
        let mut other = talk.clone();
        other.conversation.pop();
        let summary = Summary::of([Ok(talk.clone()), Ok(other)]).unwrap();
        assert_eq!(
            (summary.conversations, summary.turns, summary.human_chars, summary.assistant_chars),
            (2, 3, 6, 9)
        );
        assert_eq!(
            (summary.longest_chars, summary.stages[&2], summary.datasets["meddialog"]["MRD"]),
            (9, 2, 2)
        );
        assert_eq!(summary.examples, std::slice::from_ref(&talk));
        let shown = sample(&talk);
        assert_eq!(shown.lines[2], (Side::Human, "三天".to_owned()));
        assert_eq!(
            shown.facts.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["conversation", "dataset", "category", "language", "stage", "document"]
        );
        serde_json::to_string(&summary).unwrap();
    }
}
