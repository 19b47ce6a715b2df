//! From a recipe to a trained model.

use crate::data::{Dataset, Pack, RenderedSample, TextItem, TextWindows};
use crate::decoder::DecoderLearner;
use crate::encoder::EncoderLearner;
use crate::fit::{HeldOut, Run, Summary, check_unoccupied};
use crate::labelling::Labelling;
use crate::observer::Observer;
use crate::plan::Planned;
use crate::recipe::{Kind, Overrides, Recipe, Source};
use crate::validate::{BitsPerByte, TokenBytes, Windows, bits_per_byte};
use crate::{TrainError, plan};
use std::fs;
use std::path::Path;
use taiyi_instruct::{Conversation, Turn};
use taiyi_model::chat::{ChatFormat, Message};
use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::{Decoder, DecoderConfig, EncoderConfig, Workspace};

/// Trains what a recipe says, with the command line's changes, and writes everything into its `out` folder.
///
/// The order is: settings, tokenizer, data, memory plan, weights, first step; so that whatever is wrong is said before
/// anything long begins.
///
/// # Errors
///
/// Any [`TrainError`]. Checkpoints written before stay, and `overrides.resume` goes on from the newest.
pub fn train<O>(recipe: &Recipe, overrides: &Overrides, observer: &mut O) -> Result<Summary, TrainError>
where
    O: Observer<DecoderLearner> + Observer<EncoderLearner>,
{
    let recipe = &recipe.with(overrides);
    recipe.check()?;
    let missing = |key| recipe.wrong(key, "missing".to_owned(), "a path, here or on the command line");
    let base = recipe.base.as_deref().ok_or_else(|| missing("base"))?;
    let out = recipe.out.as_deref().ok_or_else(|| missing("out"))?;
    if recipe.data.is_empty() {
        return Err(missing("data"));
    }
    check_unoccupied(out, overrides.resume)?;
    check_base(recipe, base)?;
    let tokenizer_folder = recipe.tokenizer.as_deref().unwrap_or(base);
    let place = Place { recipe, base, out, tokenizer_folder, resume: overrides.resume };
    let tokenizer = Tokenizer::load(tokenizer_folder)?;
    if recipe.kind.is_encoder() {
        train_encoder(&place, &tokenizer, observer)
    } else {
        train_decoder(&place, &tokenizer, observer)
    }
}

/// What a run starts from and where it goes.
struct Place<'a> {
    recipe: &'a Recipe,
    base: &'a Path,
    out: &'a Path,
    tokenizer_folder: &'a Path,
    resume: bool,
}

impl Place<'_> {
    /// The training samples and the held-out ones; `dataset` reads sources into a store.
    fn data(
        &self,
        dataset: impl Fn(&[Source], &Path) -> Result<Dataset, TrainError>,
    ) -> Result<(Dataset, Vec<HeldOut>), TrainError> {
        let data = dataset(&self.recipe.data, &self.out.join("tokens.partial"))?;
        let mut held_out = Vec::new();
        let sources = self.recipe.validation.iter().flat_map(|validation| &validation.data);
        for (index, source) in sources.enumerate() {
            let store = self.out.join(format!("held_out_{index}.partial"));
            let source = Source { repeats: None, weight: None, ..source.clone() };
            let data = dataset(std::slice::from_ref(&source), &store)?;
            held_out.push(HeldOut { name: source.label(), data });
        }
        Ok((data, held_out))
    }

    fn create_out(&self) -> Result<(), TrainError> {
        fs::create_dir_all(self.out).map_err(TrainError::file(self.out, "cannot create"))
    }
}

/// Refuses an encoder where a decoder is to be trained, and the reverse.
fn check_base(recipe: &Recipe, base: &Path) -> Result<(), TrainError> {
    let is_encoder = EncoderConfig::is_of(base);
    if is_encoder == recipe.kind.is_encoder() {
        return Ok(());
    }
    let expected = if is_encoder {
        "a language model, or `kind = \"token_classification\"` or `\"sequence_classification\"`"
    } else {
        // A folder without a model at all is refused here too, with what is wrong with it.
        EncoderConfig::load(base).map(|_| "an encoder (bert, roberta)").or_else(|error| match error {
            taiyi_model::Error::UnknownModelType { .. } => Ok("an encoder (bert, roberta)"),
            other => Err(other),
        })?
    };
    let what = if is_encoder { "an encoder" } else { "no encoder" };
    Err(recipe.wrong("base", format!("{}, {what}", base.display()), expected))
}

fn train_decoder(
    place: &Place<'_>,
    tokenizer: &Tokenizer,
    observer: &mut dyn Observer<DecoderLearner>,
) -> Result<Summary, TrainError> {
    let Place { recipe, base, out, tokenizer_folder, resume } = *place;
    let config = DecoderConfig::load(base)?;
    tokenizer.check_fits(config.vocab_size)?;
    place.create_out()?;
    let preparation = Preparation::new(recipe, tokenizer_folder, tokenizer)?;
    let (data, held_out) = place.data(|sources, store| preparation.dataset(sources, store, recipe.seed))?;
    let memory = plan::of(recipe, Planned::Decoder(&config), &data)?;
    let checkpointing = memory.checkpoint();
    let mut learner = DecoderLearner::load(recipe, base, tokenizer_folder)?;
    let run = Run {
        recipe,
        out,
        learner: &mut learner,
        data,
        held_out,
        token_bytes: (recipe.kind == Kind::Pretrain).then(|| token_bytes(tokenizer)),
        memory: Some(memory),
        checkpointing,
        resume,
    };
    run.fit(observer)
}

fn train_encoder(
    place: &Place<'_>,
    tokenizer: &Tokenizer,
    observer: &mut dyn Observer<EncoderLearner>,
) -> Result<Summary, TrainError> {
    let Place { recipe, base, out, tokenizer_folder, resume } = *place;
    let config = EncoderConfig::load(base)?;
    tokenizer.check_fits(config.vocab_size)?;
    // The least that is worth reading: what frames a text, and a token of it.
    let least = tokenizer.prefix().len() + tokenizer.suffix().len() + 1;
    let positions = config.longest();
    if !(least..=positions).contains(&recipe.max_length) {
        let expected = format!("{least} to {positions}, for which the model has positions");
        return Err(recipe.wrong("max_length", recipe.max_length.to_string(), &expected));
    }
    let labelling = Labelling::new(recipe, tokenizer)?;
    place.create_out()?;
    let (data, held_out) = place.data(|sources, store| labelling.dataset(sources, store, recipe.seed))?;
    let (task, labels) = (labelling.task(), labelling.labels().to_vec());
    let config = config.with_task(task, labels.clone());
    let memory = plan::of(recipe, Planned::Encoder(&config), &data)?;
    let checkpointing = memory.checkpoint();
    let mut learner = EncoderLearner::load(recipe, base, tokenizer_folder, task, labels)?;
    let run = Run {
        recipe,
        out,
        learner: &mut learner,
        data,
        held_out,
        token_bytes: None,
        memory: Some(memory),
        checkpointing,
        resume,
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
    let mut loss = |pack: &Pack| Ok(decoder.loss(&pack.batch(), decoder.precision(), &mut workspace)?);
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
