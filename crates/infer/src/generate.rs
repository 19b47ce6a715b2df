//! Generation: prefill, then decode several sequences side by side with a key-value cache each.
//!
//! The engine is batch-invariant: a sequence gets the same logits, bit for bit, alone or in company, and whether its
//! prompt was run whole or taken over in part from another sequence that begins alike. So a request gets the same
//! greedy tokens however it is run, and prompts that repeat an instruction run it once. This module knows token ids
//! only.

use taiyi_model::{Decoder, DecoderConfig, KvCache, Logits, Workspace};

use crate::constraint::{Constraint, Guide};
use crate::error::InferError;
use crate::sampling::{Sampler, Sampling};

/// One sequence to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt's token ids, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the new text may be, if not anything.
    pub constraint: Option<Constraint>,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The new ids, without the one that ended the sequence.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// How many tokens of the prompt were taken over from another sequence instead of being run.
    pub reused: usize,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model wrote an end mark, or the text is whole and its grammar lets nothing follow.
    Stop,
    /// The grammar lets no token follow, and the text is not whole: the vocabulary cannot write what it asks for, or the
    /// grammar's engine gave up.
    DeadEnd,
    /// `max_new_tokens` or the model's last position was reached.
    Length,
    /// The listener asked to stop.
    Cancelled,
    /// The prompt leaves no room for a reply, so nothing was generated.
    TooLong,
}

/// How a batch is run.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions<'a> {
    /// Ids that end a sequence.
    pub stop_ids: &'a [u32],
    /// Most sequences decoded side by side; a finished one makes room for the next request.
    pub batch: usize,
}

/// What happened to a sequence.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// It grew by this id.
    Token(u32),
    /// It ended.
    Finished(&'a Generation),
}

/// Told of every token and every end as it comes, with the request's index. Answering `false` to a token ends that
/// sequence.
pub type Listener<'a> = dyn FnMut(usize, Event<'_>) -> bool + 'a;

/// Continues every request; the answers are in the order of the requests.
///
/// # Errors
/// When a prompt is empty or leaves no room, a sampling value is outside its range, a grammar is refused, or the engine
/// refuses.
pub fn generate(
    decoder: &Decoder,
    requests: &[Request],
    options: BatchOptions<'_>,
    listener: &mut Listener<'_>,
) -> Result<Vec<Generation>, InferError> {
    Generator::default().run(decoder, requests, options, listener)
}

/// New prompt tokens run in one pass, about: bounds the activations, which a pass holds for all its tokens.
const PREFILL_TOKENS: usize = 2048;

/// A request waits a round for another that is about to run the same beginning when that saves this many tokens.
const WORTH_WAITING: usize = 16;

/// The buffers of generation and the sequences that ended last, whose beginnings later requests may take over. Serves
/// one decoder only, whose weights do not change.
#[derive(Default)]
pub(crate) struct Generator {
    workspace: Workspace,
    /// The one that ended last is last.
    ended: Vec<Sequence>,
}

/// Tokens, and the keys and values of the first `cache.len()` of them.
struct Sequence {
    tokens: Vec<u32>,
    cache: KvCache,
    /// The factor of dynamic NTK scaling, which the length of the prompt decides; keys of another are of no use.
    alpha: u32,
}

struct Slot {
    request: usize,
    sequence: Sequence,
    sampler: Sampler,
    guide: Option<Guide>,
    generated: usize,
    limit: usize,
    reused: usize,
}

/// Where the beginning of a prompt has been run already.
#[derive(Clone, Copy)]
enum Place {
    Active(usize),
    Ended(usize),
}

