//! A model that replies: decoder, tokenizer and chat format together.
//!
//! This module knows conversations and texts; it does not know what they are about.

use std::path::{Path, PathBuf};

use taiyi_model::chat::{ChatFormat, Message};
use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::{Decoder, DecoderConfig, Dtype};

use crate::constraint::{Constraint, Grammars};
use crate::error::InferError;
use crate::generate::{BatchOptions, Event, Finish, Generator, Request};
use crate::sampling::Sampling;

/// What is asked, and what the reply may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The grammar of the reply, such as `AnswerSpec::grammar` writes; without one it may be anything.
    pub grammar: Option<String>,
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, grammar: None }
    }
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The text, without special tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens generated.
    pub tokens: usize,
}

/// How replies are generated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplyOptions {
    /// Most tokens of a reply.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most replies generated side by side. More are faster together, and each takes a key-value cache; the replies
    /// are the same.
    pub batch: usize,
}

impl Default for ReplyOptions {
    /// Greedy, 500 new tokens, 16 side by side.
    fn default() -> Self {
        Self { max_new_tokens: 500, sampling: Sampling::GREEDY, batch: 16 }
    }
}

/// How far [`ReplyModel::reply_all`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyProgress {
    /// Prompts with a reply.
    pub done: usize,
    /// Prompts in all.
    pub total: usize,
    /// Tokens generated so far.
    pub tokens: usize,
}

/// What to load beside the weights of a folder.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// How weights are stored.
    pub dtype: Dtype,
    /// Folder of a PEFT adapter.
    pub adapter: Option<PathBuf>,
    /// Name of a chat format (one of [`ChatFormat::names`]) in place of the folder's own.
    pub chat_format: Option<String>,
}

impl Default for LoadOptions {
    /// bf16, no adapter, the folder's chat format.
    fn default() -> Self {
        Self { dtype: Dtype::Bf16, adapter: None, chat_format: None }
    }
}

/// A decoder with its tokenizer and chat format.
pub struct ReplyModel {
    decoder: Decoder,
    tokenizer: Tokenizer,
    format: ChatFormat,
    generator: Generator,
    /// Laid out when the first grammar is met.
    grammars: Option<Grammars>,
}

