//! What an encoder learns of documents: the labels there are, and each document as tokens with labels.

use crate::TrainError;
use crate::data::{Dataset, IGNORED, LabelledSample, Targets, each_document};
use crate::recipe::{Kind, Recipe, Source};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use taiyi_corpus::schema::{Content, Document};
use taiyi_instruct::tagging::{cut, windows};
use taiyi_instruct::{Classified, MentionCounts, TagSet};
use taiyi_model::EncoderTask;
use taiyi_model::tokenizer::{EncoderInput, Origin, Tokenizer};

/// How documents become samples.
pub(crate) struct Labelling<'a> {
    tokenizer: &'a Tokenizer,
    max_length: usize,
    answers: Answers,
}

enum Answers {
    Tags(TagSet),
    Classes { labels: Vec<String>, multi_label: bool },
}

impl<'a> Labelling<'a> {
    /// Collects the labels of the training documents: each once, sorted.
    pub(crate) fn new(recipe: &Recipe, tokenizer: &'a Tokenizer) -> Result<Self, TrainError> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut documents = 0_u64;
        for source in &recipe.data {
            each_document(source, &mut |line, document| {
                documents += 1;
                let refuse = |message| TrainError::Data { path: source.path.clone(), line, message };
                match (recipe.kind, &document.content) {
                    (Kind::TokenClassification, Content::Ie(ie)) => {
                        found.extend(ie.entities.iter().map(|entity| entity.kind.clone()));
                    }
                    (Kind::TokenClassification, content) => return Err(refuse(not_tagged(content))),
                    (_, content) => {
                        let classified = Classified::of(content).ok_or_else(|| not_classified(content));
                        found.extend(classified.map_err(refuse)?.labels.into_iter().map(str::to_owned));
                    }
                }
                Ok(())
            })?;
        }
        let path = || recipe.data.first().map_or_else(PathBuf::new, |source| source.path.clone());
        let empty = |message| Err(TrainError::Empty { path: path(), message });
        let answers = match recipe.kind {
            Kind::TokenClassification if found.is_empty() => {
                return empty(format!("no entity in {documents} documents; there is nothing to label"));
            }
            Kind::TokenClassification => Answers::Tags(TagSet::of_types(&found)),
            _ if found.is_empty() || (found.len() == 1 && !recipe.multi_label) => {
                let labels = if found.is_empty() { "no label" } else { "only one label" };
                return empty(format!("{labels} in {documents} documents; there is nothing to tell apart"));
            }
            _ => Answers::Classes { labels: found.into_iter().collect(), multi_label: recipe.multi_label },
        };
        Ok(Self { tokenizer, max_length: recipe.max_length, answers })
    }

    /// The labels in the order of their numbers.
    pub(crate) fn labels(&self) -> &[String] {
        match &self.answers {
            Answers::Tags(tags) => tags.labels(),
            Answers::Classes { labels, .. } => labels,
        }
    }

    /// What the encoder's head is to compute.
    pub(crate) fn task(&self) -> EncoderTask {
        match self.answers {
            Answers::Tags(_) => EncoderTask::TokenClassification,
            Answers::Classes { multi_label, .. } => EncoderTask::SequenceClassification { multi_label },
        }
    }

    /// Reads documents into samples.
    pub(crate) fn dataset(&self, sources: &[Source], store: &Path, seed: u64) -> Result<Dataset, TrainError> {
        let targets = match &self.answers {
            Answers::Tags(_) => Targets::Tokens,
            Answers::Classes { multi_label: false, .. } => Targets::Class,
            Answers::Classes { labels, .. } => Targets::Several(labels.len()),
        };
        let encode = |document: &Document| self.encode(&document.content);
        Dataset::from_documents(sources, store, targets, self.labels(), seed, &encode)
    }

    fn encode(&self, content: &Content) -> Result<(Vec<LabelledSample>, MentionCounts), String> {
        match &self.answers {
            Answers::Tags(tags) => self.tagged(tags, content),
            Answers::Classes { labels, multi_label } => {
                Ok((vec![self.classified(labels, *multi_label, content)?], MentionCounts::default()))
            }
        }
    }

