//! Text for pre-training: documents joined by the end-of-text token and cut into windows.
//!
//! ```text
//! store     E a a a a E b b E c c c c c c E        E: end of text, which opens every document and closes the last
//! windows   |E a a a|a E b b|E c c c|c c c|        max_length 4; each input predicts the token after it
//! ```
//!
//! A chat format may put the same token around its turns; at the ends of a conversation it is not written twice.

use super::files::{Lines, is_json_lines};
use super::store::StoreWriter;
use super::{Dataset, Item, Layout, SourceReport, store};
use crate::TrainError;
use crate::recipe::{Source, TextUnit};
use rayon::prelude::*;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use taiyi_instruct::Conversation;

/// What pre-training reads as one piece.
#[derive(Debug, Clone, PartialEq)]
pub enum TextItem {
    /// Running text.
    Document(String),
    /// A conversation, every token of which is learned, those of the prompts too.
    Conversation(Conversation),
}

impl TextItem {
    /// Bytes of its text.
    fn bytes(&self) -> usize {
        match self {
            Self::Document(text) => text.len(),
            Self::Conversation(conversation) => {
                conversation.conversation.iter().map(|turn| turn.human.len() + turn.assistant.len()).sum()
            }
        }
    }
}

/// Reads the documents of a text source, one after another.
///
/// JSON lines hold a document in `text`, and any other fields, or are conversations; plain text is cut as the source's
/// `unit` says.
pub struct Documents {
    path: PathBuf,
    lines: Lines,
    json: bool,
    unit: TextUnit,
    /// Line of the last record of a JSON file, for messages.
    line: u64,
}

#[derive(Deserialize)]
struct Record {
    text: Option<String>,
}

impl Documents {
    /// Opens a source.
    ///
    /// # Errors
    ///
    /// [`TrainError::File`] when the file cannot be opened.
    pub fn open(source: &Source) -> Result<Self, TrainError> {
        Ok(Self {
            path: source.path.clone(),
            lines: Lines::open(&source.path)?,
            json: is_json_lines(&source.path),
            unit: source.unit,
            line: 0,
        })
    }

    fn read(&mut self) -> Result<Option<TextItem>, TrainError> {
        let mut document = String::new();
        while let Some((line, text)) = self.lines.next()? {
            let blank = text.trim().is_empty();
            if self.json {
                if blank {
                    continue;
                }
                self.line = line;
                let refuse = |error: serde_json::Error| TrainError::Data {
                    path: self.path.clone(),
                    line,
                    message: format!("expected an object with the string `text`, or a conversation: {error}"),
                };
                let record: Record = serde_json::from_str(text).map_err(refuse)?;
                match record.text {
                    Some(document) if document.trim().is_empty() => continue,
                    Some(document) => return Ok(Some(TextItem::Document(document))),
                    None => {
                        let conversation = serde_json::from_str(text).map_err(refuse)?;
                        return Ok(Some(TextItem::Conversation(conversation)));
                    }
                }
            }
            match self.unit {
                TextUnit::Line if blank => {}
                TextUnit::Line => return Ok(Some(TextItem::Document(text.to_owned()))),
                TextUnit::BlankLine if blank && document.is_empty() => {}
                TextUnit::BlankLine if blank => break,
                TextUnit::BlankLine | TextUnit::File => {
                    document.push_str(text);
                    document.push('\n');
                }
            }
        }
        document.truncate(document.trim_end().len());
        Ok((!document.is_empty()).then_some(TextItem::Document(document)))
    }
}

impl Iterator for Documents {
    type Item = Result<TextItem, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Bytes of text tokenised at a time, by all threads together.
const CHUNK: usize = 1 << 22;

/// How raw text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextWindows {
    /// Tokens of a window.
    pub length: usize,
    /// Token between documents.
    pub end_of_text: u32,
    /// Let attention cross the borders of documents inside a window.
    pub attend_across_documents: bool,
}

