//! A decoder as the source of an export.

use super::Decoder;
use crate::weights::gguf::{ExportTensor, TensorSource};

impl TensorSource for Decoder {
    fn tensor(&self, name: &str) -> Option<ExportTensor<'_>> {
        Decoder::tensor(self, name).map(|(shape, values)| ExportTensor::Values { shape, values })
    }

    /// Adapters that were not merged are tensors too, and have no place in other formats.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.tensors(&mut |tensor| names.push(tensor.name.clone()));
        names
    }
}
