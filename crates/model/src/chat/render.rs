//! From messages to ids and the ids that are learned.

use std::ops::Range;

use super::shield::Shield;
use super::{ChatFormat, Message, Rendered, Role};
use crate::tokenizer::{Tokenizer, TokenizerError};

impl ChatFormat {
    /// Renders a conversation.
    ///
    /// With `generate` the ids end where the model's reply begins. Without it the conversation is laid out for training: every
    /// answer and the mark that ends it is learned. The ids before an answer are then exactly those that
    /// `render(.., generate = true)` gives for the messages before it.
    ///
    /// `tokenizer` must be the one the format was made for.
    ///
    /// # Errors
    ///
    /// The template refuses the conversation; for training, the template does not show where an answer starts and ends.
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        generate: bool,
    ) -> Result<Rendered, TokenizerError> {
        let (guarded, breaker) = self.guard(messages);
        let mut text = self.inner.template.render(&guarded, generate)?;
        let mut answers = Vec::new();
        for (turn, _) in guarded.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
            match self.answer(&guarded, turn, &text) {
                Ok(answer) => answers.push((turn, answer)),
                Err(_) if generate => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(close) = &self.inner.close
            && !generate
            && guarded.last().is_some_and(|m| m.role == Role::Assistant)
        {
            text.push_str(close);
        }
        let specials = self.inner.shield.find(&text);
        let mut learned = Vec::with_capacity(answers.len());
        if !generate {
            for (turn, answer) in &answers {
                learned.push(self.learned(*turn, answer, &specials)?);
            }
        }
        let cuts: Vec<usize> = answers.iter().map(|(_, answer)| answer.start).collect();
        Ok(encode(tokenizer, &text, breaker, &specials, &cuts, &learned))
    }

    /// Drops the oldest turns until what stands before the last message takes at most `most` ids; a leading system message and
    /// the last message always stay. This is how the published Qwen chat code limits its window.
    ///
    /// # Errors
    ///
    /// The template refuses the conversation.
    pub fn keep_newest(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        most: usize,
    ) -> Result<Vec<Message>, TokenizerError> {
        let (system, turns) = match messages.split_first() {
            Some((first, rest)) if first.role == Role::System => (std::slice::from_ref(first), rest),
            _ => (&[][..], messages),
        };
        let Some((last, history)) = turns.split_last() else { return Ok(messages.to_vec()) };
        let mut from = history.len();
        for (start, _) in history.iter().enumerate().rev().filter(|(_, m)| m.role == Role::User) {
            let kept: Vec<Message> = system.iter().chain(&history[start..]).cloned().collect();
            let (guarded, breaker) = self.guard(&kept);
            let text = self.inner.template.render(&guarded, false)?;
            let specials = self.inner.shield.find(&text);
            if encode(tokenizer, &text, breaker, &specials, &[], &[]).ids.len() > most {
                break;
            }
            from = start;
        }
        Ok(system.iter().chain(&history[from..]).chain([last]).cloned().collect())
    }

    /// The messages with their content guarded, and the character that guards it.
    fn guard(&self, messages: &[Message]) -> (Vec<Message>, char) {
        let breaker = Shield::breaker(messages.iter().map(|message| message.content.as_str()));
        let guard = |message: &Message| Message {
            role: message.role,
            content: self.inner.shield.guard(&message.content, breaker).into_owned(),
        };
        (messages.iter().map(guard).collect(), breaker)
    }

    /// The bytes that an answer adds to the rendered text: from where the prompt for it ends to where its turn ends.
    fn answer(&self, messages: &[Message], turn: usize, text: &str) -> Result<Range<usize>, TokenizerError> {
        let refuse = |reason: &str| self.not_learnable(turn, reason);
        if turn == 0 {
            return Err(refuse("nothing stands before it"));
        }
        let prompt = self.inner.template.render(&messages[..turn], true)?;
        let whole = self.inner.template.render(&messages[..=turn], false)?;
        if !whole.starts_with(&prompt) {
            return Err(refuse("the prompt for it is not how its turn begins"));
        }
        if !text.starts_with(&whole) {
            return Err(refuse(
                "later turns change how it is shown; train on conversations that end with it",
            ));
        }
        Ok(prompt.len()..whole.len())
    }

    /// The bytes that are learned: an answer up to the last special token of its turn, or else with the one right after it.
    fn learned(
        &self,
        turn: usize,
        answer: &Range<usize>,
        specials: &[(Range<usize>, u32)],
    ) -> Result<Range<usize>, TokenizerError> {
        let last = specials.iter().rev().find(|(at, _)| answer.start <= at.start && at.end <= answer.end);
        let after = || specials.iter().find(|(at, _)| at.start == answer.end);
        match last.or_else(after) {
            Some((mark, _)) => Ok(answer.start..mark.end),
            None => {
                Err(self
                    .not_learnable(turn, "no special token ends it, so the model would never learn to stop"))
            }
        }
    }

    fn not_learnable(&self, turn: usize, reason: &str) -> TokenizerError {
        TokenizerError::NotLearnable { format: self.inner.name.clone(), turn, reason: reason.to_owned() }
    }
}

/// Encodes rendered text: special tokens where the template put them, ordinary text between them, cut where answers begin so
/// that no token spans a prompt and its answer.
fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    breaker: char,
    specials: &[(Range<usize>, u32)],
    cuts: &[usize],
    learned: &[Range<usize>],
) -> Rendered {
    let mut rendered = Rendered::default();
    let is_learned = |at: usize| learned.iter().any(|range| range.contains(&at));
    let ordinary = |rendered: &mut Rendered, part: Range<usize>| {
        if part.is_empty() {
            return;
        }
        let words = &text[part.clone()];
        if words.contains(breaker) {
            tokenizer.encode_into(&words.replace(breaker, ""), &mut rendered.ids);
        } else {
            tokenizer.encode_into(words, &mut rendered.ids);
        }
        rendered.learned.resize(rendered.ids.len(), is_learned(part.start));
    };
    let between = |rendered: &mut Rendered, part: Range<usize>| {
        let mut at = part.start;
        for &cut in cuts.iter().filter(|cut| part.contains(cut)) {
            ordinary(rendered, at..cut);
            at = cut;
        }
        ordinary(rendered, at..part.end);
    };
    let mut at = 0;
    for (range, token) in specials {
        between(&mut rendered, at..range.start);
        rendered.ids.push(*token);
        rendered.learned.push(is_learned(range.start));
        at = range.end;
    }
    between(&mut rendered, at..text.len());
    rendered
}
