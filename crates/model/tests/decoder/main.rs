//! The decoder from outside: against reference results, finite differences, and itself.

mod files;
mod golden;
mod gradients;
mod inference;
mod peft;
mod plan;
mod qlora;
mod reference;
mod training;
