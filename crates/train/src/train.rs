//! From a recipe to a trained model.

use crate::data::{Dataset, RenderedSample, TextItem, TextWindows};
use crate::decoder::DecoderLearner;
use crate::fit::{HeldOut, Run, Summary, check_unoccupied};
use crate::observer::Observer;
use crate::recipe::{Kind, Overrides, Recipe, Source};
use crate::validate::{BitsPerByte, TokenBytes, Windows, bits_per_byte};
use crate::{TrainError, plan};
use std::fs;
use std::path::Path;
use taiyi_instruct::{Conversation, Turn};
use taiyi_model::chat::{ChatFormat, Message};
use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::{Checkpoint, Decoder, DecoderConfig, PackedBatch, Workspace};

/// Trains what a recipe says, with the command line's changes, and writes everything into its `out` folder.
///
/// The order is: settings, tokenizer, data, memory plan, weights, first step; so that whatever is wrong is said before
/// anything long begins.
///
/// # Errors
///
/// Any [`TrainError`]. Checkpoints written before stay, and `overrides.resume` goes on from the newest.
pub fn train(
    recipe: &Recipe,
    overrides: &Overrides,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let recipe = &recipe.with(overrides);
    recipe.check()?;
    let missing = |key| recipe.wrong(key, "missing".to_owned(), "a path, here or on the command line");
    let base = recipe.base.as_deref().ok_or_else(|| missing("base"))?;
    let out = recipe.out.as_deref().ok_or_else(|| missing("out"))?;
    if recipe.data.is_empty() {
        return Err(missing("data"));
    }
    check_unoccupied(out, overrides.resume)?;
    let tokenizer_folder = recipe.tokenizer.as_deref().unwrap_or(base);
    let tokenizer = Tokenizer::load(tokenizer_folder)?;
    let config = DecoderConfig::load(base)?;
    tokenizer.check_fits(config.vocab_size)?;
    fs::create_dir_all(out).map_err(TrainError::file(out, "cannot create"))?;

    let preparation = Preparation::new(recipe, tokenizer_folder, &tokenizer)?;
    let data = preparation.dataset(&recipe.data, &out.join("tokens.partial"), recipe.seed)?;
    let mut held_out = Vec::new();
    for (index, source) in recipe.validation.iter().flat_map(|validation| &validation.data).enumerate() {
        let store = out.join(format!("held_out_{index}.partial"));
        let source = Source { repeats: None, weight: None, ..source.clone() };
        held_out.push(HeldOut {
            name: source.label(),
            data: preparation.dataset(std::slice::from_ref(&source), &store, recipe.seed)?,
        });
    }
    let memory = plan::of(recipe, &config, &data)?;
    let checkpointing = if memory.every_block { Checkpoint::EveryBlock } else { Checkpoint::None };
    let mut learner = DecoderLearner::load(recipe, base, tokenizer_folder)?;
    let run = Run {
        recipe,
        out,
        learner: &mut learner,
        data,
        held_out,
        token_bytes: (recipe.kind == Kind::Pretrain).then(|| token_bytes(&tokenizer)),
        memory: Some(memory),
        checkpointing,
        resume: overrides.resume,
    };
    run.fit(observer)
}

/// Measures how many bits a model needs per byte of some documents, each read on its own.
///
/// # Errors
///
/// [`TrainError::Tokenizer`] when the tokenizer does not fit the model.
pub fn evaluate_bits_per_byte<'a>(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    documents: impl IntoIterator<Item = &'a str>,
    windows: Windows,
) -> Result<BitsPerByte, TrainError> {
    tokenizer.check_fits(decoder.config().vocab_size)?;
    let mut workspace = Workspace::new();
    let mut loss = |batch: &PackedBatch<'_>| Ok(decoder.loss(batch, decoder.precision(), &mut workspace)?);
    let end = end_of_text(tokenizer).unwrap_or(0);
    let encoded = documents.into_iter().map(|document| tokenizer.encode(document));
    bits_per_byte(&mut loss, encoded, end, &token_bytes(tokenizer), windows)
}

