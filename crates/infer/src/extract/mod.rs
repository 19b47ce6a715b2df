//! Extraction: documents become questions, replies become entities and relations with offsets into the input; or an encoder labels
//! the text ([`LabelExtractor`]).
//!
//! Nothing is dropped silently: every reply that cannot be read, every string that does not stand in the text and every
//! relation whose arguments are no entities is in the document's [`ExtractReport`].

mod labelled;
mod names;
mod place;
mod questions;
mod replier;

use serde::{Deserialize, Serialize};
use taiyi_corpus::offsets::CharSpan;
use taiyi_corpus::schema::{Document, Language};
use taiyi_instruct::answers::Reason;
use taiyi_instruct::{LabelNames, Templates, Triple, Unit};

pub use labelled::LabelExtractor;
pub use names::{NameKind, all_named, named};
pub(crate) use questions::whole_text;
pub use replier::{ModelReplier, Replier, TextPrompt};

use crate::error::InferError;
use crate::generate::Finish;
use crate::model::Reply;
use questions::Plan;

/// What is looked for, and how it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtractOptions {
    /// Entity types. Prompts use the name in the text's language; documents the source spelling.
    pub entities: LabelNames,
    /// Relations between entities; empty to ask for none. Where no entity type is asked for, arguments that stand in
    /// the text become entities of the type [`ARGUMENT`].
    pub relations: LabelNames,
    /// One type or relation a question instead of all at once: more questions, each an easier one.
    pub one_at_a_time: bool,
    /// The piece of text that an entity question is about, made smaller where the model cannot hold it.
    pub unit: Unit,
    /// The piece that a relation question is about: arguments may stand sentences apart.
    pub relation_unit: Unit,
    /// Whether an entity may stand inside another.
    pub nested: bool,
    /// The language of the prompts; without it, each document's.
    pub language: Option<Language>,
    /// Which wording of the templates.
    pub wording: usize,
    /// Whether a reply is constrained to the answer format and to strings of the text. What is not in the text has no
    /// offsets, so only a reply's own words are lost.
    pub constrained: bool,
}

impl Default for ExtractOptions {
    /// Nothing to look for yet; windows of 400 code points for entities, whole documents for relations; constrained.
    fn default() -> Self {
        Self {
            entities: LabelNames::default(),
            relations: LabelNames::default(),
            one_at_a_time: false,
            unit: Unit::Window(400),
            relation_unit: Unit::Document,
            nested: false,
            language: None,
            wording: 0,
            constrained: true,
        }
    }
}

/// The type of entities that only a relation names.
pub const ARGUMENT: &str = "Argument";

/// A document with what was found in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// The text with the entities and relations found; annotations that the input had are not among them.
    pub document: Document,
    /// What was asked and what could not be used.
    pub report: ExtractReport,
}

/// How the extraction of one document went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExtractReport {
    /// The document's id.
    pub id: String,
    /// Questions asked; of an encoder, windows read.
    pub questions: usize,
    /// Replies that could not be read.
    pub unparsable: Vec<UnparsableReply>,
    /// Replies cut off at the length limit; what they hold is used.
    pub cut_off: usize,
    /// Questions not asked or not answered because they fill the model even about the smallest piece of text.
    pub too_long: usize,
    /// Strings of replies that do not stand in the text, with their types.
    pub unfound: Vec<(String, String)>,
    /// Strings and triples under types that were not asked for.
    pub not_asked: usize,
    /// Relations whose arguments are no entities of the text.
    pub unplaced: Vec<Triple>,
    /// Why nothing was asked, where the document's kind holds no text to extract from; it is passed on as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// A reply that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnparsableReply {
    /// What was asked for: the names of the types or relations.
    pub asked: Vec<String>,
    /// The piece of text that was asked about, in code points.
    pub span: CharSpan,
    /// What the reply lacks.
    pub reason: Reason,
    /// The reply.
    pub reply: String,
}

/// Questions collected before they are asked together, so that the model runs many side by side.
const QUESTIONS_AT_ONCE: usize = 128;

/// Asks about documents and places what is replied.
pub struct Extractor<'a> {
    options: &'a ExtractOptions,
    templates: &'a Templates,
}

impl<'a> Extractor<'a> {
    /// An extractor; [`Templates::embedded`] are the usual wordings.
    pub fn new(options: &'a ExtractOptions, templates: &'a Templates) -> Self {
        Self { options, templates }
    }

