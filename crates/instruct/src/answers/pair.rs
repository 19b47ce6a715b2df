//! The label of a pair of texts: `Result: similar` / `判断结果：相似`. Exactly one.
//!
//! Escaping and what is forgiven are as for [`classes`]; a reply that names several labels is unparsable.

use super::{AnswerSpec, Reason, Unparsable, Unrenderable, classes};

/// The fixed words before the label.
pub fn opening(chinese: bool) -> &'static str {
    if chinese { "判断结果：" } else { "Result: " }
}

/// Writes the label.
///
/// # Errors
/// Where there is not exactly one, or it was not offered.
pub fn render(spec: &AnswerSpec, labels: &[String]) -> Result<String, Unrenderable> {
    if labels.len() != 1 {
        return Err(Unrenderable::Count { expected: "one label of a pair", found: labels.len() });
    }
    classes::render_after(spec, opening(spec.chinese()), labels)
}

/// The grammar of replies; see [`grammar`](super::grammar).
pub(super) fn grammar(spec: &AnswerSpec) -> String {
    classes::grammar_of_one(spec, opening(spec.chinese()))
}

/// Reads the label.
///
/// # Errors
/// Where no offered label is named, or several are.
pub fn parse(spec: &AnswerSpec, reply: &str) -> Result<Vec<String>, Unparsable> {
    let openings = ["判断结果", "结果", "答案", "关系", "Result", "Label", "Answer", "Relation"];
    let labels = classes::parse_after(spec, &openings, reply)?;
    match labels.len() {
        1 => Ok(labels),
        0 => Err(Reason::NoClass.into()),
        _ => Err(Reason::Several.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, AnswerFormat};
    use super::*;
    use proptest::prelude::*;
    use taiyi_corpus::schema::Language;

    fn spec(language: Language, names: &[&str]) -> AnswerSpec {
        AnswerSpec::new(AnswerFormat::Pair, language, names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn one_label_in_the_usual_wordings() {
        let zh = spec(Language::Zh, &["相似", "不相似"]);
        assert_eq!(render(&zh, &["相似".to_owned()]).unwrap(), "判断结果：相似");
        assert!(render(&zh, &[]).is_err());
        for (reply, label) in
            [("判断结果:不相似。", "不相似"), ("不相似", "不相似"), ("这两句话不相似，问的不同。", "不相似")]
        {
            assert_eq!(parse(&zh, reply).unwrap(), [label], "{reply}");
        }
        assert_eq!(parse(&zh, "可能相似也可能不相似").unwrap_err().reason, Reason::Several);
        assert_eq!(parse(&zh, "判断结果：无").unwrap_err().reason, Reason::NoClass);
        let en = spec(Language::En, &["similar", "not similar"]);
        assert_eq!(parse(&en, "The two are not similar.").unwrap(), ["not similar"]);
        assert_eq!(parse(&spec(Language::En, &[]), "Result: 2.4").unwrap(), ["2.4"]);
    }

    proptest! {
        #[test]
        fn parse_undoes_render(zh in any::<bool>(), open in any::<bool>(), names in prop::collection::vec("[a;；:：,\\\\\n .。无]*", 1..4), pick in 0_usize..4) {
            let language = if zh { Language::Zh } else { Language::En };
            let value = Answer::Labels(vec![names[pick % names.len()].clone()]);
            let spec = AnswerSpec::new(AnswerFormat::Pair, language, if open { Vec::new() } else { names });
            let written = spec.render(&value).unwrap();
            prop_assert_eq!(spec.parse(&written), Ok(value), "{}", written);
        }
    }
}
