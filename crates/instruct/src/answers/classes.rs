//! Classes of a text: `Result: a; b` / `上述文本被分类为：a; b`.
//!
//! No class is `Result: none of the above` / `上述文本被分类为：以上均不属于`.
//!
//! Text with separators: semicolons are escaped in a class; a class that reads like the phrase for no class, or differs from an
//! offered one only in case, is guarded with `\&`.
//!
//! Forgiven when reading: a missing opening, either semicolon, commas where every piece between them is an offered class,
//! case and width, a full stop at the end; and, where nothing else fits, a sentence that names offered classes. Where classes
//! were offered, a reply that names none of them is unparsable; beside a known one, unknown ones are kept.

use super::escape::{ends_in_stop, fold, guard, split, trim_stop, unescape};
use super::{AnswerSpec, Reason, Unparsable, Unrenderable, escape, grammar};

/// The fixed words before the classes.
pub fn opening(chinese: bool) -> &'static str {
    if chinese { "上述文本被分类为：" } else { "Result: " }
}

/// What stands for no class.
pub fn nothing(chinese: bool) -> &'static str {
    if chinese { "以上均不属于" } else { "none of the above" }
}

/// What else is read as no class, unless a class is called so.
const NOTHING: [&str; 6] = ["none of the above", "以上均不属于", "none", "无", "以上都不是", "以上皆非"];

/// Writes classes.
///
/// # Errors
/// Where a class was not offered.
pub fn render(spec: &AnswerSpec, labels: &[String]) -> Result<String, Unrenderable> {
    render_after(spec, opening(spec.chinese()), labels)
}

/// Reads distinct classes in order.
///
/// # Errors
/// Where none of the offered classes is named.
pub fn parse(spec: &AnswerSpec, reply: &str) -> Result<Vec<String>, Unparsable> {
    let openings = [
        "上述文本被分类为",
        "分类结果",
        "结果",
        "类别",
        "Result",
        "Results",
        "Label",
        "Labels",
        "Answer",
        "Category",
    ];
    parse_after(spec, &openings, reply)
}

pub(super) fn render_after(
    spec: &AnswerSpec,
    opening: &str,
    labels: &[String],
) -> Result<String, Unrenderable> {
    let mut items = Vec::with_capacity(labels.len());
    for (at, label) in labels.iter().enumerate() {
        spec.offers(label)?;
        items.push(item(label, at + 1 == labels.len()));
    }
    let items = if items.is_empty() { nothing(spec.chinese()).to_owned() } else { items.join("; ") };
    Ok(format!("{opening}{items}"))
}

/// A class as it is written.
fn item(label: &str, last: bool) -> String {
    let written = escape::escape(label, |c| matches!(c, ';' | '；'));
    // An offered class is found as it stands; only a free one could be taken for something else.
    let phrase = NOTHING.contains(&fold(label).as_str());
    guard(written, phrase, last && ends_in_stop(label))
}

/// The grammar of replies; see [`grammar`].
pub(super) fn grammar(spec: &AnswerSpec) -> String {
    let opening = opening(spec.chinese());
    if spec.single {
        return grammar_of_one(spec, opening);
    }
    format!(
        "start: {} ({} | {} last)\nmore: {}\nlast: {}\n",
        grammar::literal(opening),
        grammar::literal(nothing(spec.chinese())),
        grammar::up_to(spec.names.len() - 1, "more"),
        grammar::one_of(spec.names.iter().map(|label| format!("{}; ", item(label, false)))),
        grammar::one_of(spec.names.iter().map(|label| item(label, true))),
    )
}

/// The grammar of exactly one class behind an opening.
pub(super) fn grammar_of_one(spec: &AnswerSpec, opening: &str) -> String {
    let labels = grammar::one_of(spec.names.iter().map(|label| item(label, true)));
    format!("start: {} ({labels})\n", grammar::literal(opening))
}

pub(super) fn parse_after(
    spec: &AnswerSpec,
    openings: &[&str],
    reply: &str,
) -> Result<Vec<String>, Unparsable> {
    let reply = reply.trim();
    if reply.is_empty() {
        return Err(Reason::Empty.into());
    }
    let after = strip_opening(openings, reply);
    // A model that goes on talking does so on the next line.
    let list = trim_stop(
        after.unwrap_or(reply).split('\n').map(str::trim).find(|line| !line.is_empty()).unwrap_or_default(),
    );
    let mut found: Vec<String> = Vec::new();
    let mut none = false;
    let mut unknown = Vec::new();
    for piece in split(list, |c| matches!(c, ';' | '；')) {
        let (label, literal) = unescape(piece.trim());
        if literal {
            found.push(label);
        } else if fold(&label) == nothing(spec.chinese()) {
            none = true;
        } else if let Some(known) = spec.known(&label) {
            found.push(known.to_owned());
        } else if let Some(several) = all_known(spec, &label) {
            found.extend(several);
        } else if NOTHING.contains(&fold(&label).as_str()) {
            none = true;
        } else if !label.is_empty() {
            unknown.push(found.len());
            found.push(label);
        }
    }
    let mut distinct: Vec<String> = Vec::with_capacity(found.len());
    for label in &found {
        if !distinct.contains(label) {
            distinct.push(label.clone());
        }
    }
    let any = found.len() > unknown.len() || (spec.names.is_empty() && after.is_some() && !found.is_empty());
    if any || (none && found.is_empty()) {
        return Ok(distinct);
    }
    let named = named_in(spec, reply);
    if named.is_empty() { Err(Reason::NoClass.into()) } else { Ok(named) }
}