impl Dataset {
    /// Tokenises raw text into a store at `store_path` (removed with the value), and cuts it into windows.
    ///
    /// # Errors
    ///
    /// [`TrainError::File`] for files that cannot be read or written, [`TrainError::Data`] for a record that is not what
    /// it should be, [`TrainError::Empty`] when there is no text.
    pub fn from_text(
        sources: &[Source],
        store_path: &Path,
        windows: TextWindows,
        seed: u64,
        encode: &(dyn Fn(&TextItem) -> Result<Vec<u32>, String> + Sync),
    ) -> Result<Self, TrainError> {
        let length = windows.length;
        let mut writer = StoreWriter::create(store_path)?;
        let mut items = Vec::new();
        let mut reports = Vec::new();
        // Marked, as the same token may also close the turns of a conversation.
        let end = [store::stored(windows.end_of_text, true)];
        for (index, source) in sources.iter().enumerate() {
            let first = writer.position();
            let mut records = 0;
            let mut documents = Documents::open(source)?;
            writer.push(&end)?;
            loop {
                let mut chunk = Vec::new();
                let mut size = 0;
                while size < CHUNK
                    && let Some(document) = documents.next().transpose()?
                {
                    size += document.bytes();
                    chunk.push((documents.line, document));
                }
                if chunk.is_empty() {
                    break;
                }
                records += chunk.len() as u64;
                let encode = |(line, document): &(u64, TextItem)| {
                    let refuse =
                        |message| TrainError::Data { path: source.path.clone(), line: *line, message };
                    encode(document).map_err(refuse)
                };
                let encoded: Vec<Result<Vec<u32>, TrainError>> = chunk.par_iter().map(encode).collect();
                for tokens in encoded {
                    let tokens = tokens?;
                    let tokens = within(windows.end_of_text, &tokens);
                    match source.echo {
                        Some(most) => {
                            let tokens = &tokens[..tokens.len().min(most)];
                            writer.push(tokens)?;
                            writer.push(tokens)?;
                        }
                        None => writer.push(tokens)?,
                    }
                    writer.push(&end)?;
                }
            }
            // The last token is predicted, and predicts nothing.
            let inputs = writer.position() - first - 1;
            let count = inputs.div_ceil(length as u64);
            items.extend((0..count).map(|number| Item {
                start: first + number * length as u64,
                length: (inputs - number * length as u64).min(length as u64) as u32,
                source: index as u32,
                line: number as u32,
            }));
            reports.push(SourceReport {
                name: source.label(),
                path: source.path.clone(),
                records,
                samples: count,
                tokens: inputs,
                labelled_tokens: inputs,
                repeats: 1.0,
                ..SourceReport::default()
            });
        }
        Dataset::assemble(writer.finish()?, items, reports, sources, Layout::Windows(windows), seed)
    }
}

