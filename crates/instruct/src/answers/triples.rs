//! Relations: a line per relation, `治疗：[糖尿病, 二甲双胍]; [高血压, 氨氯地平]` (`treats: [metformin, diabetes]`).
//!
//! Nothing found is a sentence of its own: `未发现相关关系。` / `No relations found.`
//!
//! Text with separators: a comma followed by a blank is escaped in a head (`\, `), as the first bare one ends it; other commas
//! are not, so that `1,2-dichloroethane` stays as it is; brackets are escaped where an argument's do not pair up, so that `benzo[a]pyrene` does
//! too; in a relation, colons and brackets are escaped.
//!
//! Forgiven when reading: either colon, bracket and semicolon; a full-width or bare comma between the arguments; no
//! newline between relations, repeated relations and triples; a relation that differs in case; a missing relation
//! where one was asked for; an unfinished last pair, which is dropped.

use super::escape::{guard, marks, push, unescape};
use super::grammar::{self, Strings};
use super::{AnswerSpec, Reason, Triple, Unparsable, Unrenderable, escape, says_nothing};

/// The sentence that says that no relation was found.
pub fn nothing(chinese: bool) -> &'static str {
    if chinese { "未发现相关关系。" } else { "No relations found." }
}

/// Adds a triple behind the last one of its relation unless it is there.
pub(crate) fn insert(triples: &mut Vec<Triple>, triple: Triple) {
    if triples.contains(&triple) {
        return;
    }
    let behind = triples
        .iter()
        .rposition(|known| known.relation == triple.relation)
        .map_or(triples.len(), |at| at + 1);
    triples.insert(behind, triple);
}

/// Writes triples, a line per run of one relation.
///
/// # Errors
/// Where a relation was not asked for.
pub fn render(spec: &AnswerSpec, triples: &[Triple]) -> Result<String, Unrenderable> {
    let mut written = String::new();
    let mut last: Option<&str> = None;
    for Triple { relation, head, tail } in triples {
        spec.offers(relation)?;
        if last == Some(relation) {
            written.push_str("; ");
        } else {
            if last.is_some() {
                written.push('\n');
            }
            written.push_str(&opening(spec, relation));
            last = Some(relation);
        }
        written.push_str(&format!("[{}, {}]", argument(head, true), argument(tail, false)));
    }
    Ok(if triples.is_empty() { nothing(spec.chinese()).to_owned() } else { written })
}

/// What a line of a relation begins with.
fn opening(spec: &AnswerSpec, relation: &str) -> String {
    let name = escape::escape(relation, |c| matches!(c, ':' | '：' | '[' | ']'));
    format!("{name}{}", if spec.chinese() { "：" } else { ": " })
}

/// Brackets that pair up, one inside another at most twice.
const PAIRED: &str = r"[^\[\]]*(\[[^\[\]]*(\[[^\[\]]*(\[[^\[\]]*\][^\[\]]*)*\][^\[\]]*)*\][^\[\]]*)*";

