//! From messages to ids and the ids that are learned.

use std::ops::Range;

use super::encode::{Layout, encode};
use super::shield::Shield;
use super::template::Marks;
use super::{ChatFormat, Message, Rendered, Role};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Which answers of a conversation are learned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Learn {
    None,
    /// The last, which ends the conversation.
    Last,
    All,
}

/// Messages as the template may see them.
struct Guarded {
    messages: Vec<Message>,
    breaker: char,
    marks: Marks,
}

impl ChatFormat {
    /// Renders a conversation.
    ///
    /// With `generate` the ids end where the model's reply begins. Without it the conversation is laid out for training: every
    /// answer and the mark that ends it is learned. The ids before an answer are then exactly those that
    /// `render(.., generate = true)` gives for the messages before it.
    ///
    /// A template that marks what the model says with `{% generation %}` is believed: what lies in these blocks is learned.
    ///
    /// `tokenizer` must be the one the format was made for.
    ///
    /// # Errors
    ///
    /// The template refuses the conversation; for training, the template does not show where an answer starts and ends, or shows
    /// an answer otherwise when it is not the last (see [`render_for_training`](Self::render_for_training)).
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        generate: bool,
    ) -> Result<Rendered, TokenizerError> {
        self.lay_out(tokenizer, messages, if generate { Learn::None } else { Learn::All })
    }

    /// Renders a conversation for training with every answer learned once: at once where the template allows it, else as one
    /// sample for each answer. Templates that show an answer otherwise as soon as more follows (ChatGLM-6B counts rounds from the
    /// second on, Qwen3 drops the thinking of earlier turns) need the latter.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render) of the conversation up to each answer.
    pub fn render_for_training(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
    ) -> Result<Vec<Rendered>, TokenizerError> {
        match self.lay_out(tokenizer, messages, Learn::All) {
            Err(TokenizerError::NotLearnable { .. }) => {}
            rendered => return Ok(vec![rendered?]),
        }
        let answers = messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant);
        answers.map(|(turn, _)| self.lay_out(tokenizer, &messages[..=turn], Learn::Last)).collect()
    }

    fn lay_out(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        learn: Learn,
    ) -> Result<Rendered, TokenizerError> {
        let guarded = self.guard(messages);
        let (mut text, said) = self.text(&guarded, messages.len(), learn == Learn::None)?;
        let last = messages.len().saturating_sub(1);
        let mut answers = Vec::new();
        if self.inner.template.marks_answers() {
            // Of a block that is no answer the number of a message is not known; errors name the last.
            answers.extend(said.into_iter().map(|range| (last, range)));
        } else {
            for (turn, _) in messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
                match self.answer(&guarded, turn, &text) {
                    Ok(answer) => answers.push((turn, answer)),
                    Err(_) if learn == Learn::None || (learn == Learn::Last && turn != last) => {}
                    Err(error) if learn == Learn::Last => {
                        let prompt;
                        (prompt, text) = self.behind_its_prompt(&guarded, turn)?.ok_or(error)?;
                        answers.push((turn, prompt..text.len()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(close) = &self.inner.close
            && learn != Learn::None
            && messages.last().is_some_and(|m| m.role == Role::Assistant)
        {
            text.push_str(close);
        }
        let specials = self.inner.shield.find(&text);
        let mut learned = Vec::with_capacity(answers.len());
        let taught = match learn {
            Learn::None => &[],
            Learn::Last => &answers[answers.len().saturating_sub(1)..],
            Learn::All => &answers[..],
        };
        for (turn, answer) in taught {
            learned.push(self.learned(*turn, answer, &specials)?);
        }
        let cuts: Vec<usize> = answers.iter().map(|(_, answer)| answer.start).collect();
        let layout = Layout {
            text: &text,
            breaker: guarded.breaker,
            specials: &specials,
            cuts: &cuts,
            learned: &learned,
        };
        Ok(encode(tokenizer, &self.inner.shield, &layout, self.inner.apart))
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
            let guarded = self.guard(&kept);
            let (text, _) = self.text(&guarded, kept.len(), false)?;
            let specials = self.inner.shield.find(&text);
            let layout = Layout {
                text: &text,
                breaker: guarded.breaker,
                specials: &specials,
                cuts: &[],
                learned: &[],
            };
            if encode(tokenizer, &self.inner.shield, &layout, self.inner.apart).ids.len() > most {
                break;
            }
            from = start;
        }
        Ok(system.iter().chain(&history[from..]).chain([last]).cloned().collect())
    }

    /// The messages with their content guarded.
    fn guard(&self, messages: &[Message]) -> Guarded {
        let texts = messages.iter().map(|message| message.content.as_str());
        let [breaker, begin, end] = Shield::free_characters(texts);
        let guard = |message: &Message| Message {
            role: message.role,
            content: self.inner.shield.guard(&message.content, breaker).into_owned(),
        };
        Guarded { messages: messages.iter().map(guard).collect(), breaker, marks: [begin, end] }
    }

    /// The text of the first `count` messages, and the bytes of it that the template marks as said by the model.
    fn text(
        &self,
        guarded: &Guarded,
        count: usize,
        generate: bool,
    ) -> Result<(String, Vec<Range<usize>>), TokenizerError> {
        let marked = self.inner.template.render(&guarded.messages[..count], generate, guarded.marks)?;
        if !self.inner.template.marks_answers() {
            return Ok((marked, Vec::new()));
        }
        let (mut text, mut said, mut open) = (String::with_capacity(marked.len()), Vec::new(), None);
        for piece in marked.split_inclusive(guarded.marks) {
            let words = piece.trim_end_matches(guarded.marks);
            text.push_str(words);
            match piece.chars().next_back() {
                Some(mark) if mark == guarded.marks[0] => open = Some(text.len()),
                Some(mark) if mark == guarded.marks[1] => {
                    said.extend(open.take().map(|start| start..text.len()).filter(|range| !range.is_empty()));
                }
                _ => {}
            }
        }
        Ok((text, said))
    }

    /// The bytes that an answer adds to the rendered text: from where the prompt for it ends to where its turn ends.
    fn answer(&self, guarded: &Guarded, turn: usize, text: &str) -> Result<Range<usize>, TokenizerError> {
        let refuse = |reason: &str| self.not_learnable(turn, reason);
        if turn == 0 {
            return Err(refuse("nothing stands before it"));
        }
        let (prompt, _) = self.text(guarded, turn, true)?;
        let (whole, _) = self.text(guarded, turn + 1, false)?;
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

    /// The text of a conversation up to an answer with that answer behind the prompt for it, and the length of that prompt: where
    /// the prompt says more than how the turn begins (distils of DeepSeek-R1 are prompted to think), what is served is what the
    /// answer must be learned behind. Nothing where no special token opens both.
    fn behind_its_prompt(
        &self,
        guarded: &Guarded,
        turn: usize,
    ) -> Result<Option<(usize, String)>, TokenizerError> {
        if turn == 0 {
            return Ok(None);
        }
        let (before, _) = self.text(guarded, turn, false)?;
        let (mut text, _) = self.text(guarded, turn, true)?;
        let (whole, _) = self.text(guarded, turn + 1, false)?;
        let (Some(asked), Some(said)) = (text.strip_prefix(&before), whole.strip_prefix(&before)) else {
            return Ok(None);
        };
        let opening = |text| self.inner.shield.find(text).into_iter();
        let shared = opening(asked).zip(opening(said)).take_while(|(a, b)| a == b).last();
        let Some(((opened, _), _)) = shared.filter(|((at, _), _)| asked[..at.end] == said[..at.end]) else {
            return Ok(None);
        };
        let prompt = text.len();
        text.push_str(&said[opened.end..]);
        Ok(Some((prompt, text)))
    }

    /// The bytes that are learned: an answer up to the last special token of its turn, or else with the one right after it.
    fn learned(
        &self,
        turn: usize,
        answer: &Range<usize>,
        specials: &[(Range<usize>, u32)],
    ) -> Result<Range<usize>, TokenizerError> {
        let last = specials.iter().rev().find(|(at, _)| answer.start <= at.start && at.end <= answer.end);
        let after = specials.iter().find(|(at, _)| at.start == answer.end);
        if self.inner.template.marks_answers() {
            // All of the block, and the mark that ends the turn where it stands outside.
            let ended = last.is_some_and(|(at, _)| at.end == answer.end);
            let end = after.filter(|_| !ended).map_or(answer.end, |(at, _)| at.end);
            return Ok(answer.start..end);
        }
        match last.or(after) {
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
