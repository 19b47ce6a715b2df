//! From documents to questions with their answers, and on to prompts.

use serde::{Deserialize, Serialize};
use taiyi_corpus::offsets::CharSpan;
use taiyi_corpus::schema::{
    Content, Document, Entity, Ie, Language, Mrd, Qa, QaKind, Relation, RelationLevel, Speaker, TpKind,
};

use crate::answers::{Answer, Triple, Unrenderable};
use crate::conversation::Turn;
use crate::draw::{draw, unit};
use crate::labels::{DatasetLabels, LabelNames};
use crate::question::Question;
use crate::template::Templates;
use crate::units::{self, Unit, hull};

/// What a recipe asks of a dataset's documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Entities, all types at once.
    Ner,
    /// Entities, one type at a time.
    NerOne,
    /// Relations, all types at once.
    Re,
    /// Relations, one type at a time.
    ReOne,
    /// Classes of a text.
    Tc,
    /// The label of a pair.
    Tp,
    /// Questions, with or without choices and contexts.
    Qa,
    /// Dialogue.
    Mrd,
    /// Translation.
    Mt,
}

impl Ask {
    /// Everything that can be asked.
    pub const ALL: [Self; 9] =
        [Self::Ner, Self::NerOne, Self::Re, Self::ReOne, Self::Tc, Self::Tp, Self::Qa, Self::Mrd, Self::Mt];

    /// The name in recipes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ner => "ner",
            Self::NerOne => "ner_one",
            Self::Re => "re",
            Self::ReOne => "re_one",
            Self::Tc => "tc",
            Self::Tp => "tp",
            Self::Qa => "qa",
            Self::Mrd => "mrd",
            Self::Mt => "mt",
        }
    }
}

/// How documents are cut into questions.
#[derive(Clone, Debug, PartialEq)]
pub struct AskOptions {
    /// The piece of text that an entity question is about. Relations are asked of whole documents: their arguments may
    /// stand sentences apart.
    pub unit: Unit,
    /// Of [`Ask::NerOne`] and [`Ask::ReOne`]: how many types that are absent are asked for, per type that is present.
    /// A text without any gets this many out of one type's worth, too.
    pub negatives: f64,
    /// Share of the pieces without a single answer that is kept when all types are asked at once, `0.0..=1.0`.
    pub empty: f64,
    /// At most this many labels are offered: those of the answer and a draw from the others, in the order of the card.
    pub offered: Option<usize>,
    /// A context longer than this many code points is cut behind its last whole sentence within them.
    pub context_chars: Option<usize>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for AskOptions {
    fn default() -> Self {
        Self { unit: Unit::Document, negatives: 1.0, empty: 1.0, offered: None, context_chars: None, seed: 0 }
    }
}

/// One question with its answer, not yet worded.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The question.
    pub question: Question,
    /// What is to be learned, in normal form. Of a dialogue, the first reply.
    pub answer: Answer,
    /// The turns of a dialogue after the first; empty for everything else.
    pub following: Vec<Turn>,
    /// The published category: `NER`, `TP-ss`, `QA-mcq`, ….
    pub category: &'static str,
    /// The piece of the document's text, in code points, where it was cut into pieces.
    pub span: Option<CharSpan>,
}

/// A worded question with its written answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What the human says.
    pub human: String,
    /// What the assistant is to say.
    pub assistant: String,
    /// The wording, as `ner_one.zh:3`.
    pub template: String,
}

/// Why a document gives no question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Skip {
    /// The document holds nothing of the kind that is asked.
    #[error("holds nothing that `{asked}` asks for")]
    OtherTask {
        /// What was asked.
        asked: &'static str,
    },
    /// The text, question or source is blank.
    #[error("a blank text")]
    Blank,
    /// The answer is blank, or there is none.
    #[error("no answer")]
    NoAnswer,
    /// Several choices are correct where one is asked for.
    #[error("several correct choices")]
    SeveralAnswers,
    /// The correct answer is not among the choices.
    #[error("the answer is not among the choices")]
    NotAChoice,
    /// The label is not in the label set.
    #[error("label `{label}`, which the card does not list")]
    UnknownLabel {
        /// As the source spells it.
        label: String,
    },
    /// The dataset has no labels of this kind.
    #[error("no labels to offer")]
    NoLabels,
    /// A dialogue without a doctor's reply to a patient.
    #[error("no reply in the dialogue")]
    NoReply,
    /// A concept of a relation has no mention in the text.
    #[error("a relation between concepts without a mention")]
    NoMention,
}

