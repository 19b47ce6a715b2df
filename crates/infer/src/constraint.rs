//! Constrained decoding: which tokens a grammar lets follow.
//!
//! A grammar is text in the dialect of Lark that llguidance reads; `AnswerSpec::grammar` writes those of the answer
//! formats. This module knows tokens and bytes; it does not know what a grammar is about.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use taiyi_model::tokenizer::Tokenizer;

use crate::error::InferError;

/// What grammars of one tokenizer share: its vocabulary as a tree of bytes. Cheap to clone.
#[derive(Clone)]
pub struct Grammars {
    shared: Arc<Shared>,
}

struct Shared {
    factory: ParserFactory,
    tokenizer: Tokenizer,
    /// Stands for the end of a text; an id that the tokenizer does not have.
    end: u32,
}

/// Marks a word of the vocabulary as no text.
const NO_TEXT: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

impl Grammars {
    /// Lays out the vocabulary: some hundredths of a second for 150,000 tokens.
    ///
    /// # Errors
    /// When the engine refuses the vocabulary.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, InferError> {
        let mut words = words(tokenizer);
        let end = words.len() as u32;
        words.push([&[NO_TEXT], b"end".as_slice()].concat());
        let info = TokRxInfo::new(words.len() as u32, end);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &[])
            .map_err(|error| refused(&error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { shared: Arc::new(Shared { factory, tokenizer: tokenizer.clone(), end }) })
    }

    /// A constraint to what `grammar` accepts. It is compiled when a sequence begins.
    pub fn constraint(&self, grammar: impl Into<Arc<str>>) -> Constraint {
        Constraint { grammars: self.clone(), grammar: grammar.into(), lead: None }
    }

    /// Whether a grammar accepts a text.
    ///
    /// # Errors
    /// When the grammar is refused.
    pub fn accepts(&self, grammar: &str, text: &str) -> Result<bool, InferError> {
        let mut matcher = self.matcher(grammar)?;
        let ids = self.shared.tokenizer.encode(text);
        let taken = matcher.try_consume_tokens(&ids).unwrap_or(0);
        Ok(taken == ids.len() && matcher.is_accepting().unwrap_or(false))
    }

    fn matcher(&self, grammar: &str) -> Result<Matcher, InferError> {
        let matcher =
            Matcher::new(self.shared.factory.create_parser(TopLevelGrammar::from_lark(grammar.to_owned())));
        match matcher.get_error() {
            None => Ok(matcher),
            Some(reason) => Err(refused(&reason)),
        }
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("vocabulary", &self.shared.end).finish_non_exhaustive()
    }
}

/// The bytes that each id stands for; empty for an id that is never allowed.
fn words(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    // Behind another token, as some tokenizers drop a blank at the start of a text.
    let anchor = tokenizer.encode("a").last().copied();
    let before: Vec<u8> = anchor.map(|id| tokenizer.decode_bytes(&[id])).unwrap_or_default();
    let word = |id: u32| {
        let mut bytes = tokenizer.decode_bytes(&[anchor.as_slice(), &[id]].concat());
        let shown = bytes.split_off(before.len().min(bytes.len()));
        if tokenizer.is_special(id) {
            return [&[NO_TEXT], shown.as_slice()].concat();
        }
        // The marker's byte is in no text; what a tokenizer cannot say in bytes it shows as U+FFFD.
        let unknown = shown.contains(&NO_TEXT) || std::str::from_utf8(&shown) == Ok("\u{fffd}");
        if unknown { Vec::new() } else { shown }
    };
    (0..tokenizer.vocab_size() as u32).map(word).collect()
}

/// Texts of a million characters are no reason to stop; they are what the model's length is for.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 100_000_000,
        step_lexer_fuel: 2_000_000,
        max_lexer_states: 2_000_000,
        max_grammar_size: 5_000_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

fn refused(reason: &str) -> InferError {
    let line = reason.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    InferError::Grammar { reason: line.to_owned() }
}

/// What a reply may be.
#[derive(Clone, Debug)]
pub struct Constraint {
    grammars: Grammars,
    grammar: Arc<str>,
    lead: Option<u32>,
}

impl Constraint {
    /// Lets one token stand before the text, or be missing: what a chat format puts before a reply.
    #[must_use]
    pub fn after(mut self, lead: Option<u32>) -> Self {
        self.lead = lead;
        self
    }

    /// Begins a sequence.
    pub(crate) fn begin(&self) -> Result<Guide, InferError> {
        Ok(Guide {
            matcher: self.grammars.matcher(&self.grammar)?,
            end: self.grammars.shared.end,
            lead: self.lead,
            allowed: Vec::new(),
            masked: Vec::new(),
        })
    }
}

/// Leads one sequence through its grammar.
pub(crate) struct Guide {
    matcher: Matcher,
    end: u32,
    /// A token that may stand before the first one.
    lead: Option<u32>,
    /// The ids that may follow, ascending.
    allowed: Vec<u32>,
    masked: Vec<f32>,
}

impl Guide {
    /// The logits of the tokens that may follow, all others at minus infinity; the stop ids are among them exactly when
    /// the text may end here. `None` where nothing may follow.
    pub(crate) fn mask(&mut self, logits: &[f32], stop_ids: &[u32]) -> Option<&[f32]> {
        let mask: SimpleVob = self.matcher.compute_mask().ok()?;
        self.allowed.clear();
        mask.iter_set_entries(|id| self.allowed.push(id as u32));
        let may_end = self.allowed.last() == Some(&self.end);
        self.allowed.extend(self.lead);
        self.allowed.retain(|id| (*id as usize) < logits.len() && *id != self.end && !stop_ids.contains(id));
        if may_end {
            self.allowed.extend(stop_ids.iter().filter(|id| (**id as usize) < logits.len()));
        }
        self.allowed.sort_unstable();
        self.masked.clear();
        self.masked.resize(logits.len(), f32::NEG_INFINITY);
        for &id in &self.allowed {
            self.masked[id as usize] = logits[id as usize];
        }
        (!self.allowed.is_empty()).then_some(&self.masked)
    }

