//! The decoder from outside: against reference results, finite differences, and itself.
#![allow(clippy::print_stderr, reason = "a test that has nothing to compare with says so")]

mod files;
mod golden;
mod gradients;
mod inference;
mod peft;
mod plan;
mod qlora;
mod reference;
mod training;
