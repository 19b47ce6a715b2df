//! What a classifier reads of a document, and what it is to say: one or two texts, and labels.

use std::borrow::Cow;

use taiyi_corpus::schema::Content;

/// One or two texts with their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classified<'a> {
    /// The text, the first text of a pair, or the question.
    pub first: &'a str,
    /// The second text of a pair, or what the answer to a question rests on.
    pub second: Option<Cow<'a, str>>,
    /// The labels as the source spells them, each once.
    pub labels: Vec<&'a str>,
}

impl<'a> Classified<'a> {
    /// Reads classified texts, pairs, and questions that choose an answer (such as yes, no or maybe) from contexts; `None` for
    /// content of another kind.
    pub fn of(content: &'a Content) -> Option<Self> {
        let (first, second, all): (&str, Option<Cow<'_, str>>, &[String]) = match content {
            Content::Tc(tc) => (&tc.text, None, &tc.labels),
            Content::Tp(tp) => {
                (&tp.text_1, Some(Cow::Borrowed(tp.text_2.as_str())), std::slice::from_ref(&tp.label))
            }
            Content::Qa(qa) if !qa.choices.is_empty() && !qa.contexts.is_empty() => {
                (&qa.question, Some(Cow::Owned(qa.contexts.join(" "))), &qa.answers)
            }
            _ => return None,
        };
        let mut labels: Vec<&str> = Vec::with_capacity(all.len());
        for label in all {
            if !labels.contains(&label.as_str()) {
                labels.push(label);
            }
        }
        Some(Self { first, second, labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taiyi_corpus::schema::{Ie, Qa, QaKind, Tc, Tp, TpKind};

    #[test]
    fn texts_pairs_and_questions_with_contexts_can_be_classified() {
        let text = |text: &str| text.to_owned();
        let labels = ["a", "b", "a"].map(text).to_vec();
        let tc = Content::Tc(Tc { text: text("fever"), labels });
        let found = Classified::of(&tc).unwrap();
        assert_eq!((found.first, found.second, found.labels), ("fever", None, vec!["a", "b"]));
        let pair = Tp { text_1: text("x"), text_2: text("y"), label: text("1"), kind: TpKind::Similarity };
        let pair = Content::Tp(pair);
        let found = Classified::of(&pair).unwrap();
        assert_eq!((found.first, found.second.as_deref(), found.labels), ("x", Some("y"), vec!["1"]));
        let mut qa = Qa {
            question: text("Is it?"),
            contexts: vec![text("One."), text("Two.")],
            choices: ["yes", "no"].map(text).to_vec(),
            answers: vec![text("no")],
            kind: QaKind::MultipleChoice,
        };
        let content = Content::Qa(qa.clone());
        let found = Classified::of(&content).unwrap();
        assert_eq!((found.second.as_deref(), found.labels), (Some("One. Two."), vec!["no"]));
        qa.contexts.clear();
        assert_eq!(Classified::of(&Content::Qa(qa)), None);
        assert_eq!(Classified::of(&Content::Ie(Ie::default())), None);
    }
}
