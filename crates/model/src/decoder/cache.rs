//! Keys and values of the tokens a sequence has seen.

use crate::{config::DecoderConfig, error::Error, layers::places::Prefix};

/// The keys and values of one sequence, for every block: two of shape (capacity, G d), f32.
#[derive(Debug, Clone)]
pub struct KvCache {
    capacity: usize,
    held: usize,
    first_position: usize,
    prefill: Option<usize>,
    /// NTK alpha of the prefill; the keys were turned with it, so it stays.
    alpha: Option<u32>,
    /// ChatGLM-6B: the part of the prompt that sees itself both ways.
    sees_both_ways: Option<Prefix>,
    /// Width of a row, `G d`.
    width: usize,
    layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl KvCache {
    /// An empty cache for `capacity` tokens of a sequence; memory is touched as tokens come.
    pub fn new(config: &DecoderConfig, capacity: usize) -> KvCache {
        let width = config.key_size();
        let layer = || (vec![0.0; capacity * width], vec![0.0; capacity * width]);
        let layers = (0..config.num_hidden_layers).map(|_| layer()).collect();
        KvCache {
            capacity,
            held: 0,
            first_position: 0,
            prefill: None,
            alpha: None,
            sees_both_ways: None,
            width,
            layers,
        }
    }

    /// Bytes that a cache of this capacity takes when it is full.
    pub fn planned_bytes(config: &DecoderConfig, capacity: usize) -> usize {
        2 * 4 * config.num_hidden_layers * capacity * config.key_size()
    }

    /// Lets the first token stand at another position than 0, as if padding stood before it.
    #[must_use]
    pub fn with_first_position(mut self, position: usize) -> KvCache {
        self.first_position = position;
        self
    }

    /// Says how long the whole prompt is when it is going to come in pieces: Qwen v1's dynamic NTK depends on it.
    pub fn expect_prefill(&mut self, tokens: usize) {
        self.prefill = Some(tokens);
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.held
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all tokens and what the prefill fixed.
    pub fn clear(&mut self) {
        self.truncate(0);
        self.prefill = None;
    }

    /// Forgets all but the first `tokens`; longer than what is held changes nothing. Where a part of the prompt sees itself both
    /// ways (ChatGLM-6B), cutting into it forgets everything: what is held there depends on what is forgotten.
    pub fn truncate(&mut self, tokens: usize) {
        self.held = self.held.min(tokens);
        if self.sees_both_ways.is_some_and(|prefix| self.held <= prefix.tokens) {
            self.held = 0;
        }
        if self.held == 0 {
            (self.alpha, self.sees_both_ways) = (None, None);
        }
    }

    /// Takes over the first `tokens` of another cache of the same model, as if they had been run here.
    ///
    /// # Errors
    /// [`Error::CacheFull`] when they do not fit; [`Error::Input`] when the other cache holds fewer or is of another shape.
    pub fn copy_prefix(&mut self, other: &KvCache, tokens: usize) -> Result<(), Error> {
        if other.width != self.width || other.layers.len() != self.layers.len() || other.held < tokens {
            return Err(Error::input(
                "copied key/value cache",
                format!("{tokens} tokens of {} layers of width {}", self.layers.len(), self.width),
                format!("{} tokens of {} layers of width {}", other.held, other.layers.len(), other.width),
            ));
        }
        if tokens > self.capacity {
            return Err(Error::CacheFull { held: 0, capacity: self.capacity, asked: tokens });
        }
        if let Some(prefix) = other.sees_both_ways.filter(|prefix| tokens <= prefix.tokens) {
            return Err(Error::input(
                "copied key/value cache",
                format!("more than the {} tokens that see each other both ways", prefix.tokens),
                tokens.to_string(),
            ));
        }
        let len = tokens * self.width;
        for ((keys, values), (from_keys, from_values)) in self.layers.iter_mut().zip(&other.layers) {
            keys[..len].copy_from_slice(&from_keys[..len]);
            values[..len].copy_from_slice(&from_values[..len]);
        }
        (self.held, self.alpha, self.first_position) = (tokens, other.alpha, other.first_position);
        self.sees_both_ways = other.sees_both_ways;
        Ok(())
    }

    /// Checks that the cache is of this model and has room.
    pub(crate) fn check(&self, config: &DecoderConfig, new: usize) -> Result<(), Error> {
        if self.width != config.key_size() || self.layers.len() != config.num_hidden_layers {
            return Err(Error::input(
                "key/value cache",
                format!("{} layers of width {}", config.num_hidden_layers, config.key_size()),
                format!("{} layers of width {}: a cache of another model", self.layers.len(), self.width),
            ));
        }
        if new > self.capacity - self.held {
            return Err(Error::CacheFull { held: self.held, capacity: self.capacity, asked: new });
        }
        Ok(())
    }

    /// The NTK alpha of this sequence; the first call, the prefill's, fixes it.
    pub(crate) fn fix_alpha(&mut self, config: &DecoderConfig, new: usize) -> u32 {
        let prefill = self.prefill.unwrap_or(new);
        *self.alpha.get_or_insert_with(|| config.alpha(prefill))
    }

    /// The prefix of this sequence; the first call, the prompt's, fixes it.
    pub(crate) fn fix_prefix(
        &mut self,
        config: &DecoderConfig,
        tokens: &[u32],
    ) -> Result<Option<Prefix>, Error> {
        if self.held == 0 {
            self.sees_both_ways = config.prefix.map(|marks| marks.find(tokens, 0)).transpose()?;
        }
        Ok(self.sees_both_ways)
    }

    /// Position of the sequence's first token.
    pub(crate) fn first_position(&self) -> usize {
        self.first_position
    }

    /// Position of the next token.
    pub(crate) fn next_position(&self) -> usize {
        self.first_position + self.held
    }

    /// Writes new rows behind those held and returns all keys, all values and the number held before. The count moves on only
    /// with [`KvCache::advance`], after every layer has written.
    pub(crate) fn append(&mut self, layer: usize, keys: &[f32], values: &[f32]) -> (&[f32], &[f32], usize) {
        let (begin, end) = (self.held * self.width, self.held * self.width + keys.len());
        let (all_keys, all_values) = &mut self.layers[layer];
        all_keys[begin..end].copy_from_slice(keys);
        all_values[begin..end].copy_from_slice(values);
        (&all_keys[..end], &all_values[..end], self.held)
    }

    pub(crate) fn advance(&mut self, new: usize) {
        self.held += new;
    }
}
