//! What is asked: the slots that a template fills, and the spec that reads the reply.
//!
//! Questions are made from documents ([`crate::prompt`]) or directly, where a text is all there is.

use serde::{Deserialize, Serialize};
use taiyi_corpus::schema::{Language, TpKind};

use crate::answers::{AnswerFormat, AnswerSpec, choice};
use crate::labels::prompt_language;

/// A kind of prompt; its name is that of its template files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptTask {
    /// Entities, all types at once.
    Ner,
    /// Entities of one type.
    NerOne,
    /// Relations, all relation types at once.
    Re,
    /// Relations of one type.
    ReOne,
    /// One class.
    Tc,
    /// Any number of classes.
    TcMulti,
    /// Whether two texts say the same.
    TpSimilarity,
    /// Whether the first text entails the second.
    TpEntailment,
    /// Whether the second text is relevant to the first.
    TpRelevance,
    /// A question with choices.
    QaChoice,
    /// A question with choices about a context.
    QaChoiceContext,
    /// An open question.
    QaSimple,
    /// An open question about a context.
    QaContext,
    /// A dialogue.
    Mrd,
    /// Translation out of the language of the wording.
    Mt,
}

/// A place in a wording: `{text}`, `{labels}`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The text: `{text}`.
    Text,
    /// All names that the answer may use: `{labels}`.
    Labels,
    /// The one type or relation asked for: `{type}`.
    Type,
    /// The question: `{question}`.
    Question,
    /// The choices, one on a line: `{choices}`.
    Choices,
    /// What the answer rests on: `{context}`.
    Context,
    /// The first text of a pair: `{text_1}`.
    Text1,
    /// The second text of a pair: `{text_2}`.
    Text2,
}

impl PromptTask {
    /// All kinds of prompts.
    pub const ALL: [Self; 15] = [
        Self::Ner,
        Self::NerOne,
        Self::Re,
        Self::ReOne,
        Self::Tc,
        Self::TcMulti,
        Self::TpSimilarity,
        Self::TpEntailment,
        Self::TpRelevance,
        Self::QaChoice,
        Self::QaChoiceContext,
        Self::QaSimple,
        Self::QaContext,
        Self::Mrd,
        Self::Mt,
    ];

    /// The name in template files, recipes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ner => "ner",
            Self::NerOne => "ner_one",
            Self::Re => "re",
            Self::ReOne => "re_one",
            Self::Tc => "tc",
            Self::TcMulti => "tc_multi",
            Self::TpSimilarity => "tp_similarity",
            Self::TpEntailment => "tp_entailment",
            Self::TpRelevance => "tp_relevance",
            Self::QaChoice => "qa_choice",
            Self::QaChoiceContext => "qa_choice_context",
            Self::QaSimple => "qa_simple",
            Self::QaContext => "qa_context",
            Self::Mrd => "mrd",
            Self::Mt => "mt",
        }
    }

    /// The slots that each wording fills exactly once.
    pub fn slots(self) -> &'static [Slot] {
        match self {
            Self::Ner | Self::Re | Self::Tc | Self::TcMulti => &[Slot::Text, Slot::Labels],
            Self::NerOne | Self::ReOne => &[Slot::Text, Slot::Type],
            Self::TpSimilarity | Self::TpEntailment | Self::TpRelevance => {
                &[Slot::Text1, Slot::Text2, Slot::Labels]
            }
            Self::QaChoice => &[Slot::Question, Slot::Choices],
            Self::QaChoiceContext => &[Slot::Context, Slot::Question, Slot::Choices],
            Self::QaSimple => &[Slot::Question],
            Self::QaContext => &[Slot::Context, Slot::Question],
            Self::Mrd | Self::Mt => &[Slot::Text],
        }
    }
}

impl Slot {
    const ALL: [Self; 8] = [
        Self::Text,
        Self::Labels,
        Self::Type,
        Self::Question,
        Self::Choices,
        Self::Context,
        Self::Text1,
        Self::Text2,
    ];

    /// The name between the braces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Labels => "labels",
            Self::Type => "type",
            Self::Question => "question",
            Self::Choices => "choices",
            Self::Context => "context",
            Self::Text1 => "text_1",
            Self::Text2 => "text_2",
        }
    }

    /// The slot of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|slot| slot.name() == name)
    }
}

/// One question, not yet worded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which wordings fit.
    pub task: PromptTask,
    /// The language of the wording: `En` or `Zh`.
    pub language: Language,
    /// How the answer is written and read.
    pub spec: AnswerSpec,
    /// What goes into the slots, each of the task's once.
    slots: Vec<(Slot, String)>,
}

impl Question {
    /// The text of a slot; empty where the task has no such slot.
    pub fn slot(&self, slot: Slot) -> &str {
        self.slots.iter().find(|(known, _)| *known == slot).map_or("", |(_, text)| text)
    }

