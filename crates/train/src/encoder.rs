//! The encoder as a learner: trained in full, its new head with it.

use crate::TrainError;
use crate::data::Pack;
use crate::decoder::{copy_tokenizer, model_dtype};
use crate::fit::kernel_precision;
use crate::learner::Learner;
use crate::recipe::Recipe;
use std::path::{Path, PathBuf};
use taiyi_kernels::Precision;
use taiyi_model::{
    Encoder, EncoderBatch, EncoderConfig, EncoderTask, Labels, Loss, Parameter, StepOptions, Workspace,
};

/// An encoder that is being trained.
pub struct EncoderLearner {
    encoder: Encoder,
    workspace: Workspace,
    tokenizer: PathBuf,
    /// How the result is saved.
    dtype: taiyi_model::Dtype,
    /// The one label of each sequence; kept for its room.
    classes: Vec<i32>,
}

impl EncoderLearner {
    /// Loads or draws the weights and puts a new head on them; `labels` are named in the order of their numbers.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] for a checkpoint that is broken.
    pub fn load(
        recipe: &Recipe,
        base: &Path,
        tokenizer: &Path,
        task: EncoderTask,
        labels: Vec<String>,
    ) -> Result<Self, TrainError> {
        let mut encoder = if recipe.from_scratch {
            Encoder::random(EncoderConfig::load(base)?.with_task(task, labels), recipe.seed)?
        } else {
            Encoder::load_with_new_head(base, task, labels, recipe.seed)?
        };
        encoder.set_precision(kernel_precision(recipe.compute_precision()));
        encoder.set_tuned_length(recipe.max_length);
        Ok(Self {
            encoder,
            workspace: Workspace::new(),
            tokenizer: tokenizer.to_owned(),
            dtype: model_dtype(recipe.dtype),
            classes: Vec::new(),
        })
    }

    /// The model as it stands.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Gives the model back.
    pub fn into_encoder(self) -> Encoder {
        self.encoder
    }
}

/// A pack as an encoder reads it.
fn batch(pack: &Pack) -> EncoderBatch<'_> {
    EncoderBatch { ids: &pack.ids, token_types: &pack.token_types, cu_seqlens: &pack.cu_seqlens }
}

/// What is to be answered about a pack. The one label of a sequence stands at its first token.
fn labels<'a>(task: EncoderTask, pack: &'a Pack, classes: &'a mut Vec<i32>) -> Labels<'a> {
    match task {
        EncoderTask::MaskedLm | EncoderTask::TokenClassification => Labels::Tokens(&pack.labels),
        EncoderTask::SequenceClassification { multi_label: true } => Labels::Several(&pack.several),
        EncoderTask::SequenceClassification { multi_label: false } => {
            classes.clear();
            classes.extend(pack.cu_seqlens.windows(2).filter_map(|range| pack.labels.get(range[0] as usize)));
            Labels::Classes(classes)
        }
    }
}

impl Learner for EncoderLearner {
    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.encoder.parameters()
    }

    fn zero_gradients(&mut self) {
        self.encoder.zero_gradients();
    }

    fn loss_and_gradients(&mut self, pack: &Pack, options: &StepOptions) -> Result<Loss, TrainError> {
        let labels = labels(self.encoder.config().task, pack, &mut self.classes);
        Ok(self.encoder.loss_and_gradients(&batch(pack), &labels, options, &mut self.workspace)?)
    }

    fn loss(&mut self, pack: &Pack, precision: Precision) -> Result<Loss, TrainError> {
        self.encoder.set_precision(precision);
        let labels = labels(self.encoder.config().task, pack, &mut self.classes);
        Ok(self.encoder.loss(&batch(pack), &labels, &mut self.workspace)?)
    }

    fn save(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.encoder.save(folder, self.dtype)?;
        copy_tokenizer(&self.tokenizer, folder)
    }
}