/// Makes questions of documents with one dataset's labels.
#[derive(Clone, Debug)]
pub struct PromptBuilder<'a> {
    labels: &'a DatasetLabels,
    options: AskOptions,
}

impl<'a> PromptBuilder<'a> {
    /// A builder. Entity and relation types that `labels` does not list are neither asked for nor answered: that is how a
    /// recipe or benchmark asks for some of a corpus's types only.
    pub fn new(labels: &'a DatasetLabels, options: AskOptions) -> Self {
        Self { labels, options }
    }

    /// The questions that `ask` makes of a document, in order; empty where the draw of negatives leaves none.
    ///
    /// # Errors
    /// Where the document gives no question of this kind; a counted outcome.
    pub fn asked(&self, document: &Document, ask: Ask) -> Result<Vec<Asked>, Skip> {
        let language = document.language;
        let other = || Skip::OtherTask { asked: ask.name() };
        match (ask, &document.content) {
            (Ask::Ner, Content::Ie(ie)) => self.entities(document, ie),
            (Ask::NerOne, Content::Ie(ie)) => self.entities_by_type(document, ie),
            (Ask::Re, Content::Ie(ie)) => self.relations(document, ie),
            (Ask::ReOne, Content::Ie(ie)) => self.relations_by_type(document, ie),
            (Ask::Tc, Content::Tc(tc)) => {
                let names = &self.labels.classes;
                let labels =
                    tc.labels.iter().map(|label| listed(names, label, language)).collect::<Result<_, _>>()?;
                let answer = Answer::Labels(labels).normalized();
                let multi = self.labels.multi_label;
                if !multi && answer.len() != 1 {
                    return Err(if answer.is_empty() { Skip::NoAnswer } else { Skip::SeveralAnswers });
                }
                let offered = self.offer(document, names, &answer)?;
                let question = Question::classes(not_blank(&tc.text)?, offered, multi, language);
                Ok(vec![one(question, answer, "TC")])
            }
            (Ask::Tp, Content::Tp(tp)) => {
                let (text_1, text_2) = (not_blank(&tp.text_1)?, not_blank(&tp.text_2)?);
                let label = listed(&self.labels.classes, &tp.label, language)?;
                let labels = self.labels.classes.displays(language);
                let category = match tp.kind {
                    TpKind::Similarity => "TP-ss",
                    TpKind::Entailment => "TP-te",
                    TpKind::Relevance => "TP-rel",
                };
                let question = Question::pair(tp.kind, text_1, text_2, labels, language);
                Ok(vec![one(question, Answer::Labels(vec![label]), category)])
            }
            (Ask::Qa, Content::Qa(qa)) => self.question(qa, language).map(|asked| vec![asked]),
            (Ask::Mrd, Content::Mrd(dialogue)) => self::dialogue(dialogue, language).map(|asked| vec![asked]),
            (Ask::Mt, Content::Mt(mt)) => {
                let category = if language == Language::ZhEn { "MT-zh2en" } else { "MT-en2zh" };
                let answer = Answer::Text(answered(&mt.target)?);
                Ok(vec![one(Question::translation(not_blank(&mt.source)?, language), answer, category)])
            }
            _ => Err(other()),
        }
    }

    fn question(&self, qa: &Qa, language: Language) -> Result<Asked, Skip> {
        let question = not_blank(&qa.question)?;
        let context = self.context(&qa.contexts);
        let mut answers = qa.answers.iter().filter(|answer| !answer.trim().is_empty());
        let answer = answers.next().ok_or(Skip::NoAnswer)?;
        if qa.kind == QaKind::MultipleChoice {
            if answers.any(|other| other != answer) {
                return Err(Skip::SeveralAnswers);
            }
            if !qa.choices.contains(answer) {
                return Err(Skip::NotAChoice);
            }
            let asked = Question::choice(question, &context, qa.choices.clone(), language);
            return Ok(one(asked, Answer::Choice(answer.clone()), "QA-mcq"));
        }
        // Of several answers to an open question, the first: the others are other people's.
        let asked = Question::open(question, &context, language);
        let category = if context.trim().is_empty() { "QA-sqa" } else { "QA-cqa" };
        Ok(one(asked, Answer::Text(answered(answer)?), category))
    }