    /// Extracts from documents, all questions at once.
    ///
    /// # Errors
    /// When the replier gives up or gives another number of replies than it was asked for.
    pub fn extract(
        &self,
        documents: &[Document],
        replier: &mut dyn Replier,
    ) -> Result<Vec<Extracted>, InferError> {
        let plans = documents
            .iter()
            .map(|document| Plan::of(document, self.options, self.templates, replier))
            .collect::<Result<Vec<_>, _>>()?;
        self.answer(plans, replier)
    }

    /// Extracts from documents as they come and hands each on as soon as it is done, in order; memory holds only a
    /// batch of them. An input that cannot be read goes to `sink` in its place.
    ///
    /// # Errors
    /// As [`Extractor::extract`], and whatever `sink` returns.
    pub fn extract_each(
        &self,
        documents: &mut dyn Iterator<Item = Result<Document, InferError>>,
        replier: &mut dyn Replier,
        sink: &mut Sink<'_>,
    ) -> Result<(), InferError> {
        each(&mut Asking { extractor: self, replier }, documents, sink)
    }

    fn answer(&self, plans: Vec<Plan>, replier: &mut dyn Replier) -> Result<Vec<Extracted>, InferError> {
        let asked = plans.iter().flat_map(|plan| plan.questions.iter().zip(&plan.prompts));
        let prompts: Vec<TextPrompt> = asked
            .map(|(question, prompt)| TextPrompt {
                text: prompt.clone(),
                grammar: self.options.constrained.then(|| question.spec.grammar(&question.text)).flatten(),
            })
            .collect();
        let replies = if prompts.is_empty() { Vec::new() } else { replier.reply(&prompts)? };
        if replies.len() != prompts.len() {
            return Err(InferError::Replies { asked: prompts.len(), found: replies.len() });
        }
        let mut replies = replies.into_iter();
        let place = |plan: Plan| {
            let own: Vec<Reply> = replies.by_ref().take(plan.prompts.len()).collect();
            place::place(plan, &own, self.options)
        };
        Ok(plans.into_iter().map(place).collect())
    }
}

/// Where extracted documents go, in the order of the input, with those that could not be read.
pub type Sink<'a> = dyn FnMut(Result<Extracted, InferError>) -> Result<(), InferError> + 'a;

/// What finds something in documents: each is looked at alone, and some are worked on together.
trait Extraction {
    type Plan;

    /// What is to be done about a document, and how much that is, in questions.
    fn plan(&self, document: &Document) -> Result<(Self::Plan, usize), InferError>;

    /// Does it, for each plan.
    fn answer(&mut self, plans: Vec<Self::Plan>) -> Result<Vec<Extracted>, InferError>;
}

/// An extractor with whoever answers it.
struct Asking<'a, 'o> {
    extractor: &'a Extractor<'o>,
    replier: &'a mut dyn Replier,
}

impl Extraction for Asking<'_, '_> {
    type Plan = Plan;

    fn plan(&self, document: &Document) -> Result<(Plan, usize), InferError> {
        let plan = Plan::of(document, self.extractor.options, self.extractor.templates, self.replier)?;
        let questions = plan.prompts.len();
        Ok((plan, questions))
    }

    fn answer(&mut self, plans: Vec<Plan>) -> Result<Vec<Extracted>, InferError> {
        self.extractor.answer(plans, self.replier)
    }
}

/// Works through documents as they come, a batch at a time.
fn each<E: Extraction>(
    extraction: &mut E,
    documents: &mut dyn Iterator<Item = Result<Document, InferError>>,
    sink: &mut Sink<'_>,
) -> Result<(), InferError> {
    let mut plans = Vec::new();
    let mut questions = 0;
    for document in documents {
        let failed = match document {
            Ok(document) => {
                let (plan, more) = extraction.plan(&document)?;
                questions += more;
                plans.push(plan);
                None
            }
            Err(error) => Some(error),
        };
        if failed.is_some() || questions >= QUESTIONS_AT_ONCE {
            questions = 0;
            for done in extraction.answer(std::mem::take(&mut plans))? {
                sink(Ok(done))?;
            }
        }
        if let Some(error) = failed {
            sink(Err(error))?;
        }
    }
    for done in extraction.answer(plans)? {
        sink(Ok(done))?;
    }
    Ok(())
}

impl ExtractReport {
    /// Counts how a reply ended.
    fn count(&mut self, reply: &Reply) {
        match reply.finish {
            Finish::Length | Finish::Cancelled | Finish::DeadEnd => self.cut_off += 1,
            Finish::TooLong => self.too_long += 1,
            Finish::Stop => {}
        }
    }
}