    /// The token that a sampler chose from the mask; the first that may follow where the logits said nothing of any.
    pub(crate) fn settle(&self, chosen: u32) -> u32 {
        match self.allowed.binary_search(&chosen) {
            Ok(_) => chosen,
            Err(_) => self.allowed.first().copied().unwrap_or(chosen),
        }
    }

    /// Goes on behind a token; says whether the grammar could.
    pub(crate) fn take(&mut self, id: u32) -> bool {
        let lead = self.lead.take();
        // A grammar that begins with the same token is as well begun without it.
        lead == Some(id) || self.matcher.consume_token(id).is_ok()
    }

    /// Whether the text is whole and nothing may follow but its end.
    pub(crate) fn is_done(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

#[cfg(test)]
mod tests {
    use taiyi_model::tokenizer::{Trainer, TrainerOptions};

    use super::*;

    fn tokenizer() -> Tokenizer {
        let specials = ["<|endoftext|>", "<|im_end|>"].map(str::to_owned).to_vec();
        let options =
            TrainerOptions { vocab_size: 280, special_tokens: specials, ..TrainerOptions::default() };
        let mut trainer = Trainer::new(options).unwrap();
        trainer.add("the fever; the fever and 头痛头痛头痛", 9.0).unwrap();
        trainer.finish(&mut |_| {}).unwrap().tokenizer().clone()
    }

    #[test]
    fn every_token_of_a_sentence_is_allowed_and_the_end_only_at_its_end() {
        let tokenizer = tokenizer();
        let grammars = Grammars::new(&tokenizer).unwrap();
        let stop = tokenizer.special_id("<|im_end|>").unwrap();
        let logits = vec![0.0; tokenizer.vocab_size() + 5];
        let mut guide = grammars.constraint("start: \"the 头痛\" (\" fever\")?").begin().unwrap();
        let ids = tokenizer.encode("the 头痛");
        for &id in &ids {
            let masked = guide.mask(&logits, &[stop]).unwrap();
            assert_eq!((masked[id as usize], masked[stop as usize]), (0.0, f32::NEG_INFINITY));
            assert_eq!(masked.iter().filter(|logit| **logit == 0.0).count(), guide.allowed.len());
            assert!(guide.take(id) && !guide.is_done());
        }
        let masked = guide.mask(&logits, &[stop]).unwrap();
        assert_eq!(masked[stop as usize], 0.0);
        assert_eq!(masked[tokenizer.special_id("<|endoftext|>").unwrap() as usize], f32::NEG_INFINITY);
        for id in tokenizer.encode(" fever") {
            assert!(guide.mask(&logits, &[stop]).is_some() && guide.take(id));
        }
        assert!(guide.is_done());
    }

    #[test]
    fn a_lead_may_stand_first_and_only_first() {
        let tokenizer = tokenizer();
        let grammars = Grammars::new(&tokenizer).unwrap();
        let newline = tokenizer.encode("\n")[0];
        let constraint = grammars.constraint("start: \"fever\"").after(Some(newline));
        let logits = vec![0.0; tokenizer.vocab_size()];
        let mut guide = constraint.begin().unwrap();
        assert_eq!(guide.mask(&logits, &[]).unwrap()[newline as usize], 0.0);
        assert!(guide.take(newline));
        assert_eq!(guide.mask(&logits, &[]).unwrap()[newline as usize], f32::NEG_INFINITY);
        let mut guide = constraint.begin().unwrap();
        for id in tokenizer.encode("fever") {
            assert!(guide.take(id));
        }
        assert!(guide.is_done());
    }

    #[test]
    fn what_cannot_be_is_an_error_or_an_end_and_no_panic() {
        let tokenizer = tokenizer();
        let grammars = Grammars::new(&tokenizer).unwrap();
        for broken in ["", "start: nobody", "start: \"a", "begin: \"a\""] {
            let error = grammars.constraint(broken).begin().err().unwrap().to_string();
            assert!(error.starts_with("the grammar of a reply was refused: "), "{error}");
        }
        let mut guide = grammars.constraint("start: \"a\"").begin().unwrap();
        assert!(!guide.take(tokenizer.encode("b")[0]) && !guide.is_done());
        assert_eq!(guide.mask(&[0.0; 300], &[]), None);
        // Logits that say nothing still lead to a token of the grammar.
        let mut guide = grammars.constraint("start: \"a\"").begin().unwrap();
        let a = tokenizer.encode("a")[0];
        assert!(guide.mask(&[f32::NAN; 300], &[]).is_some());
        assert_eq!((guide.settle(0), guide.settle(a)), (a, a));
    }

    #[test]
    fn texts_are_accepted_as_they_are_written() {
        let grammars = Grammars::new(&tokenizer()).unwrap();
        let grammar =
            "start: WORD (\"; \" WORD)*\nWORD: %regex {\"substring_chunks\": [\"a\", \"ab\", \"疾\"]}";
        for (text, accepted) in [("ab; a", true), ("aab疾", true), ("a; b", false), ("ab疾; ab; ", true)] {
            assert_eq!(grammars.accepts(grammar, text).unwrap(), accepted, "{text}");
        }
    }
}
