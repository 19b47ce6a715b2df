//! The operations of a transformer, each with its forward and its backward pass.

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod embedding;
pub(crate) mod linear;
pub(crate) mod mlp;
pub(crate) mod norm;
pub(crate) mod places;
pub(crate) mod rope;
pub(crate) mod source;
pub(crate) mod tensor;
pub(crate) mod workspace;
