//! One function for each [`Layout`](super::Layout).

use std::path::Path;

use quick_xml::events::Event;
use serde_json::Value;

use super::archive::{decode_text, members, read_bytes};
use super::{Layout, TextDocument, TextError, TextSource};

/// Appends the texts of one file.
pub(super) fn read(
    source: &TextSource,
    file: &str,
    path: &Path,
    out: &mut Vec<TextDocument>,
) -> Result<(), TextError> {
    let mut push = |pmid: Option<String>, text: String| {
        let text = text.trim();
        if !text.is_empty() || matches!(source.layout, Layout::Ids {}) {
            out.push(TextDocument {
                dataset: source.dataset.clone(),
                id: pmid.clone().unwrap_or_else(|| format!("{file}:{}", out.len())),
                pmid,
                language: source.language,
                text: text.to_owned(),
            });
        }
    };
    match &source.layout {
        Layout::Members { suffix } => {
            for (name, bytes) in members(path)? {
                if name.ends_with(suffix.as_str()) {
                    push(pmid(&name), decoded(path, &bytes)?);
                }
            }
        }
        Layout::Xml { record, fields } => {
            for (name, bytes) in members(path)? {
                if name.ends_with(".xml") || name.ends_with(".xml.gz") {
                    xml(path, &decoded(path, &bytes)?, record, fields, &mut push)?;
                }
            }
        }
        Layout::Tokens {} => tokens(&decoded(path, &read_bytes(path)?)?, &mut push),
        Layout::Ids {} => {
            for id in decoded(path, &read_bytes(path)?)?.lines().map(str::trim).filter(|id| !id.is_empty()) {
                push(Some(id.to_owned()), String::new());
            }
        }
        Layout::Pubtator {} => pubtator(&decoded(path, &read_bytes(path)?)?, &mut push),
        Layout::Json { fields } => json(path, &decoded(path, &read_bytes(path)?)?, fields, &mut push)?,
        Layout::Table { delimiter, header, columns } => {
            let text = decoded(path, &read_bytes(path)?)?;
            table(path, &text, *delimiter, *header, columns, &mut push)?;
        }
        Layout::Literal { field } => literal(&decoded(path, &read_bytes(path)?)?, field, &mut push),
        Layout::Card { .. } => {
            return Err(TextError::Layout {
                path: path.into(),
                expected: "no `files` with layout `card`".into(),
                found: format!("`{file}`"),
            });
        }
    }
    Ok(())
}

fn decoded(path: &Path, bytes: &[u8]) -> Result<String, TextError> {
    decode_text(bytes).ok_or_else(|| TextError::Layout {
        path: path.into(),
        expected: "text in UTF-8 or GB18030".into(),
        found: "bytes that are neither".into(),
    })
}

/// The PubMed id of a file called `PMID-123.txt` or `123.txt`; `PMC…` files have none.
fn pmid(name: &str) -> Option<String> {
    let stem = name.rsplit('/').next().unwrap_or(name).split('.').next().unwrap_or_default();
    let digits = stem.strip_prefix("PMID-").unwrap_or(stem);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.to_owned())
}

type Push<'a> = dyn FnMut(Option<String>, String) + 'a;

fn pubtator(text: &str, push: &mut Push<'_>) {
    let mut id = String::new();
    let mut body = String::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, '|');
        let (Some(number), Some(kind), Some(content)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if !matches!(kind, "t" | "a") || !number.chars().all(|c| c.is_ascii_digit()) {
            continue;
        }
        if number != id {
            push(Some(std::mem::replace(&mut id, number.to_owned())), std::mem::take(&mut body));
        }
        if !body.is_empty() {
            body.push(' ');
        }
        body.push_str(content.trim());
    }
    push(Some(id), body);
}

