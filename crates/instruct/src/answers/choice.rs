//! One of several choices: its letter and its text, `(B) metformin`. Past the 26th choice numbers stand for letters.
//!
//! There is nothing to escape: the choices are known, so a written one is found by comparison.
//!
//! Forgiven when reading: the letter alone, with any brackets or stop; the text alone; either behind "the answer is" and
//! the like; text that goes on after the choice. Where letter and text disagree, a text that is exactly another choice's wins: the
//! text is what is asked for. The value is the text, so that choices may be shuffled.

use super::escape::fold;
use super::{AnswerSpec, Reason, Unparsable, Unrenderable, classes, grammar};

/// The mark of a choice by its 0-based position: `A`, `B`, …, `Z`, then `27`, `28`, ….
pub fn mark(at: usize) -> String {
    match u8::try_from(at) {
        Ok(small) if small < 26 => char::from(b'A' + small).to_string(),
        _ => (at + 1).to_string(),
    }
}

/// The list of choices as a prompt shows it: `(A) yes`, one on a line.
pub fn list(choices: &[String]) -> String {
    let lines: Vec<String> = choices.iter().enumerate().map(|(at, choice)| line(at, choice)).collect();
    lines.join("\n")
}

fn line(at: usize, choice: &str) -> String {
    format!("({}) {choice}", mark(at))
}

/// Writes the chosen choice; the first where two read the same.
///
/// # Errors
/// Where it is not among the choices.
pub fn render(spec: &AnswerSpec, choice: &str) -> Result<String, Unrenderable> {
    let at = spec.names.iter().position(|known| known == choice);
    at.map(|at| line(at, choice)).ok_or_else(|| Unrenderable::NotOffered { name: choice.to_owned() })
}

/// The grammar of replies; see [`grammar`].
pub(super) fn grammar(spec: &AnswerSpec) -> String {
    let lines = spec.names.iter().enumerate().map(|(at, choice)| line(at, choice));
    format!("start: {}\n", grammar::one_of(lines))
}

/// Reads the text of the chosen choice.
///
/// # Errors
/// Where none of the choices can be made out.
pub fn parse(spec: &AnswerSpec, reply: &str) -> Result<String, Unparsable> {
    let choices = &spec.names;
    if let Some(exact) = choices.iter().enumerate().find(|(at, choice)| line(*at, choice) == reply) {
        return Ok(exact.1.clone());
    }
    if reply.trim().is_empty() {
        return Err(Reason::Empty.into());
    }
    let reply = fold(reply.trim_matches(|c: char| c.is_whitespace() || "*\"“”`".contains(c)));
    let reply = behind_phrase(&reply);
    let texts: Vec<String> = choices.iter().map(|choice| fold(choice)).collect();
    let whole = |text: &str| {
        let text = text.trim_end_matches(['.', '。', ' ']);
        texts
            .iter()
            .position(|choice| !choice.is_empty() && choice.trim_end_matches(['.', '。', ' ']) == text)
    };
    let found = whole(reply).or_else(|| {
        let (at, rest) = leading_mark(reply, choices.len())?;
        whole(rest).or(Some(at))
    });
    if let Some(at) = found {
        return Ok(choices[at].clone());
    }
    // The longest choice that the reply begins with ("yes, because …"), else the only one that it names.
    let begins = |choice: &str| {
        let word = |c: char| c.is_ascii_alphanumeric();
        !choice.is_empty()
            && reply
                .strip_prefix(choice)
                .is_some_and(|rest| !(choice.ends_with(word) && rest.starts_with(word)))
    };
    if let Some(at) =
        (0..texts.len()).filter(|&at| begins(&texts[at])).max_by_key(|&at| (texts[at].len(), usize::MAX - at))
    {
        return Ok(choices[at].clone());
    }
    let mut named = classes::named_in(spec, reply);
    match named.len() {
        1 => Ok(named.remove(0)),
        0 => Err(Reason::NoChoice.into()),
        _ => Err(Reason::Several.into()),
    }
}

