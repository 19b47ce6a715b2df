//! An index of shards, one of which is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::weights::Weights;

fuzz_target!(|data: &[u8]| {
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let shard = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    let folder = taiyi_fuzz::folder(&[("model.safetensors.index.json", data), ("a.safetensors", &shard)]);
    if let Ok(weights) = Weights::open(&folder) {
        taiyi_fuzz::read_all(&weights);
    }
});
