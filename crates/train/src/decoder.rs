//! The decoder as a learner: with its workspace, and with what must be beside its weights on disk.

use crate::TrainError;
use crate::data::Pack;
use crate::fit::replace;
use crate::learner::Learner;
use crate::recipe::{Dtype, Recipe};
use std::fs;
use std::path::{Path, PathBuf};
use taiyi_kernels::Precision;
use taiyi_model::chat::ChatFormat;
use taiyi_model::{Decoder, DecoderConfig, LoraConfig, Loss, Parameter, StepOptions, Workspace};

/// A decoder that is being trained, in full or through adapters.
pub struct DecoderLearner {
    decoder: Decoder,
    workspace: Workspace,
    base: PathBuf,
    tokenizer: PathBuf,
    /// How a fully trained model is saved.
    dtype: taiyi_model::Dtype,
    /// Template of the chat format, where the recipe names one: whoever serves the result must use the same.
    chat_template: Option<&'static str>,
}

impl DecoderLearner {
    /// Loads or draws the weights and makes trainable what the recipe says.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] for a checkpoint or adapter that is broken or does not fit, [`TrainError::Value`] when the
    /// recipe contradicts the adapter it goes on with.
    pub fn load(recipe: &Recipe, base: &Path, tokenizer: &Path) -> Result<Self, TrainError> {
        let dtype = model_dtype(recipe.dtype);
        let precision = crate::fit::kernel_precision(recipe.compute_precision());
        let decoder = if recipe.from_scratch {
            let mut decoder = Decoder::random(DecoderConfig::load(base)?, recipe.seed)?;
            decoder.set_precision(precision);
            decoder
        } else if recipe.lora_rank == 0 {
            let mut decoder = Decoder::load_with(base, taiyi_model::Dtype::F32, Precision::F32)?;
            decoder.set_precision(precision);
            decoder.train_all()?;
            decoder
        } else {
            let mut decoder = Decoder::load_with(base, dtype, precision)?;
            match &recipe.adapter {
                Some(adapter) => {
                    decoder.load_adapter(adapter, true)?;
                    check_adapter(recipe, decoder.lora())?;
                }
                None => decoder.add_lora(&lora(recipe), recipe.seed)?,
            }
            decoder
        };
        Ok(Self {
            decoder,
            workspace: Workspace::new(),
            base: base.to_owned(),
            tokenizer: tokenizer.to_owned(),
            dtype,
            chat_template: recipe.chat_format.as_deref().and_then(ChatFormat::template_source),
        })
    }

    /// The model as it stands.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Gives the model back.
    pub fn into_decoder(self) -> Decoder {
        self.decoder
    }
}

pub(crate) fn model_dtype(dtype: Dtype) -> taiyi_model::Dtype {
    match dtype {
        Dtype::F32 => taiyi_model::Dtype::F32,
        Dtype::Bf16 => taiyi_model::Dtype::Bf16,
        Dtype::Nf4 => taiyi_model::Dtype::Nf4,
    }
}

pub(crate) fn lora(recipe: &Recipe) -> LoraConfig {
    LoraConfig {
        rank: recipe.lora_rank,
        alpha: recipe.lora_alpha,
        dropout: recipe.lora_dropout,
        targets: recipe.lora_targets.clone(),
        rslora: recipe.lora_rslora,
        dora: recipe.lora_dora,
    }
}

fn check_adapter(recipe: &Recipe, found: Option<&LoraConfig>) -> Result<(), TrainError> {
    let Some(found) = found else { return Ok(()) };
    if found.rank != recipe.lora_rank {
        let rank = format!("{}; the adapter to go on with has {}", recipe.lora_rank, found.rank);
        return Err(recipe.wrong("lora_rank", rank, "the same rank"));
    }
    if (found.alpha - recipe.lora_alpha).abs() > 1e-6 {
        let alpha = format!("{}; the adapter to go on with has {}", recipe.lora_alpha, found.alpha);
        return Err(recipe.wrong("lora_alpha", alpha, "the same scale"));
    }
    Ok(())
}

impl Learner for DecoderLearner {
    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.decoder.parameters()
    }

    fn zero_gradients(&mut self) {
        self.decoder.zero_gradients();
    }

    fn loss_and_gradients(&mut self, pack: &Pack, options: &StepOptions) -> Result<Loss, TrainError> {
        Ok(self.decoder.loss_and_gradients(&pack.batch(), options, &mut self.workspace)?)
    }

    fn loss(&mut self, pack: &Pack, precision: Precision) -> Result<Loss, TrainError> {
        Ok(self.decoder.loss(&pack.batch(), precision, &mut self.workspace)?)
    }

    fn save(&mut self, folder: &Path) -> Result<(), TrainError> {
        if self.decoder.lora().is_some() {
            self.decoder.save_adapter(folder, &self.base.to_string_lossy())?;
        } else {
            self.decoder.save(folder, self.dtype)?;
            copy_tokenizer(&self.tokenizer, folder)?;
        }
        if let Some(template) = self.chat_template {
            replace(&folder.join("chat_template.jinja"), template.as_bytes())?;
        }
        Ok(())
    }
}

/// Copies what belongs to the text side of a checkpoint, so that the result can be used alone.
pub(crate) fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), TrainError> {
    let unread = TrainError::file(from, "cannot read");
    for entry in fs::read_dir(from).map_err(unread)?.flatten() {
        let (name, source) = (entry.file_name(), entry.path());
        if name.to_str().is_some_and(taiyi_model::tokenizer::is_text_side) && source.is_file() {
            fs::copy(&source, to.join(&name))
                .map_err(TrainError::file(&source, "cannot copy to the output"))?;
        }
    }
    Ok(())
}