/// What follows the last "the answer is" and the like, else the whole reply. Takes folded text.
fn behind_phrase(reply: &str) -> &str {
    const PHRASES: [&str; 9] = [
        "answer is",
        "answer:",
        "correct choice is",
        "correct option is",
        "答案是",
        "答案为",
        "答案:",
        "应选",
        "故选",
    ];
    let cut = PHRASES
        .iter()
        .filter_map(|phrase| reply.rfind(phrase).map(|at| at + phrase.len()))
        .max()
        .unwrap_or(0);
    let rest = reply[cut..].trim_start_matches(|c: char| c.is_whitespace() || ":：*".contains(c));
    if rest.is_empty() { reply } else { rest }
}

/// The choice whose mark the reply begins with, and what follows the mark. Takes folded text.
fn leading_mark(reply: &str, choices: usize) -> Option<(usize, &str)> {
    const STOPS: &str = ")].:,、。】;*";
    let inner = reply.trim_start_matches(['(', '[', '【']);
    let bracketed = inner.len() < reply.len();
    let end = inner.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(inner.len());
    let at = (0..choices).find(|&at| mark(at).eq_ignore_ascii_case(&inner[..end]))?;
    let rest = &inner[end..];
    // "A patient with …" starts with an article, not with a mark.
    if !rest.is_empty() && !rest.starts_with(|c| STOPS.contains(c)) && !bracketed {
        return None;
    }
    Some((at, rest.trim_start_matches(|c: char| c.is_whitespace() || STOPS.contains(c))))
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, AnswerFormat};
    use super::*;
    use proptest::prelude::*;
    use taiyi_corpus::schema::Language;

    fn spec(choices: &[&str]) -> AnswerSpec {
        AnswerSpec::new(
            AnswerFormat::Choice,
            Language::En,
            choices.iter().map(|&choice| choice.to_owned()).collect(),
        )
    }

    #[test]
    fn letters_and_texts() {
        let spec = spec(&["yes", "no", "maybe", "a patient"]);
        assert_eq!(render(&spec, "no").unwrap(), "(B) no");
        assert!(render(&spec, "perhaps").is_err());
        for reply in [
            "(B) no",
            "(B)",
            "B",
            "b.",
            "B. no",
            "no",
            "No.",
            "The answer is (B).",
            "Answer: B",
            "答案：B",
            "正确答案是 B，因为……",
            "No, because it failed.",
            "(A) no",
            "**B**",
            "B) something else",
            "I would say no here",
        ] {
            assert_eq!(parse(&spec, reply).unwrap(), "no", "{reply}");
        }
        assert_eq!(parse(&spec, "A patient").unwrap(), "a patient");
        assert_eq!(parse(&spec, "a patient with fever").unwrap(), "a patient");
        assert_eq!(parse(&spec, "unclear").unwrap_err().reason, Reason::NoChoice);
        assert_eq!(parse(&spec, "either yes or no").unwrap_err().reason, Reason::Several);
        assert_eq!(parse(&spec, "\n").unwrap_err().reason, Reason::Empty);
        assert_eq!((mark(25), mark(26)), ("Z".to_owned(), "27".to_owned()));
    }

    proptest! {
        #[test]
        fn parse_undoes_render(choices in prop::collection::vec("[ab()\n .：]*|.*", 1..30), pick in 0_usize..30) {
            let value = Answer::Choice(choices[pick % choices.len()].clone());
            let spec = AnswerSpec::new(AnswerFormat::Choice, Language::Zh, choices);
            let written = spec.render(&value).unwrap();
            prop_assert_eq!(spec.parse(&written), Ok(value), "{}", written);
        }

        #[test]
        fn any_reply_can_be_read(reply in ".*", choices in prop::collection::vec(".*", 0..5)) {
            let _ = AnswerSpec::new(AnswerFormat::Choice, Language::Zh, choices).parse(&reply);
        }
    }
}
