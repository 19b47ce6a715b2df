//! Inference from outside, on tiny random models and scripted replies.

mod chat;
mod extraction;
mod generation;
mod inputs;
mod replies;
mod tiny;
