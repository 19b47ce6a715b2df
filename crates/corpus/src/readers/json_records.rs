//! JSON records, one at a time, from an array, from an object keyed by id, or from JSON Lines.
//!
//! ```text
//! [ {"id": 1}, {"id": 2} ]          an array
//! { "17": {…}, "18": {…} }          an object by id
//! {"id": 1}                         JSON Lines
//! {"id": 2}
//! ```
//!
//! Lines before the first record that start with `#` are comments (CMeIE's relation schema has one). Records are cut
//! out by their brackets and parsed one by one, so that a file is never whole in memory and a bad record costs
//! itself alone. Specification: RFC 8259.

use std::io::{BufRead, Read};

use serde_json::Value;

use crate::error::{At, Error, quote};
use crate::source::{Input, decode};

/// How records stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// An array, or one record per line; the first byte tells.
    List,
    /// An object keyed by id.
    Keyed,
}

/// A record, where it starts, and its key in a keyed file.
pub(crate) struct JsonRecord {
    pub(crate) at: At,
    pub(crate) key: Option<String>,
    pub(crate) value: Value,
}

impl JsonRecord {
    /// The field as text: a string, or a number or boolean written out.
    pub(crate) fn text(&self, field: &str) -> Result<String, Error> {
        match &self.value[field] {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            other => Err(self.expected(&format!("a text `{field}`"), other)),
        }
    }

    /// The field as a list; an empty one where the field is missing.
    pub(crate) fn list(&self, field: &str) -> Result<&[Value], Error> {
        match &self.value[field] {
            Value::Array(items) => Ok(items),
            Value::Null => Ok(&[]),
            other => Err(self.expected(&format!("a list `{field}`"), other)),
        }
    }

    /// The error that `found` is not what the format asks for.
    pub(crate) fn expected(&self, expected: &str, found: &Value) -> Error {
        let found = match found {
            Value::Null => "nothing".to_owned(),
            other => quote(&other.to_string()),
        };
        self.at.record(expected, found, "check the field names of the card, or repair the record")
    }
}

/// Iterates over the records of a file.
pub(crate) struct JsonRecords {
    input: Input,
    layout: Layout,
    state: State,
    line: usize,
    peeked: Option<Option<u8>>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Start,
    Array,
    Object,
    Lines,
    End,
}

/// A record longer than this is refused: a quotation mark was lost, or it is no record.
const LONGEST_RECORD: usize = 256 << 20;

impl JsonRecords {
    pub(crate) fn new(input: Input, layout: Layout) -> Self {
        Self { input, layout, state: State::Start, line: 1, peeked: None }
    }

    pub(crate) fn at(&self) -> At {
        At::new(&self.input.name, self.line)
    }

    fn read_error(&self, source: std::io::Error) -> Error {
        Error::Read { file: self.input.name.clone(), line: self.line, source }
    }

    fn peek(&mut self) -> Result<Option<u8>, Error> {
        if self.peeked.is_none() {
            let mut byte = [0];
            let byte = match self.input.bytes.read_exact(&mut byte) {
                Ok(()) => Some(byte[0]),
                // A gzip stream that ends early says so in its own words; the end of the file has none.
                Err(error)
                    if error.kind() == std::io::ErrorKind::UnexpectedEof && is_end(&mut self.input) =>
                {
                    None
                }
                Err(error) => return Err(self.read_error(error)),
            };
            self.peeked = Some(byte);
        }
        Ok(self.peeked.flatten())
    }

    fn take(&mut self) -> Result<Option<u8>, Error> {
        let byte = self.peek()?;
        self.peeked = None;
        if byte == Some(b'\n') {
            self.line += 1;
        }
        Ok(byte)
    }

