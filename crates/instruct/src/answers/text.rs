//! Free text: answers to open questions, dialogue, translation.
//!
//! The text is the answer, byte for byte; there is nothing to escape. A blank reply is unparsable.

use super::{Reason, Unparsable};

/// The text itself.
pub fn render(text: &str) -> String {
    text.to_owned()
}

/// The reply itself.
///
/// # Errors
/// Where it is blank.
pub fn parse(reply: &str) -> Result<String, Unparsable> {
    if reply.trim().is_empty() { Err(Reason::Empty.into()) } else { Ok(reply.to_owned()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_blank_reply_is_no_answer() {
        assert!(super::parse(" \n").is_err());
        assert_eq!(super::parse(" a\n").unwrap(), " a\n");
    }
}
