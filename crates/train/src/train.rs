//! From a recipe to a trained model.

use crate::data::{Dataset, TextWindows};
use crate::decoder::DecoderLearner;
use crate::fit::{HeldOut, Run, Summary, check_unoccupied};
use crate::observer::Observer;
use crate::recipe::{Kind, Overrides, Recipe, Source};
use crate::validate::{BitsPerByte, TokenBytes, Windows, bits_per_byte};
use crate::{TrainError, plan};
use std::fs;
use std::path::Path;
use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::{Checkpoint, DecoderConfig};

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

    let text = Text::new(recipe, tokenizer_folder, &tokenizer)?;
    let data = text.dataset(&recipe.data, &out.join("tokens.partial"))?;
    let mut held_out = Vec::new();
    for (index, source) in recipe.validation.iter().flat_map(|validation| &validation.data).enumerate() {
        let store = out.join(format!("held_out_{index}.partial"));
        let source = Source { repeats: None, weight: None, ..source.clone() };
        held_out.push(HeldOut {
            name: source.label(),
            data: text.dataset(std::slice::from_ref(&source), &store)?,
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
/// [`TrainError::Model`] when the tokenizer does not fit the model.
pub fn evaluate_bits_per_byte<'a>(
    learner: &mut DecoderLearner,
    tokenizer: &Tokenizer,
    documents: impl IntoIterator<Item = &'a str>,
    windows: Windows,
) -> Result<BitsPerByte, TrainError> {
    let precision = learner.decoder().precision();
    let end = end_of_text(tokenizer).unwrap_or(0);
    let encoded = documents.into_iter().map(|document| tokenizer.encode(document));
    bits_per_byte(learner, encoded, end, &token_bytes(tokenizer), windows, precision)
}

/// How the data of a recipe become tokens.
struct Text<'a> {
    recipe: &'a Recipe,
    tokenizer: &'a Tokenizer,
}

impl<'a> Text<'a> {
    fn new(recipe: &'a Recipe, _folder: &Path, tokenizer: &'a Tokenizer) -> Result<Self, TrainError> {
        Ok(Self { recipe, tokenizer })
    }

    fn dataset(&self, sources: &[Source], store: &Path) -> Result<Dataset, TrainError> {
        let recipe = self.recipe;
        let windows = TextWindows {
            length: recipe.max_length,
            end_of_text: end_of_text(self.tokenizer).ok_or_else(|| {
                recipe.wrong(
                    "tokenizer",
                    "without an end-of-text token".to_owned(),
                    "`<|endoftext|>` or an `eos_token`",
                )
            })?,
            attend_across_documents: recipe.attend_across_documents,
        };
        Dataset::from_text(sources, store, windows, recipe.seed, &|text| self.tokenizer.encode(text))
    }
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
