//! The special tokens a model expects around one or two texts, and the input of an encoder.

use std::ops::Range;

use serde_json::Value;

use super::{Tokenizer, TokenizerError};

/// One part of what a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A special token, and the token type it counts to.
    Token(u32, u32),
    /// The ids of the first text, with their token type.
    First(u32),
    /// The ids of the second text, with their token type.
    Second(u32),
}

/// What stands around one text, and around two; empty where the model expects bare ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) single: Vec<Part>,
    pub(crate) pair: Vec<Part>,
    /// Whether the tokens open a conversation rather than belong to any text.
    pub(crate) of_chat: bool,
}

impl Frame {
    /// Tokens before and after one text; two texts are framed one after the other.
    pub(crate) fn around(before: &[u32], after: &[u32]) -> Self {
        let tokens = |ids: &[u32]| ids.iter().map(|&id| Part::Token(id, 0)).collect::<Vec<_>>();
        let single = [tokens(before), vec![Part::First(0)], tokens(after)].concat();
        let pair = [tokens(before), vec![Part::First(0), Part::Second(0)], tokens(after)].concat();
        Self { single, pair, of_chat: false }
    }

    /// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, the second text and its end of type 1.
    pub(crate) fn bert(cls: u32, sep: u32) -> Self {
        let single = vec![Part::Token(cls, 0), Part::First(0), Part::Token(sep, 0)];
        let pair = [single.as_slice(), &[Part::Second(1), Part::Token(sep, 1)]].concat();
        Self { single, pair, of_chat: false }
    }

    /// `<s> A </s>` and `<s> A </s></s> B </s>`, all of type 0.
    pub(crate) fn roberta(cls: u32, sep: u32) -> Self {
        let single = vec![Part::Token(cls, 0), Part::First(0), Part::Token(sep, 0)];
        let rest = [Part::Token(sep, 0), Part::Second(0), Part::Token(sep, 0)];
        let pair = [single.as_slice(), &rest].concat();
        Self { single, pair, of_chat: false }
    }

    /// Reads the `post_processor` of a `tokenizer.json`; a kind that puts nothing around text gives the empty frame, as does a
    /// template that names ids it does not explain.
    pub(crate) fn from_json(processor: &Value) -> Self {
        Self::read(processor).unwrap_or_default()
    }

    fn read(processor: &Value) -> Option<Self> {
        let pair = |name: &str| processor[name][1].as_u64().and_then(|id| u32::try_from(id).ok());
        match processor["type"].as_str()? {
            "BertProcessing" => Some(Self::bert(pair("cls")?, pair("sep")?)),
            "RobertaProcessing" => Some(Self::roberta(pair("cls")?, pair("sep")?)),
            "TemplateProcessing" => {
                let tokens = &processor["special_tokens"];
                let parts = |name: &str| -> Option<Vec<Part>> {
                    let mut parts = Vec::new();
                    for piece in processor[name].as_array()? {
                        let (token, text) = (&piece["SpecialToken"], &piece["Sequence"]);
                        let type_id = |piece: &Value| u32::try_from(piece["type_id"].as_u64()?).ok();
                        match (token["id"].as_str(), text["id"].as_str()) {
                            (Some(name), _) => {
                                for id in tokens[name]["ids"].as_array()? {
                                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok())?;
                                    parts.push(Part::Token(id, type_id(token)?));
                                }
                            }
                            (_, Some("A")) => parts.push(Part::First(type_id(text)?)),
                            (_, Some("B")) => parts.push(Part::Second(type_id(text)?)),
                            _ => return None,
                        }
                    }
                    Some(parts)
                };
                let pair = parts("pair").unwrap_or_default();
                Some(Self { single: parts("single")?, pair, of_chat: false })
            }
            "Sequence" => {
                let mut read = processor["processors"].as_array()?.iter().filter_map(Self::read);
                read.find(|frame| !frame.single.is_empty())
            }
            _ => None,
        }
    }

    /// The special tokens before or after the text of a single input.
    pub(crate) fn tokens(&self, after: bool) -> Vec<u32> {
        let text = self.single.iter().position(|part| matches!(part, Part::First(_)));
        let at = text.unwrap_or(self.single.len());
        let parts = if after { &self.single[at..] } else { &self.single[..at] };
        parts
            .iter()
            .filter_map(|part| match part {
                Part::Token(id, _) => Some(*id),
                _ => None,
            })
            .collect()
    }
}

/// What a token of an encoder's input stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Structure, such as `[CLS]`.
    Special,
    /// These bytes of the first text.
    First(Range<usize>),
    /// These bytes of the second text.
    Second(Range<usize>),
}

