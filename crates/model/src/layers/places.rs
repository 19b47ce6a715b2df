//! Where the tokens of a pass stand: positions, prefixes, angles, limits.

use super::{
    embedding::EmbeddingRows,
    rope::{RopeTables, Sequences, Span},
};
use crate::{
    config::{DecoderConfig, Positions, PrefixMarks},
    error::Error,
};

/// The places of all tokens of a pass, and the tables that stay from pass to pass.
#[derive(Default)]
pub(crate) struct Places {
    /// Token ids, where the pass gathers them from several sequences, and where those begin; (T) and (sequences + 1).
    pub(crate) ids: Vec<u32>,
    pub(crate) cu_seqlens: Vec<u32>,
    /// (T).
    pub(crate) positions: Vec<u32>,
    /// Rows of the table of learned positions, (T); empty without one.
    pub(crate) position_rows: Vec<u32>,
    /// Rows of the table of token types, (T); empty without one.
    pub(crate) token_types: Vec<u32>,
    /// Places behind the prefix of [`Positions::Rope2d`], (T); empty elsewhere.
    answer_positions: Vec<u32>,
    /// How many leading tokens of each sequence see each other both ways; empty where there is no prefix.
    prefixes: Vec<u32>,
    spans: Vec<Span>,
    tables: RopeTables,
    /// Factors of logn attention, (T); empty where all are 1.
    query_scale: Vec<f32>,
    /// ALiBi's slopes, (H); empty without them.
    slopes: Vec<f32>,
}

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

impl Places {
    /// Forgets the places of the pass before; `slopes` are those of the model, if it has any.
    pub(crate) fn clear(&mut self, slopes: Option<&[f32]>) {
        for list in [
            &mut self.ids,
            &mut self.cu_seqlens,
            &mut self.positions,
            &mut self.position_rows,
            &mut self.token_types,
            &mut self.answer_positions,
            &mut self.prefixes,
        ] {
            list.clear();
        }
        self.spans.clear();
        self.query_scale.clear();
        self.slopes.clear();
        self.slopes.extend_from_slice(slopes.unwrap_or_default());
    }

    pub(crate) fn bytes(&self) -> usize {
        self.tables.bytes()
    }

    /// The tokens of the pass, for its blocks.
    pub(crate) fn sequences<'a>(&'a self, cu_seqlens: &'a [u32]) -> Sequences<'a> {
        let given = |list: &'a [f32]| Some(list).filter(|list| !list.is_empty());
        Sequences {
            cu_seqlens,
            positions: &self.positions,
            answer_positions: &self.answer_positions,
            prefixes: &self.prefixes,
            spans: &self.spans,
            tables: &self.tables,
            query_scale: given(&self.query_scale),
            slopes: given(&self.slopes),
        }
    }

    /// The rows of the tables of the embedding that the tokens take.
    pub(crate) fn rows<'a>(&'a self, ids: &'a [u32]) -> EmbeddingRows<'a> {
        EmbeddingRows { tokens: ids, positions: &self.position_rows, token_types: &self.token_types }
    }

    /// Appends the places of `count` tokens of one sequence, the first of which is its token `first`, standing `shift` further on;
    /// returns how many rows a table of angles needs for them.
    pub(crate) fn place(
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

    /// Places a whole sequence of a packed batch; returns how many rows a table of angles needs for it.
    pub(crate) fn place_whole(
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
    pub(crate) fn span(
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

    /// Factors of logn attention for the positions at hand.
    pub(crate) fn fill_query_scale(&mut self, config: &DecoderConfig) {
        let Some(trained) = config.logn_trained_length else { return };
        if self.positions.iter().all(|&p| (p as usize) < trained) {
            return;
        }
        let denominator = (trained as f64).ln();
        self.query_scale.extend(self.positions.iter().map(|&p| {
            let count = p as usize + 1;
            if count > trained { ((count as f64).ln() / denominator) as f32 } else { 1.0 }
        }));
    }
}

impl DecoderConfig {
    /// Checks that a sequence of `tokens` fits the table of positions.
    pub(crate) fn check_length(&self, sequence: usize, tokens: usize) -> Result<(), Error> {
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
