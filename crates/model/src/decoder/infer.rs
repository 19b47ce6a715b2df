//! The inference pass: new tokens of several sequences at once, each with its own cache.

use super::{Decoder, KvCache, train::neighbours};
use crate::{
    batch::{Logits, check_ids},
    config::DecoderConfig,
    error::Error,
    layers::{
        block::{Observer, Pass, Stage, see},
        linear::Run,
        places::Places,
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
        workspace.places.clear(self.slopes.as_deref());
        workspace.places.lay_out(config, sequences)?;
        let (t, d, v) = (workspace.places.ids.len(), config.hidden_size, config.vocab_size);
        let Workspace { streams, saved, scratch, head, places, embedding, .. } = workspace;
        let layout = places.sequences(&places.cu_seqlens);
        let run = Run { precision: self.precision, dropout: None };
        let shape = config.block();

        let embedded = grow(&mut streams[0], t * d);
        let rows = places.rows(&places.ids);
        self.embedding.forward(&self.embedding_shape(), rows, embedded, embedding, &mut observe);
        for (layer, block) in self.blocks.iter().enumerate() {
            let pass = Pass { shape, run, sequences: &layout, layer };
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
            Logits::Last => head.rows.extend(layout.cu_seqlens[1..].iter().map(|&end| end as usize - 1)),
        }
        self.norm_rows(&streams[0][..t * d], head);
        let rows = head.rows.len();
        let normed = &head.normed[..rows * d];
        see(&mut observe, Stage::FinalNorm, normed);
        let logits = grow(&mut head.logits, rows * v);
        self.logits_of(self.precision, normed, logits);
        Ok(logits)
    }
}

impl Places {
    /// Checks the sequences and lays their tokens out one after the other.
    fn lay_out(
        &mut self,
        config: &DecoderConfig,
        sequences: &mut [(&[u32], &mut KvCache)],
    ) -> Result<(), Error> {
        if sequences.is_empty() {
            return Err(Error::input("batch", "at least one sequence", "none"));
        }
        self.cu_seqlens.push(0);
        for (i, (tokens, cache)) in sequences.iter_mut().enumerate() {
            if tokens.is_empty() {
                return Err(Error::input(format!("sequence {i}"), "at least one new token", "none"));
            }
            check_ids(tokens, config.vocab_size)?;
            cache.check(config, tokens.len())?;
            config.check_length(i, cache.next_position() + tokens.len())?;
            if let Some(marks) = config.prefix.filter(|_| cache.is_empty()) {
                marks.find(tokens, i)?;
            }
        }
        // Only now, when nothing can fail any more, are the caches changed.
        for (tokens, cache) in sequences.iter_mut() {
            let alpha = cache.fix_alpha(config, tokens.len());
            let prefix = cache.fix_prefix(config, tokens)?;
            let begin = self.ids.len();
            self.ids.extend_from_slice(tokens);
            let positions = self.place(config, cache.len(), cache.first_position(), tokens.len(), prefix);
            self.span(config, alpha, begin, self.ids.len(), positions);
            self.cu_seqlens.push(self.ids.len() as u32);
        }
        self.fill_query_scale(config);
        Ok(())
    }
}
