//! A local model that answers an evaluation's prompts.

use taiyi_eval::{Prompt, Replier, Reply, ReplyError};
use taiyi_infer::{Finish, ReplyModel, ReplyOptions, ReplyProgress};
use taiyi_model::chat::Message;

/// Answers with greedy decoding, many prompts side by side.
pub(crate) struct LocalReplier<'a> {
    model: &'a mut ReplyModel,
    options: ReplyOptions,
    watch: Box<dyn FnMut(ReplyProgress) + 'a>,
}

impl<'a> LocalReplier<'a> {
    /// Replies of at most `max_new_tokens`.
    pub(crate) fn new(model: &'a mut ReplyModel, max_new_tokens: usize) -> Self {
        let options = ReplyOptions { max_new_tokens, ..ReplyOptions::default() };
        Self { model, options, watch: Box::new(|_| {}) }
    }

    /// Decodes so many replies side by side.
    pub(crate) fn with_batch(mut self, batch: usize) -> Self {
        self.options.batch = batch;
        self
    }

    /// Is told after each reply how many of those asked for together are there.
    pub(crate) fn watched(mut self, watch: impl FnMut(ReplyProgress) + 'a) -> Self {
        self.watch = Box::new(watch);
        self
    }
}

impl Replier for LocalReplier<'_> {
    fn reply(&mut self, prompts: &[Prompt]) -> Result<Vec<Reply>, ReplyError> {
        let asked: Vec<taiyi_infer::Prompt> = prompts
            .iter()
            .map(|prompt| taiyi_infer::Prompt {
                messages: vec![Message::user(prompt.text)],
                grammar: prompt.grammar.map(str::to_owned),
            })
            .collect();
        let replies =
            self.model.reply_all(&asked, &self.options, &mut *self.watch).map_err(ReplyError::of)?;
        let cut_off = |finish| matches!(finish, Finish::Length | Finish::DeadEnd);
        Ok(replies
            .into_iter()
            .map(|reply| Reply { cut_off: cut_off(reply.finish), text: reply.text })
            .collect())
    }

    fn batch(&self) -> usize {
        2 * self.options.batch
    }
}
