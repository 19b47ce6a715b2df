//! An adapter's `adapter_config.json`, beside tensors that fit some of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::Decoder;

fuzz_target!(|data: &[u8]| {
    let tensor = |name: &str, shape: [usize; 2], begin: usize| {
        let (name, end) =
            (format!("base_model.model.model.layers.0.self_attn.q_proj.{name}.weight"), begin + 32);
        format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
    };
    let header = format!("{{{},{}}}", tensor("lora_A", [1, 8], 0), tensor("lora_B", [8, 1], 32));
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
    let folder = taiyi_fuzz::folder(&[("adapter_config.json", data), ("adapter_model.safetensors", &file)]);
    let mut decoder =
        Decoder::random(taiyi_fuzz::tiny_config(), 1).expect("the configuration is a known one");
    if decoder.load_adapter(&folder, true).is_ok() {
        decoder.merge(None);
    }
    assert!(decoder.lora().is_none(), "refused or merged");
});
