//! Entities: a line per type, `疾病：发热; 咳嗽` (`disease: fever; cough`), in the order of the types asked for.
//!
//! Nothing found is a sentence of its own: `未发现相关实体。` / `No entities found.`
//!
//! Text with separators: `;` and `；` are escaped in a string, unless they stand in brackets with no blank behind them, as in
//! `t(8;21)`; a colon only where a known type stands right before
//! it (it would look like the next line's type), a full stop at the end of a line and a string that reads like
//! "none" are guarded with `\&`; in a type, colons and semicolons are escaped.
//!
//! Forgiven when reading: either colon, either semicolon, no newline between types, repeated types and strings, types
//! that differ in case or carry a list mark, a string list that goes on in the next line, an empty or "none" line for a type,
//! a full stop at a line's end; where one type was asked for, a missing type. A type that was not asked for is kept: to
//! count it is the scorer's business.

use super::escape::{ends_in_stop, fold, guard, marks, push, trim_stop, unescape};
use super::grammar::{self, Strings};
use super::{AnswerSpec, Reason, Unparsable, Unrenderable, escape, says_nothing};

/// One entity type with its strings.
pub type Group = (String, Vec<String>);

/// What stands for an empty list of strings behind a type.
const NOTHING: [&str; 8] = ["none", "null", "n/a", "无", "没有", "暂无", "未发现", "未提及"];

/// The sentence that says that no entity was found.
pub fn nothing(chinese: bool) -> &'static str {
    if chinese { "未发现相关实体。" } else { "No entities found." }
}

/// Adds a string under a type unless it is there.
pub(crate) fn insert(groups: &mut Vec<Group>, kind: &str, string: String) {
    match groups.iter_mut().find(|(known, _)| known == kind) {
        Some((_, strings)) if strings.contains(&string) => {}
        Some((_, strings)) => strings.push(string),
        None => groups.push((kind.to_owned(), vec![string])),
    }
}

/// Writes entities, a line per type.
///
/// # Errors
/// Where a type was not asked for.
pub fn render(spec: &AnswerSpec, groups: &[Group]) -> Result<String, Unrenderable> {
    let kinds = written_names(spec);
    let mut lines = Vec::with_capacity(groups.len());
    for (kind, strings) in groups {
        spec.offers(kind)?;
        let last = strings.len().saturating_sub(1);
        let items: Vec<String> =
            strings.iter().enumerate().map(|(at, string)| item(string, &kinds, at == last)).collect();
        lines.push(format!("{}{}", opening(spec, kind), items.join("; ")));
    }
    Ok(if lines.is_empty() { nothing(spec.chinese()).to_owned() } else { lines.join("\n") })
}

/// The grammar of replies about a text; see [`grammar`].
///
/// A string that holds semicolons in whole brackets and others in broken ones is the one thing it leaves out.
pub(super) fn grammar(spec: &AnswerSpec, text: &str) -> String {
    let nothing = nothing(spec.chinese());
    if text.trim().is_empty() {
        return format!("start: {}\n", grammar::literal(nothing));
    }
    let kinds = written_names(spec);
    let (enclosed, typed) = (enclosed(text), behind_types(text, &kinds));
    let strings = Strings::new(text, 4, |variant, at, c| match c {
        ';' | '；' => variant & 1 != 0 || enclosed.binary_search(&at).is_err(),
        ':' | '：' => variant & 2 == 0 && typed.binary_search(&at).is_ok(),
        _ => false,
    });
    let openings: Vec<String> = spec.names.iter().map(|kind| opening(spec, kind)).collect();
    // What ends an item is part of its terminal, as a semicolon may also go on with it.
    format!(
        "{}items: {} ITEM\nMORE: ITEM \"; \"\n{}{}",
        grammar::lines(&openings, "items", nothing),
        grammar::up_to(strings.most() - 1, "MORE"),
        grammar::item("ITEM"),
        strings.terminal("ITEM_STRING"),
    )
}

/// The semicolons of a text that stand bare in a string which holds the brackets around them, as [`closes`] has it.
fn enclosed(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    // Of each open bracket, how many semicolons were found before it.
    let mut open: Vec<usize> = Vec::new();
    let mut pending: Vec<usize> = Vec::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match c {
            '(' | '（' | '[' => open.push(pending.len()),
            ')' | '）' | ']' => {
                if let Some(before) = open.pop() {
                    found.extend(pending.drain(before..));
                }
            }
            ';' | '；' if !open.is_empty() => match characters.peek() {
                Some((_, next)) if !next.is_whitespace() => pending.push(at),
                _ => {
                    pending.clear();
                    open.iter_mut().for_each(|before| *before = 0);
                }
            },
            _ => {}
        }
    }
    found.sort_unstable();
    found
}

