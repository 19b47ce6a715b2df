//! What goes into an encoder's pass.

use crate::{batch::NOT_LEARNED, encoder::EncoderConfig, encoder::EncoderTask, error::Error};

/// Sequences packed one after the other; attention stays inside a sequence.
#[derive(Debug, Clone, Copy)]
pub struct EncoderBatch<'a> {
    /// Token ids of all sequences, shape (T).
    pub ids: &'a [u32],
    /// Token types, shape (T); empty for all 0.
    pub token_types: &'a [u32],
    /// Where each sequence begins, and `T` at the end: shape (sequences + 1), starting with 0, rising.
    pub cu_seqlens: &'a [u32],
}

/// What an encoder is to answer.
#[derive(Debug, Clone, Copy)]
pub enum Labels<'a> {
    /// The class of each token (of the vocabulary for a masked language model), or [`NOT_LEARNED`]; shape (T).
    Tokens(&'a [i32]),
    /// The class of each sequence, or [`NOT_LEARNED`]; shape (sequences).
    Classes(&'a [i32]),
    /// 1 for each label that holds and 0 for the others; shape (sequences, labels).
    Several(&'a [f32]),
}

impl EncoderBatch<'_> {
    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    pub(crate) fn check(&self, config: &EncoderConfig) -> Result<(), Error> {
        crate::batch::check_boundaries(self.cu_seqlens, self.ids.len())?;
        crate::batch::check_ids(self.ids, config.vocab_size)?;
        if !self.token_types.is_empty() && self.token_types.len() != self.ids.len() {
            return Err(Error::input(
                "token types",
                format!("{}, one for each token, or none", self.ids.len()),
                self.token_types.len().to_string(),
            ));
        }
        if let Some(kind) = self.token_types.iter().find(|&&kind| kind as usize >= config.type_vocab_size) {
            return Err(Error::input(
                "token types",
                format!("numbers under {}", config.type_vocab_size),
                kind.to_string(),
            ));
        }
        let longest = config.longest();
        for (i, range) in self.cu_seqlens.windows(2).enumerate() {
            if (range[1] - range[0]) as usize > longest {
                return Err(Error::input(
                    format!("sequence {i}"),
                    format!("at most {longest} tokens, for which the model has positions"),
                    (range[1] - range[0]).to_string(),
                ));
            }
        }
        Ok(())
    }
}

impl Labels<'_> {
    pub(crate) fn check(&self, config: &EncoderConfig, batch: &EncoderBatch<'_>) -> Result<(), Error> {
        let classes = config.outputs();
        let wrong = |expected: String, found: String| Error::input("labels", expected, found);
        let (given, expected, fits) = match (self, config.task) {
            (Labels::Tokens(l), EncoderTask::MaskedLm | EncoderTask::TokenClassification) => {
                (l.len(), batch.ids.len(), true)
            }
            (Labels::Classes(l), EncoderTask::SequenceClassification { .. }) => {
                (l.len(), batch.sequences(), true)
            }
            (Labels::Several(l), EncoderTask::SequenceClassification { .. }) => {
                (l.len(), batch.sequences() * classes, true)
            }
            _ => (0, 0, false),
        };
        if !fits {
            return Err(wrong(
                format!("labels of a model for {:?}", config.task),
                "those of another task".into(),
            ));
        }
        if given != expected {
            return Err(wrong(expected.to_string(), given.to_string()));
        }
        match self {
            Labels::Tokens(l) | Labels::Classes(l) => {
                let bad = |&&l: &&i32| l != NOT_LEARNED && usize::try_from(l).map_or(true, |l| l >= classes);
                l.iter().find(bad).map_or(Ok(()), |l| {
                    Err(wrong(format!("{NOT_LEARNED} or a class under {classes}"), l.to_string()))
                })
            }
            Labels::Several(l) => l
                .iter()
                .find(|l| !(0.0..=1.0).contains(*l))
                .map_or(Ok(()), |l| Err(wrong("numbers from 0 to 1".to_owned(), l.to_string()))),
        }
    }
}
