//! Tables with a text and labels per row, separated by tabs or commas, with a heading (HoC by document).
//!
//! ```text
//! pmid	text	labels
//! 1234567	The cells did not die .	resisting cell death;cellular energetics
//! ```
//!
//! Specification: RFC 4180 where fields are quoted; plain splitting where the card says they are not.

use serde::Deserialize;

use super::{Reading, draft};
use crate::error::{At, Error};
use crate::schema::{Content, Tc};
use crate::source::{Input, decode};

/// Options of the format: column names and separators.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// What separates columns: one ASCII character.
    pub delimiter: char,
    /// Whether quotation marks around a field are part of the format, not of the text.
    pub quoted: bool,
    /// The column of the record's id, if there is one.
    #[serde(default)]
    pub id: Option<String>,
    /// The column of the text.
    pub text: String,
    /// The column of the labels.
    pub labels: String,
    /// What separates several labels; without it the column is one label.
    #[serde(default)]
    pub label_separator: Option<String>,
}

/// Reads the rows of a table into documents.
pub fn read(input: Input, options: &Options) -> Reading {
    let options = options.clone();
    Box::new(rows(input, options.delimiter, options.quoted, true).map(move |row| {
        let (at, heading, fields) = row?;
        let column = |name: &str| match heading.iter().position(|column| column.trim() == name) {
            Some(column) => Ok(fields[column].clone()),
            None => {
                let found = format!("columns {}", heading.join(", "));
                Err(at.format(format!("a column `{name}`"), found, "check the column names of the card"))
            }
        };
        let id = options.id.as_ref().map_or(Ok(String::new()), |name| column(name))?;
        let labels = column(&options.labels)?;
        let labels = match &options.label_separator {
            Some(separator) => labels
                .split(separator.as_str())
                .map(str::trim)
                .filter(|l| !l.is_empty())
                .map(str::to_owned)
                .collect(),
            None => vec![labels],
        };
        Ok(draft(id, Content::Tc(Tc { text: column(&options.text)?, labels })))
    }))
}

/// A row: its place, the heading (empty where there is none) and its fields.
type Row = (At, Vec<String>, Vec<String>);

/// The rows of a table; every row has as many fields as the first.
pub(crate) fn rows(
    input: Input,
    delimiter: char,
    quoted: bool,
    heading: bool,
) -> Box<dyn Iterator<Item = Result<Row, Error>> + Send> {
    let file = input.name.clone();
    let Ok(delimiter) = u8::try_from(delimiter) else {
        let error =
            At::new(&file, 0).format("an ASCII delimiter", format!("`{delimiter}`"), "change the card");
        return Box::new(std::iter::once(Err(error)));
    };
    // A tab, a comma or a quotation mark is never the second byte of a GB18030 character, so rows can be cut first.
    let encoding = input.encoding;
    let reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(quoted)
        .has_headers(false)
        .from_reader(input.bytes);
    let mut names: Option<Vec<String>> = (!heading).then(Vec::new);
    let mut rows = reader.into_byte_records();
    let mut done = false;
    Box::new(std::iter::from_fn(move || {
        while !done {
            let row = match rows.next()? {
                Ok(row) => row,
                Err(error) => {
                    let line = rows.reader().position().line() as usize;
                    let error = super::evidence_csv::csv_error(&file, line, error);
                    done = !error.is_record();
                    return Some(Err(error));
                }
            };
            let line = row.position().map_or(0, |position| position.line() as usize);
            let fields: Result<Vec<String>, Error> =
                row.iter().map(|field| decode(field.to_vec(), encoding, &file, line)).collect();
            match (fields, &names) {
                (Ok(fields), Some(names)) => return Some(Ok((At::new(&file, line), names.clone(), fields))),
                (Ok(mut fields), None) => {
                    if let Some(plain) = fields.first().and_then(|first| first.strip_prefix('\u{feff}')) {
                        fields[0] = plain.to_owned();
                    }
                    names = Some(fields);
                }
                (Err(error), _) => {
                    done = matches!(error, Error::Encoding { whole_file: true, .. });
                    return Some(Err(error));
                }
            }
        }
        None
    }))
}
