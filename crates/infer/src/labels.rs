//! A model that labels: an encoder and its tokenizer together. Entities of texts, labels of texts and pairs.
//!
//! This module knows texts and labels; it does not know which of them are wanted.

use std::ops::Range;
use std::path::Path;

use taiyi_corpus::offsets::{CharSpan, TextIndex};
use taiyi_instruct::TagSet;
use taiyi_instruct::tagging::windows;
use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::{Dtype, Encoder, EncoderBatch, EncoderConfig, EncoderTask, Workspace};

use crate::error::InferError;

/// An encoder with a head that labels tokens or texts, and its tokenizer.
pub struct LabelModel {
    encoder: Encoder,
    tokenizer: Tokenizer,
    workspace: Workspace,
    head: Head,
}

enum Head {
    Tokens(TagSet),
    Texts { several: bool },
}

/// A mention of an entity in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextMention {
    /// Where it stands, in code points of the text.
    pub span: CharSpan,
    /// Its type, as the model's labels spell it.
    pub kind: String,
}

/// What was found in one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextMentions {
    /// In the order of the text.
    pub mentions: Vec<TextMention>,
    /// Windows that the text was read in.
    pub windows: usize,
}

/// Tokens of sequences read together. Results do not depend on it: sequences do not see each other.
const TOKENS_AT_ONCE: usize = 4096;

impl LabelModel {
    /// Loads a model folder. What is small and can be wrong is read before the weights.
    ///
    /// # Errors
    /// When a file is missing or broken, the tokenizer is another model's, or the head is none that labels.
    pub fn load(dir: &Path, dtype: Dtype) -> Result<Self, InferError> {
        let config = EncoderConfig::load(dir)?;
        let tokenizer = Tokenizer::load(dir)?;
        tokenizer.check_fits(config.vocab_size)?;
        Head::of(&config)?;
        Self::new(Encoder::load(dir, dtype)?, tokenizer)
    }