/// The colons of a text with a known type right before them.
fn behind_types(text: &str, kinds: &[String]) -> Vec<usize> {
    let longest = kinds.iter().map(|kind| kind.chars().count()).max().unwrap_or(0);
    let behind = |at: &usize| {
        let from = text[..*at].char_indices().rev().take(longest * 4).last().map_or(*at, |(from, _)| from);
        let before = &text[from..*at];
        // Types are written with their own colons escaped.
        ending_type(before, kinds).is_some() || ending_type(&name(before), kinds).is_some()
    };
    text.match_indices([':', '：']).map(|(at, _)| at).filter(behind).collect()
}

/// What a line of a type begins with.
fn opening(spec: &AnswerSpec, kind: &str) -> String {
    format!("{}{}", name(kind), if spec.chinese() { "：" } else { ": " })
}

/// Reads entities in normal form.
///
/// # Errors
/// Where no line names a type that was asked for, and the reply does not say that there is none.
pub fn parse(spec: &AnswerSpec, reply: &str) -> Result<Vec<Group>, Unparsable> {
    if reply.trim().is_empty() {
        return Err(Reason::Empty.into());
    }
    let kinds = written_names(spec);
    let mut groups: Vec<Group> = Vec::new();
    let (mut any_known, mut current): (bool, Option<String>) = (false, None);
    if let [only] = spec.names.as_slice() {
        // A bare list may answer a question for one type, but not a bare sentence that says there is none.
        let first = reply.trim_start().lines().next().unwrap_or_default();
        if !says_nothing(reply) && colon(first).is_none() {
            current = Some(only.clone());
        }
    }
    for line in reply.split('\n').flat_map(|line| cut_at_types(line, &kinds)) {
        let mut list = line;
        if let Some((before, after)) = colon(line) {
            let (written, literal) = unescape(before.trim());
            let known = if literal {
                spec.names.iter().find(|name| **name == written).map(String::as_str)
            } else {
                spec.known(&written)
            };
            any_known |= known.is_some() || spec.names.is_empty();
            current = Some(known.map_or(written, str::to_owned));
            list = after;
        }
        let Some(kind) = &current else { continue };
        for piece in pieces(trim_stop(list)) {
            let (string, literal) = unescape(piece.trim());
            if literal || !(string.is_empty() || NOTHING.contains(&fold(&string).as_str())) {
                any_known |= spec.names.contains(kind);
                insert(&mut groups, kind, string);
            }
        }
    }
    if any_known || (groups.is_empty() && says_nothing(reply)) {
        Ok(groups)
    } else {
        Err(Reason::NoEntityType.into())
    }
}

/// A type as it is written, colons and semicolons escaped.
fn name(kind: &str) -> String {
    escape::escape(kind, |c| matches!(c, ':' | '：' | ';' | '；'))
}

/// The names of the spec as they are written, folded; what a line break may be missing before.
fn written_names(spec: &AnswerSpec) -> Vec<String> {
    spec.names.iter().map(|kind| fold(&name(kind))).filter(|kind| !kind.is_empty()).collect()
}

/// A string as it is written.
fn item(string: &str, kinds: &[String], last_of_line: bool) -> String {
    let phrase = string.is_empty() || NOTHING.contains(&fold(string).as_str());
    let before = string.starts_with(char::is_whitespace) || phrase;
    let mut written = guard(String::with_capacity(string.len() + 2), before, false);
    let mut depth = 0;
    for (at, c) in string.char_indices() {
        let special = match c {
            ';' | '；' => depth == 0 || !closes(&string[at + c.len_utf8()..]),
            ':' | '：' => ending_type(&written, kinds).is_some(),
            _ => false,
        };
        depth = deeper(depth, c);
        push(&mut written, c, special);
    }
    let after = string.ends_with(char::is_whitespace) || (last_of_line && ends_in_stop(string));
    guard(written, false, after)
}

