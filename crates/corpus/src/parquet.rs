//! Documents as Apache Parquet: nested columns in BigBIO's spirit, one row per document.
//!
//! Every field of [`crate::schema`] is a column under its JSON name; what a kind of task does not use is null, and
//! lists of parts are lists of structs (`entities.list.element.offsets…`), so that other tools query them as they
//! are. The file reads back to equal documents.
//!
//! The nesting is written as repetition and definition levels by hand (Melnik et al. 2010, "Dremel", section 4): a
//! hundred lines in place of the Arrow crates, which take longer to compile than the rest of this project's data
//! code together.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::SerializedFileReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::schema::Document;
use crate::write::write_atomically;

/// Documents per row group: a few megabytes of abstracts.
const ROW_GROUP: usize = 4096;

/// The type of a column, nested.
enum Node {
    Text,
    Number,
    List(&'static Node),
    Struct(&'static [(&'static str, Node)]),
}

use Node::{List, Number, Struct, Text};

const TEXTS: Node = List(&Text);
const SPAN: Node = List(&Number);
const SPANS: Node = List(&SPAN);
const NORMALIZED: Node = List(&Struct(&[("db_name", Text), ("db_id", Text)]));

/// The columns: the fields of all kinds of content side by side.
const COLUMNS: &[(&str, Node)] = &[
    ("id", Text),
    ("document_id", Text),
    ("dataset", Text),
    ("split", Text),
    ("language", Text),
    ("schema", Text),
    ("passages", List(&Struct(&[("id", Text), ("type", Text), ("text", Text), ("offsets", SPAN)]))),
    (
        "entities",
        List(&Struct(&[
            ("id", Text),
            ("type", Text),
            ("text", TEXTS),
            ("offsets", SPANS),
            ("normalized", NORMALIZED),
        ])),
    ),
    (
        "relations",
        List(&Struct(&[
            ("id", Text),
            ("type", Text),
            ("arg1_id", Text),
            ("arg2_id", Text),
            ("level", Text),
            ("normalized", NORMALIZED),
        ])),
    ),
    (
        "causal_relations",
        List(&Struct(&[("id", Text), ("type", Text), ("head_id", Text), ("tail_id", Text)])),
    ),
    (
        "events",
        List(&Struct(&[
            ("id", Text),
            ("type", Text),
            ("trigger", Struct(&[("text", TEXTS), ("offsets", SPANS)])),
            ("arguments", List(&Struct(&[("role", Text), ("ref_id", Text)]))),
        ])),
    ),
    ("coreferences", List(&Struct(&[("id", Text), ("entity_ids", TEXTS)]))),
    ("text", Text),
    ("labels", TEXTS),
    ("question", Text),
    ("contexts", TEXTS),
    ("choices", TEXTS),
    ("answers", TEXTS),
    ("kind", Text),
    ("context", Text),
    ("utterances", List(&Struct(&[("speaker", Text), ("text", Text)]))),
    ("source", Text),
    ("target", Text),
    ("text_1", Text),
    ("text_2", Text),
    ("label", Text),
];

impl Node {
    /// How many leaf columns it has.
    fn leaves(&self) -> usize {
        match self {
            Text | Number => 1,
            List(element) => element.leaves(),
            Struct(fields) => fields.iter().map(|(_, node)| node.leaves()).sum(),
        }
    }

    /// The Parquet schema text of a field of this type.
    fn declare(&self, repetition: &str, name: &str, out: &mut String) {
        match self {
            Text => out.push_str(&format!("{repetition} binary {name} (UTF8);\n")),
            Number => out.push_str(&format!("{repetition} int64 {name};\n")),
            List(element) => {
                out.push_str(&format!("{repetition} group {name} (LIST) {{ repeated group list {{\n"));
                element.declare("required", "element", out);
                out.push_str("} }\n");
            }
            Struct(fields) => {
                out.push_str(&format!("{repetition} group {name} {{\n"));
                for (name, node) in *fields {
                    node.declare("optional", name, out);
                }
                out.push_str("}\n");
            }
        }
    }
}

/// The values and levels of one leaf column of a row group.
#[derive(Default)]
struct Leaf {
    definition: Vec<i16>,
    repetition: Vec<i16>,
    texts: Vec<ByteArray>,
    numbers: Vec<i64>,
}

/// Where shredding stands: the definition and repetition level of the next value, and how many lists are around it.
#[derive(Clone, Copy)]
struct Levels {
    definition: i16,
    repetition: i16,
    lists: i16,
}

/// Writes a field that may be missing.
fn shred_optional(
    node: &Node,
    value: Option<&Value>,
    levels: Levels,
    leaves: &mut [Leaf],
) -> Result<(), String> {
    match value.filter(|value| !value.is_null()) {
        Some(value) => shred(node, value, Levels { definition: levels.definition + 1, ..levels }, leaves),
        None => {
            absent(levels, leaves);
            Ok(())
        }
    }
}