    fn context(&self, contexts: &[String]) -> String {
        let context = contexts.join("\n");
        let Some(longest) = self.options.context_chars else { return context };
        match units::text_units(&context, Unit::Window(longest)).into_iter().next() {
            Some((span, first)) if span.end < context.chars().count() => {
                first.chars().take(longest).collect()
            }
            _ => context,
        }
    }

    fn entities(&self, document: &Document, ie: &Ie) -> Result<Vec<Asked>, Skip> {
        let mut asked = Vec::new();
        for (span, text) in self.pieces(ie)? {
            let answer = self.entity_answer(document, ie, span);
            if answer.is_empty() && !self.kept(self.options.empty, document, "empty", span) {
                continue;
            }
            let types = self.offer(document, &self.labels.entities, &answer)?;
            let question = Question::entities(&text, types, document.language);
            asked.push(Asked { span, ..one(question, answer, "NER") });
        }
        Ok(asked)
    }

    fn entities_by_type(&self, document: &Document, ie: &Ie) -> Result<Vec<Asked>, Skip> {
        let types = self.all(&self.labels.entities, document.language)?;
        let mut asked = Vec::new();
        for (span, text) in self.pieces(ie)? {
            let Answer::Entities(groups) = self.entity_answer(document, ie, span) else { continue };
            for kind in &types {
                let found: Vec<_> = groups.iter().filter(|(known, _)| known == kind).cloned().collect();
                if !found.is_empty()
                    || self.kept(self.negatives(groups.len(), types.len()), document, kind, span)
                {
                    let question = Question::entities_of(&text, kind, document.language);
                    asked.push(Asked { span, ..one(question, Answer::Entities(found), "NER") });
                }
            }
        }
        Ok(asked)
    }

    fn relations(&self, document: &Document, ie: &Ie) -> Result<Vec<Asked>, Skip> {
        let text = ie.text();
        not_blank(&text)?;
        let answer = Answer::Triples(self.triples(document, ie)?);
        if answer.is_empty() && !self.kept(self.options.empty, document, "empty", None) {
            return Ok(Vec::new());
        }
        let relations = self.offer(document, &self.labels.relations, &answer)?;
        Ok(vec![one(Question::relations(&text, relations, document.language), answer, "RE")])
    }

    fn relations_by_type(&self, document: &Document, ie: &Ie) -> Result<Vec<Asked>, Skip> {
        let text = ie.text();
        not_blank(&text)?;
        let relations = self.all(&self.labels.relations, document.language)?;
        let triples = self.triples(document, ie)?;
        let present = relations
            .iter()
            .filter(|relation| triples.iter().any(|triple| triple.relation == **relation))
            .count();
        let mut asked = Vec::new();
        for relation in &relations {
            let found: Vec<Triple> =
                triples.iter().filter(|triple| triple.relation == *relation).cloned().collect();
            if !found.is_empty()
                || self.kept(self.negatives(present, relations.len()), document, relation, None)
            {
                let question = Question::relations_of(&text, relation, document.language);
                asked.push(one(question, Answer::Triples(found), "RE"));
            }
        }
        Ok(asked)
    }

    fn pieces(&self, ie: &Ie) -> Result<Vec<(Option<CharSpan>, String)>, Skip> {
        // What has no offsets cannot be told to stand in one piece; the whole text is asked about.
        let placed = ie.entities.iter().all(|entity| !entity.offsets.is_empty());
        let unit = if placed { self.options.unit } else { Unit::Document };
        let whole = unit == Unit::Document;
        let pieces = units::units(ie, unit).into_iter();
        let pieces: Vec<_> = pieces
            .filter(|(_, text)| !text.trim().is_empty())
            .map(|(span, text)| ((!whole).then_some(span), text))
            .collect();
        if pieces.is_empty() { Err(Skip::Blank) } else { Ok(pieces) }
    }

