//! Inference from outside, on tiny random models and scripted replies.
#![allow(clippy::print_stderr, reason = "a test that has nothing to compare with says so")]

mod chat;
mod constraints;
mod extraction;
mod generation;
mod inputs;
mod labels;
mod replies;
mod tiny;