impl Generator {
    pub(crate) fn run(
        &mut self,
        decoder: &Decoder,
        requests: &[Request],
        options: BatchOptions<'_>,
        listener: &mut Listener<'_>,
    ) -> Result<Vec<Generation>, InferError> {
        let config = decoder.config();
        for (at, request) in requests.iter().enumerate() {
            let (tokens, limit) = (request.prompt.len(), config.max_position_embeddings);
            if tokens == 0 {
                return Err(InferError::EmptyPrompt { request: at });
            }
            if tokens >= limit {
                return Err(InferError::PromptTooLong { request: at, tokens, limit });
            }
            request.sampling.check()?;
        }
        let mut generations: Vec<Option<Generation>> = vec![None; requests.len()];
        let mut end = |request: usize, generation: Generation, listener: &mut Listener<'_>| {
            listener(request, Event::Finished(&generation));
            generations[request] = Some(generation);
        };
        let batch = options.batch.max(1);
        let mut active: Vec<Slot> = Vec::new();
        let mut next = 0;
        loop {
            let (running, mut new_tokens) = (active.len(), 0);
            while let Some(request) = requests.get(next)
                && active.len() < batch
                && new_tokens < PREFILL_TOKENS
            {
                if request.max_new_tokens == 0 {
                    end(next, Generation { ids: Vec::new(), finish: Finish::Length, reused: 0 }, listener);
                    next += 1;
                    continue;
                }
                let Some(slot) = self.admit(config, next, request, &active, running)? else { break };
                new_tokens += request.prompt.len() - slot.reused;
                active.push(slot);
                next += 1;
            }
            if active.is_empty() {
                break;
            }
            let mut inputs: Vec<(&[u32], &mut KvCache)> = active
                .iter_mut()
                .map(|slot| (&slot.sequence.tokens[slot.sequence.cache.len()..], &mut slot.sequence.cache))
                .collect();
            let logits = decoder.forward(&mut inputs, Logits::Last, &mut self.workspace)?;
            let mut going_on = Vec::with_capacity(active.len());
            for (mut slot, row) in active.into_iter().zip(logits.chunks_exact(config.vocab_size)) {
                match slot.take(row, options.stop_ids, listener) {
                    None => going_on.push(slot),
                    Some(finish) => {
                        end(slot.request, slot.generation(finish), listener);
                        self.ended.push(slot.sequence);
                    }
                }
            }
            active = going_on;
            // Sequences in reserve cost memory; as many as are decoded at once are enough to begin the next ones from.
            self.ended.drain(..self.ended.len().saturating_sub(batch));
        }
        Ok(generations.into_iter().map(|one| one.expect("every request was run to its end")).collect())
    }

    /// Makes a slot for a request; `None` where it is better to wait for one of `active[fresh..]`, which are about to run
    /// the same beginning.
    fn admit(
        &mut self,
        config: &DecoderConfig,
        at: usize,
        request: &Request,
        active: &[Slot],
        fresh: usize,
    ) -> Result<Option<Slot>, InferError> {
        let prompt = &request.prompt;
        let alpha = config.alpha(prompt.len());
        // A part that sees itself both ways is of use whole or not at all.
        let both_ways = config.prefix.and_then(|marks| prompt.iter().position(|&id| id == marks.bos));
        let usable = |sequence: &Sequence| {
            // The last token is always run: its logits are needed.
            let common = sequence.common(prompt).min(prompt.len() - 1);
            let enough = both_ways.is_none_or(|tokens| common > tokens);
            if sequence.alpha == alpha && enough { common } else { 0 }
        };
        let of_active = active.iter().enumerate().map(|(i, slot)| (Place::Active(i), &slot.sequence));
        let of_ended = self.ended.iter().enumerate().map(|(i, sequence)| (Place::Ended(i), sequence));
        let best = of_active
            .chain(of_ended)
            .map(|(place, sequence)| (usable(sequence).min(sequence.cache.len()), place))
            .max_by_key(|(tokens, _)| *tokens)
            .filter(|(tokens, _)| *tokens > 0);
        let reused = best.map_or(0, |(tokens, _)| tokens);
        if active[fresh..].iter().any(|slot| usable(&slot.sequence) >= reused + WORTH_WAITING) {
            return Ok(None);
        }
        let limit = request.max_new_tokens.min(config.max_position_embeddings - prompt.len());
        let capacity = prompt.len() + limit;
        let holds = |sequence: &Sequence| sequence.cache.capacity() >= capacity;
        let cache = match best {
            Some((tokens, Place::Ended(i))) if holds(&self.ended[i]) => {
                let mut cache = self.ended.remove(i).cache;
                cache.truncate(tokens);
                cache
            }
            _ => {
                let source = match best {
                    Some((_, Place::Ended(i))) => Some(i),
                    _ => None,
                };
                let spare = (0..self.ended.len()).find(|i| Some(*i) != source && holds(&self.ended[*i]));
                let mut cache = match spare {
                    Some(i) => self.ended.remove(i).cache,
                    None => KvCache::new(config, capacity.next_multiple_of(128)),
                };
                cache.clear();
                cache.expect_prefill(prompt.len());
                // The source has moved up where the cache stood before it.
                let moved = |i: usize| i - usize::from(spare.is_some_and(|spare| spare < i));
                match best {
                    Some((tokens, Place::Active(i))) => {
                        cache.copy_prefix(&active[i].sequence.cache, tokens)?
                    }
                    Some((tokens, Place::Ended(i))) => {
                        cache.copy_prefix(&self.ended[moved(i)].cache, tokens)?;
                    }
                    None => {}
                }
                cache
            }
        };
        Ok(Some(Slot {
            request: at,
            sequence: Sequence { tokens: prompt.clone(), cache, alpha },
            sampler: Sampler::new(request.sampling)?,
            guide: request.constraint.as_ref().map(Constraint::begin).transpose()?,
            generated: 0,
            limit,
            reused,
        }))
    }
}

impl Sequence {
    /// How many tokens it begins with like `prompt`.
    fn common(&self, prompt: &[u32]) -> usize {
        self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count()
    }
}

impl Slot {
    /// Chooses a token from the logits after the last one; says whether and why the sequence is over.
    fn take(&mut self, logits: &[f32], stop_ids: &[u32], listener: &mut Listener<'_>) -> Option<Finish> {
        let history = &self.sequence.tokens;
        let id = match &mut self.guide {
            None => self.sampler.next(logits, history),
            Some(guide) => {
                let Some(masked) = guide.mask(logits, stop_ids) else { return Some(Finish::DeadEnd) };
                let chosen = self.sampler.next(masked, history);
                guide.settle(chosen)
            }
        };
        if stop_ids.contains(&id) {
            return Some(Finish::Stop);
        }
        self.sequence.tokens.push(id);
        self.generated += 1;
        if !listener(self.request, Event::Token(id)) {
            return Some(Finish::Cancelled);
        }
        if let Some(guide) = &mut self.guide {
            if !guide.take(id) {
                return Some(Finish::DeadEnd);
            }
            if guide.is_done() {
                return Some(Finish::Stop);
            }
        }
        (self.generated >= self.limit).then_some(Finish::Length)
    }

    fn generation(&self, finish: Finish) -> Generation {
        let tokens = &self.sequence.tokens;
        Generation { ids: tokens[tokens.len() - self.generated..].to_vec(), finish, reused: self.reused }
    }
}
