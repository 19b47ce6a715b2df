//! PubTator: a title line, an abstract line, then tab-separated mentions and relations; a blank line between documents.
//!
//! ```text
//! 1234567|t|Made-up title on aspirin.
//! 1234567|a|Aspirin caused headache and renal or hepatic failure.
//! 1234567	17	24	aspirin	Chemical	D001241
//! 1234567	58	82	renal or hepatic failure	Disease	D051437|D017093	renal failure|hepatic failure
//! 1234567	CID	D001241	D006261
//! ```
//!
//! Offsets count code points of the title, one space and the abstract. A mention's sixth column holds concept ids,
//! several for a composite mention; its seventh, the parts of one, says nothing the ids and the text do not and is
//! not kept. Relations are between concepts.
//! Specification: <https://www.ncbi.nlm.nih.gov/research/pubtator3/tutorial> and the corpora themselves.

use serde::Deserialize;

use super::{Reading, draft};
use crate::error::{At, Error, quote};
use crate::offsets::{CharSpan, TextIndex};
use crate::schema::{Content, Document, Entity, Ie, Normalized, Passage, Relation, RelationLevel};
use crate::source::{Input, Lines};

/// Options of the format.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The terminology of ids that do not name theirs (`D001241` against `OMIM:103780`).
    #[serde(default)]
    pub terminology: Option<String>,
    /// Characters that separate several ids of one mention.
    #[serde(default = "separators")]
    pub id_separators: String,
}

fn separators() -> String {
    "|+".to_owned()
}

impl Default for Options {
    fn default() -> Self {
        Self { terminology: None, id_separators: separators() }
    }
}

/// Reads PubTator text into documents.
pub fn read(input: Input, options: &Options) -> Reading {
    Box::new(Reader { lines: input.lines(), pushed: None, options: options.clone() })
}

struct Reader {
    lines: Lines,
    /// The first line of the next block, met where a blank line was missing.
    pushed: Option<(usize, String)>,
    options: Options,
}

impl Iterator for Reader {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut block: Vec<(usize, String)> = Vec::new();
        block.extend(self.pushed.take());
        let mut bad_line = None;
        loop {
            match self.lines.next() {
                None => break,
                Some(Err(error)) if error.is_record() => bad_line = bad_line.or(Some(error)),
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok((_, line))) if line.trim().is_empty() => {
                    if !block.is_empty() || bad_line.is_some() {
                        break;
                    }
                }
                Some(Ok((number, line))) => {
                    if !block.is_empty() && starts_document(&line) {
                        self.pushed = Some((number, line));
                        break;
                    }
                    block.push((number, line));
                }
            }
        }
        if let Some(error) = bad_line {
            return Some(Err(error));
        }
        let first = block.first()?.0;
        Some(document(&block, &At::new(self.lines.name(), first), &self.options))
    }
}

fn starts_document(line: &str) -> bool {
    let mut parts = line.splitn(3, '|');
    parts.next().is_some_and(|id| !id.contains('\t')) && parts.next() == Some("t")
}