/// One or two texts as an encoder reads them. All three lists have one entry for each token, `T`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncoderInput {
    /// The ids.
    pub ids: Vec<u32>,
    /// Which text each id counts to: 0 or 1.
    pub token_type_ids: Vec<u32>,
    /// What each id stands for.
    pub origins: Vec<Origin>,
}

impl Tokenizer {
    /// The ids the model expects before a text it reads from the start: `<s>` for LLaMA where its configuration asks for it,
    /// `[gMASK]<sop>` for GLM-4, `</s>` for BioGPT, `[CLS]` for BERT.
    pub fn prefix(&self) -> &[u32] {
        &self.inner.prefix
    }

    /// The ids the model expects after a text: `[SEP]` for BERT, `[gMASK]<sop>` for ChatGLM-6B, whose reply follows them.
    pub fn suffix(&self) -> &[u32] {
        &self.inner.suffix
    }

    /// Puts around the ids of a text what the reference's tokenizer puts around any text: `[CLS]` and `[SEP]`, `</s>` before
    /// BioGPT's, `<s>` before LLaMA's where its configuration asks for it. What opens a conversation (`[gMASK]<sop>` of the GLM
    /// models) is left to the chat format.
    pub fn frame_text(&self, ids: &mut Vec<u32>) {
        if !self.inner.frame.of_chat {
            ids.splice(..0, self.prefix().iter().copied());
            ids.extend_from_slice(self.suffix());
        }
    }

    /// Encodes ordinary text together with the special tokens the model expects around it.
    pub fn encode_framed(&self, text: &str) -> Vec<u32> {
        let mut ids = self.prefix().to_vec();
        self.encode_into(text, &mut ids);
        ids.extend_from_slice(self.suffix());
        ids
    }

    /// Encodes ordinary text and says for each id which bytes of the text it stands for. White space at the ends of a token does
    /// not count, and a part of a character counts as all of it.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::NoOffsets`] for vocabularies that do not keep track of them (SentencePiece, BioGPT) and for text that
    /// a byte-level vocabulary puts into another normalisation form.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        let mut tokens = self.inner.kind.encode_with_offsets(text, &self.inner.added)?;
        for (_, range) in &mut tokens {
            let start = text.floor_char_boundary(range.start);
            let end = text.ceil_char_boundary(range.end);
            let part = &text[start..end];
            let kept = part.trim_start();
            let start = start + part.len() - kept.len();
            *range = start..start + kept.trim_end().len();
        }
        Ok(tokens)
    }

    /// Puts one or two texts together as an encoder reads them, of at most `longest` tokens: the end of the longer text goes
    /// first, that of the second where both are of one length.
    ///
    /// Strings such as `[SEP]` in the texts are text like any other.
    ///
    /// # Errors
    ///
    /// Those of [`encode_with_offsets`](Self::encode_with_offsets); [`TokenizerError::NoFrame`] for two texts and a vocabulary
    /// that does not say how two are put together.
    pub fn encode_input(
        &self,
        text: &str,
        second: Option<&str>,
        longest: usize,
    ) -> Result<EncoderInput, TokenizerError> {
        let frame = &self.inner.frame;
        let bare = [Part::First(0)];
        let parts = match second {
            Some(_) if frame.pair.is_empty() => return Err(TokenizerError::NoFrame),
            Some(_) => frame.pair.as_slice(),
            None if frame.single.is_empty() => &bare,
            None => frame.single.as_slice(),
        };
        let mut first = self.encode_with_offsets(text)?;
        let mut second = second.map_or_else(|| Ok(Vec::new()), |text| self.encode_with_offsets(text))?;
        let structure = parts.iter().filter(|part| matches!(part, Part::Token(..))).count();
        let room = longest.saturating_sub(structure);
        let over = (first.len() + second.len()).saturating_sub(room);
        let (long, short) =
            if first.len() > second.len() { (&mut first, &mut second) } else { (&mut second, &mut first) };
        // Until both are of one length only the longer one is cut, then both in turn.
        let alone = over.min(long.len() - short.len());
        long.truncate(long.len() - alone);
        let each = over - alone;
        second.truncate(second.len().saturating_sub(each.div_ceil(2)));
        first.truncate(first.len().saturating_sub(each / 2));
        let mut input = EncoderInput::default();
        for part in parts {
            let mut push = |id: u32, type_id: u32, origin: Origin| {
                input.ids.push(id);
                input.token_type_ids.push(type_id);
                input.origins.push(origin);
            };
            match *part {
                Part::Token(id, type_id) => push(id, type_id, Origin::Special),
                Part::First(type_id) => {
                    first.iter().for_each(|(id, range)| push(*id, type_id, Origin::First(range.clone())));
                }
                Part::Second(type_id) => {
                    second.iter().for_each(|(id, range)| push(*id, type_id, Origin::Second(range.clone())));
                }
            }
        }
        Ok(input)
    }
}