    fn skip_space(&mut self) -> Result<Option<u8>, Error> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.take()?;
        }
        Ok(None)
    }

    /// The bytes of the next JSON value, cut out by brackets and quotation marks.
    fn value_bytes(&mut self) -> Result<Vec<u8>, Error> {
        let at = self.at();
        let truncated = |at: &At| {
            at.format("the end of the record that starts here", "the end of the file", "fetch the file again")
        };
        let mut bytes = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        loop {
            let Some(byte) = self.peek()? else {
                return if depth == 0 && !in_string && !bytes.is_empty() {
                    Ok(bytes)
                } else {
                    Err(truncated(&at))
                };
            };
            if depth == 0 && !in_string && !bytes.is_empty() {
                let closed = matches!(bytes[0], b'{' | b'[' | b'"');
                if closed || byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}' | b':') {
                    return Ok(bytes);
                }
            }
            self.take()?;
            bytes.push(byte);
            if bytes.len() > LONGEST_RECORD {
                return Err(at.format(
                    "a record",
                    "more than 256 MiB without its end",
                    "look for a lost quote",
                ));
            }
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => match depth.checked_sub(1) {
                    Some(less) => depth = less,
                    None => {
                        return Err(at.format("a JSON value", format!("`{}`", byte as char), "repair it"));
                    }
                },
                _ => {}
            }
        }
    }

    fn parse(&self, at: At, bytes: Vec<u8>) -> Result<(At, Value), Error> {
        let text = decode(bytes, self.input.encoding, &at.file, at.line)?;
        match serde_json::from_str(&text) {
            Ok(value) => Ok((at, value)),
            Err(error) => {
                // serde_json counts lines within the record.
                let line = at.line + error.line().saturating_sub(1);
                let found = format!("{} ({})", quote(text.trim()), error);
                Err(At { file: at.file, line }.record(
                    "a JSON record",
                    found,
                    "repair the record or leave it out",
                ))
            }
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        loop {
            match self.skip_space()? {
                Some(b'#') => while !matches!(self.take()?, None | Some(b'\n')) {},
                Some(0xEF) if self.line == 1 => {
                    for mark in [0xEF, 0xBB, 0xBF] {
                        if self.take()? != Some(mark) {
                            return Err(self.at().format("JSON", "bytes that are no text", "check the file"));
                        }
                    }
                }
                first => {
                    self.state = match (self.layout, first) {
                        (_, None) => State::End,
                        (Layout::List, Some(b'[')) => State::Array,
                        (Layout::List, Some(_)) => State::Lines,
                        (Layout::Keyed, Some(b'{')) => State::Object,
                        (Layout::Keyed, Some(byte)) => {
                            let found = format!("`{}`", (byte as char).escape_default());
                            let hint = "check the format the card names";
                            return Err(self.at().format("a JSON object keyed by id", found, hint));
                        }
                    };
                    if matches!(self.state, State::Array | State::Object) {
                        self.take()?;
                    }
                    return Ok(());
                }
            }
        }
    }

    fn advance(&mut self) -> Result<Option<JsonRecord>, Error> {
        if self.state == State::Start {
            self.begin()?;
        }
        match self.state {
            State::Array | State::Object => {
                let close = if self.state == State::Array { b']' } else { b'}' };
                loop {
                    match self.skip_space()? {
                        Some(b',') => self.take()?,
                        Some(byte) if byte == close => {
                            self.state = State::End;
                            return Ok(None);
                        }
                        Some(_) => break,
                        None => {
                            let hint = "the file is truncated: fetch it again";
                            return Err(self.at().format(
                                format!("`{}`", close as char),
                                "the end of the file",
                                hint,
                            ));
                        }
                    };
                }
                let at = self.at();
                let bytes = self.value_bytes()?;
                if self.state == State::Array {
                    let (at, value) = self.parse(at, bytes)?;
                    return Ok(Some(JsonRecord { at, key: None, value }));
                }
                let (at, key) = self.parse(at, bytes)?;
                if self.skip_space()? != Some(b':') {
                    return Err(self.at().format(
                        "`:` after a key",
                        quote(&key.to_string()),
                        "repair the object",
                    ));
                }
                self.take()?;
                self.skip_space()?;
                let bytes = self.value_bytes()?;
                let (at, value) = self.parse(at, bytes)?;
                let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                Ok(Some(JsonRecord { at, key: Some(key), value }))
            }
            State::Lines => loop {
                let at = self.at();
                let mut bytes = Vec::new();
                bytes.extend(self.peeked.take().flatten());
                let before = bytes.len();
                let read = (&mut self.input.bytes).take(LONGEST_RECORD as u64).read_until(b'\n', &mut bytes);
                let read = read.map_err(|source| self.read_error(source))?;
                if before + read == 0 {
                    self.state = State::End;
                    return Ok(None);
                }
                if read == LONGEST_RECORD {
                    return Err(at.format("a record", "more than 256 MiB on one line", "check the format"));
                }
                self.line += 1;
                if bytes.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let (at, value) = self.parse(at, bytes)?;
                return Ok(Some(JsonRecord { at, key: None, value }));
            },
            State::Start | State::End => Ok(None),
        }
    }
}

/// Whether nothing is left, rather than something unreadable.
fn is_end(input: &mut Input) -> bool {
    input.bytes.fill_buf().is_ok_and(<[u8]>::is_empty)
}

impl Iterator for JsonRecords {
    type Item = Result<JsonRecord, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.advance();
        if record.as_ref().is_err_and(|error| !error.is_record()) {
            self.state = State::End;
        }
        record.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str, layout: Layout) -> Vec<Result<(usize, String), String>> {
        JsonRecords::new(Input::from_bytes("m.json", text), layout)
            .map(|record| {
                let shown = |r: JsonRecord| (r.at.line, format!("{}{}", r.key.unwrap_or_default(), r.value));
                record.map(shown).map_err(|error| error.to_string())
            })
            .collect()
    }

    #[test]
    fn arrays_lines_and_objects() {
        let ok = |line: usize, text: &str| Ok((line, text.to_owned()));
        assert_eq!(
            values("# why\n[ {\"a\": \"]\\\"\"},\n 2]", Layout::List),
            [ok(2, r#"{"a":"]\""}"#), ok(3, "2")]
        );
        assert_eq!(values("\u{feff}{\"a\": 1}\n\n[2]\n", Layout::List), [ok(1, r#"{"a":1}"#), ok(3, "[2]")]);
        assert_eq!(values("{\"x\": [1],\n \"y\": \"}\"}", Layout::Keyed), [ok(1, "x[1]"), ok(2, "y\"}\"")]);
        assert_eq!(values("  \n", Layout::List), []);
    }

    #[test]
    fn a_bad_record_costs_itself_alone() {
        let found = values("{\"a\": 1}\n{\"a\": }\n{\"a\": 3}\n", Layout::List);
        assert!(found[0].is_ok() && found[2].is_ok());
        assert!(found[1].as_ref().unwrap_err().starts_with("m.json:2: expected a JSON record"), "{found:?}");
        let found = values("[{\"a\": 1},\n {\"a\": x},\n {\"a\": 3}]", Layout::List);
        assert!(found[0].is_ok() && found[1].is_err() && found[2].is_ok());
    }

    #[test]
    fn a_truncated_array_says_where_its_record_starts() {
        let found = values("[{\"a\": 1},\n{\"a\": [2", Layout::List);
        assert!(
            found[1].as_ref().unwrap_err().starts_with("m.json:2: expected the end of the record"),
            "{found:?}"
        );
        assert_eq!(found.len(), 2);
    }
}
