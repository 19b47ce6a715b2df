//! The one schema every corpus is read into: the DUTIR/BigBIO documents.
//!
//! A [`Document`] is one record of one dataset; [`Content`] holds what its kind of task needs. Offsets are code
//! points, half-open, over the passages joined by one space (BigBIO's convention): [`Ie::text`] gives that text.

use serde::{Deserialize, Serialize};

use crate::offsets::CharSpan;

/// The tasks of the published collection, by Taiyi's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Task {
    /// Named-entity recognition.
    Ner,
    /// Named-entity normalisation (BigBIO: NED).
    Nen,
    /// Relation extraction.
    Re,
    /// Causal relation extraction, where an argument may itself be a relation.
    Cre,
    /// Event extraction.
    Ee,
    /// Coreference resolution.
    Coref,
    /// Text classification, single- or multi-label (BigBIO: TXTCLASS).
    Tc,
    /// Question answering: multiple choice, simple, or over a context.
    Qa,
    /// Multi-round dialogue.
    Mrd,
    /// Machine translation (BigBIO: TRANSL).
    Mt,
    /// Text pairs: similarity or entailment (BigBIO: STS, TE).
    Tp,
    /// Text to text: summaries or structure (BigBIO: SUM).
    Tt,
}

/// A language of the text, as in the published `language` field; pairs for translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Language {
    /// English.
    #[serde(rename = "en")]
    En,
    /// Chinese.
    #[serde(rename = "zh")]
    Zh,
    /// English to Chinese.
    #[serde(rename = "en-zh")]
    EnZh,
    /// Chinese to English.
    #[serde(rename = "zh-en")]
    ZhEn,
}

impl Language {
    /// The published code: `en`, `zh`, `en-zh`, `zh-en`.
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Zh => "zh",
            Self::EnZh => "en-zh",
            Self::ZhEn => "zh-en",
        }
    }
}

/// One record of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Unique within the dataset: the source's id, with a suffix where the source repeats one.
    pub id: String,
    /// The id as the source gives it: a PMID, a question number. Leak checks compare it.
    pub document_id: String,
    /// The dataset id of the card, such as `bc5cdr`.
    pub dataset: String,
    /// The split's name as the card gives it: `train`, `dev`, `test`, or another such as `sample`.
    pub split: String,
    /// Language of the text.
    pub language: Language,
    /// What the kind of task needs.
    #[serde(flatten)]
    pub content: Content,
}

/// The content of a document, by kind of task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "schema", rename_all = "UPPERCASE")]
pub enum Content {
    /// Information extraction: NER, NEN, RE, CRE, EE, COREF (BigBIO: KB).
    Ie(Ie),
    /// Text classification.
    Tc(Tc),
    /// Question answering.
    Qa(Qa),
    /// Multi-round dialogue.
    Mrd(Mrd),
    /// Translation.
    Mt(Mt),
    /// Text pairs.
    Tp(Tp),
    /// Text to text.
    Tt(Tt),
}

/// Information extraction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ie {
    /// Passages in order; joined by one space they are the text that offsets count.
    pub passages: Vec<Passage>,
    /// Entity mentions.
    #[serde(default)]
    pub entities: Vec<Entity>,
    /// Binary relations between entities.
    #[serde(default)]
    pub relations: Vec<Relation>,
    /// Causal relations, whose tail may be a relation.
    #[serde(default)]
    pub causal_relations: Vec<CausalRelation>,
    /// Events.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Coreference chains.
    #[serde(default)]
    pub coreferences: Vec<Coreference>,
}

impl Ie {
    /// The passages joined by one space: the text that offsets count.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (at, passage) in self.passages.iter().enumerate() {
            if at > 0 {
                text.push(' ');
            }
            text.push_str(&passage.text);
        }
        text
    }

    /// The entity with this id.
    pub fn entity(&self, id: &str) -> Option<&Entity> {
        self.entities.iter().find(|entity| entity.id == id)
    }
}

/// A piece of a document: title, abstract, sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    /// Unique within the document.
    pub id: String,
    /// `title`, `abstract`, `sentence`, `paragraph`, or the source's word.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: String,
    /// Where it stands in the joined text.
    pub offsets: CharSpan,
}

/// A mention of an entity; more than one span where it is discontinuous.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// Unique within the document.
    pub id: String,
    /// The type as the source spells it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of each span.
    pub text: Vec<String>,
    /// The spans, in the same order as `text`. Empty where the source gives no offsets (CMeIE).
    pub offsets: Vec<CharSpan>,
    /// Links to terminologies.
    #[serde(default)]
    pub normalized: Vec<Normalized>,
}