fn document(block: &[(usize, String)], at: &At, options: &Options) -> Result<Document, Error> {
    let part = |index: usize, mark: &str| -> Result<(&str, &str), Error> {
        let found = block.get(index).map(|(_, line)| line.as_str());
        let mut parts = found.unwrap_or("").splitn(3, '|');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(id), Some(kind), Some(text)) if kind == mark => Ok((id, text)),
            _ => Err(at.record(
                format!("`PMID|{mark}|text`"),
                found.map_or("the end of the document".to_owned(), quote),
                "a document starts with a title line and an abstract line",
            )),
        }
    };
    let (id, title) = part(0, "t")?;
    let (abstract_id, body) = part(1, "a")?;
    if abstract_id != id {
        return Err(at.record(
            format!("the abstract of {id}"),
            quote(abstract_id),
            "keep documents together",
        ));
    }
    let length = title.chars().count();
    let passages = vec![
        Passage {
            id: "title".into(),
            kind: "title".into(),
            text: title.into(),
            offsets: CharSpan::new(0, length),
        },
        Passage {
            id: "abstract".into(),
            kind: "abstract".into(),
            text: body.into(),
            offsets: CharSpan::new(length + 1, length + 1 + body.chars().count()),
        },
    ];
    let mut ie = Ie { passages, ..Ie::default() };
    let text = ie.text();
    let index = TextIndex::new(&text);
    for (number, line) in &block[2..] {
        let at = At::new(&at.file, *number);
        let columns: Vec<&str> = line.split('\t').collect();
        if columns[0] != id {
            return Err(at.record(format!("an annotation of {id}"), quote(line), "keep documents together"));
        }
        match columns[1..] {
            [start, end, surface, kind, ref ids @ ..] if start.parse::<usize>().is_ok() => {
                let span = span(start, end).filter(|span| index.slice(*span).is_some()).ok_or_else(|| {
                    at.record(
                        format!("offsets within the {} characters of document {id}", index.chars()),
                        format!("`{start}..{end}`"),
                        "repair or remove the mention",
                    )
                })?;
                ie.entities.push(Entity {
                    id: format!("T{}", ie.entities.len() + 1),
                    kind: kind.to_owned(),
                    text: vec![surface.to_owned()],
                    offsets: vec![span],
                    normalized: ids.first().map_or_else(Vec::new, |ids| concepts(ids, options)),
                });
            }
            [kind, head, tail, ..] if kind.parse::<f64>().is_err() => ie.relations.push(Relation {
                id: format!("R{}", ie.relations.len() + 1),
                kind: kind.to_owned(),
                arg1_id: head.to_owned(),
                arg2_id: tail.to_owned(),
                level: RelationLevel::Concept,
                normalized: Vec::new(),
            }),
            _ => {
                return Err(at.record(
                    "`PMID start end text type [ids]` or `PMID type concept concept`, tab-separated",
                    quote(line),
                    "repair or remove the line",
                ));
            }
        }
    }
    Ok(draft(id, Content::Ie(ie)))
}

fn span(start: &str, end: &str) -> Option<CharSpan> {
    Some(CharSpan::new(start.parse().ok()?, end.parse().ok()?))
}

/// The concepts of an id column; `-1` and `-` stand for none.
pub(crate) fn concepts(ids: &str, options: &Options) -> Vec<Normalized> {
    let mut concepts: Vec<Normalized> = Vec::new();
    for id in ids.split(|c| options.id_separators.contains(c)).map(str::trim) {
        if matches!(id, "" | "-" | "-1") {
            continue;
        }
        let concept = match id.split_once(':') {
            Some((name, id)) => Normalized { db_name: name.trim().to_owned(), db_id: id.trim().to_owned() },
            None => {
                Normalized { db_name: options.terminology.clone().unwrap_or_default(), db_id: id.to_owned() }
            }
        };
        if !concepts.contains(&concept) {
            concepts.push(concept);
        }
    }
    concepts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Result<Document, Error>> {
        let options = Options { terminology: Some("MESH".into()), ..Options::default() };
        read(Input::from_bytes("made-up.txt", text), &options).collect()
    }

    fn ie(document: &Document) -> &Ie {
        match &document.content {
            Content::Ie(ie) => ie,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn offsets_count_code_points() {
        let documents = all("1|t|β-blocker\n1|a|α β\n1\t12\t13\tβ\tChemical\t-1\n");
        let ie = ie(documents[0].as_ref().unwrap());
        assert_eq!(TextIndex::new(&ie.text()).slice(ie.entities[0].offsets[0]), Some("β"));
        assert!(ie.entities[0].normalized.is_empty());
    }

    #[test]
    fn an_offset_past_the_end_loses_one_document_and_says_where() {
        let documents = all("1|t|ab\n1|a|cd\n1\t3\t9\tcd\tX\n\n2|t|ab\n2|a|cd\n2\t3\t5\tcd\tX\n");
        let message = documents[0].as_ref().unwrap_err().to_string();
        assert_eq!(
            message,
            "made-up.txt:3: expected offsets within the 5 characters of document 1, found `3..9`; \
             repair or remove the mention"
        );
        assert_eq!(documents[1].as_ref().unwrap().document_id, "2");
    }

    #[test]
    fn documents_without_a_blank_line_between_them_are_two() {
        let documents = all("1|t|a|b\n1|a|c\n2|t|d\n2|a|\n");
        assert_eq!(ie(documents[0].as_ref().unwrap()).passages[0].text, "a|b");
        assert_eq!(documents.len(), 2);
    }

    #[test]
    fn ids_keep_their_terminology() {
        let options = Options { terminology: Some("MESH".into()), ..Options::default() };
        let found: Vec<String> = concepts("D001|OMIM:12+D002|-1", &options)
            .iter()
            .map(|c| format!("{}:{}", c.db_name, c.db_id))
            .collect();
        assert_eq!(found, ["MESH:D001", "OMIM:12", "MESH:D002"]);
    }
}