    /// Puts together what is at hand, such as a model that was just trained.
    ///
    /// # Errors
    /// When the tokenizer does not fit the encoder, or the head is none that labels.
    pub fn new(encoder: Encoder, tokenizer: Tokenizer) -> Result<Self, InferError> {
        tokenizer.check_fits(encoder.config().vocab_size)?;
        let head = Head::of(encoder.config())?;
        Ok(Self { encoder, tokenizer, workspace: Workspace::new(), head })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The entity types it finds; `None` where it labels texts.
    pub fn types(&self) -> Option<&[String]> {
        match &self.head {
            Head::Tokens(tags) => Some(tags.types()),
            Head::Texts { .. } => None,
        }
    }

    /// The labels it gives texts, in the order of [`scores`](Self::scores); `None` where it labels tokens.
    pub fn classes(&self) -> Option<&[String]> {
        match &self.head {
            Head::Texts { .. } => Some(&self.encoder.config().labels),
            Head::Tokens(_) => None,
        }
    }

    /// Finds the entities of texts. A text that is longer than the model reads is cut between sentences where it can be; a mention
    /// across a border is one mention.
    ///
    /// # Errors
    /// When the head labels texts, or the tokenizer does not tell where tokens stand.
    pub fn mentions(&mut self, texts: &[&str]) -> Result<Vec<TextMentions>, InferError> {
        let Head::Tokens(tags) = &self.head else {
            return Err(self.other_head("token classification, which finds entities"));
        };
        let tags = tags.clone();
        let (prefix, suffix) = (self.tokenizer.prefix().to_vec(), self.tokenizer.suffix().to_vec());
        let room = self.encoder.config().tuned_length().saturating_sub(prefix.len() + suffix.len());
        let (mut places, mut counts, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
        for text in texts {
            let tokens = self.tokenizer.encode_with_offsets(text)?;
            let (ids, ranges): (Vec<u32>, Vec<Range<usize>>) = tokens.into_iter().unzip();
            let windows = windows(text, &ranges, &[], room);
            sequences.extend(windows.iter().map(|window| Input {
                ids: [prefix.as_slice(), &ids[window.clone()], &suffix].concat(),
                token_types: Vec::new(),
            }));
            counts.push(windows.len());
            places.push(ranges);
        }
        let width = tags.labels().len();
        // Of each sequence the labels of its text's tokens, without those of its frame.
        let mut found = self
            .read(&sequences, |sequence, logits| {
                let rows = logits.chunks(width).map(largest);
                let own = sequence.ids.len() - prefix.len() - suffix.len();
                rows.skip(prefix.len()).take(own).collect::<Vec<usize>>()
            })?
            .into_iter();
        let mut all = Vec::with_capacity(texts.len());
        for ((text, places), windows) in texts.iter().zip(places).zip(counts) {
            let labels: Vec<usize> = found.by_ref().take(windows).flatten().collect();
            let index = TextIndex::new(text);
            let mentions = tags.read(&places, &labels).into_iter().filter_map(|mention| {
                let span = index.chars_of(mention.span)?;
                Some(TextMention { span, kind: tags.types()[mention.kind].clone() })
            });
            all.push(TextMentions { mentions: mentions.collect(), windows });
        }
        Ok(all)
    }

    /// Scores every label for texts and pairs: logits, a row for each, in the order of [`classes`](Self::classes). What is too long
    /// loses the end of its longer text.
    ///
    /// # Errors
    /// When the head labels tokens, or the tokenizer does not say how two texts are put together.
    pub fn scores(&mut self, inputs: &[(&str, Option<&str>)]) -> Result<Vec<Vec<f32>>, InferError> {
        let Head::Texts { .. } = self.head else {
            return Err(self.other_head("sequence classification, which labels texts"));
        };
        let longest = self.encoder.config().tuned_length();
        let sequences = inputs
            .iter()
            .map(|(first, second)| {
                let input = self.tokenizer.encode_input(first, *second, longest)?;
                Ok(Input { ids: input.ids, token_types: input.token_type_ids })
            })
            .collect::<Result<Vec<_>, InferError>>()?;
        self.read(&sequences, |_, logits| logits.to_vec())
    }

    /// The labels that a row of scores says: each one that is likelier than not where several may hold, else the one likeliest. Only
    /// those that `offered` lets pass are considered.
    pub fn chosen(&self, scores: &[f32], offered: impl Fn(&str) -> bool) -> Vec<&str> {
        let labels = self.encoder.config().labels.iter().map(String::as_str);
        let considered = labels.zip(scores).filter(|(label, _)| offered(label));
        match self.head {
            Head::Texts { several: true } => {
                considered.filter(|(_, score)| **score > 0.0).map(|(label, _)| label).collect()
            }
            _ => considered
                .reduce(|best, one| if one.1 > best.1 { one } else { best })
                .map(|(label, _)| label)
                .into_iter()
                .collect(),
        }
    }

    fn other_head(&self, expected: &'static str) -> InferError {
        let found = match self.head {
            Head::Tokens(_) => "token classification",
            Head::Texts { .. } => "sequence classification",
        };
        InferError::Head { expected, found: found.to_owned() }
    }

    /// Runs sequences together, some at a time, and takes from each what `take` makes of its part of the logits. One without a
    /// token has no logits.
    fn read<T>(
        &mut self,
        sequences: &[Input],
        mut take: impl FnMut(&Input, &[f32]) -> T,
    ) -> Result<Vec<T>, InferError> {
        let per_token = matches!(self.head, Head::Tokens(_));
        let width = self.encoder.config().outputs();
        let mut taken = Vec::with_capacity(sequences.len());
        let mut rest = sequences;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fit = rest.iter().take_while(|sequence| {
                tokens += sequence.ids.len();
                tokens <= TOKENS_AT_ONCE
            });
            let (now, later) = rest.split_at(fit.count().max(1));
            rest = later;
            let (mut ids, mut token_types, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
            for sequence in now.iter().filter(|sequence| !sequence.ids.is_empty()) {
                ids.extend_from_slice(&sequence.ids);
                token_types.extend_from_slice(&sequence.token_types);
                token_types.resize(ids.len(), 0);
                cu_seqlens.push(ids.len() as u32);
            }
            let batch = EncoderBatch { ids: &ids, token_types: &token_types, cu_seqlens: &cu_seqlens };
            let mut logits: &[f32] =
                if ids.is_empty() { &[] } else { self.encoder.forward(&batch, &mut self.workspace)? };
            for sequence in now {
                let rows = if per_token { sequence.ids.len() } else { usize::from(!sequence.ids.is_empty()) };
                let (own, others) = logits.split_at(rows * width);
                logits = others;
                taken.push(take(sequence, own));
            }
        }
        Ok(taken)
    }
}

struct Input {
    ids: Vec<u32>,
    token_types: Vec<u32>,
}

impl Head {
    fn of(config: &EncoderConfig) -> Result<Self, InferError> {
        let other = |found: String| InferError::Head { expected: "token or sequence classification", found };
        match config.task {
            EncoderTask::MaskedLm => {
                Err(other("masked language modelling; `taiyi train` makes one that labels".to_owned()))
            }
            EncoderTask::SequenceClassification { multi_label } => Ok(Self::Texts { several: multi_label }),
            EncoderTask::TokenClassification => match TagSet::parse(&config.labels) {
                Ok(tags) => Ok(Self::Tokens(tags)),
                Err(error) => Err(other(format!("token classification where {error}"))),
            },
        }
    }
}

/// The number of the largest; of equal ones the first.
fn largest(row: &[f32]) -> usize {
    let best = row.iter().enumerate().reduce(|best, one| if one.1 > best.1 { one } else { best });
    best.map_or(0, |(at, _)| at)
}
