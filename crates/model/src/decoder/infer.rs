//! The inference pass: new tokens of several sequences at once, each with its own cache.

use taiyi_kernels as kernels;

use super::{Decoder, KvCache, train::neighbours};
use crate::{
    batch::{Logits, check_ids},
    config::DecoderConfig,
    error::Error,
    layers::{
        block::{Observer, Pass, Stage, see},
        linear::Run,
        rope::{Sequences, Span},
        workspace::{Workspace, grow},
    },
};

impl Decoder {
    /// Runs new tokens of several sequences in evaluation mode and appends them to the sequences' caches. A prompt, a part of a
    /// prompt and a single new token are the same call, and may be mixed; a sequence gets the same logits, bit for bit,
    /// whatever else is in the batch.
    ///
    /// Returns logits (rows, V): with [`Logits::Last`] one row for each sequence, with [`Logits::All`] one for each token.
    ///
    /// # Errors
    /// When there is no sequence, a sequence has no token, an id is outside the vocabulary, or a cache is full or of another
    /// model. The caches are then as before.
    pub fn forward<'w>(
        &self,
        sequences: &mut [(&[u32], &mut KvCache)],
        which: Logits,
        workspace: &'w mut Workspace,
    ) -> Result<&'w [f32], Error> {
        self.forward_observed(sequences, which, workspace, None)
    }

    /// As [`Decoder::forward`], and shows every intermediate value to `observe`.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_with<'w>(
        &self,
        sequences: &mut [(&[u32], &mut KvCache)],
        which: Logits,
        workspace: &'w mut Workspace,
        observe: &mut dyn FnMut(Stage, &[f32]),
    ) -> Result<&'w [f32], Error> {
        self.forward_observed(sequences, which, workspace, Some(observe))
    }

    fn forward_observed<'w>(
        &self,
        sequences: &mut [(&[u32], &mut KvCache)],
        which: Logits,
        workspace: &'w mut Workspace,
        mut observe: Option<&mut Observer<'_>>,
    ) -> Result<&'w [f32], Error> {
        let config = &self.config;
        workspace.ensure_streams(2);
        workspace.ensure_saved(1);
        workspace.layout(config, sequences)?;
        let (t, d, v) = (workspace.ids.len(), config.hidden_size, config.vocab_size);
        let Workspace {
            streams,
            saved,
            scratch,
            head,
            tables,
            ids,
            positions,
            spans,
            cu_seqlens,
            query_scale,
            ..
        } = workspace;
        let query_scale = (!query_scale.is_empty()).then_some(&query_scale[..]);
        let layout = Sequences { cu_seqlens, positions, spans, tables, query_scale };
        let run = Run { precision: self.precision, dropout: None };

        let embedded = grow(&mut streams[0], t * d);
        kernels::embedding(ids, d, &self.embedding.weight(), embedded);
        see(&mut observe, Stage::Embedding, embedded);
        for (layer, block) in self.blocks.iter().enumerate() {
            let pass = Pass { config, run, sequences: &layout, layer };
            let (x, y) = neighbours(streams, 0, t * d);
            block.forward(&pass, Some(&mut *sequences), x, Some(y), &mut saved[0], scratch, &mut observe);
            streams.swap(0, 1);
        }
        for (tokens, cache) in sequences.iter_mut() {
            cache.advance(tokens.len());
        }

        head.rows.clear();
        match which {
            Logits::All => head.rows.extend(0..t),
            Logits::Last => head.rows.extend(cu_seqlens[1..].iter().map(|&end| end as usize - 1)),
        }
        head.norm_rows(&self.final_norm, config.norm_eps, d, &streams[0][..t * d]);
        let rows = head.rows.len();
        let normed = &head.normed[..rows * d];
        see(&mut observe, Stage::FinalNorm, normed);
        let logits = grow(&mut head.logits, rows * v);
        kernels::linear(self.precision, rows, v, d, 1.0, normed, &self.head().weight(), 0.0, logits);
        Ok(logits)
    }
}

impl Workspace {
    /// Checks the sequences and lays their tokens out one after the other.
    fn layout(
        &mut self,
        config: &DecoderConfig,
        sequences: &mut [(&[u32], &mut KvCache)],
    ) -> Result<(), Error> {
        if sequences.is_empty() {
            return Err(Error::input("batch", "at least one sequence", "none"));
        }
        self.ids.clear();
        self.positions.clear();
        self.spans.clear();
        self.cu_seqlens.clear();
        self.cu_seqlens.push(0);
        for (i, (tokens, cache)) in sequences.iter_mut().enumerate() {
            if tokens.is_empty() {
                return Err(Error::input(format!("sequence {i}"), "at least one new token", "none"));
            }
            check_ids(tokens, config.vocab_size)?;
            cache.check(config, tokens.len())?;
        }
        // Only now, when nothing can fail any more, are the caches changed.
        for (tokens, cache) in sequences.iter_mut() {
            let alpha = cache.fix_alpha(config, tokens.len());
            let (begin, first) = (self.ids.len(), cache.next_position());
            self.ids.extend_from_slice(tokens);
            self.positions.extend((first..first + tokens.len()).map(|p| p as u32));
            let table = self.tables.table(&config.rope, alpha, first + tokens.len());
            self.spans.push(Span { begin, end: self.ids.len(), table });
            self.cu_seqlens.push(self.ids.len() as u32);
        }
        self.fill_query_scale(config);
        Ok(())
    }

    /// Factors of logn attention for the positions at hand; empty when all are 1.
    pub(super) fn fill_query_scale(&mut self, config: &DecoderConfig) {
        self.query_scale.clear();
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