fn absent(levels: Levels, leaves: &mut [Leaf]) {
    for leaf in leaves {
        leaf.definition.push(levels.definition);
        leaf.repetition.push(levels.repetition);
    }
}

fn shred(node: &Node, value: &Value, levels: Levels, leaves: &mut [Leaf]) -> Result<(), String> {
    match (node, value) {
        (Text, Value::String(text)) => {
            leaves[0].texts.push(ByteArray::from(text.as_bytes().to_vec()));
            absent(levels, leaves);
        }
        (Number, Value::Number(number)) => {
            let number = number.as_i64().ok_or_else(|| format!("{number}, which does not fit 63 bits"))?;
            leaves[0].numbers.push(number);
            absent(levels, leaves);
        }
        (List(_), Value::Array(items)) if items.is_empty() => absent(levels, leaves),
        (List(element), Value::Array(items)) => {
            let mut inner = Levels {
                definition: levels.definition + 1,
                repetition: levels.repetition,
                lists: levels.lists + 1,
            };
            for item in items {
                shred(element, item, inner, leaves)?;
                inner.repetition = inner.lists;
            }
        }
        (Struct(fields), Value::Object(object)) => {
            let mut rest = leaves;
            for (name, node) in *fields {
                let (own, after) = rest.split_at_mut(node.leaves());
                shred_optional(node, object.get(*name), levels, own)?;
                rest = after;
            }
        }
        (_, other) => return Err(format!("{other} in a column of another type")),
    }
    Ok(())
}

fn leaves() -> Vec<Leaf> {
    let count = COLUMNS.iter().map(|(_, node)| node.leaves()).sum();
    (0..count).map(|_| Leaf::default()).collect()
}

/// Writes documents; the file appears whole or not at all. Returns how many.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(path: &Path, mut documents: impl Iterator<Item = Document>) -> Result<u64, Error> {
    let mut schema = "message document {\n".to_owned();
    for (name, node) in COLUMNS {
        node.declare("optional", name, &mut schema);
    }
    schema.push('}');
    let fail = |found: String| Error::Parquet { path: path.to_owned(), found };
    let schema = parse_message_type(&schema).map_err(|error| fail(error.to_string()))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by("taiyi-corpus".to_owned())
        .build();
    let mut count = 0;
    write_atomically(path, |file| {
        let other = std::io::Error::other::<parquet::errors::ParquetError>;
        let mut writer =
            SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).map_err(other)?;
        loop {
            let mut columns = leaves();
            let mut rows = 0;
            for document in documents.by_ref().take(ROW_GROUP) {
                let value = serde_json::to_value(&document)?;
                let levels = Levels { definition: 0, repetition: 0, lists: 0 };
                shred(&Struct(COLUMNS), &value, levels, &mut columns).map_err(std::io::Error::other)?;
                rows += 1;
            }
            if rows == 0 && count > 0 {
                break;
            }
            count += rows;
            let mut group = writer.next_row_group().map_err(other)?;
            let mut columns = columns.into_iter();
            while let Some(mut column) = group.next_column().map_err(other)? {
                let leaf = columns.next().ok_or_else(|| std::io::Error::other("a column too many"))?;
                let (definition, repetition) = (Some(&leaf.definition[..]), Some(&leaf.repetition[..]));
                match column.untyped() {
                    parquet::column::writer::ColumnWriter::Int64ColumnWriter(_) => {
                        column.typed::<Int64Type>().write_batch(&leaf.numbers, definition, repetition)
                    }
                    _ => column.typed::<ByteArrayType>().write_batch(&leaf.texts, definition, repetition),
                }
                .map_err(other)?;
                column.close().map_err(other)?;
            }
            group.close().map_err(other)?;
            if rows == 0 {
                break;
            }
        }
        writer.close().map_err(other)?;
        Ok(())
    })?;
    Ok(count as u64)
}

/// Reads documents back.
///
/// # Errors
/// Where the file cannot be opened or is no Parquet; a row that is no document is an error of the iterator.
pub fn read(path: &Path) -> Result<impl Iterator<Item = Result<Document, Error>> + use<>, Error> {
    let file = File::open(path).map_err(|source| Error::Open { path: path.display().to_string(), source })?;
    let path = path.to_owned();
    let fail = move |found: String| Error::Parquet { path: path.clone(), found };
    let reader = SerializedFileReader::new(file).map_err(|error| fail(error.to_string()))?;
    Ok(RowIter::from_file_into(Box::new(reader)).map(move |row| {
        let value = Value::Object(object(row.map_err(|error| fail(error.to_string()))?));
        serde_json::from_value(value).map_err(|error| fail(error.to_string()))
    }))
}

