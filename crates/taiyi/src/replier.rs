//! A local model that answers prompts: those of an evaluation, and those of an extraction.

use taiyi_eval::{Prompt, ReplyError};
use taiyi_infer::{Finish, InferError, Reply, ReplyModel, ReplyOptions, ReplyProgress};
use taiyi_model::chat::Message;

/// Answers with greedy decoding, many prompts side by side.
pub(crate) struct LocalReplier<'a> {
    model: &'a mut ReplyModel,
    options: ReplyOptions,
    system: Option<String>,
    watch: Box<dyn FnMut(ReplyProgress) + 'a>,
}

impl<'a> LocalReplier<'a> {
    /// Replies of at most `max_new_tokens`.
    pub(crate) fn new(model: &'a mut ReplyModel, max_new_tokens: usize) -> Self {
        let options = ReplyOptions { max_new_tokens, ..ReplyOptions::default() };
        Self { model, options, system: None, watch: Box::new(|_| {}) }
    }

    /// Decodes so many replies side by side.
    pub(crate) fn with_batch(mut self, batch: usize) -> Self {
        self.options.batch = batch;
        self
    }

    /// Opens each conversation with a system message.
    pub(crate) fn with_system(mut self, system: Option<String>) -> Self {
        self.system = system;
        self
    }

    /// Is told after each reply how many of those asked for together are there.
    pub(crate) fn watched(mut self, watch: impl FnMut(ReplyProgress) + 'a) -> Self {
        self.watch = Box::new(watch);
        self
    }

    fn messages(&self, prompt: &str) -> Vec<Message> {
        self.system.iter().map(Message::system).chain([Message::user(prompt)]).collect()
    }

    fn replies(&mut self, prompts: Vec<Vec<Message>>) -> Result<Vec<Reply>, InferError> {
        self.model.reply_all(&prompts, &self.options, &mut *self.watch)
    }
}

impl taiyi_eval::Replier for LocalReplier<'_> {
    fn reply(&mut self, prompts: &[Prompt]) -> Result<Vec<taiyi_eval::Reply>, ReplyError> {
        let messages = prompts.iter().map(|prompt| self.messages(prompt.text)).collect();
        let replies = self.replies(messages).map_err(ReplyError::of)?;
        let reply =
            |reply: Reply| taiyi_eval::Reply { cut_off: reply.finish == Finish::Length, text: reply.text };
        Ok(replies.into_iter().map(reply).collect())
    }

    fn batch(&self) -> usize {
        2 * self.options.batch
    }
}

impl taiyi_infer::Replier for LocalReplier<'_> {
    fn reply(&mut self, prompts: &[String]) -> Result<Vec<Reply>, InferError> {
        let messages = prompts.iter().map(|prompt| self.messages(prompt)).collect();
        self.replies(messages)
    }

    fn fits(&self, prompt: &str) -> Result<bool, InferError> {
        let tokens = self.model.prompt_ids(&self.messages(prompt))?.len();
        // An answer copies from the text, so it is hardly ever longer than the prompt.
        let reply = self.options.max_new_tokens.min(tokens);
        Ok(tokens + reply <= self.model.positions())
    }
}
