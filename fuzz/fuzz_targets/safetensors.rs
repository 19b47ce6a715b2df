//! A file of safetensors, with bitsandbytes' matrices among them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::weights::Weights;

fuzz_target!(|data: &[u8]| {
    let folder = taiyi_fuzz::folder(&[("model.safetensors", data)]);
    if let Ok(weights) = Weights::open(&folder) {
        taiyi_fuzz::read_all(&weights);
    }
});