impl ReplyModel {
    /// Loads a model folder. What is small and can be wrong is read before the weights.
    ///
    /// # Errors
    /// When a file is missing or broken, the tokenizer is another model's, or the adapter does not fit.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, InferError> {
        let tokenizer = Tokenizer::load(dir)?;
        tokenizer.check_fits(DecoderConfig::load(dir)?.vocab_size)?;
        let format = match &options.chat_format {
            Some(name) => ChatFormat::by_name(name, &tokenizer)?,
            None => ChatFormat::load(dir, &tokenizer)?,
        };
        let mut decoder = Decoder::load(dir, options.dtype)?;
        if let Some(adapter) = &options.adapter {
            decoder.load_adapter(adapter, false)?;
        }
        Self::new(decoder, tokenizer, format)
    }

    /// Puts together what is at hand, such as a model that was just trained.
    ///
    /// # Errors
    /// When the tokenizer does not fit the decoder.
    pub fn new(decoder: Decoder, tokenizer: Tokenizer, format: ChatFormat) -> Result<Self, InferError> {
        tokenizer.check_fits(decoder.config().vocab_size)?;
        Ok(Self { decoder, tokenizer, format, generator: Generator::default(), grammars: None })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat format.
    pub fn format(&self) -> &ChatFormat {
        &self.format
    }

    /// Gives the decoder back, to train it on.
    pub fn into_decoder(self) -> Decoder {
        self.decoder
    }

    /// Tokens that a prompt and its reply may have together.
    pub fn positions(&self) -> usize {
        self.decoder.config().max_position_embeddings
    }

    /// The ids that a reply to these messages goes on from.
    ///
    /// # Errors
    /// When the chat format refuses the conversation.
    pub fn prompt_ids(&self, messages: &[Message]) -> Result<Vec<u32>, InferError> {
        Ok(self.format.render(&self.tokenizer, messages, true)?.ids)
    }

    /// What a reply of a grammar is constrained to.
    fn constraint(&mut self, grammar: Option<&str>) -> Result<Option<Constraint>, InferError> {
        let Some(grammar) = grammar else { return Ok(None) };
        let grammars = match &self.grammars {
            Some(grammars) => grammars.clone(),
            None => self.grammars.insert(Grammars::new(&self.tokenizer)?).clone(),
        };
        // GLM-4 writes a line break before its reply, which is no part of it.
        let lead = match self.tokenizer.encode("\n").as_slice() {
            [id] if self.format.reply("\n").is_empty() => Some(*id),
            _ => None,
        };
        Ok(Some(grammars.constraint(grammar).after(lead)))
    }

    /// Replies to every prompt, in order. A prompt that leaves no room for a reply gets an empty one that ends with
    /// [`Finish::TooLong`]; the others go on. `progress` is called after each reply.
    ///
    /// # Errors
    /// When the chat format refuses a conversation, a sampling value is outside its range, a grammar is refused, or the
    /// engine refuses.
    pub fn reply_all(
        &mut self,
        prompts: &[Prompt],
        options: &ReplyOptions,
        progress: &mut dyn FnMut(ReplyProgress),
    ) -> Result<Vec<Reply>, InferError> {
        options.sampling.check()?;
        let too_long = Reply { text: String::new(), finish: Finish::TooLong, tokens: 0 };
        let mut replies = vec![too_long; prompts.len()];
        let (mut requests, mut asked) =
            (Vec::with_capacity(prompts.len()), Vec::with_capacity(prompts.len()));
        for (at, prompt) in prompts.iter().enumerate() {
            let ids = self.prompt_ids(&prompt.messages)?;
            if ids.len() < self.positions() {
                requests.push(Request {
                    prompt: ids,
                    max_new_tokens: options.max_new_tokens,
                    sampling: options.sampling,
                    constraint: self.constraint(prompt.grammar.as_deref())?,
                });
                asked.push(at);
            }
        }
        let mut at = ReplyProgress { done: prompts.len() - asked.len(), total: prompts.len(), tokens: 0 };
        progress(at);
        let batch = BatchOptions { stop_ids: self.format.stop_ids(), batch: options.batch };
        let generations = self.generator.run(&self.decoder, &requests, batch, &mut |_, event| {
            match event {
                Event::Token(_) => at.tokens += 1,
                Event::Finished(_) => {
                    at.done += 1;
                    progress(at);
                }
            }
            true
        })?;
        for (at, generation) in asked.into_iter().zip(generations) {
            let text = self.tokenizer.decode_without_special(&generation.ids);
            replies[at] = Reply {
                text: self.format.reply(&text).to_owned(),
                finish: generation.finish,
                tokens: generation.ids.len(),
            };
        }
        Ok(replies)
    }

    /// Replies to one prompt and shows the text as it comes, in pieces that never end inside a character and that
    /// together are the reply's text. Answering `false` to a piece ends the reply.
    ///
    /// # Errors
    /// As [`ReplyModel::reply_all`], and when the prompt leaves no room for a reply.
    pub fn reply_streamed(
        &mut self,
        prompt: &Prompt,
        options: &ReplyOptions,
        on_piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Reply, InferError> {
        let ids = self.prompt_ids(&prompt.messages)?;
        self.reply_to_ids(ids, prompt.grammar.as_deref(), options, on_piece)
    }

    /// As [`ReplyModel::reply_streamed`], for a prompt that is ids already.
    pub(crate) fn reply_to_ids(
        &mut self,
        prompt: Vec<u32>,
        grammar: Option<&str>,
        options: &ReplyOptions,
        on_piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Reply, InferError> {
        let request = Request {
            prompt,
            max_new_tokens: options.max_new_tokens,
            sampling: options.sampling,
            constraint: self.constraint(grammar)?,
        };
        let mut stream = self.tokenizer.decode_stream_without_special();
        let mut pieces = Pieces { format: &self.format, text: String::new(), begun: false };
        let batch = BatchOptions { stop_ids: self.format.stop_ids(), batch: 1 };
        let generations =
            self.generator.run(&self.decoder, &[request], batch, &mut |_, event| match event {
                Event::Token(id) => match stream.push(id) {
                    Some(piece) => pieces.push(&piece, on_piece),
                    None => true,
                },
                Event::Finished(_) => true,
            })?;
        let generation = generations.into_iter().next().expect("one request has one answer");
        // Who asked to stop is not told more, and half a character is nothing to keep.
        if generation.finish != Finish::Cancelled {
            if let Some(rest) = stream.finish() {
                pieces.push(&rest, on_piece);
            }
            pieces.finish(on_piece);
        }
        let text = pieces.text;
        Ok(Reply { text, finish: generation.finish, tokens: generation.ids.len() })
    }
}

/// Passes text on but for what the format puts before a reply.
struct Pieces<'a> {
    format: &'a ChatFormat,
    text: String,
    /// Whether it is settled what the reply starts with.
    begun: bool,
}

impl Pieces<'_> {
    fn push(&mut self, piece: &str, on_piece: &mut dyn FnMut(&str) -> bool) -> bool {
        self.text.push_str(piece);
        if self.begun {
            return on_piece(piece);
        }
        // What formats put before a reply is blank, so the first visible character settles it.
        if self.text.trim().is_empty() {
            return true;
        }
        self.begin(on_piece)
    }

    fn begin(&mut self, on_piece: &mut dyn FnMut(&str) -> bool) -> bool {
        self.begun = true;
        self.text = self.format.reply(&self.text).to_owned();
        self.text.is_empty() || on_piece(&self.text)
    }

    fn finish(&mut self, on_piece: &mut dyn FnMut(&str) -> bool) {
        if !self.begun {
            self.begin(on_piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use taiyi_model::tokenizer::{Trainer, TrainerOptions};

    use super::*;

    fn shown(format: &ChatFormat, pieces: &[&str]) -> (String, Vec<String>) {
        let mut shown = Vec::new();
        let mut passing = Pieces { format, text: String::new(), begun: false };
        for piece in pieces {
            passing.push(piece, &mut |piece| {
                shown.push(piece.to_owned());
                true
            });
        }
        passing.finish(&mut |piece| {
            shown.push(piece.to_owned());
            true
        });
        (passing.text, shown)
    }

    #[test]
    fn what_a_format_puts_before_a_reply_is_not_shown() {
        let specials = [
            "<|endoftext|>",
            "<|user|>",
            "<|observation|>",
            "<|assistant|>",
            "<|system|>",
            "[gMASK]",
            "<sop>",
        ];
        let options = TrainerOptions {
            vocab_size: 270,
            special_tokens: specials.map(str::to_owned).to_vec(),
            ..TrainerOptions::default()
        };
        let mut trainer = Trainer::new(options).unwrap();
        trainer.add("aaa", 10.0).unwrap();
        let trained = trainer.finish(&mut |_| {}).unwrap();
        let glm = ChatFormat::by_name("glm4", trained.tokenizer()).unwrap();
        let plain = ChatFormat::by_name("taiyi1", trained.tokenizer()).unwrap();
        for (format, pieces, expected) in [
            (&glm, vec!["\n", "你好", "\n再见"], vec!["你好", "\n再见"]),
            (&glm, vec!["\n你", "好"], vec!["你", "好"]),
            (&glm, vec!["你", "\n好"], vec!["你", "\n好"]),
            (&glm, vec!["\n"], vec![]),
            (&plain, vec!["\n", "\n", "ok"], vec!["\n\nok"]),
            (&plain, vec![" "], vec![" "]),
            (&plain, vec![], vec![]),
        ] {
            let (text, shown) = shown(format, &pieces);
            assert_eq!(shown, expected);
            assert_eq!(text, expected.concat());
            assert_eq!(text, format.reply(&pieces.concat()));
        }
    }
}
