//! Which files of a model folder make its text side.

/// Whether a file of a model folder belongs to its tokenizer, chat template or generation settings, so that whoever writes a
/// model made from that folder copies it.
pub fn is_text_side(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "ice_text.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "dict.txt",
        "bpecodes",
        "generation_config.json",
        "chat_template.jinja",
        "chat_template.json",
    ];
    NAMES.contains(&name) || name.ends_with(".tiktoken")
}