impl Entity {
    /// The mention as one string: its spans joined by one space.
    pub fn surface(&self) -> String {
        self.text.join(" ")
    }
}

/// A concept in a terminology.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Normalized {
    /// The terminology: `MESH`, `OMIM`, `NCBIGene`.
    pub db_name: String,
    /// The concept's id there.
    pub db_id: String,
}

/// A binary relation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// Unique within the document.
    pub id: String,
    /// The type as the source spells it.
    #[serde(rename = "type")]
    pub kind: String,
    /// First argument (head): an entity's id, or a concept where `level` says so.
    pub arg1_id: String,
    /// Second argument (tail).
    pub arg2_id: String,
    /// What the arguments name.
    #[serde(default)]
    pub level: RelationLevel,
    /// Links to terminologies.
    #[serde(default)]
    pub normalized: Vec<Normalized>,
}

/// What a relation's arguments name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelationLevel {
    /// Ids of entity mentions of the document.
    #[default]
    Mention,
    /// Concept ids (`db_id`), any mention of which stands for it (BC5CDR, BioRED).
    Concept,
}

/// A causal relation whose tail may be a relation (CMedCausal).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CausalRelation {
    /// Unique within the document.
    pub id: String,
    /// The type as the source spells it.
    #[serde(rename = "type")]
    pub kind: String,
    /// An entity's id.
    pub head_id: String,
    /// An entity's, a relation's or a causal relation's id.
    pub tail_id: String,
}

/// An event: a trigger and its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique within the document.
    pub id: String,
    /// The type as the source spells it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The words that name the event; without spans where the source has no trigger (CHIP-CDEE).
    pub trigger: Trigger,
    /// Arguments in order.
    pub arguments: Vec<Argument>,
}

/// The words that name an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// The text of each span.
    pub text: Vec<String>,
    /// The spans.
    pub offsets: Vec<CharSpan>,
}

/// An argument of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Argument {
    /// `Theme`, `Cause`, …
    pub role: String,
    /// An entity's or an event's id.
    pub ref_id: String,
}

/// Mentions of one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coreference {
    /// Unique within the document.
    pub id: String,
    /// Entity ids.
    pub entity_ids: Vec<String>,
}

/// Text classification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tc {
    /// The text.
    pub text: String,
    /// Its labels as the source spells them; several where the task is multi-label, none where none applies.
    pub labels: Vec<String>,
}

/// Question answering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Qa {
    /// The question.
    pub question: String,
    /// Passages the answer rests on, if any.
    #[serde(default)]
    pub contexts: Vec<String>,
    /// The choices of a multiple-choice question, in order; empty for open questions.
    #[serde(default)]
    pub choices: Vec<String>,
    /// Correct answers: texts of `choices`, or free text.
    pub answers: Vec<String>,
    /// What kind of question it is.
    pub kind: QaKind,
}

/// Kinds of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QaKind {
    /// One of the choices (`QA-mcq`).
    MultipleChoice,
    /// A free answer without a context (`QA-sqa`).
    Simple,
    /// An answer that rests on contexts (`QA-cqa`).
    Context,
}

/// A dialogue of several rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mrd {
    /// What stands before the dialogue (a description of the case), if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Utterances in order.
    pub utterances: Vec<Utterance>,
}

/// One utterance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Utterance {
    /// Who speaks.
    pub speaker: Speaker,
    /// What is said.
    pub text: String,
}

/// Who speaks in a dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The patient or user: the human side.
    Patient,
    /// The doctor or assistant: the side that is learned.
    Doctor,
}

/// A translation pair; the document's language says the direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mt {
    /// Source text.
    pub source: String,
    /// Its translation.
    pub target: String,
}

/// A pair of texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tp {
    /// First text (premise).
    pub text_1: String,
    /// Second text (hypothesis).
    pub text_2: String,
    /// The label as the source spells it; a number for graded similarity.
    pub label: String,
    /// What the label says.
    pub kind: TpKind,
}

/// What a pair's label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpKind {
    /// Whether, or how much, the two say the same (`TP-ss`).
    Similarity,
    /// Whether the first entails the second (`TP-te`).
    Entailment,
    /// Whether the second is relevant to the first.
    Relevance,
}

/// Text to text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tt {
    /// Input text.
    pub source: String,
    /// Output text: a summary, a title, a report, a structure.
    pub target: String,
    /// What the output is.
    pub kind: TtKind,
}

/// What the output of a text-to-text task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TtKind {
    /// A summary, title or report.
    Summary,
    /// A structure written as text, such as a decision tree.
    Structure,
}