    /// The entities of a piece: types in the order of the card, strings in the order of the text.
    fn entity_answer(&self, document: &Document, ie: &Ie, span: Option<CharSpan>) -> Answer {
        let inside = |entity: &Entity| match (span, hull(&entity.offsets)) {
            (Some(span), Some(hull)) => span.start <= hull.start && hull.end <= span.end,
            (Some(_), None) => false,
            (None, _) => true,
        };
        let mut entities: Vec<&Entity> = ie.entities.iter().filter(|entity| inside(entity)).collect();
        entities.sort_by_key(|entity| hull(&entity.offsets).map(|hull| (hull.start, hull.end)));
        let names = &self.labels.entities;
        let mut groups: Vec<(String, Vec<String>)> =
            names.displays(document.language).into_iter().map(|kind| (kind, Vec::new())).collect();
        for entity in entities {
            let surface = surface(entity);
            let Ok(kind) = listed(names, &entity.kind, document.language) else { continue };
            if let Some((_, strings)) = groups.iter_mut().find(|(known, _)| *known == kind)
                && !surface.is_empty()
            {
                strings.push(surface);
            }
        }
        Answer::Entities(groups).normalized()
    }

    /// The triples of a document: relations in the order of the card, pairs in the order of the text.
    fn triples(&self, document: &Document, ie: &Ie) -> Result<Vec<Triple>, Skip> {
        let names = &self.labels.relations;
        let order = names.displays(document.language);
        let mut found = Vec::with_capacity(ie.relations.len());
        for (at, relation) in ie.relations.iter().enumerate() {
            let Ok(name) = listed(names, &relation.kind, document.language) else { continue };
            let (Some((head_at, head)), Some((tail_at, tail))) =
                (argument(ie, relation, &relation.arg1_id), argument(ie, relation, &relation.arg2_id))
            else {
                return Err(Skip::NoMention);
            };
            let rank = order.iter().position(|known| *known == name);
            found.push(((rank, head_at, tail_at, at), Triple { relation: name, head, tail }));
        }
        found.sort_by_key(|(key, _)| *key);
        match Answer::Triples(found.into_iter().map(|(_, triple)| triple).collect()).normalized() {
            Answer::Triples(triples) => Ok(triples),
            _ => Ok(Vec::new()),
        }
    }

    fn all(&self, names: &LabelNames, language: Language) -> Result<Vec<String>, Skip> {
        if names.is_empty() { Err(Skip::NoLabels) } else { Ok(names.displays(language)) }
    }

    /// The labels offered for an answer: all, or those of the answer and a draw from the others.
    fn offer(&self, document: &Document, names: &LabelNames, answer: &Answer) -> Result<Vec<String>, Skip> {
        let all = self.all(names, document.language)?;
        let Some(most) = self.options.offered.filter(|most| *most < all.len()) else { return Ok(all) };
        let needed = |label: &String| match answer {
            Answer::Entities(groups) => groups.iter().any(|(kind, _)| kind == label),
            Answer::Triples(triples) => triples.iter().any(|triple| triple.relation == *label),
            Answer::Labels(labels) => labels.contains(label),
            Answer::Choice(_) | Answer::Text(_) => false,
        };
        let mut drawn: Vec<&String> = all.iter().collect();
        let key = |label: &str| draw(self.options.seed, &["offer", &document.dataset, &document.id, label]);
        drawn.sort_by_key(|label| (!needed(label), key(label)));
        let least = all.iter().filter(|label| needed(label)).count();
        let chosen: Vec<String> = drawn.into_iter().take(most.max(least)).cloned().collect();
        Ok(all.into_iter().filter(|label| chosen.contains(label)).collect())
    }

    /// The share of absent types to ask for.
    fn negatives(&self, present: usize, types: usize) -> f64 {
        let absent = types.saturating_sub(present).max(1);
        self.options.negatives * present.max(1) as f64 / absent as f64
    }