/// The text behind one of the fixed openings and a colon.
fn strip_opening<'a>(openings: &[&str], reply: &'a str) -> Option<&'a str> {
    let (before, after) = reply.split_once([':', '：'])?;
    // "**Result:** a" closes its emphasis behind the colon.
    let after = if before.starts_with("**") { after.trim_start_matches('*') } else { after };
    let before = fold(before.trim_matches(|c: char| c.is_whitespace() || "*-#".contains(c)));
    openings.iter().any(|opening| fold(opening) == before).then(|| after.trim())
}

/// The classes between commas, if each of them is an offered one.
fn all_known(spec: &AnswerSpec, list: &str) -> Option<Vec<String>> {
    list.split([',', '，', '、']).map(|piece| spec.known(piece.trim()).map(str::to_owned)).collect()
}

/// The offered classes that a sentence names, in the order of the sentence; a class inside a longer one does not count.
pub(super) fn named_in(spec: &AnswerSpec, sentence: &str) -> Vec<String> {
    let sentence = fold(sentence);
    let mut hits: Vec<(usize, usize, &String)> = Vec::new();
    for name in &spec.names {
        let folded = fold(name);
        if folded.is_empty() {
            continue;
        }
        let word = |c: char| c.is_ascii_alphanumeric();
        for (at, _) in sentence.match_indices(&folded) {
            let end = at + folded.len();
            let inside_word = (folded.starts_with(word) && sentence[..at].ends_with(word))
                || (folded.ends_with(word) && sentence[end..].starts_with(word));
            if !inside_word {
                hits.push((at, end, name));
            }
        }
    }
    let inner = |&(at, end, _): &(usize, usize, &String)| {
        hits.iter().any(|&(from, to, _)| from <= at && end <= to && to - from > end - at)
    };
    let mut outer: Vec<_> = hits.iter().filter(|hit| !inner(hit)).collect();
    outer.sort();
    let mut named: Vec<String> = Vec::new();
    for (_, _, name) in outer {
        if !named.contains(name) {
            named.push((*name).clone());
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, AnswerFormat};
    use super::*;
    use proptest::prelude::*;
    use taiyi_corpus::schema::Language;

    fn spec(language: Language, names: &[&str]) -> AnswerSpec {
        AnswerSpec::new(AnswerFormat::Classes, language, names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn published_shapes() {
        let zh = spec(Language::Zh, &["治疗方案", "病因分析"]);
        assert_eq!(render(&zh, &["治疗方案".to_owned()]).unwrap(), "上述文本被分类为：治疗方案");
        let en = spec(Language::En, &["control", "perturbation"]);
        assert_eq!(
            render(&en, &["perturbation".to_owned(), "control".to_owned()]).unwrap(),
            "Result: perturbation; control"
        );
        assert_eq!(render(&en, &[]).unwrap(), "Result: none of the above");
        assert!(render(&en, &["x".to_owned()]).is_err());
    }

    #[test]
    fn forgives_what_models_do() {
        let en = spec(Language::En, &["Case Report", "Treatment", "Case", "a, b"]);
        let both = ["Treatment", "Case Report"];
        for reply in [
            "Result: Treatment; Case Report",
            "result： treatment；case_report.",
            "Treatment, Case Report",
            "**Labels**: Treatment; Case Report; Treatment\nBecause the text says so.",
            "The text is about treatment and is a case report.",
        ] {
            assert_eq!(parse(&en, reply).unwrap(), both, "{reply}");
        }
        assert_eq!(parse(&en, "Result: a, b").unwrap(), ["a, b"]);
        assert_eq!(parse(&en, "Result: Treatment; Nonsense").unwrap(), ["Treatment", "Nonsense"]);
        assert_eq!(parse(&en, "Result: none.").unwrap(), [""; 0]);
        assert_eq!(parse(&en, "Result: Mistreatments").unwrap_err().reason, Reason::NoClass);
        assert_eq!(parse(&en, "").unwrap_err().reason, Reason::Empty);
        let zh = spec(Language::Zh, &["病情诊断", "治疗方案"]);
        assert_eq!(parse(&zh, "这句话属于“治疗方案”类。").unwrap(), ["治疗方案"]);
    }

    fn nasty() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    ";",
                    "；",
                    ",",
                    "，",
                    "、",
                    ":",
                    "：",
                    "\\",
                    "\n",
                    " ",
                    ".",
                    "。",
                    "Result",
                    "none of the above",
                    "无",
                    "a",
                    "A",
                    "*",
                    "以上均不属于",
                ])
                .prop_map(str::to_owned),
                any::<char>().prop_map(String::from),
            ],
            0..6,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn parse_undoes_render(
            zh in any::<bool>(), open in any::<bool>(), names in prop::collection::vec(nasty(), 1..5), picks in prop::collection::vec(0_usize..5, 0..5),
        ) {
            let language = if zh { Language::Zh } else { Language::En };
            let value = Answer::Labels(picks.into_iter().map(|at| names[at % names.len()].clone()).collect()).normalized();
            let spec = AnswerSpec::new(AnswerFormat::Classes, language, if open { Vec::new() } else { names });
            let written = spec.render(&value).unwrap();
            prop_assert_eq!(spec.parse(&written), Ok(value), "{}", written);
        }

        #[test]
        fn any_reply_can_be_read(reply in prop_oneof![".*", nasty()], names in prop::collection::vec(nasty(), 0..3)) {
            let _ = AnswerSpec::new(AnswerFormat::Classes, Language::En, names).parse(&reply);
        }
    }
}