/// The strings of a list, cut at its bare semicolons; one inside brackets, with no blank behind it, is part of its string.
fn pieces(list: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c, escaped) in marks(list) {
        if escaped {
            continue;
        }
        let after = at + c.len_utf8();
        if matches!(c, ';' | '；') && (depth == 0 || !closes(&list[after..])) {
            pieces.push(&list[start..at]);
            (start, depth) = (after, 0);
        } else {
            depth = deeper(depth, c);
        }
    }
    pieces.push(&list[start..]);
    pieces
}

fn deeper(depth: usize, c: char) -> usize {
    match c {
        '(' | '（' | '[' => depth + 1,
        ')' | '）' | ']' => depth.saturating_sub(1),
        _ => depth,
    }
}

/// Whether what follows a semicolon inside a bracket goes on without a blank and closes the bracket before a semicolon that
/// a blank follows: the separator of the published answers.
fn closes(after: &str) -> bool {
    if after.starts_with(char::is_whitespace) {
        return false;
    }
    let mut depth = 0_usize;
    for (at, c, escaped) in marks(after) {
        match c {
            _ if escaped => {}
            ';' | '；' => {
                let next = after[at + c.len_utf8()..].chars().next();
                if next.is_none_or(char::is_whitespace) {
                    return false;
                }
            }
            ')' | '）' | ']' if depth == 0 => return true,
            c => depth = deeper(depth, c),
        }
    }
    false
}

/// Where the type starts that stands at the end of written text, if one of `kinds` does: the longest one.
fn ending_type(written: &str, kinds: &[String]) -> Option<usize> {
    let longest = kinds.iter().map(|kind| kind.chars().count()).max()?;
    // Folding never makes text longer in characters by more than lowercasing does (at most threefold), and may join
    // runs of blanks; a window of four times the longest name is ample and keeps long strings linear.
    let mut found = None;
    for (at, _) in written.char_indices().rev().take(longest * 4) {
        let tail = &written[at..];
        if !tail.starts_with(char::is_whitespace) && kinds.contains(&fold(tail)) {
            found = Some(at);
        }
    }
    found
}

/// The text before and after the first bare colon.
fn colon(line: &str) -> Option<(&str, &str)> {
    let (at, c, _) = marks(line).find(|&(_, c, escaped)| !escaped && matches!(c, ':' | '：'))?;
    Some((&line[..at], &line[at + c.len_utf8()..]))
}