/// The grammar of replies about a text; see [`grammar`].
pub(super) fn grammar(spec: &AnswerSpec, text: &str) -> String {
    let nothing = nothing(spec.chinese());
    if text.trim().is_empty() {
        return format!("start: {}\n", grammar::literal(nothing));
    }
    let openings: Vec<String> = spec.names.iter().map(|relation| opening(spec, relation)).collect();
    // A comma that a blank follows is escaped in a head, but not where the head ends with it.
    let parts = |at: usize, c: char| c == ',' && text[at + 1..].starts_with(char::is_whitespace);
    let bracket = |c: char| matches!(c, '[' | ']');
    let brackets = text.contains(bracket);
    let bare_head = Strings::new(text, 1, |_, at, c| parts(at, c));
    let bare_tail = Strings::new(text, 1, |_, _, _| false);
    let mut rules = grammar::lines(&openings, "pairs", nothing);
    rules.push_str(&format!(
        "pairs: pair {}\npair: \"[\" BEFORE AFTER\nBEFORE: HEAD \", \"\nAFTER: TAIL \"]\"\n",
        grammar::up_to(bare_tail.most() - 1, "(\"; \" pair)")
    ));
    rules.push_str(&grammar::item("HEAD"));
    rules.push_str(&grammar::item("TAIL"));
    let (mut heads, mut tails) = ("HEAD_AS_IT_IS".to_owned(), "TAIL_AS_IT_IS".to_owned());
    rules.push_str(&bare_head.terminal("HEAD_AS_IT_IS"));
    rules.push_str(&bare_tail.terminal("TAIL_AS_IT_IS"));
    if brackets {
        for side in [&mut heads, &mut tails] {
            *side = format!("({side} & /{PAIRED}/) | {}_ESCAPED", &side[..4]);
        }
        rules
            .push_str(&Strings::new(text, 1, |_, at, c| parts(at, c) || bracket(c)).terminal("HEAD_ESCAPED"));
        rules.push_str(&Strings::new(text, 1, |_, _, c| bracket(c)).terminal("TAIL_ESCAPED"));
    }
    if text.char_indices().any(|(at, c)| parts(at, c)) {
        heads.push_str(&if brackets {
            format!(" | (TAIL_AS_IT_IS & /{PAIRED}/ & /([^,]|,\\S)*,/)")
        } else {
            " | (TAIL_AS_IT_IS & /([^,]|,\\S)*,/)".to_owned()
        });
    }
    rules.push_str(&format!("HEAD_STRING: {heads}\nTAIL_STRING: {tails}\n"));
    rules
}

/// Reads triples in normal form.
///
/// # Errors
/// Where there is no whole pair under a known relation, and the reply does not say that there is none.
pub fn parse(spec: &AnswerSpec, reply: &str) -> Result<Vec<Triple>, Unparsable> {
    if reply.trim().is_empty() {
        return Err(Reason::Empty.into());
    }
    let normalised;
    let reply = if has_bare(reply, '[') {
        reply
    } else {
        // Only a reply without a single published bracket may mean others.
        normalised = reply.replace(['［', '【'], "[").replace(['］', '】'], "]");
        &normalised
    };
    let only = if let [only] = spec.names.as_slice() { Some(only.as_str()) } else { None };
    let mut triples = Vec::new();
    let mut relation: Option<String> = only.map(str::to_owned);
    let (mut rest, mut any_known, mut cut_off) = (reply, false, false);
    while let Some((open, ..)) = marks(rest).find(|&(_, c, escaped)| !escaped && c == '[') {
        if let Some(named) = relation_in(spec, &rest[..open], rest.len() == reply.len()) {
            relation = Some(named);
        }
        let Some((pair, after)) = close(&rest[open + 1..]) else {
            cut_off = true;
            break;
        };
        rest = after;
        if let (Some(relation), Some((head, tail))) = (&relation, arguments(pair)) {
            any_known |= spec.names.is_empty() || spec.names.contains(relation);
            insert(&mut triples, Triple { relation: relation.clone(), head, tail });
        }
    }
    match (any_known, cut_off) {
        (true, _) => Ok(triples),
        (false, true) => Err(Reason::CutOff.into()),
        (false, false) if triples.is_empty() && nothing_said(reply) => Ok(triples),
        (false, false) => Err(Reason::NoPair.into()),
    }
}

/// Whether the reply, or what follows a relation in it, says that there is nothing.
fn nothing_said(reply: &str) -> bool {
    let behind = |c: char| reply.split_once(c).is_some_and(|(_, after)| says_nothing(after));
    says_nothing(reply) || behind(':') || behind('：')
}

/// An argument as it is written.
fn argument(text: &str, head: bool) -> String {
    let paired = balanced(text);
    let before = text.starts_with(char::is_whitespace);
    let mut written = guard(String::with_capacity(text.len() + 2), before, false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let special = match c {
            '[' | ']' => !paired,
            ',' => head && characters.peek().is_some_and(|next| next.is_whitespace()),
            _ => false,
        };
        push(&mut written, c, special);
    }
    guard(written, false, text.is_empty() || text.ends_with(char::is_whitespace))
}