fn xml(
    path: &Path,
    text: &str,
    record: &str,
    fields: &[String],
    push: &mut Push<'_>,
) -> Result<(), TextError> {
    let damaged = |error: &dyn std::fmt::Display, at: u64| TextError::Layout {
        path: path.into(),
        expected: "well-formed XML".into(),
        found: format!("{error} at byte {at}"),
    };
    let mut reader = quick_xml::Reader::from_str(text);
    let mut lines: Vec<String> = Vec::new();
    let mut depth_in_field = 0usize;
    let mut current = String::new();
    loop {
        let event = reader.read_event().map_err(|error| damaged(&error, reader.error_position()))?;
        match &event {
            Event::Eof => break,
            Event::Start(element) | Event::Empty(element) => {
                let empty = matches!(event, Event::Empty(_));
                let name = element.local_name().as_ref().to_owned();
                if name == record {
                    lines.clear();
                }
                for field in fields {
                    let Some((element_name, attribute)) = field.split_once('@') else { continue };
                    if element_name != name {
                        continue;
                    }
                    for found in element.attributes().flatten() {
                        if found.key.as_ref() == attribute {
                            let value = quick_xml::escape::unescape(&found.value)
                                .map_err(|error| damaged(&error, reader.buffer_position()))?;
                            lines.push(value.split_whitespace().collect::<Vec<_>>().join(" "));
                        }
                    }
                }
                if !empty && (depth_in_field > 0 || fields.contains(&name)) {
                    depth_in_field += 1;
                }
            }
            Event::End(element) => {
                let name = element.local_name().as_ref().to_owned();
                if depth_in_field > 0 {
                    depth_in_field -= 1;
                    if depth_in_field == 0 {
                        lines.push(current.split_whitespace().collect::<Vec<_>>().join(" "));
                        current.clear();
                    }
                }
                if name == record {
                    push(None, lines.join("\n"));
                    lines.clear();
                }
            }
            Event::Text(content) if depth_in_field > 0 => {
                current.push_str(&content.xml10_content());
            }
            Event::CData(content) if depth_in_field > 0 => {
                current.push_str(&content.xml10_content());
            }
            Event::GeneralRef(reference) if depth_in_field > 0 => {
                let escaped = format!("&{};", reference.xml10_content());
                // An entity the file does not define is kept as it is written.
                current.push_str(&quick_xml::escape::unescape(&escaped).unwrap_or(escaped.as_str().into()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn json(path: &Path, text: &str, fields: &[String], push: &mut Push<'_>) -> Result<(), TextError> {
    let mut emit = |record: &Value| {
        let mut lines = Vec::new();
        strings(record, fields, fields.is_empty(), &mut lines);
        push(None, lines.join("\n"));
    };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(records)) => records.iter().for_each(&mut emit),
        Ok(Value::Object(records)) => records.values().for_each(&mut emit),
        Ok(other) => emit(&other),
        Err(whole) => {
            for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let record = serde_json::from_str::<Value>(line).map_err(|error| TextError::Layout {
                    path: path.into(),
                    expected: "a JSON array, or one JSON record a line".into(),
                    found: if at == 0 { whole.to_string() } else { format!("line {}: {error}", at + 1) },
                })?;
                emit(&record);
            }
        }
    }
    Ok(())
}

fn strings(value: &Value, fields: &[String], wanted: bool, lines: &mut Vec<String>) {
    match value {
        Value::String(text) if wanted && !text.trim().is_empty() => lines.push(text.trim().to_owned()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, fields, wanted, lines)),
        Value::Object(items) => {
            for (key, item) in items {
                strings(item, fields, wanted || fields.contains(key), lines);
            }
        }
        _ => {}
    }
}

fn table(
    path: &Path,
    text: &str,
    delimiter: char,
    header: bool,
    columns: &[usize],
    push: &mut Push<'_>,
) -> Result<(), TextError> {
    let wrong =
        |found: String| TextError::Layout { path: path.into(), expected: "separated values".into(), found };
    let delimiter =
        u8::try_from(delimiter).map_err(|_| wrong(format!("the delimiter `{delimiter}`, not one byte")))?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(header)
        .flexible(true)
        .quoting(delimiter == b',')
        .from_reader(text.as_bytes());
    for row in reader.records() {
        let row = row.map_err(|error| wrong(error.to_string()))?;
        let lines: Vec<&str> = columns.iter().filter_map(|&column| row.get(column)).map(str::trim).collect();
        push(None, lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}

fn tokens(text: &str, push: &mut Push<'_>) {
    let mut sentence: Vec<&str> = Vec::new();
    for line in text.lines().chain([""]) {
        match line.split_whitespace().next() {
            Some(token) => sentence.push(token),
            None => push(None, std::mem::take(&mut sentence).join(" ")),
        }
    }
}

fn literal(text: &str, field: &str, push: &mut Push<'_>) {
    let key = format!("'{field}': '");
    for line in text.lines() {
        let Some(at) = line.find(&key) else { continue };
        let mut value = String::new();
        let mut escaped = false;
        for c in line[at + key.len()..].chars() {
            match c {
                _ if escaped => {
                    value.push(if c == 'n' { '\n' } else { c });
                    escaped = false;
                }
                '\\' => escaped = true,
                '\'' => break,
                _ => value.push(c),
            }
        }
        push(None, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Language;

    fn texts(name: &str, content: &str, layout: Layout) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("made_up")).unwrap();
        std::fs::write(folder.path().join("made_up").join(name), content).unwrap();
        let source = TextSource {
            dataset: "made_up".into(),
            language: Language::En,
            files: vec![name.into()],
            layout,
        };
        let documents = super::super::read_text(&source, folder.path()).unwrap();
        documents.into_iter().map(|document| (document.id, document.text)).collect()
    }

    #[test]
    fn pubtator_joins_title_and_abstract() {
        let found = texts(
            "a.txt",
            "12345|t|A title.\n12345|a|An abstract.\n12345\t0\t7\tA title\tX\t-\n\n99999|t|B.\n99999|a|\n",
            Layout::Pubtator {},
        );
        assert_eq!(found, [("12345".into(), "A title. An abstract.".into()), ("99999".into(), "B.".into())]);
        let names =
            ["a/PMID-123.txt", "a/456.txt", "PMC-1310901-00-TIAB.txt", "DDI-DrugBank.d4.txt"].map(pmid);
        assert_eq!(names, [Some("123".into()), Some("456".into()), None, None]);
    }

    #[test]
    fn xml_takes_elements_and_attributes() {
        let content =
            "<all><q><t>What is  &lt;X&gt;?</t><skip>no</skip><a>An <b>X</b> &amp; more</a></q></all>";
        let layout = Layout::Xml { record: "q".into(), fields: vec!["t".into(), "a".into()] };
        assert_eq!(texts("a.xml", content, layout)[0].1, "What is <X>?\nAn X & more");
        let content = "<d><s text=\"One &quot;two&quot;.\"/><s text=\"Three.\"/></d>";
        let layout = Layout::Xml { record: "d".into(), fields: vec!["s@text".into()] };
        assert_eq!(texts("a.xml", content, layout)[0].1, "One \"two\".\nThree.");
    }

    #[test]
    fn json_takes_keys_at_any_depth() {
        let layout = || Layout::Json { fields: vec!["text".into()] };
        let expected =
            [("a.json:0".to_owned(), "甲\n乙".to_owned()), ("a.json:1".to_owned(), "丙".to_owned())];
        let array = r#"[{"text":"甲","in":{"text":"乙","label":"no"}},{"text":"丙"}]"#;
        assert_eq!(texts("a.json", array, layout()), expected);
        let lines = "{\"text\":\"甲\",\"in\":{\"text\":\"乙\",\"label\":\"no\"}}\n\n{\"text\":\"丙\"}\n";
        assert_eq!(texts("a.json", lines, layout()), expected);
    }

    #[test]
    fn tables_tokens_and_literals() {
        let sentences = texts("a.tsv", "Two\tO\nwords\tB-X\n\nOne\tO\n", Layout::Tokens {});
        assert_eq!(sentences.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), ["Two words", "One"]);
        let layout = Layout::Table { delimiter: ',', header: true, columns: vec![1, 2] };
        assert_eq!(texts("a.csv", "id,q,a\n1,\"Why, so?\",Because.\n", layout)[0].1, "Why, so?\nBecause.");
        let layout = Layout::Literal { field: "text".into() };
        assert_eq!(texts("a.txt", "{'text': '它\\'s', 'x': ['y']}\n", layout)[0].1, "它's");
    }

    #[test]
    fn damaged_files_say_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("d/a.json"), "{\"text\": ").unwrap();
        let source = TextSource {
            dataset: "d".into(),
            language: Language::Zh,
            files: vec!["a.json".into()],
            layout: Layout::Json { fields: vec![] },
        };
        let message = super::super::read_text(&source, folder.path()).unwrap_err().to_string();
        assert!(message.contains("a.json: expected a JSON array"), "{message}");
    }
}