/// The tokens between the marks at both ends.
fn within(mark: u32, tokens: &[u32]) -> &[u32] {
    let tokens = tokens.strip_prefix(&[mark]).unwrap_or(tokens);
    tokens.strip_suffix(&[mark]).unwrap_or(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn items(name: &str, content: &[u8], unit: TextUnit) -> Vec<TextItem> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Documents::open(&Source { unit, ..Source::from_path(path) }).unwrap().map(Result::unwrap).collect()
    }

    fn documents(name: &str, content: &[u8], unit: TextUnit) -> Vec<String> {
        let text = |item| match item {
            TextItem::Document(text) => text,
            TextItem::Conversation(conversation) => panic!("{conversation:?}"),
        };
        items(name, content, unit).into_iter().map(text).collect()
    }

    #[test]
    fn conversations_may_stand_among_documents() {
        let lines = r#"{"text": "a"}
{"conversation_id": 1, "category": "TC", "language": "en", "conversation": [{"human": "q", "assistant": "r"}]}
"#;
        let found = items("a.jsonl", lines.as_bytes(), TextUnit::File);
        assert_eq!(found[0], TextItem::Document("a".to_owned()));
        assert!(matches!(&found[1], TextItem::Conversation(c) if c.conversation[0].assistant == "r"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn plain_text_is_cut_as_the_unit_says() {
        let text = "一\n二\n\n\n \nthree\r\nfour".as_bytes();
        assert_eq!(documents("a.txt", text, TextUnit::Line), ["一", "二", "three", "four"]);
        assert_eq!(documents("a.txt", text, TextUnit::BlankLine), ["一\n二", "three\nfour"]);
        assert_eq!(documents("a.txt", text, TextUnit::File), ["一\n二\n\n\n \nthree\nfour"]);
    }

    #[test]
    fn json_lines_may_be_gzipped_and_hold_other_fields() {
        let lines = "{\"id\": 3, \"text\": \"a\\nb\"}\n\n{\"text\": \" \"}\n{\"text\": \"c\"}\n";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(lines.as_bytes()).unwrap();
        let expected = ["a\nb", "c"];
        assert_eq!(documents("a.jsonl", lines.as_bytes(), TextUnit::File), expected);
        assert_eq!(documents("a.jsonl.gz", &gzip.finish().unwrap(), TextUnit::File), expected);
    }

    #[test]
    fn other_encodings_and_broken_records_name_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let message = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            let mut documents = Documents::open(&Source::from_path(path)).unwrap();
            documents.find_map(Result::err).expect("an error").to_string()
        };
        let gb18030 = b"ok\n\xD6\xD0\xCE\xC4\n";
        assert!(message("a.txt", gb18030).ends_with(
            "a.txt:2: not UTF-8 from byte 1 of the line on; if the file is GB18030, convert it first"
        ));
        assert!(
            message("a.jsonl", b"{\"text\": \"x\"}\n{\"txt\": 1}\n")
                .contains("a.jsonl:2: expected an object with the string `text`, or a conversation")
        );
    }

    #[test]
    fn windows_cover_every_token_once_and_start_afresh_at_documents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        // The mark between documents may occur inside one, as between the turns of a conversation.
        std::fs::write(&path, "aaaa\n\0b\0b\0\ncccccc\n").unwrap();
        let source = Source { unit: TextUnit::Line, ..Source::from_path(path.clone()) };
        let windows = TextWindows { length: 4, end_of_text: 0, attend_across_documents: false };
        let encode = |item: &TextItem| match item {
            TextItem::Document(text) => Ok(text.bytes().map(u32::from).collect()),
            TextItem::Conversation(_) => Err("no chat format".to_owned()),
        };
        let store = folder.path().join("tokens");
        let mut data =
            Dataset::from_text(std::slice::from_ref(&source), &store, windows, 1, &encode).unwrap();
        let samples: Vec<_> = data.in_file_order().map(Result::unwrap).collect();
        let stream: Vec<u32> = "\0aaaa\0b\0b\0cccccc\0".bytes().map(u32::from).collect();
        let ids: Vec<u32> = samples.iter().flat_map(|sample| sample.ids.clone()).collect();
        let labels: Vec<u32> =
            samples.iter().flat_map(|sample| sample.labels.iter().map(|&l| l as u32)).collect();
        assert_eq!(ids, stream[..16]);
        assert_eq!(labels, stream[1..]);
        assert_eq!(samples.iter().map(|s| s.ids.len()).collect::<Vec<_>>(), [4, 4, 4, 4]);
        assert_eq!(samples[1].starts, [0, 1], "`a`, then the document `b\0b`");
        assert_eq!(samples[2].starts, [0, 1], "`b`, then the document `cccccc`");
        assert_eq!(samples[3].starts, [0]);
        assert_eq!(data.reports()[0].records, 3);
        drop(data);
        assert!(!store.exists(), "the store goes with the data");
        let source = Source { echo: Some(2), unit: TextUnit::Line, ..Source::from_path(path) };
        let windows = TextWindows { length: 99, ..windows };
        let mut data = Dataset::from_text(&[source], &store, windows, 1, &encode).unwrap();
        let sample = data.in_file_order().next().unwrap().unwrap();
        let stream: Vec<u32> = "\0aaaa\0b\0b\0\0cccc".bytes().map(u32::from).collect();
        assert_eq!(sample.ids, stream);
        assert_eq!(sample.starts, [0, 5, 10]);
    }
}
