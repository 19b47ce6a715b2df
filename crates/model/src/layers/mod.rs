//! The operations of a decoder block, each with its forward and its backward pass.

pub(crate) mod block;
pub(crate) mod linear;
pub(crate) mod rope;
pub(crate) mod tensor;
pub(crate) mod workspace;
