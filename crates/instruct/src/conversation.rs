//! Conversations in the published JSONL fields, one per line.
//!
//! ```json
//! {"conversation_id": 7, "dataset": "mqp", "category": "TP-ss", "language": "en", "conversation": [{"human": "…", "assistant": "…"}]}
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use taiyi_corpus::schema::Language;

use crate::atomic::AtomicFile;
use crate::error::Error;

/// One exchange: what is asked and what is learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The prompt.
    pub human: String,
    /// The reply: the target of the loss.
    pub assistant: String,
}

/// One line of an instruction file. The first five fields are the published ones; the others say where it came from
/// and are left out where unknown. Further fields of foreign files are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// Unique within the file, from 1.
    pub conversation_id: u64,
    /// The dataset's id. Empty where the file does not say.
    #[serde(default)]
    pub dataset: String,
    /// `NER`, `RE`, `TC`, `TP-ss`, `QA-mcq`, `MRD`, `MT-en2zh`, …
    pub category: String,
    /// Language of the text; a pair for translation.
    pub language: Language,
    /// The turns, at least one.
    pub conversation: Vec<Turn>,
    /// The source's id of the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_id: Option<String>,
    /// The split it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The wording of the prompt: template file and 0-based index, as `ner_one.zh:3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The first training stage that learns it: 1 (both stages) or 2 (questions and dialogue). Unset means that the
    /// category decides; ask [`Conversation::first_stage`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<u8>,
}

impl Conversation {
    /// The first training stage that learns this conversation: 1 for extraction, classification, pairs, translation and
    /// text-to-text; 2 for questions, dialogue and general dialogue, as published.
    pub fn first_stage(&self) -> u8 {
        self.stage.unwrap_or_else(|| stage_of(&self.category))
    }

    /// Whether training stage `stage` learns this conversation: stage 2 learns everything.
    pub fn in_stage(&self, stage: u8) -> bool {
        self.first_stage() <= stage
    }
}

/// The first training stage that learns a category, as published: 2 for question answering (`QA…`), dialogue (`MRD`),
/// general dialogue and chain-of-thought (`COT`); 1 for everything else.
pub fn stage_of(category: &str) -> u8 {
    let upper = category.to_ascii_uppercase();
    let dialogue = ["QA", "MRD", "COT", "DIALOG", "GENERAL", "CHAT"];
    if dialogue.iter().any(|start| upper.starts_with(start)) { 2 } else { 1 }
}

/// Reads conversations line by line from JSONL, plain or gzip; holds one line at a time.
///
/// A line that is no conversation gives an error with its number, and the next call goes on with the next line.
pub struct ConversationReader {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    line: u64,
    buffer: Vec<u8>,
    failed: bool,
}

impl ConversationReader {
    /// Opens a file; gzip is recognised by its first two bytes.
    ///
    /// # Errors
    /// Where the file cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let mut magic = [0; 2];
        let read = file.read(&mut magic).map_err(Error::io(path, "read"))?;
        file.seek(SeekFrom::Start(0)).map_err(Error::io(path, "read"))?;
        let input: Box<dyn BufRead + Send> = if read == 2 && magic == [0x1f, 0x8b] {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, file))
        };
        Ok(Self::new(path, input))
    }

    /// Reads from `input`; `path` is named in errors.
    pub fn new(path: &Path, input: Box<dyn BufRead + Send>) -> Self {
        Self { path: path.to_owned(), input, line: 0, buffer: Vec::new(), failed: false }
    }

    /// 1-based number of the line read last; 0 before the first.
    pub fn line(&self) -> u64 {
        self.line
    }

    fn parse(&self) -> Result<Conversation, Error> {
        let broken = |found: String| Error::Conversation { path: self.path.clone(), line: self.line, found };
        let text = std::str::from_utf8(&self.buffer).map_err(|error| {
            broken(format!("text that is not UTF-8 ({error}); convert GB18030 files first"))
        })?;
        // Some editors put a byte-order mark at the head of the file.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let conversation: Conversation =
            serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
        if conversation.conversation.is_empty() {
            return Err(broken("`conversation` without a turn".to_owned()));
        }
        Ok(conversation)
    }
}

impl Iterator for ConversationReader {
    type Item = Result<Conversation, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        // After a failed read the position is unknown; going on could repeat the failure for ever.
        while !self.failed {
            self.buffer.clear();
            match self.input.read_until(b'\n', &mut self.buffer) {
                Ok(0) => return None,
                Ok(_) => self.line += 1,
                Err(source) => {
                    self.failed = true;
                    return Some(Err(Error::Io { path: self.path.clone(), action: "read", source }));
                }
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Some(self.parse());
            }
        }
        None
    }
}