/// How the data of a recipe become tokens.
enum Preparation<'a> {
    Windows { tokenizer: &'a Tokenizer, windows: TextWindows, format: Option<ChatFormat> },
    Conversations { tokenizer: &'a Tokenizer, format: ChatFormat, max_length: usize, stage: Option<u8> },
}

impl<'a> Preparation<'a> {
    fn new(recipe: &Recipe, folder: &Path, tokenizer: &'a Tokenizer) -> Result<Self, TrainError> {
        let format = match &recipe.chat_format {
            Some(name) => ChatFormat::by_name(name, tokenizer),
            None => ChatFormat::load(folder, tokenizer),
        };
        if recipe.kind == Kind::Sft {
            let (max_length, stage) = (recipe.max_length, recipe.learn_stage);
            return Ok(Self::Conversations { tokenizer, format: format?, max_length, stage });
        }
        let found = "without an end-of-text token".to_owned();
        let missing = || recipe.wrong("tokenizer", found, "one with `<|endoftext|>` or an `eos_token`");
        let windows = TextWindows {
            length: recipe.max_length,
            end_of_text: end_of_text(tokenizer).ok_or_else(missing)?,
            attend_across_documents: recipe.attend_across_documents,
        };
        // A tokenizer for raw text alone need not know how to chat, unless the recipe names a format.
        let format = if recipe.chat_format.is_some() { Some(format?) } else { format.ok() };
        Ok(Self::Windows { tokenizer, windows, format })
    }

    fn dataset(&self, sources: &[Source], store: &Path, seed: u64) -> Result<Dataset, TrainError> {
        match self {
            Self::Windows { tokenizer, windows, format } => {
                let encode = |item: &TextItem| match (item, format) {
                    (TextItem::Document(text), _) => Ok(tokenizer.encode(text)),
                    (TextItem::Conversation(conversation), Some(format)) => {
                        // Where there are several samples, the last holds the whole conversation.
                        rendered(tokenizer, format, conversation)
                            .map(|mut samples| samples.pop().map_or_else(Vec::new, |sample| sample.ids))
                    }
                    (TextItem::Conversation(_), None) => {
                        Err("a conversation, and the tokenizer has no chat format; name one in `chat_format`"
                            .to_owned())
                    }
                };
                Dataset::from_text(sources, store, *windows, seed, &encode)
            }
            Self::Conversations { tokenizer, format, max_length, stage } => {
                let render = |conversation: &Conversation| {
                    if stage.is_some_and(|stage| !conversation.in_stage(stage)) {
                        return Ok(None);
                    }
                    rendered(tokenizer, format, conversation).map(Some)
                };
                Dataset::from_conversations(sources, store, *max_length, seed, &render)
            }
        }
    }
}

fn rendered(
    tokenizer: &Tokenizer,
    format: &ChatFormat,
    conversation: &Conversation,
) -> Result<Vec<RenderedSample>, String> {
    let rendered =
        format.render_for_training(tokenizer, &messages(conversation)).map_err(|error| error.to_string())?;
    Ok(rendered
        .into_iter()
        .map(|sample| RenderedSample { ids: sample.ids, learned: sample.learned })
        .collect())
}

fn messages(conversation: &Conversation) -> Vec<Message> {
    let both =
        |turn: &Turn| [Message::user(turn.human.as_str()), Message::assistant(turn.assistant.as_str())];
    conversation.conversation.iter().flat_map(both).collect()
}

fn token_bytes(tokenizer: &Tokenizer) -> TokenBytes {
    TokenBytes::new(tokenizer.vocab_size(), |id| {
        if tokenizer.is_special(id) { 0 } else { tokenizer.decode_bytes(&[id]).len() }
    })
}

/// The mark between documents: a chat model's `eos` may close a turn instead.
fn end_of_text(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.special_id("<|endoftext|>").or_else(|| tokenizer.eos_id())
}