    /// Windows of a text, a label for each token.
    fn tagged(
        &self,
        tags: &TagSet,
        content: &Content,
    ) -> Result<(Vec<LabelledSample>, MentionCounts), String> {
        let Content::Ie(ie) = content else { return Err(not_tagged(content)) };
        let text = ie.text();
        let (mentions, mut counts) =
            tags.mentions(ie, &text).map_err(|kind| unknown("entity type", &kind, tags.types()))?;
        let tokens = self.tokenizer.encode_with_offsets(&text).map_err(|error| error.to_string())?;
        let (ids, places): (Vec<u32>, Vec<_>) = tokens.into_iter().unzip();
        let labels = tags.label(&places, &mentions, &mut counts);
        let (prefix, suffix) = (self.tokenizer.prefix(), self.tokenizer.suffix());
        let room = self.max_length.saturating_sub(prefix.len() + suffix.len());
        let windows = windows(&text, &places, &mentions, room);
        counts.cut = cut(&windows, &places, &mentions);
        let sample = |window: std::ops::Range<usize>| {
            let number = |label: &Option<usize>| label.map_or(IGNORED, |label| label as i32);
            let ignored = |tokens: &[u32]| std::iter::repeat_n(IGNORED, tokens.len());
            let ids = [prefix, &ids[window.clone()], suffix].concat();
            let labels = ignored(prefix).chain(labels[window].iter().map(number)).chain(ignored(suffix));
            LabelledSample {
                token_types: vec![0; ids.len()],
                labels: labels.collect(),
                ids,
                truncated: false,
            }
        };
        Ok((windows.into_iter().map(sample).collect(), counts))
    }

    /// One text or two, with the labels of the whole.
    fn classified(
        &self,
        known: &[String],
        multi_label: bool,
        content: &Content,
    ) -> Result<LabelledSample, String> {
        let Classified { first, second, labels } =
            Classified::of(content).ok_or_else(|| not_classified(content))?;
        if !multi_label && labels.len() != 1 {
            let found = if labels.is_empty() { "no label".to_owned() } else { labels.join(", ") };
            return Err(format!("expected one label, found {found}; `multi_label = true` takes any number"));
        }
        let number = |label: &&str| {
            let place = known.binary_search_by(|other| other.as_str().cmp(label));
            place.map(|place| place as i32).map_err(|_| unknown("label", label, known))
        };
        let labels = labels.iter().map(number).collect::<Result<Vec<i32>, String>>()?;
        let input = self
            .tokenizer
            .encode_input(first, second.as_deref(), self.max_length)
            .map_err(|error| error.to_string())?;
        let truncated = input.ids.len() == self.max_length && is_cut(&input, first, second.as_deref());
        Ok(LabelledSample { ids: input.ids, token_types: input.token_type_ids, labels, truncated })
    }
}

/// Whether the last token of a text ends before the text does.
fn is_cut(input: &EncoderInput, first: &str, second: Option<&str>) -> bool {
    let (mut first_end, mut second_end) = (0, 0);
    for origin in &input.origins {
        match origin {
            Origin::First(bytes) => first_end = first_end.max(bytes.end),
            Origin::Second(bytes) => second_end = second_end.max(bytes.end),
            Origin::Special => {}
        }
    }
    first_end < first.trim_end().len() || second.is_some_and(|text| second_end < text.trim_end().len())
}

fn unknown(what: &str, found: &str, known: &[String]) -> String {
    format!("the {what} `{found}` is none of the training data's: {}", known.join(", "))
}

fn not_tagged(content: &Content) -> String {
    let found = schema(content);
    format!("expected a document with entities (schema IE) for token classification, found schema {found}")
}

fn not_classified(content: &Content) -> String {
    let found = schema(content);
    format!(
        "expected a classified text (schema TC), a pair (TP) or a question with choices and contexts (QA) for sequence \
         classification, found schema {found}"
    )
}

fn schema(content: &Content) -> &'static str {
    match content {
        Content::Ie(_) => "IE",
        Content::Tc(_) => "TC",
        Content::Qa(_) => "QA",
        Content::Mrd(_) => "MRD",
        Content::Mt(_) => "MT",
        Content::Tp(_) => "TP",
        Content::Tt(_) => "TT",
    }
}
