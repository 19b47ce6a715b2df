//! Answers: what is learned and what is read back, `render` and `parse` of each format side by side.
//!
//! | format | English | Chinese |
//! |---|---|---|
//! | [`entities`] | `disease: fever; cough` a line per type | `疾病：发热; 咳嗽` |
//! | [`triples`] | `relation: [head, tail]; [head, tail]` a line per relation | `关系：[头, 尾]; [头, 尾]` |
//! | [`classes`] | `Result: a; b` | `上述文本被分类为：a; b` |
//! | [`pair`] | `Result: similar` | `判断结果：相似` |
//! | [`choice`] | `(A) yes` | `(A) 是` |
//! | [`text`] | the text itself | the text itself |
//!
//! An answer is a *value*, in a normal form ([`Answer::normalized`]); for every value x in that form
//! `parse(render(x)) == x`. Text that holds a format's separators is escaped with a backslash as [`escape`] describes, so
//! that an ordinary answer looks exactly as published. Parsers forgive what models do (half- and full-width punctuation,
//! missing newlines, repeated types, an unfinished last pair); what they cannot read is [`Unparsable`], never a panic.
//!
//! [`AnswerSpec::grammar`] says what `render` may write of a text, for a model that is to write nothing else.

pub mod choice;
pub mod classes;
pub mod entities;
pub mod escape;
mod grammar;
pub mod pair;
pub mod text;
pub mod triples;

use serde::{Deserialize, Serialize};
use taiyi_corpus::schema::Language;

use crate::labels::prompt_language;
use escape::fold;

/// The value of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Entity types (readable names) with their distinct strings, both in order; no empty type.
    Entities(Vec<(String, Vec<String>)>),
    /// Distinct triples, those of one relation side by side.
    Triples(Vec<Triple>),
    /// Distinct classes of a text or a pair; empty where none applies.
    Labels(Vec<String>),
    /// The text of the chosen choice.
    Choice(String),
    /// Free text.
    Text(String),
}

/// A relation between two strings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Triple {
    /// The relation's readable name.
    pub relation: String,
    /// First argument.
    pub head: String,
    /// Second argument.
    pub tail: String,
}

impl Answer {
    /// The same answer without repetitions, empty types and interleaved relations; order is by first occurrence.
    pub fn normalized(self) -> Self {
        match self {
            Self::Entities(groups) => {
                let mut merged: Vec<(String, Vec<String>)> = Vec::with_capacity(groups.len());
                for (kind, strings) in groups {
                    for string in strings {
                        entities::insert(&mut merged, &kind, string);
                    }
                }
                Self::Entities(merged)
            }
            Self::Triples(found) => {
                let mut merged = Vec::with_capacity(found.len());
                for triple in found {
                    triples::insert(&mut merged, triple);
                }
                Self::Triples(merged)
            }
            Self::Labels(found) => {
                let mut merged: Vec<String> = Vec::with_capacity(found.len());
                for label in found {
                    if !merged.contains(&label) {
                        merged.push(label);
                    }
                }
                Self::Labels(merged)
            }
            other @ (Self::Choice(_) | Self::Text(_)) => other,
        }
    }

    /// How many strings, triples or labels it holds; 1 for a choice or a text.
    pub fn len(&self) -> usize {
        match self {
            Self::Entities(groups) => groups.iter().map(|(_, strings)| strings.len()).sum(),
            Self::Triples(triples) => triples.len(),
            Self::Labels(labels) => labels.len(),
            Self::Choice(_) | Self::Text(_) => 1,
        }
    }

    /// Whether it says that nothing was found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Entities(_) => "entities",
            Self::Triples(_) => "triples",
            Self::Labels(_) => "labels",
            Self::Choice(_) => "a choice",
            Self::Text(_) => "text",
        }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerFormat {
    /// See [`entities`].
    Entities,
    /// See [`triples`].
    Triples,
    /// See [`classes`].
    Classes,
    /// See [`pair`].
    Pair,
    /// See [`choice`].
    Choice,
    /// See [`text`].
    Text,
}

/// All that is needed to write an answer and to read it back: it belongs to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerSpec {
    /// How the answer is written.
    pub format: AnswerFormat,
    /// Language of its fixed words and punctuation.
    pub language: Language,
    /// Readable names that the answer may use: entity types, relations, classes, or the choices in order. An empty list
    /// means any name (never so for choices).
    pub names: Vec<String>,
    /// Whether exactly one class is asked for. It shapes the grammar; what a reply names beside it is read all the same.
    #[serde(default)]
    pub single: bool,
}

impl AnswerSpec {
    /// A spec; translation pairs count as their source language.
    pub fn new(format: AnswerFormat, language: Language, names: Vec<String>) -> Self {
        Self { format, language: prompt_language(language), names, single: false }
    }

    /// The grammar of replies to a question about `text`, in the dialect of Lark that llguidance reads: only offered names,
    /// in the order of the offer, and only strings that stand in the text, or the words for nothing found. It accepts
    /// what [`render`](Self::render) writes of any such answer. Only entities and relations depend on the text.
    ///
    /// `None` for free text, and where any name may be used.
    pub fn grammar(&self, text: &str) -> Option<String> {
        if self.names.is_empty() {
            return None;
        }
        match self.format {
            AnswerFormat::Entities => Some(entities::grammar(self, text)),
            AnswerFormat::Triples => Some(triples::grammar(self, text)),
            AnswerFormat::Classes => Some(classes::grammar(self)),
            AnswerFormat::Pair => Some(pair::grammar(self)),
            AnswerFormat::Choice => Some(choice::grammar(self)),
            AnswerFormat::Text => None,
        }
    }

