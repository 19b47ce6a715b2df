//! The length that an encoder was tuned at: it has positions for longer texts, but nobody taught it those.

use serde_json::{Map, Value};

use super::{Encoder, EncoderConfig};

/// Keys of `config.json`; transformers keeps `task_specific_params` as it is.
const PLACE: [&str; 3] = ["task_specific_params", "classification", "max_length"];

impl EncoderConfig {
    /// The most tokens of a sequence that the head was tuned for: what `config.json` says, or all there are positions for.
    pub fn tuned_length(&self) -> usize {
        let [params, task, key] = PLACE;
        let said = self.source.get(params).and_then(|params| params[task][key].as_u64());
        let said = said.and_then(|length| usize::try_from(length).ok()).filter(|length| *length > 0);
        said.map_or(self.longest(), |length| length.min(self.longest()))
    }
}

impl Encoder {
    /// Writes into the configuration how long the sequences are that the head is tuned for.
    pub fn set_tuned_length(&mut self, length: usize) {
        let [params, task, key] = PLACE;
        let params = self.config.source.entry(params).or_insert(Value::Null);
        if !params.is_object() {
            *params = Value::Object(Map::new());
        }
        params[task] = serde_json::json!({ key: length });
    }
}