/// Writes conversations as JSONL; the file appears under its name only when [`finish`](Self::finish) has succeeded.
pub struct ConversationWriter {
    file: AtomicFile,
    line: Vec<u8>,
    written: u64,
}

impl ConversationWriter {
    /// Starts a file in the folder of `path`, which must exist.
    ///
    /// # Errors
    /// Where no file can be created there.
    pub fn create(path: &Path) -> Result<Self, Error> {
        Ok(Self { file: AtomicFile::create(path)?, line: Vec::new(), written: 0 })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// Where the disk refuses it.
    pub fn write(&mut self, conversation: &Conversation) -> Result<(), Error> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, conversation)
            .expect("a conversation holds only strings and numbers, and a Vec takes every byte");
        self.line.push(b'\n');
        self.written += 1;
        self.file.write(&self.line)
    }

    /// Flushes, renames into place and returns the number of lines.
    ///
    /// # Errors
    /// Where the disk refuses it; then nothing is left behind.
    pub fn finish(self) -> Result<u64, Error> {
        self.file.finish()?;
        Ok(self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(id: u64) -> Conversation {
        Conversation {
            conversation_id: id,
            dataset: "mqp".to_owned(),
            category: "TP-ss".to_owned(),
            language: Language::En,
            conversation: vec![Turn {
                human: "同义？\n“a”".to_owned(),
                assistant: "Result: similar".to_owned(),
            }],
            document_id: None,
            split: Some("train".to_owned()),
            template: Some("tp_similarity.en:0".to_owned()),
            stage: None,
        }
    }

    #[test]
    fn what_is_written_is_read_back_plain_and_gzip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let mut writer = ConversationWriter::create(&path).unwrap();
        for id in 1..=3 {
            writer.write(&sample(id)).unwrap();
        }
        assert!(!path.exists(), "the file must not appear before it is whole");
        assert_eq!(writer.finish().unwrap(), 3);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is gone");
        let read: Vec<_> = ConversationReader::open(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, [sample(1), sample(2), sample(3)]);

        let packed = folder.path().join("a.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&packed).unwrap(), Default::default());
        std::io::Write::write_all(&mut encoder, &std::fs::read(&path).unwrap()).unwrap();
        encoder.finish().unwrap();
        let unpacked: Vec<_> = ConversationReader::open(&packed).unwrap().map(Result::unwrap).collect();
        assert_eq!(unpacked, read);
    }

    #[test]
    fn an_abandoned_writer_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ConversationWriter::create(&folder.path().join("a.jsonl")).unwrap();
        writer.write(&sample(1)).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn errors_carry_the_line_and_reading_goes_on() {
        let good = serde_json::to_string(&sample(5)).unwrap();
        let mut text = format!("\u{feff}{good}\n\n{{\"conversation_id\": 1}}\n").into_bytes();
        text.extend([0xd5, 0xca, b'\n']);
        text.extend(good.replace("[{", "[],\"x\":[{").into_bytes());
        text.push(b'\n');
        text.extend(good.as_bytes());
        let reader = ConversationReader::new(Path::new("x.jsonl"), Box::new(std::io::Cursor::new(text)));
        let found: Vec<String> = reader
            .map(|item| match item {
                Ok(conversation) => format!("ok {}", conversation.conversation_id),
                Err(error) => error.to_string(),
            })
            .collect();
        assert_eq!(found.len(), 5);
        assert_eq!((found[0].as_str(), found[4].as_str()), ("ok 5", "ok 5"));
        assert!(found[1].starts_with("x.jsonl:3: ") && found[1].contains("missing field"), "{}", found[1]);
        assert!(found[2].starts_with("x.jsonl:4: ") && found[2].contains("not UTF-8"), "{}", found[2]);
        assert!(found[3].starts_with("x.jsonl:5: ") && found[3].contains("without a turn"), "{}", found[3]);
    }

    #[test]
    fn published_stages() {
        for (category, stage) in
            [("NER", 1), ("MT-en2zh", 1), ("TP-ss", 1), ("QA-mcq", 2), ("QA_sqa", 2), ("MRD", 2)]
        {
            assert_eq!(stage_of(category), stage, "{category}");
        }
    }
}