    /// Writes an answer as a model is to learn it.
    ///
    /// # Errors
    /// Where the value is of another kind or uses a name that was not offered; such a record must not be learned.
    pub fn render(&self, answer: &Answer) -> Result<String, Unrenderable> {
        match (self.format, answer) {
            (AnswerFormat::Entities, Answer::Entities(groups)) => entities::render(self, groups),
            (AnswerFormat::Triples, Answer::Triples(triples)) => triples::render(self, triples),
            (AnswerFormat::Classes, Answer::Labels(labels)) => classes::render(self, labels),
            (AnswerFormat::Pair, Answer::Labels(labels)) => pair::render(self, labels),
            (AnswerFormat::Choice, Answer::Choice(choice)) => choice::render(self, choice),
            (AnswerFormat::Text, Answer::Text(text)) => Ok(text::render(text)),
            (format, answer) => Err(Unrenderable::Kind { format, found: answer.name() }),
        }
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// Where nothing of the format can be made out; a counted outcome, not a failure of the program.
    pub fn parse(&self, reply: &str) -> Result<Answer, Unparsable> {
        match self.format {
            AnswerFormat::Entities => entities::parse(self, reply).map(Answer::Entities),
            AnswerFormat::Triples => triples::parse(self, reply).map(Answer::Triples),
            AnswerFormat::Classes => classes::parse(self, reply).map(Answer::Labels),
            AnswerFormat::Pair => pair::parse(self, reply).map(Answer::Labels),
            AnswerFormat::Choice => choice::parse(self, reply).map(Answer::Choice),
            AnswerFormat::Text => text::parse(reply).map(Answer::Text),
        }
    }

    /// The spec's name that a written name means: itself, else the first that differs only in case, width, spacing, or
    /// a list mark before it.
    pub(crate) fn known<'a>(&'a self, written: &str) -> Option<&'a str> {
        if let Some(name) = self.names.iter().find(|name| *name == written) {
            return Some(name);
        }
        let find = |folded: String| self.names.iter().find(|name| fold(name) == folded);
        let bare = || written.trim_matches(|c: char| c.is_whitespace() || "*-•#`\"'“”‘’「」【】".contains(c));
        find(fold(written)).or_else(|| find(fold(bare()))).map(String::as_str)
    }

    pub(crate) fn offers(&self, name: &str) -> Result<(), Unrenderable> {
        if self.names.is_empty() || self.names.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(Unrenderable::NotOffered { name: name.to_owned() })
    }

    pub(crate) fn chinese(&self) -> bool {
        self.language == Language::Zh
    }
}

/// Why an answer cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrenderable {
    /// The answer is of another kind than the format.
    #[error("the answer format {format:?} cannot hold {found}")]
    Kind {
        /// The format.
        format: AnswerFormat,
        /// What was to be written.
        found: &'static str,
    },
    /// The answer uses a type, relation, class or choice that the question does not offer.
    #[error("`{name}` is not among the names that the question offers")]
    NotOffered {
        /// The name.
        name: String,
    },
    /// A pair has one label, a text is not blank.
    #[error("expected {expected}, found {found}")]
    Count {
        /// How many there must be.
        expected: &'static str,
        /// How many there are.
        found: usize,
    },
}

/// A reply that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{reason}")]
pub struct Unparsable {
    /// What was missing.
    pub reason: Reason,
}

/// Why a reply could not be read.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The reply is blank.
    #[error("the reply is blank")]
    Empty,
    /// No line starts with a known entity type.
    #[error("no line names one of the entity types")]
    NoEntityType,
    /// No pair in brackets under a known relation.
    #[error("no pair in brackets under one of the relations")]
    NoPair,
    /// The only pair is cut off.
    #[error("the only pair is cut off")]
    CutOff,
    /// No known class.
    #[error("none of the classes is named")]
    NoClass,
    /// No choice, by letter or by text.
    #[error("none of the choices is named")]
    NoChoice,
    /// Several choices or classes where one was asked for.
    #[error("several are named where one was asked for")]
    Several,
}

impl From<Reason> for Unparsable {
    fn from(reason: Reason) -> Self {
        Self { reason }
    }
}

/// Whether a reply without any item says, in any of the usual ways, that there is nothing to report.
pub(crate) fn says_nothing(reply: &str) -> bool {
    const WORDS: [&str; 7] = ["none", "null", "n/a", "empty", "无", "暂无", "[]"];
    const STARTS: [&str; 24] = [
        "no ",
        "none ",
        "not found",
        "nothing",
        "there are no",
        "there is no",
        "there were no",
        "没有",
        "不存在",
        "不包含",
        "无相关",
        "无实体",
        "无任何",
        "未发现",
        "未找到",
        "未检",
        "未提",
        "未识别",
        "未包含",
        "未抽取",
        "文中未",
        "文中没",
        "文本中未",
        "文本中没",
    ];
    let reply = fold(reply.trim_matches(|c: char| c.is_whitespace() || ".。!！".contains(c)));
    let reply = reply.strip_prefix("上述").unwrap_or(&reply);
    // A long reply that happens to start with "no" is prose.
    WORDS.contains(&reply)
        || (reply.chars().count() <= 60 && STARTS.iter().any(|start| reply.starts_with(start)))
}
