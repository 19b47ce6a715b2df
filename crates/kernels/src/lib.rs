//! Matrix products, attention and the elementwise operations of a transformer, forward and backward, on the CPU.
//!
//! This is the only crate of the workspace with unsafe code. It knows slices and shapes; it must not know
//! models, files (beyond mapping one into memory), tokens or training recipes.
//!
//! Conventions:
//! - All activations are `f32`, row-major, contiguous. Shapes are given in letters: `(m, k)`.
//! - Every operation is chosen at run time for the processor ([`level`]) and shared among [`threads`]. Results do not
//!   depend on the number of threads; results of one row do not depend on how many other rows are computed with it.
//! - Slices whose length does not fit the shape are a mistake of the caller: every function panics on them, and says
//!   which length it expected.
//! - Pack buffers live per thread and are reused; after the first call of a size nothing is allocated.

mod activation;
mod attention;
mod convert;
mod dropout;
mod dynamic_map;
mod elementwise;
mod embedding;
mod error;
mod gemm;
mod level;
mod loss;
mod mmap;
mod nf4;
mod norm;
mod optimizer;
mod rope;
mod scratch;
mod simd;
#[cfg(test)]
mod testing;
mod threads;

pub use activation::{Gelu, gelu, gelu_gradient, swiglu, swiglu_gradient};
pub use attention::{AttentionShape, attention, attention_gradient};
pub use convert::{FloatBytes, bf16_to_f32, f16_to_f32, f32_to_bf16};
pub use dropout::{Dropout, dropout};
pub use dynamic_map::{signed_dynamic_map, unsigned_dynamic_map};
pub use elementwise::{add, add_bias, add_scaled, bias_gradient, scale, sum_of_squares};
pub use embedding::{embedding, embedding_gradient};
pub use error::KernelError;
pub use gemm::{Precision, Weight, linear, linear_input_gradient, linear_weight_gradient};
pub use half::bf16;
pub use level::{Level, level, with_level};
pub use loss::{IGNORED_LABEL, cross_entropy, cross_entropy_gradient, softmax_rows};
pub use mmap::{Element, MappedFile, MappedSlice, Storage};
pub use nf4::{Absmax, DoubleAbsmax, NF4_BLOCK, NF4_CODES, NF4_NESTED_BLOCK, Nf4};
pub use norm::{layer_norm, layer_norm_gradient, rms_norm, rms_norm_gradient};
pub use optimizer::{AdamW, AdamW8bitState, adamw, adamw_8bit};
pub use rope::{RopeShape, RopeStyle, rope};
pub use threads::{set_threads, threads};
