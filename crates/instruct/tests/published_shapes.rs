//! Published conversations read with this crate's parsers, and written again, look as they were published.
//! Skipped where `../shared` is not beside the repository.

#![allow(clippy::print_stderr, reason = "a test says why it was skipped and what it counted")]

use std::path::Path;

use taiyi_instruct::{AnswerFormat, AnswerSpec, ConversationReader};

/// Reads and writes again every extraction and classification answer of a file: how many there are, how many do not
/// parse, how many look different when written again.
fn again(file: &str) -> Option<(usize, usize, usize)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(file);
    if !path.is_file() {
        eprintln!("skipped: no {} beside the repository", path.display());
        return None;
    }
    let (mut read, mut unparsable, mut different) = (0, 0, 0);
    for conversation in ConversationReader::open(&path).unwrap() {
        let conversation = conversation.unwrap();
        let format = match conversation.category.as_str() {
            "NER" => AnswerFormat::Entities,
            "RE" => AnswerFormat::Triples,
            "TC" => AnswerFormat::Classes,
            _ => AnswerFormat::Text,
        };
        let spec = AnswerSpec::new(format, conversation.language, Vec::new());
        for turn in &conversation.conversation {
            read += 1;
            match spec.parse(&turn.assistant) {
                Ok(answer) => {
                    // The published Chinese lines end in a line feed; ours do not.
                    let written = spec.render(&answer).unwrap();
                    if written.trim_end() != turn.assistant.trim_end() {
                        different += 1;
                        if different <= 12 {
                            eprintln!(
                                "{} {}\n  was {:?}\n  now {written:?}",
                                conversation.conversation_id, conversation.category, turn.assistant
                            );
                        }
                    }
                }
                Err(reason) => {
                    unparsable += 1;
                    eprintln!("{}: {reason}: {:?}", conversation.conversation_id, turn.assistant);
                }
            }
        }
    }
    eprintln!("{file}: {read} answers, {unparsable} unparsable, {different} different when written again");
    Some((read, unparsable, different))
}

#[test]
fn the_published_examples() {
    let Some(found) = again("catalog/instruction_examples.jsonl") else { return };
    assert_eq!(found, (21, 0, 0));
}

#[test]
fn four_thousand_published_conversations() {
    let Some(found) = again("peers/data/instructions.jsonl.gz") else { return };
    // Three say only that there is nothing; ours is a sentence.
    assert_eq!(found, (4000, 0, 3));
}