fn balanced(text: &str) -> bool {
    let mut depth = 0_i32;
    for c in text.chars() {
        depth += i32::from(c == '[') - i32::from(c == ']');
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

fn has_bare(raw: &str, wanted: char) -> bool {
    marks(raw).any(|(_, c, escaped)| !escaped && c == wanted)
}

/// The relation that a text before a pair names.
fn relation_in(spec: &AnswerSpec, gap: &str, first: bool) -> Option<String> {
    let line = gap.rsplit('\n').next().unwrap_or(gap);
    let colon = marks(line).filter(|&(_, c, escaped)| !escaped && matches!(c, ':' | '：')).last();
    let written = colon.map_or(line, |(at, ..)| &line[..at]).trim();
    // Behind a pair on the same line: what parts the pairs is no part of the relation's name.
    let own_line = first || gap.contains('\n');
    let parting = |c: char| c.is_whitespace() || ";；,，。.、".contains(c);
    let written = if own_line { written } else { written.trim_start_matches(parting) };
    if colon.is_none() && written.is_empty() {
        return None;
    }
    let (name, literal) = unescape(written);
    let exact = spec.names.iter().find(|known| **known == name).cloned();
    let known = exact.or_else(|| if literal { None } else { spec.known(&name).map(str::to_owned) });
    // Without a colon only a known name is one; the rest is punctuation or prose.
    known.or_else(|| colon.map(|_| name))
}

/// The inside of a pair, and what follows its closing bracket: the one that pairs up, else the first.
fn close(inside: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    let mut first = None;
    for (at, c, escaped) in marks(inside) {
        if escaped {
            continue;
        }
        match c {
            '[' => depth += 1,
            ']' if depth == 0 => return Some((&inside[..at], &inside[at + 1..])),
            ']' => {
                depth -= 1;
                first = first.or(Some(at));
            }
            // A pair does not go over a line's end; an unpaired bracket in it must not swallow the next lines.
            '\n' => break,
            _ => {}
        }
    }
    first.map(|at| (&inside[..at], &inside[at + 1..]))
}

/// The two arguments of a pair: cut at the first `, ` outside inner brackets, else at the first comma of any kind.
fn arguments(pair: &str) -> Option<(String, String)> {
    let mut depth = 0_i32;
    let mut best: Option<(u8, usize, usize)> = None;
    for (at, c, escaped) in marks(pair) {
        if escaped {
            continue;
        }
        depth += i32::from(c == '[') - i32::from(c == ']');
        let blank_follows = pair[at + c.len_utf8()..].starts_with(char::is_whitespace);
        let rank = match c {
            ',' if blank_follows && depth == 0 => 0,
            '，' => 1,
            ',' => 2,
            _ => continue,
        };
        if best.is_none_or(|(known, ..)| rank < known) {
            best = Some((rank, at, at + c.len_utf8()));
        }
    }
    let (_, at, after) = best?;
    let ((head, head_literal), (tail, tail_literal)) =
        (unescape(pair[..at].trim()), unescape(pair[after..].trim()));
    let blank = (head.is_empty() && !head_literal) || (tail.is_empty() && !tail_literal);
    (!blank).then_some((head, tail))
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, AnswerFormat};
    use super::*;
    use proptest::prelude::*;
    use taiyi_corpus::schema::Language;

    fn spec(language: Language, names: &[&str]) -> AnswerSpec {
        AnswerSpec::new(AnswerFormat::Triples, language, names.iter().map(|&name| name.to_owned()).collect())
    }

    fn triple(relation: &str, head: &str, tail: &str) -> Triple {
        Triple { relation: relation.to_owned(), head: head.to_owned(), tail: tail.to_owned() }
    }

    #[test]
    fn published_shapes() {
        let en = spec(Language::En, &["chemical-induced disease"]);
        let found = [
            triple("chemical-induced disease", "propylthiouracil", "fever"),
            triple("chemical-induced disease", "propylthiouracil", "oral ulcers"),
        ];
        assert_eq!(
            render(&en, &found).unwrap(),
            "chemical-induced disease: [propylthiouracil, fever]; [propylthiouracil, oral ulcers]"
        );
        let zh = spec(Language::Zh, &["病因", "辅助治疗"]);
        let found = [triple("辅助治疗", "失眠症", "冥想"), triple("病因", "失眠症", "焦虑")];
        assert_eq!(render(&zh, &found).unwrap(), "辅助治疗：[失眠症, 冥想]\n病因：[失眠症, 焦虑]");
        assert_eq!(render(&zh, &[]).unwrap(), "未发现相关关系。");
    }

    #[test]
    fn chemical_names_stay_as_they_are() {
        let en = spec(Language::En, &["induces"]);
        let found = [
            triple("induces", "benzo[a]pyrene", "1,2-x"),
            triple("induces", "a, b", "c], d"),
            triple("induces", "[3H]-y", "d;e"),
        ];
        let written = render(&en, &found).unwrap();
        assert_eq!(written, "induces: [benzo[a]pyrene, 1,2-x]; [a\\, b, c\\], d]; [[3H]-y, d;e]");
        assert_eq!(parse(&en, &written).unwrap(), found);
    }

    #[test]
    fn forgives_what_models_do() {
        let zh = spec(Language::Zh, &["病因", "治疗"]);
        let expected = [
            triple("治疗", "失眠症", "冥想"),
            triple("治疗", "失眠症", "运动"),
            triple("病因", "失眠症", "焦虑"),
        ];
        for reply in [
            "治疗：[失眠症, 冥想]; [失眠症, 运动]\n病因：[失眠症, 焦虑]\n",
            "治疗:[失眠症，冥想]；[失眠症,运动] 病因: [失眠症, 焦虑]。",
            "治疗：[失眠症, 冥想]；[失眠症, 运动]；病因：[失眠症, 焦虑]; [失眠症, 抑",
            "**治疗**：[失眠症, 冥想]\n病因：[失眠症, 焦虑]\n治疗：[失眠症，运动]; [失眠症, 冥想]",
            "治疗：［失眠症，冥想］；［失眠症，运动］\n病因：【失眠症, 焦虑】",
        ] {
            assert_eq!(parse(&zh, reply).unwrap(), expected, "{reply}");
        }
        let one = spec(Language::En, &["induces"]);
        assert_eq!(parse(&one, "[a, b]").unwrap(), [triple("induces", "a", "b")]);
        assert_eq!(
            parse(&one, "Induces: [a[x, b]; [c, d]\n").unwrap(),
            [triple("induces", "a[x", "b"), triple("induces", "c", "d")]
        );
        for reply in ["None.", "induces: none", "There are no such relations."] {
            assert_eq!(parse(&one, reply).unwrap(), [], "{reply}");
        }
        assert_eq!(parse(&one, "[a, b").unwrap_err().reason, Reason::CutOff);
        assert_eq!(parse(&one, "a induces b").unwrap_err().reason, Reason::NoPair);
        assert_eq!(parse(&zh, "[失眠症, 冥想]").unwrap_err().reason, Reason::NoPair);
    }

    fn nasty() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "[", "]", "［", "］", ",", ", ", "，", ";", "; ", ":", "：", "\\", "\n", " ", "　", ".",
                    "。", "治疗", "treats", "\"", "n",
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
            zh in any::<bool>(), open in any::<bool>(),
            names in prop::collection::vec(prop_oneof![prop::sample::select(vec!["治疗", "Treats"]).prop_map(str::to_owned), nasty()], 1..4),
            found in prop::collection::vec((0_usize..4, nasty(), nasty()), 0..8),
        ) {
            let language = if zh { Language::Zh } else { Language::En };
            let found = found.into_iter().map(|(at, head, tail)| Triple { relation: names[at % names.len()].clone(), head, tail });
            let value = Answer::Triples(found.collect()).normalized();
            let spec = AnswerSpec::new(AnswerFormat::Triples, language, if open { Vec::new() } else { names });
            let written = spec.render(&value).unwrap();
            prop_assert_eq!(spec.parse(&written), Ok(value), "{}", written);
        }

        #[test]
        fn any_reply_can_be_read(reply in prop_oneof![".*", nasty()], names in prop::collection::vec(nasty(), 0..3)) {
            let _ = AnswerSpec::new(AnswerFormat::Triples, Language::En, names).parse(&reply);
        }
    }
}