/// Cuts a line before every known type, after a blank or a stop, that a bare colon follows.
fn cut_at_types<'a>(line: &'a str, kinds: &[String]) -> Vec<&'a str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, c, escaped) in marks(line) {
        if escaped || !matches!(c, ':' | '：') {
            continue;
        }
        let Some(kind) = ending_type(&line[start..at], kinds).map(|kind| start + kind) else { continue };
        let parted = line[..kind].ends_with(|c: char| c.is_whitespace() || ";；。.".contains(c));
        // A list mark before a type belongs to it.
        let text_before = line[start..kind].contains(|c: char| !c.is_whitespace() && !"*-•#".contains(c));
        if parted && text_before {
            pieces.push(&line[start..kind]);
            start = kind;
        }
    }
    pieces.push(&line[start..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, AnswerFormat};
    use super::*;
    use proptest::prelude::*;
    use taiyi_corpus::schema::Language;

    fn spec(language: Language, names: &[&str]) -> AnswerSpec {
        AnswerSpec::new(AnswerFormat::Entities, language, names.iter().map(|&name| name.to_owned()).collect())
    }

    fn groups(found: &[(&str, &[&str])]) -> Vec<Group> {
        found
            .iter()
            .map(|(kind, strings)| (kind.to_string(), strings.iter().map(|s| s.to_string()).collect()))
            .collect()
    }

    #[test]
    fn published_shapes() {
        let zh = spec(Language::Zh, &["疾病", "药物"]);
        let found = groups(&[("疾病", &["糖尿病", "高血压"]), ("药物", &["二甲双胍"])]);
        assert_eq!(render(&zh, &found).unwrap(), "疾病：糖尿病; 高血压\n药物：二甲双胍");
        let en = spec(Language::En, &["disease"]);
        assert_eq!(
            render(&en, &groups(&[("disease", &["fever", "E. coli infection"])])).unwrap(),
            "disease: fever; E. coli infection"
        );
        assert_eq!(render(&en, &[]).unwrap(), "No entities found.");
        assert!(render(&en, &groups(&[("gene", &["x"])])).is_err());
    }

    #[test]
    fn separators_in_text_are_escaped_only_where_needed() {
        let zh = spec(Language::Zh, &["疾病", "药物"]);
        let found = groups(&[("疾病", &["1：2型", "药物：过敏", "a;b；c", "无", "sp.", "尾\n\\。"])]);
        let written = render(&zh, &found).unwrap();
        assert_eq!(written, "疾病：1：2型; 药物\\：过敏; a\\;b\\；c; \\&无; sp.; 尾\\n\\\\。\\&");
        assert_eq!(parse(&zh, &written).unwrap(), found);
    }

    #[test]
    fn semicolons_in_brackets_stay_as_they_are() {
        let zh = spec(Language::Zh, &["症状"]);
        let found = groups(&[("症状", &["t（8；21）", "del(5;7;9)x", "a (b", "c) d", "(e; f)"])]);
        let written = render(&zh, &found).unwrap();
        assert_eq!(written, "症状：t（8；21）; del(5;7;9)x; a (b; c) d; (e\\; f)");
        assert_eq!(parse(&zh, &written).unwrap(), found);
    }

    #[test]
    fn forgives_what_models_do() {
        let zh = spec(Language::Zh, &["疾病", "药物", "症状"]);
        let expected = groups(&[("疾病", &["糖尿病", "高血压"]), ("药物", &["二甲双胍"])]);
        for reply in [
            "疾病：糖尿病; 高血压\n药物：二甲双胍\n",
            "疾病:糖尿病；高血压 药物：二甲双胍",
            "疾病：糖尿病;高血压;药物：二甲双胍。",
            "以下是实体：\n- 疾病： 糖尿病 ;\n高血压\n**药物**：二甲双胍\n症状：无",
            "疾病：糖尿病\n药物：二甲双胍; 二甲双胍\n疾病：高血压; 糖尿病",
            "疾病：糖尿病; 高血压。药物：二甲双胍; ",
        ] {
            assert_eq!(parse(&zh, reply).unwrap(), expected, "{reply}");
        }
        let one = spec(Language::En, &["Disease"]);
        for reply in ["fever; cough", "DISEASE : fever; cough.", "disease: fever\ncough"] {
            assert_eq!(parse(&one, reply).unwrap(), groups(&[("Disease", &["fever", "cough"])]), "{reply}");
        }
        for reply in ["None", "No disease entities were found.", "Disease: none", "无", "未发现相关实体。"]
        {
            assert_eq!(parse(&one, reply).unwrap(), [], "{reply}");
        }
        assert_eq!(parse(&zh, "这段文字讲的是糖尿病。").unwrap_err().reason, Reason::NoEntityType);
        assert_eq!(parse(&zh, " ").unwrap_err().reason, Reason::Empty);
        assert_eq!(parse(&zh, "Note: this text is about it").unwrap_err().reason, Reason::NoEntityType);
    }

    /// Strings that are mostly separators, names and blanks.
    fn nasty() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    ";",
                    "；",
                    ":",
                    "：",
                    "\\",
                    "\n",
                    "\r",
                    " ",
                    "　",
                    ".",
                    "。",
                    "疾病",
                    "DISEASE",
                    "drug",
                    "无",
                    "none",
                    "[",
                    "]",
                    ",",
                    "，",
                    "\"",
                    "&",
                    "n",
                    "No entities found.",
                    "İ",
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
            kinds in prop::collection::vec(prop_oneof![prop::sample::select(vec!["疾病", "disease", "Drug: x", "a; b"]).prop_map(str::to_owned), nasty()], 1..4),
            found in prop::collection::vec((0_usize..4, nasty()), 0..8),
        ) {
            let language = if zh { Language::Zh } else { Language::En };
            let found = found.into_iter().map(|(at, string)| (kinds[at % kinds.len()].clone(), vec![string])).collect();
            let value = Answer::Entities(found).normalized();
            let spec = AnswerSpec::new(AnswerFormat::Entities, language, if open { Vec::new() } else { kinds });
            let written = spec.render(&value).unwrap();
            prop_assert_eq!(spec.parse(&written), Ok(value), "{}", written);
        }

        #[test]
        fn any_reply_can_be_read(reply in prop_oneof![".*", nasty()], names in prop::collection::vec(nasty(), 0..3)) {
            let _ = AnswerSpec::new(AnswerFormat::Entities, Language::Zh, names).parse(&reply);
        }
    }
}
