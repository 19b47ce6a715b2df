//! A local model that answers an evaluation's prompts.

use taiyi_eval::{Prompt, Replier, Reply, ReplyError};
use taiyi_infer::{Finish, ReplyModel, ReplyOptions};
use taiyi_model::chat::Message;

/// Answers with greedy decoding, many prompts side by side.
pub(crate) struct LocalReplier<'a> {
    model: &'a mut ReplyModel,
    options: ReplyOptions,
}

impl<'a> LocalReplier<'a> {
    /// Replies of at most `max_new_tokens`.
    pub(crate) fn new(model: &'a mut ReplyModel, max_new_tokens: usize) -> Self {
        Self { model, options: ReplyOptions { max_new_tokens, ..ReplyOptions::default() } }
    }
}

impl Replier for LocalReplier<'_> {
    fn reply(&mut self, prompts: &[Prompt]) -> Result<Vec<Reply>, ReplyError> {
        let messages: Vec<Vec<Message>> =
            prompts.iter().map(|prompt| vec![Message::user(prompt.text.to_owned())]).collect();
        let replies = self.model.reply_all(&messages, &self.options, &mut |_| {}).map_err(ReplyError::of)?;
        Ok(replies
            .into_iter()
            .map(|reply| Reply { cut_off: reply.finish == Finish::Length, text: reply.text })
            .collect())
    }
}
