//! Where the tokens of a pass stand: positions, prefixes, limits.

use super::Decoder;
use crate::{
    config::{DecoderConfig, Positions, PrefixMarks},
    error::Error,
    layers::{
        embedding::{EmbeddingRows, EmbeddingShape},
        rope::Span,
        workspace::Workspace,
    },
};

/// The prefix of a sequence of ChatGLM-6B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// Tokens before the first `bos`: they see each other both ways.
    pub(crate) tokens: usize,
    /// Where the answer stands in it: the first `gmask`, or the first `mask`.
    pub(crate) answer: usize,
}

impl PrefixMarks {
    /// Finds the prefix of a sequence.
    pub(crate) fn find(&self, ids: &[u32], sequence: usize) -> Result<Prefix, Error> {
        let first = |id: u32| ids.iter().position(|&i| i == id);
        let missing = |what: &str, id: u32| {
            Error::input(
                format!("sequence {sequence}"),
                format!("{what} ({id}), by which this model knows its input from its answer"),
                format!("{} tokens without it", ids.len()),
            )
        };
        let tokens = first(self.bos).ok_or_else(|| missing("the mark that begins the answer", self.bos))?;
        let answer = first(self.gmask).or_else(|| first(self.mask));
        let answer = answer.ok_or_else(|| missing("the mark that stands for the answer", self.gmask))?;
        Ok(Prefix { tokens, answer })
    }
}

impl Workspace {
    pub(super) fn clear_places(&mut self) {
        self.positions.clear();
        self.position_rows.clear();
        self.answer_positions.clear();
        self.prefixes.clear();
        self.spans.clear();
    }

    /// Appends the places of `count` tokens of one sequence, the first of which is its token `first`, standing `shift` further on;
    /// returns how many rows a table of angles needs for them.
    pub(super) fn place(
        &mut self,
        config: &DecoderConfig,
        first: usize,
        shift: usize,
        count: usize,
        prefix: Option<Prefix>,
    ) -> usize {
        let tokens = first..first + count;
        match (&config.positions, prefix) {
            (Positions::Rope2d(_), Some(Prefix { tokens: before, answer })) => {
                self.prefixes.push(before as u32);
                for t in tokens {
                    let (place, behind) = if t < before { (t, 0) } else { (answer, t - before + 1) };
                    self.positions.push(place as u32);
                    self.answer_positions.push(behind as u32);
                }
                first + count + 1
            }
            (positions, _) => {
                self.positions.extend(tokens.clone().map(|t| (shift + t) as u32));
                if let Positions::Learned { offset, .. } = positions {
                    self.position_rows.extend(tokens.map(|t| (shift + t + offset) as u32));
                }
                shift + first + count
            }
        }
    }
}

impl Workspace {
    /// Places a whole sequence of a packed batch; returns how many rows a table of angles needs for it.
    pub(super) fn place_whole(
        &mut self,
        config: &DecoderConfig,
        ids: &[u32],
        range: &[u32],
    ) -> Result<usize, Error> {
        let ids = &ids[range[0] as usize..range[1] as usize];
        let prefix = config.prefix.map(|marks| marks.find(ids, self.prefixes.len())).transpose()?;
        Ok(self.place(config, 0, 0, ids.len(), prefix))
    }

    /// Says which table of angles turns the tokens `begin..end`.
    pub(super) fn span(
        &mut self,
        config: &DecoderConfig,
        alpha: u32,
        begin: usize,
        end: usize,
        positions: usize,
    ) {
        if let Some(rope) = config.rope() {
            let table = self.tables.table(rope, alpha, positions);
            self.spans.push(Span { begin, end, table });
        }
    }
}

impl Decoder {
    pub(super) fn embedding_shape(&self) -> EmbeddingShape {
        let config = &self.config;
        EmbeddingShape {
            hidden_size: config.hidden_size,
            scale: config.embedding_scale,
            norm_eps: config.norm_eps,
            padding_id: config.padding_id,
            padding_position: None,
        }
    }
}

/// The rows of the tables that the tokens of a decoder's pass take.
pub(super) fn rows<'a>(ids: &'a [u32], position_rows: &'a [u32]) -> EmbeddingRows<'a> {
    EmbeddingRows { tokens: ids, positions: position_rows, token_types: &[] }
}

impl DecoderConfig {
    /// Checks that a sequence of `tokens` fits the table of positions.
    pub(super) fn check_length(&self, sequence: usize, tokens: usize) -> Result<(), Error> {
        match self.longest() {
            Some(longest) if tokens > longest => Err(Error::input(
                format!("sequence {sequence}"),
                format!("at most {longest} tokens, for which the model has positions"),
                tokens.to_string(),
            )),
            _ => Ok(()),
        }
    }
}