    fn kept(&self, share: f64, document: &Document, what: &str, span: Option<CharSpan>) -> bool {
        let start = span.map_or(String::new(), |span| span.start.to_string());
        let number = draw(self.options.seed, &["keep", &document.dataset, &document.id, what, &start]);
        unit(number) < share
    }
}

impl Templates {
    /// Words a question and writes its answer; `wording` counts round.
    ///
    /// # Errors
    /// Where the answer does not fit the question.
    pub fn prompt(&self, asked: &Asked, wording: usize) -> Result<Prompt, Unrenderable> {
        let template = self.of(&asked.question);
        Ok(Prompt {
            human: template.fill(&asked.question, wording),
            assistant: asked.question.spec.render(&asked.answer)?,
            template: format!("{}:{}", template.name(), wording % template.len()),
        })
    }
}

fn one(question: Question, answer: Answer, category: &'static str) -> Asked {
    Asked { question, answer, following: Vec::new(), category, span: None }
}

fn not_blank(text: &str) -> Result<&str, Skip> {
    if text.trim().is_empty() { Err(Skip::Blank) } else { Ok(text) }
}

/// A free answer without the blanks around it, which are no part of what is to be learned.
fn answered(text: &str) -> Result<String, Skip> {
    let text = text.trim();
    if text.is_empty() { Err(Skip::NoAnswer) } else { Ok(text.to_owned()) }
}

fn listed(names: &LabelNames, source: &str, language: Language) -> Result<String, Skip> {
    if names.names().iter().any(|name| name.source == source) {
        Ok(names.display(source, language).to_owned())
    } else {
        Err(Skip::UnknownLabel { label: source.to_owned() })
    }
}

/// What a mention is called, without blanks around it: annotators' spans sometimes hold one, readers never name it.
fn surface(entity: &Entity) -> String {
    entity.surface().trim().to_owned()
}

/// Where an argument stands and what it is called: an entity's string, or that of a concept's first mention. A mention of
/// that concept alone goes before one of several concepts ("A and B").
fn argument(ie: &Ie, relation: &Relation, id: &str) -> Option<(Option<CharSpan>, String)> {
    let entity = match relation.level {
        RelationLevel::Mention => ie.entity(id)?,
        RelationLevel::Concept => {
            let names = |entity: &&Entity| entity.normalized.iter().any(|concept| concept.db_id == id);
            let place = |entity: &&Entity| (entity.normalized.len() > 1, hull(&entity.offsets));
            ie.entities.iter().filter(names).min_by_key(place)?
        }
    };
    let surface = surface(entity);
    (!surface.is_empty()).then(|| (hull(&entity.offsets), surface))
}

/// A dialogue from the patient's first words to the doctor's last: utterances of one speaker in a row are one turn, the
/// context goes before the first.
fn dialogue(dialogue: &Mrd, language: Language) -> Result<Asked, Skip> {
    let mut turns: Vec<(Speaker, String)> = Vec::new();
    let context = dialogue.context.as_deref().map(str::trim).filter(|context| !context.is_empty());
    if let Some(context) = context {
        turns.push((Speaker::Patient, context.to_owned()));
    }
    for utterance in &dialogue.utterances {
        let text = utterance.text.trim();
        if text.is_empty() {
            continue;
        }
        match turns.last_mut() {
            // Some sources repeat the description as the first utterance.
            Some((speaker, said)) if *speaker == utterance.speaker && said == text => {}
            Some((speaker, said)) if *speaker == utterance.speaker => {
                said.push('\n');
                said.push_str(text);
            }
            // What a doctor says before there is anything to reply to cannot be learned as a reply.
            None if utterance.speaker == Speaker::Doctor => {}
            _ => turns.push((utterance.speaker, text.to_owned())),
        }
    }
    let mut pairs =
        turns.chunks_exact(2).map(|pair| Turn { human: pair[0].1.clone(), assistant: pair[1].1.clone() });
    let first = pairs.next().ok_or(Skip::NoReply)?;
    let following = pairs.collect();
    let question = Question::dialogue(&first.human, language);
    Ok(Asked { following, ..one(question, Answer::Text(first.assistant), "MRD") })
}
