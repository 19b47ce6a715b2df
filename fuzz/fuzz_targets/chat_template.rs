//! A chat template, rendered for a conversation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taiyi_model::chat::{ChatFormat, Message};

fuzz_target!(|data: &[u8]| {
    let tokenizer = taiyi_fuzz::tokenizer();
    let folder = taiyi_fuzz::folder(&[("chat_template.jinja", data), ("config.json", b"{}")]);
    let Ok(format) = ChatFormat::load(&folder, tokenizer) else { return };
    let messages = [Message::system("be brief"), Message::user("{{ 头痛 }}"), Message::assistant("rest")];
    for (messages, generate) in [(&messages[..], false), (&messages[..2], true)] {
        if let Ok(rendered) = format.render(tokenizer, messages, generate) {
            assert_eq!(rendered.ids.len(), rendered.learned.len());
        }
    }
});
