//! Extraction by an encoder that labels tokens: nothing is asked, so nothing can be unreadable or stand elsewhere.

use taiyi_corpus::offsets::TextIndex;
use taiyi_corpus::schema::{Content, Document};
use taiyi_instruct::{LabelName, LabelNames};

use super::place::entities;
use super::questions::{NO_TEXT, text_of};
use super::{ExtractReport, Extracted, Extraction, Sink, each};
use crate::error::InferError;
use crate::labels::LabelModel;

/// Finds the entities of documents.
pub struct LabelExtractor<'a> {
    model: &'a mut LabelModel,
    /// The model's types that are wanted, with what documents are to call them.
    wanted: Vec<(String, String)>,
}

impl<'a> LabelExtractor<'a> {
    /// Finds entities of these types, or of all that the model has labels for where none is named. A name means the label that it
    /// is, in any case and either language.
    ///
    /// # Errors
    /// When the model labels texts, or has no label for a name.
    pub fn new(model: &'a mut LabelModel, names: &LabelNames) -> Result<Self, InferError> {
        let wanted = wanted(model, names)?;
        Ok(Self { model, wanted })
    }

    /// Says whether a model can look for these types.
    ///
    /// # Errors
    /// As [`LabelExtractor::new`].
    pub fn check(model: &LabelModel, names: &LabelNames) -> Result<(), InferError> {
        wanted(model, names).map(|_| ())
    }

    /// Extracts from documents, all at once.
    ///
    /// # Errors
    /// When the tokenizer does not tell where tokens stand.
    pub fn extract(&mut self, documents: &[Document]) -> Result<Vec<Extracted>, InferError> {
        self.answer(documents.to_vec())
    }

    /// Extracts from documents as they come, as [`Extractor::extract_each`](super::Extractor::extract_each) does.
    ///
    /// # Errors
    /// As [`LabelExtractor::extract`], and whatever `sink` returns.
    pub fn extract_each(
        &mut self,
        documents: &mut dyn Iterator<Item = Result<Document, InferError>>,
        sink: &mut Sink<'_>,
    ) -> Result<(), InferError> {
        each(self, documents, sink)
    }
}

/// The model's labels for types, with what documents are to call them.
fn wanted(model: &LabelModel, names: &LabelNames) -> Result<Vec<(String, String)>, InferError> {
    let Some(known) = model.types() else {
        return Err(InferError::Head {
            expected: "token classification, which finds entities",
            found: "sequence classification".to_owned(),
        });
    };
    if names.is_empty() {
        return Ok(known.iter().map(|kind| (kind.clone(), kind.clone())).collect());
    }
    let same = |kind: &&String, name: &str| kind.to_lowercase() == name.to_lowercase();
    let label = |name: &LabelName| {
        let label = [&name.source, &name.en, &name.zh]
            .into_iter()
            .find_map(|name| known.iter().find(|kind| same(kind, name)));
        let unknown = || InferError::UnknownType { asked: name.source.clone(), known: known.join(", ") };
        Ok((label.ok_or_else(unknown)?.clone(), name.source.clone()))
    };
    names.names().iter().map(label).collect()
}

impl Extraction for LabelExtractor<'_> {
    type Plan = Document;

    /// Some hundred characters are about the work of a question.
    fn plan(&self, document: &Document) -> Result<(Document, usize), InferError> {
        let characters = text_of(&document.content).map_or(0, |ie| ie.text().len());
        Ok((document.clone(), 1 + characters / 400))
    }

    fn answer(&mut self, documents: Vec<Document>) -> Result<Vec<Extracted>, InferError> {
        let texts: Vec<Option<_>> = documents.iter().map(|document| text_of(&document.content)).collect();
        let whole: Vec<String> = texts.iter().flatten().map(|ie| ie.text()).collect();
        let found = self.model.mentions(&whole.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut found = whole.iter().zip(found);
        let mut all = Vec::with_capacity(documents.len());
        for (mut document, ie) in documents.into_iter().zip(texts) {
            let mut report = ExtractReport { id: document.id.clone(), ..ExtractReport::default() };
            let Some(mut ie) = ie else {
                report.skipped = Some(NO_TEXT.to_owned());
                all.push(Extracted { document, report });
                continue;
            };
            if let Some((text, found)) = found.next() {
                report.questions = found.windows;
                let index = TextIndex::new(text);
                let named = found.mentions.into_iter().filter_map(|mention| {
                    let (_, name) = self.wanted.iter().find(|(kind, _)| *kind == mention.kind)?;
                    Some((mention.span, name.clone()))
                });
                ie.entities = entities(&index, named);
            }
            document.content = Content::Ie(ie);
            all.push(Extracted { document, report });
        }
        Ok(all)
    }
}
