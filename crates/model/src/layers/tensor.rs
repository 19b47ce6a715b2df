//! A named tensor that is either frozen, in any storage, or trainable, with an f32 gradient beside it.

use half::bf16;
use taiyi_kernels::{Nf4, Storage, Weight};

use crate::batch::Parameter;

/// How the values are stored.
pub(crate) enum Data {
    F32(Storage<f32>),
    Bf16(Storage<bf16>),
    Nf4(Nf4),
}

impl Data {
    /// Values in memory of their own.
    pub(crate) fn f32(values: Vec<f32>) -> Data {
        Data::F32(values.into())
    }
}

/// A named tensor.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
    /// Present exactly when the tensor is trainable; then `data` is f32.
    grad: Option<Vec<f32>>,
}

impl Tensor {
    pub(crate) fn new(name: impl Into<String>, shape: &[usize], data: Data) -> Tensor {
        Tensor { name: name.into(), shape: shape.to_vec(), data, grad: None }
    }

    pub(crate) fn f32(name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Tensor {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values fill the shape");
        Tensor::new(name, shape, Data::f32(values))
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The matrix (rows, cols) as an operand of a product.
    pub(crate) fn weight(&self) -> Weight<'_> {
        match &self.data {
            Data::F32(v) => Weight::F32(v),
            Data::Bf16(v) => Weight::Bf16(v),
            Data::Nf4(v) => Weight::Nf4(v),
        }
    }

    /// The values of a tensor that is always stored in f32 (norms, biases, adapters).
    pub(crate) fn values(&self) -> &[f32] {
        match &self.data {
            Data::F32(v) => v,
            _ => unreachable!("norms, biases and adapters are built from f32 values only"),
        }
    }

    /// The values as f32, whatever the storage.
    pub(crate) fn dense(&self) -> Vec<f32> {
        match &self.data {
            Data::F32(v) => v.to_vec(),
            Data::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::Nf4(v) => {
                let mut values = vec![0.0; self.len()];
                v.dequantize_into(&mut values);
                values
            }
        }
    }

    /// Puts other values into the same storage type, rounding or quantising again.
    pub(crate) fn replace(&mut self, values: Vec<f32>) {
        assert_eq!(values.len(), self.len(), "values fill the shape");
        self.data = match &self.data {
            Data::F32(_) => Data::f32(values),
            Data::Bf16(_) => {
                let rounded: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
                Data::Bf16(rounded.into())
            }
            Data::Nf4(_) => Data::Nf4(Nf4::quantize(&values, self.shape[0], self.shape[1], true)),
        };
    }

    pub(crate) fn is_trainable(&self) -> bool {
        self.grad.is_some()
    }

    /// Makes the tensor trainable; values in another storage become f32 masters.
    pub(crate) fn train(&mut self) {
        match &mut self.data {
            // What lies in a file is copied: it is going to be written.
            Data::F32(values) => {
                values.to_mut();
            }
            _ => self.data = Data::f32(self.dense()),
        }
        if self.grad.is_none() {
            self.grad = Some(vec![0.0; self.len()]);
        }
    }

    pub(crate) fn freeze(&mut self) {
        self.grad = None;
    }

    pub(crate) fn grad(&mut self) -> Option<&mut [f32]> {
        self.grad.as_deref_mut()
    }

    /// The values of a tensor that is always f32, and its gradient where it is trainable.
    pub(crate) fn values_and_grad(&mut self) -> (&[f32], Option<&mut [f32]>) {
        match &self.data {
            Data::F32(v) => (v, self.grad.as_deref_mut()),
            _ => unreachable!("norms, biases and adapters are built from f32 values only"),
        }
    }

    /// The values and the gradient of a trainable tensor.
    pub(crate) fn values_if_trainable(&mut self) -> Option<(&[f32], &mut [f32])> {
        match (&self.data, &mut self.grad) {
            (Data::F32(data), Some(grad)) => Some((data, grad)),
            _ => None,
        }
    }

    pub(crate) fn parameter(&mut self) -> Option<Parameter<'_>> {
        match (&mut self.data, &mut self.grad) {
            (Data::F32(data), Some(grad)) => {
                Some(Parameter { name: &self.name, shape: &self.shape, data: data.to_mut(), grad })
            }
            _ => None,
        }
    }

    /// Bytes of the values, in memory or in a mapped file, and of the gradient if there is one.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let values = match &self.data {
            Data::F32(v) => v.len() * 4,
            Data::Bf16(v) => v.len() * 2,
            Data::Nf4(v) => v.bytes(),
        };
        (values, self.grad.as_ref().map_or(0, |g| g.len() * 4))
    }
}
