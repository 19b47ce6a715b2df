//! A conversation with a person: the history, what of it the model is shown, and the reply as it comes.

use taiyi_model::chat::{ChatFormat, Message, Role};

use crate::error::InferError;
use crate::model::{Reply, ReplyModel, ReplyOptions};
use crate::sampling::Sampling;

/// How a conversation is held.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// Sets the scene, if anything.
    pub system: Option<String>,
    /// How tokens are chosen; each turn draws with a seed of its own.
    pub sampling: Sampling,
    /// Most tokens of a reply.
    pub max_new_tokens: usize,
}

impl ChatOptions {
    /// As published for Taiyi 1: top-p 0.9, temperature 0.3, 500 new tokens.
    pub fn taiyi1() -> Self {
        Self { system: None, sampling: Sampling::TAIYI1, max_new_tokens: 500 }
    }

    /// As published for Taiyi 2: top-p 0.7, top-k 20, temperature 0.3, repetition penalty 1.05.
    pub fn taiyi2() -> Self {
        Self { sampling: Sampling::TAIYI2, ..Self::taiyi1() }
    }

    /// What suits a model's format: Taiyi 2's for GLM-4's, Taiyi 1's for all others.
    pub fn for_format(format: &ChatFormat) -> Self {
        if format.name() == "glm4" { Self::taiyi2() } else { Self::taiyi1() }
    }
}

/// A conversation so far.
#[derive(Clone, Debug)]
pub struct ChatSession {
    options: ChatOptions,
    messages: Vec<Message>,
}

impl ChatSession {
    /// A conversation in which nothing was said.
    pub fn new(options: ChatOptions) -> Self {
        let mut session = Self { options, messages: Vec::new() };
        session.clear();
        session
    }

    /// Everything said, the oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Forgets everything but the system message.
    pub fn clear(&mut self) {
        self.messages = self.options.system.iter().map(Message::system).collect();
    }

    /// Says something to the model and shows its reply in pieces as it comes; answering `false` to a piece stops it.
    /// Both become part of the conversation, a stopped reply as far as it went.
    ///
    /// # Errors
    /// When the chat format refuses the conversation, what was said alone is longer than the model holds, or the
    /// engine refuses. The conversation is then as before.
    pub fn say(
        &mut self,
        model: &mut ReplyModel,
        text: &str,
        on_piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Reply, InferError> {
        let before = self.messages.len();
        self.messages.push(Message::user(text));
        let turns = self.messages.iter().filter(|message| message.role == Role::User).count() as u64;
        let mut sampling = self.options.sampling;
        sampling.seed = sampling.seed.wrapping_add(turns - 1);
        let options = ReplyOptions { max_new_tokens: self.options.max_new_tokens, sampling, batch: 1 };
        let reply =
            self.prompt(model).and_then(|prompt| model.reply_to_ids(prompt, None, &options, on_piece));
        match reply {
            Ok(reply) => {
                self.messages.push(Message::assistant(reply.text.clone()));
                Ok(reply)
            }
            Err(error) => {
                self.messages.truncate(before);
                Err(error)
            }
        }
    }

    /// The ids that the next reply goes on from.
    ///
    /// Taiyi 1's format keeps the last ids of the rendered conversation, as published, wherever that cuts. Other formats
    /// lose whole turns, the oldest first, until the rest leaves room for a reply. What the last message alone is
    /// too long for is left to the caller.
    ///
    /// # Errors
    /// When the chat format refuses the conversation.
    pub fn prompt(&self, model: &ReplyModel) -> Result<Vec<u32>, InferError> {
        let positions = model.positions();
        let most = positions - self.options.max_new_tokens.min(positions / 2);
        let mut ids = model.prompt_ids(&self.messages)?;
        if model.format().history_ids().is_some() {
            model.format().cut_history(&mut ids);
            ids.drain(..ids.len().saturating_sub(most));
            return Ok(ids);
        }
        if ids.len() <= most {
            return Ok(ids);
        }
        let (Some(last), system) = (self.messages.last(), self.messages.first()) else { return Ok(ids) };
        let system = system.filter(|message| message.role == Role::System && *message != last);
        let alone: Vec<Message> = system.into_iter().chain([last]).cloned().collect();
        let taken = model.prompt_ids(&alone)?.len();
        let left = most.saturating_sub(taken);
        model.prompt_ids(&model.format().keep_newest(model.tokenizer(), &self.messages, left)?)
    }
}
