//! Raw text for pre-training: documents joined by the end-of-text token and cut into windows.
//!
//! ```text
//! store     E a a a a E b b E c c c c c c E        E: end of text, which opens every document and closes the last
//! windows   |E a a a|a E b b|E c c c|c c c|        max_length 4; each input predicts the token after it
//! ```

use super::files::{Lines, is_json_lines};
use super::store::StoreWriter;
use super::{Dataset, Item, SourceReport, store};
use crate::TrainError;
use crate::recipe::{Source, TextUnit};
use rayon::prelude::*;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Reads the documents of a text source, one after another.
///
/// JSON lines hold a document in `text`, and any other fields; plain text is cut as the source's `unit` says.
pub struct Documents {
    path: PathBuf,
    lines: Lines,
    json: bool,
    unit: TextUnit,
}

#[derive(Deserialize)]
struct Record {
    text: String,
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
        })
    }

    fn read(&mut self) -> Result<Option<String>, TrainError> {
        let mut document = String::new();
        while let Some((line, text)) = self.lines.next()? {
            let blank = text.trim().is_empty();
            if self.json {
                if blank {
                    continue;
                }
                let record: Record = serde_json::from_str(text).map_err(|error| TrainError::Data {
                    path: self.path.clone(),
                    line,
                    message: format!("expected an object with the string `text`: {error}"),
                })?;
                if record.text.trim().is_empty() {
                    continue;
                }
                return Ok(Some(record.text));
            }
            match self.unit {
                TextUnit::Line if blank => {}
                TextUnit::Line => return Ok(Some(text.to_owned())),
                TextUnit::BlankLine if blank && document.is_empty() => {}
                TextUnit::BlankLine if blank => break,
                TextUnit::BlankLine | TextUnit::File => {
                    document.push_str(text);
                    document.push('\n');
                }
            }
        }
        document.truncate(document.trim_end().len());
        Ok((!document.is_empty()).then_some(document))
    }
}

impl Iterator for Documents {
    type Item = Result<String, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Characters tokenised at a time, by all threads together.
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
        encode: &(dyn Fn(&str) -> Vec<u32> + Sync),
    ) -> Result<Self, TrainError> {
        let length = windows.length;
        let mut writer = StoreWriter::create(store_path)?;
        let mut items = Vec::new();
        let mut reports = Vec::new();
        let end = [store::stored(windows.end_of_text, false)];
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
                    size += document.len();
                    chunk.push(document);
                }
                if chunk.is_empty() {
                    break;
                }
                records += chunk.len() as u64;
                let encoded: Vec<Vec<u32>> = chunk.par_iter().map(|document| encode(document)).collect();
                for tokens in encoded {
                    writer.push(&tokens)?;
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
                truncated: 0,
                unlabelled: 0,
                later_stage: 0,
                repeats: 1.0,
            });
        }
        Dataset::assemble(writer.finish()?, items, reports, sources, Some(windows), seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn documents(name: &str, content: &[u8], unit: TextUnit) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Documents::open(&Source { unit, ..Source::from_path(path) }).unwrap().map(Result::unwrap).collect()
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
                .contains("a.jsonl:2: expected an object with the string `text`")
        );
    }

    #[test]
    fn windows_cover_every_token_once_and_start_afresh_at_documents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "aaaa\nbb\ncccccc\n").unwrap();
        let source = Source { unit: TextUnit::Line, ..Source::from_path(path) };
        let windows = TextWindows { length: 4, end_of_text: 0, attend_across_documents: false };
        let encode = |text: &str| text.bytes().map(u32::from).collect();
        let store = folder.path().join("tokens");
        let mut data = Dataset::from_text(&[source], &store, windows, 1, &encode).unwrap();
        let samples: Vec<_> = data.in_file_order().map(Result::unwrap).collect();
        let stream: Vec<u32> = "\0aaaa\0bb\0cccccc\0".bytes().map(u32::from).collect();
        let ids: Vec<u32> = samples.iter().flat_map(|sample| sample.ids.clone()).collect();
        let labels: Vec<u32> =
            samples.iter().flat_map(|sample| sample.labels.iter().map(|&l| l as u32)).collect();
        assert_eq!(ids, stream[..15]);
        assert_eq!(labels, stream[1..]);
        assert_eq!(samples.iter().map(|s| s.ids.len()).collect::<Vec<_>>(), [4, 4, 4, 3]);
        assert_eq!(samples[1].starts, [0, 1], "`a`, then the document `bb`");
        assert_eq!(samples[2].starts, [0]);
        assert_eq!(data.reports()[0].records, 3);
        drop(data);
        assert!(!store.exists(), "the store goes with the data");
    }
}
