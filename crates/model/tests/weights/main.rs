//! Weight files as other programs write them, and as nobody should.
#![allow(clippy::print_stderr)]

mod bitsandbytes;
mod fairseq;
mod hostile;
mod made;
