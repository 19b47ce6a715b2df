//! What the loop needs of a model.

use crate::TrainError;
use crate::data::Pack;
use std::path::Path;
use taiyi_kernels::Precision;
use taiyi_model::{Loss, Parameter, StepOptions};

/// A model that can be trained and saved.
pub trait Learner {
    /// Returns the trainable tensors, in an order that never changes.
    fn parameters(&mut self) -> Vec<Parameter<'_>>;

    /// Sets every gradient to zero.
    fn zero_gradients(&mut self);

    /// Computes the loss of a batch and adds `options.loss_scale` times its gradient to every gradient buffer.
    ///
    /// # Errors
    ///
    /// When the batch holds a token outside the vocabulary or a sequence longer than the model takes.
    fn loss_and_gradients(&mut self, pack: &Pack, options: &StepOptions) -> Result<Loss, TrainError>;

    /// Computes the loss of a batch without dropout and without gradients.
    ///
    /// # Errors
    ///
    /// As [`Learner::loss_and_gradients`].
    fn loss(&mut self, pack: &Pack, precision: Precision) -> Result<Loss, TrainError>;

    /// Writes what other programs load (an adapter, or a whole checkpoint) into an existing folder.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    fn save(&mut self, folder: &Path) -> Result<(), TrainError>;
}
