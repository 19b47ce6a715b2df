//! GGUF in and out, from outside the crate.
// A skipped test says so to the person who runs it.
#![allow(clippy::print_stderr)]

mod hostile;
mod reference;
mod round_trip;
mod tokenizers;

use std::path::{Path, PathBuf};

/// A folder of `../shared/oracles`, or a line on stderr and `None` where there are no oracles.
fn oracle(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles").join(name);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared/oracles/{name} beside the repository");
    None
}