    /// Asks for all entities of the given types.
    pub fn entities(text: &str, types: Vec<String>, language: Language) -> Self {
        Self::over_labels(PromptTask::Ner, AnswerFormat::Entities, text, types, language)
    }

    /// Asks for the entities of one type.
    pub fn entities_of(text: &str, kind: &str, language: Language) -> Self {
        Self::over_type(PromptTask::NerOne, AnswerFormat::Entities, text, kind, language)
    }

    /// Asks for all pairs of the given relations.
    pub fn relations(text: &str, relations: Vec<String>, language: Language) -> Self {
        Self::over_labels(PromptTask::Re, AnswerFormat::Triples, text, relations, language)
    }

    /// Asks for the pairs of one relation.
    pub fn relations_of(text: &str, relation: &str, language: Language) -> Self {
        Self::over_type(PromptTask::ReOne, AnswerFormat::Triples, text, relation, language)
    }

    /// Asks for the class of a text, or for all that apply.
    pub fn classes(text: &str, classes: Vec<String>, multi_label: bool, language: Language) -> Self {
        let task = if multi_label { PromptTask::TcMulti } else { PromptTask::Tc };
        let mut question = Self::over_labels(task, AnswerFormat::Classes, text, classes, language);
        question.spec.single = !multi_label;
        question
    }

    /// Asks for the label of a pair of texts.
    pub fn pair(kind: TpKind, text_1: &str, text_2: &str, labels: Vec<String>, language: Language) -> Self {
        let task = match kind {
            TpKind::Similarity => PromptTask::TpSimilarity,
            TpKind::Entailment => PromptTask::TpEntailment,
            TpKind::Relevance => PromptTask::TpRelevance,
        };
        let listed = list(&labels, language);
        let slots =
            vec![(Slot::Text1, text_1.to_owned()), (Slot::Text2, text_2.to_owned()), (Slot::Labels, listed)];
        Self::new(task, AnswerFormat::Pair, labels, slots, language)
    }

    /// Asks a question with choices, about a context unless that is blank.
    pub fn choice(question: &str, context: &str, choices: Vec<String>, language: Language) -> Self {
        let mut slots = vec![(Slot::Question, question.to_owned()), (Slot::Choices, choice::list(&choices))];
        let mut task = PromptTask::QaChoice;
        if !context.trim().is_empty() {
            task = PromptTask::QaChoiceContext;
            slots.push((Slot::Context, context.to_owned()));
        }
        Self::new(task, AnswerFormat::Choice, choices, slots, language)
    }

    /// Asks an open question, about a context unless that is blank.
    pub fn open(question: &str, context: &str, language: Language) -> Self {
        let mut slots = vec![(Slot::Question, question.to_owned())];
        let mut task = PromptTask::QaSimple;
        if !context.trim().is_empty() {
            task = PromptTask::QaContext;
            slots.push((Slot::Context, context.to_owned()));
        }
        Self::new(task, AnswerFormat::Text, Vec::new(), slots, language)
    }

    /// Opens a dialogue with the patient's first words.
    pub fn dialogue(text: &str, language: Language) -> Self {
        Self::new(
            PromptTask::Mrd,
            AnswerFormat::Text,
            Vec::new(),
            vec![(Slot::Text, text.to_owned())],
            language,
        )
    }

    /// Asks for a translation out of `language`: of English into Chinese, of Chinese into English.
    pub fn translation(text: &str, language: Language) -> Self {
        Self::new(
            PromptTask::Mt,
            AnswerFormat::Text,
            Vec::new(),
            vec![(Slot::Text, text.to_owned())],
            language,
        )
    }

    fn over_labels(
        task: PromptTask,
        format: AnswerFormat,
        text: &str,
        labels: Vec<String>,
        language: Language,
    ) -> Self {
        let slots = vec![(Slot::Text, text.to_owned()), (Slot::Labels, list(&labels, language))];
        Self::new(task, format, labels, slots, language)
    }

    fn over_type(task: PromptTask, format: AnswerFormat, text: &str, kind: &str, language: Language) -> Self {
        let slots = vec![(Slot::Text, text.to_owned()), (Slot::Type, kind.to_owned())];
        Self::new(task, format, vec![kind.to_owned()], slots, language)
    }

    fn new(
        task: PromptTask,
        format: AnswerFormat,
        names: Vec<String>,
        slots: Vec<(Slot, String)>,
        language: Language,
    ) -> Self {
        let language = prompt_language(language);
        Self { task, language, spec: AnswerSpec::new(format, language, names), slots }
    }
}

fn list(labels: &[String], language: Language) -> String {
    labels.join(if prompt_language(language) == Language::Zh { "，" } else { ", " })
}
