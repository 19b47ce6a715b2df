//! The program as a person runs it: arguments in, files and exit codes out.
// A test that is skipped says why.
#![allow(clippy::print_stderr)]

mod broken;
mod chat;
mod disk;
mod encoder;
mod eval;
mod extract;
mod help;
mod hostile;
mod interop;
mod killed;
mod model;
mod own_corpus;
mod place;
