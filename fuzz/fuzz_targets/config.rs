//! A model's `config.json`, as a decoder's and as an encoder's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::{Decoder, DecoderConfig, encoder::EncoderConfig};

fuzz_target!(|data: &[u8]| {
    let folder = taiyi_fuzz::folder(&[("config.json", data)]);
    if let Ok(config) = DecoderConfig::load(&folder) {
        config.parameter_count();
        // No weights are there, and that is said whatever the configuration is.
        assert!(Decoder::check(&folder).is_err());
    }
    let _ = EncoderConfig::load(&folder);
    EncoderConfig::is_of(&folder);
});
