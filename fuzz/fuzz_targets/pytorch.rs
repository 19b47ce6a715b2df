//! A file of PyTorch, zip archive or chain of pickles, bare or as fairseq writes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::weights::{Weights, config_json};

fuzz_target!(|data: &[u8]| {
    let folder = taiyi_fuzz::folder(&[("checkpoint.pt", data)]);
    if let Ok(weights) = Weights::open(&folder) {
        taiyi_fuzz::read_all(&weights);
    }
    let _ = config_json(&folder);
});
