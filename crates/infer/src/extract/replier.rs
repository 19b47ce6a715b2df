//! Who answers the questions of an extraction.

use taiyi_model::chat::Message;

use crate::error::InferError;
use crate::model::{Prompt, Reply, ReplyModel, ReplyOptions, ReplyProgress};

/// A question in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPrompt {
    /// What the human says.
    pub text: String,
    /// The grammar of the reply, where it is constrained. Who knows no grammars may reply as it likes.
    pub grammar: Option<String>,
}

/// Whatever answers prompts: a model, an endpoint, a script.
pub trait Replier {
    /// Answers prompts, one reply each, in order. What cannot be answered for the prompt's own sake is an empty reply
    /// that ends with [`Finish::TooLong`](crate::Finish::TooLong).
    ///
    /// # Errors
    /// When it cannot go on.
    fn reply(&mut self, prompts: &[TextPrompt]) -> Result<Vec<Reply>, InferError>;

    /// Whether a prompt leaves room for a whole reply; longer texts are asked about in smaller pieces.
    ///
    /// # Errors
    /// When the prompt cannot be laid out.
    fn fits(&self, prompt: &str) -> Result<bool, InferError>;
}

/// Lets a model answer prompts, each in a conversation of its own.
pub struct ModelReplier<'a> {
    model: &'a mut ReplyModel,
    options: ReplyOptions,
    system: Option<String>,
    progress: Box<dyn FnMut(ReplyProgress) + 'a>,
}

impl<'a> ModelReplier<'a> {
    /// A replier with these options.
    pub fn new(model: &'a mut ReplyModel, options: ReplyOptions) -> Self {
        Self { model, options, system: None, progress: Box::new(|_| {}) }
    }

    /// Opens each conversation with a system message.
    #[must_use]
    pub fn with_system(mut self, system: Option<String>) -> Self {
        self.system = system;
        self
    }

    /// Is told after each reply how far the prompts that were given together are.
    #[must_use]
    pub fn with_progress(mut self, progress: impl FnMut(ReplyProgress) + 'a) -> Self {
        self.progress = Box::new(progress);
        self
    }

    fn messages(&self, prompt: &str) -> Vec<Message> {
        self.system.iter().map(Message::system).chain([Message::user(prompt)]).collect()
    }
}

impl Replier for ModelReplier<'_> {
    fn reply(&mut self, prompts: &[TextPrompt]) -> Result<Vec<Reply>, InferError> {
        let prompts: Vec<Prompt> = prompts
            .iter()
            .map(|prompt| Prompt { messages: self.messages(&prompt.text), grammar: prompt.grammar.clone() })
            .collect();
        self.model.reply_all(&prompts, &self.options, &mut self.progress)
    }

    fn fits(&self, prompt: &str) -> Result<bool, InferError> {
        let tokens = self.model.prompt_ids(&self.messages(prompt))?.len();
        // An answer copies from the text, so it is hardly ever longer than the prompt.
        let reply = self.options.max_new_tokens.min(tokens);
        Ok(tokens + reply <= self.model.positions())
    }
}