fn object(row: Row) -> Map<String, Value> {
    let present = row.into_columns().into_iter().filter(|(_, field)| !matches!(field, Field::Null));
    present.map(|(name, field)| (name, json(field))).collect()
}

fn json(field: Field) -> Value {
    match field {
        Field::Str(text) => Value::String(text),
        Field::Long(number) => Value::from(number),
        Field::ListInternal(list) => list.elements().iter().cloned().map(json).collect(),
        Field::Group(row) => Value::Object(object(row)),
        other => Value::String(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of every kind, with every list empty in one of them and filled in another. Made up.
    const DOCUMENTS: &str = r#"
{"id":"1","document_id":"1","dataset":"d","split":"s","language":"zh","schema":"IE","passages":[{"id":"P","type":"title","text":"头痛 ab","offsets":[0,5]},{"id":"Q","type":"x","text":"","offsets":[6,6]}],"entities":[{"id":"T1","type":"k","text":["头","ab"],"offsets":[[0,1],[3,5]],"normalized":[{"db_name":"M","db_id":"1"},{"db_name":"","db_id":"2"}]},{"id":"T2","type":"k","text":["头痛"],"offsets":[],"normalized":[]}],"relations":[{"id":"R","type":"r","arg1_id":"T1","arg2_id":"T2","level":"mention","normalized":[]},{"id":"S","type":"r","arg1_id":"1","arg2_id":"2","level":"concept","normalized":[{"db_name":"M","db_id":"3"}]}],"causal_relations":[{"id":"C","type":"c","head_id":"T1","tail_id":"R"}],"events":[{"id":"E","type":"e","trigger":{"text":["ab"],"offsets":[[3,5]]},"arguments":[{"role":"Theme","ref_id":"T1"},{"role":"Cause","ref_id":"E2"}]},{"id":"E2","type":"e","trigger":{"text":[],"offsets":[]},"arguments":[]}],"coreferences":[{"id":"F","entity_ids":["T1","T2"]},{"id":"G","entity_ids":[]}]}
{"id":"2","document_id":"2","dataset":"d","split":"s","language":"en","schema":"IE","passages":[],"entities":[],"relations":[],"causal_relations":[],"events":[],"coreferences":[]}
{"id":"3","document_id":"3","dataset":"d","split":"s","language":"en","schema":"TC","text":"t","labels":["a","b"]}
{"id":"4","document_id":"4","dataset":"d","split":"s","language":"en","schema":"TC","text":"","labels":[]}
{"id":"5","document_id":"5","dataset":"d","split":"s","language":"en","schema":"QA","question":"q","contexts":["c",""],"choices":["x","y"],"answers":["y"],"kind":"multiple_choice"}
{"id":"6","document_id":"6","dataset":"d","split":"s","language":"en","schema":"QA","question":"q","contexts":[],"choices":[],"answers":["free"],"kind":"simple"}
{"id":"7","document_id":"7","dataset":"d","split":"s","language":"en","schema":"MRD","context":"c","utterances":[{"speaker":"patient","text":"p"},{"speaker":"doctor","text":"d\nd"}]}
{"id":"8","document_id":"8","dataset":"d","split":"s","language":"en","schema":"MRD","utterances":[]}
{"id":"9","document_id":"9","dataset":"d","split":"s","language":"en-zh","schema":"MT","source":"a","target":"甲"}
{"id":"10","document_id":"10","dataset":"d","split":"s","language":"en","schema":"TP","text_1":"a","text_2":"b","label":"0","kind":"entailment"}
{"id":"11","document_id":"11","dataset":"d","split":"s","language":"zh-en","schema":"TT","source":"a","target":"b","kind":"structure"}
"#;

    fn documents() -> Vec<Document> {
        crate::readers::jsonl::from_text("made-up", DOCUMENTS).map(Result::unwrap).collect()
    }

    fn round_trip(documents: Vec<Document>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.parquet");
        assert_eq!(write(&path, documents.clone().into_iter()).unwrap(), documents.len() as u64);
        let back: Vec<Document> = read(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(back, documents);
    }

    #[test]
    fn every_kind_of_document_comes_back() {
        round_trip(documents());
        round_trip(Vec::new());
    }

    #[test]
    fn row_groups_join_up() {
        let documents: Vec<Document> = documents().into_iter().cycle().take(ROW_GROUP + 7).collect();
        round_trip(documents);
    }

    #[test]
    fn a_file_that_is_no_parquet_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.parquet");
        std::fs::write(&path, b"not at all").unwrap();
        let error = read(&path).err().unwrap().to_string();
        assert!(error.contains("expected Parquet"), "{error}");
    }
}
