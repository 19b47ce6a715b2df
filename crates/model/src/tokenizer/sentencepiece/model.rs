//! Reading SentencePiece model files: a protocol buffer with the pieces, their scores and how text is normalised.
//!
//! Only the fields that change ids or text are read. Format: `sentencepiece_model.proto` of the SentencePiece project.
//!
//! ```text
//! ModelProto { 1: SentencePiece { 1: piece, 2: score, 3: type }..., 2: TrainerSpec, 3: NormalizerSpec }
//! ```

use std::path::Path;

use crate::tokenizer::TokenizerError;
use crate::tokenizer::vocabulary::LARGEST_ID;

/// Longest piece, in bytes. Trained pieces have 16 characters at most unless told otherwise.
pub(super) const LONGEST_PIECE: usize = 1024;

/// Bytes of all pieces together; the largest published models have some 5 MB.
const LARGEST_TEXT: usize = 32 << 20;

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Reached by segmentation.
    Normal,
    /// What cannot be segmented.
    Unknown,
    /// Structure such as `<s>`; never found in text.
    Control,
    /// A fixed string that is always one piece.
    UserDefined,
    /// May be passed through while merging but is no result.
    Unused,
    /// A byte of a character that has no piece.
    Byte(u8),
}

/// One entry of the vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// How text is segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelType {
    Unigram,
    Bpe,
}

/// A model file, as far as it is used.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    pub(super) model_type: ModelType,
    pub(super) byte_fallback: bool,
    pub(super) unk_surface: String,
    pub(super) whitespace_as_suffix: bool,
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
    /// Ids of the unknown piece, the beginning and the end of a text and padding; negative ones are switched off.
    pub(super) special: [i32; 4],
}

impl Default for Model {
    /// What holds where a file says nothing.
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            model_type: ModelType::Unigram,
            byte_fallback: false,
            unk_surface: " \u{2047} ".to_owned(),
            whitespace_as_suffix: false,
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            special: [0, 1, 2, -1],
        }
    }
}

/// Whether a file looks like a SentencePiece model: it starts with a piece of a sensible size.
pub(crate) fn looks_like_model(bytes: &[u8]) -> bool {
    let mut fields = Fields::new(bytes);
    matches!(fields.next(), Ok(Some((1, Value::Bytes(piece)))) if {
        matches!(Fields::new(piece).next(), Ok(Some((1, Value::Bytes(_)))))
    })
}

impl Model {
    /// Reads a model file.
    ///
    /// # Errors
    ///
    /// What is no protocol buffer of this kind; pieces that are empty, too long, occur twice or are not UTF-8; byte fallback
    /// without 256 byte pieces; no unknown piece; word and character models.
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Self, TokenizerError> {
        let broken = |error: Broken| {
            TokenizerError::malformed(path, "SentencePiece model", error.expected, error.found)
        };
        let mut model = Self::default();
        let mut text_bytes = 0;
        let mut fields = Fields::new(bytes);
        while let Some((field, value)) = fields.next().map_err(broken)? {
            match (field, value) {
                (1, Value::Bytes(piece)) => {
                    let piece = read_piece(path, model.pieces.len(), piece)?;
                    text_bytes += piece.text.len();
                    if model.pieces.len() > LARGEST_ID as usize || text_bytes > LARGEST_TEXT {
                        return Err(TokenizerError::malformed(
                            path,
                            format!("piece {}", model.pieces.len()),
                            "at most 4194304 pieces of 32 MiB together",
                            "more",
                        ));
                    }
                    model.pieces.push(piece);
                }
                (2, Value::Bytes(spec)) => model.read_trainer(path, spec)?,
                (3, Value::Bytes(spec)) => model.read_normaliser(spec).map_err(broken)?,
                _ => {}
            }
        }
        Ok(model)
    }

    fn read_trainer(&mut self, path: &Path, spec: &[u8]) -> Result<(), TokenizerError> {
        let broken =
            |error: Broken| TokenizerError::malformed(path, "trainer_spec", error.expected, error.found);
        let mut fields = Fields::new(spec);
        while let Some((field, value)) = fields.next().map_err(broken)? {
            match (field, value) {
                (3, Value::Varint(1)) => self.model_type = ModelType::Unigram,
                (3, Value::Varint(2)) => self.model_type = ModelType::Bpe,
                (3, Value::Varint(kind)) => {
                    return Err(TokenizerError::Unsupported {
                        path: path.to_owned(),
                        what: format!("a SentencePiece model of type {kind}"),
                        hint: "BPE and unigram models are read, word and character models are not".into(),
                    });
                }
                (24, Value::Varint(flag)) => self.whitespace_as_suffix = flag != 0,
                (35, Value::Varint(flag)) => self.byte_fallback = flag != 0,
                // Negative ids are spelled as 64-bit numbers.
                (40..=43, Value::Varint(id)) => self.special[field as usize - 40] = id as i32,
                (44, Value::Bytes(surface)) => {
                    let surface = String::from_utf8_lossy(surface);
                    if surface.len() > LONGEST_PIECE {
                        return Err(TokenizerError::malformed(
                            path,
                            "unk_surface",
                            "at most 1024 bytes",
                            surface,
                        ));
                    }
                    self.unk_surface = surface.into_owned();
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normaliser(&mut self, spec: &[u8]) -> Result<(), Broken> {
        let mut fields = Fields::new(spec);
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (2, Value::Bytes(charsmap)) => self.charsmap = charsmap.to_vec(),
                (3, Value::Varint(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Value::Varint(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Value::Varint(flag)) => self.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn read_piece(path: &Path, id: usize, bytes: &[u8]) -> Result<Piece, TokenizerError> {
    let malformed = |expected: &str, found: String| {
        TokenizerError::malformed(path, format!("piece {id}"), expected, found)
    };
    let mut text = "";
    let mut score = 0.0;
    let mut kind = PieceKind::Normal;
    let mut fields = Fields::new(bytes);
    while let Some((field, value)) =
        fields.next().map_err(|broken| malformed(broken.expected, broken.found))?
    {
        match (field, value) {
            (1, Value::Bytes(piece)) => {
                text = std::str::from_utf8(piece)
                    .map_err(|_| malformed("UTF-8", String::from_utf8_lossy(piece).into_owned()))?;
            }
            (2, Value::Fixed32(bits)) => score = f32::from_bits(bits),
            (3, Value::Varint(number)) => {
                kind = match number {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte(0),
                    _ => return Err(malformed("a type from 1 to 6", number.to_string())),
                };
            }
            _ => {}
        }
    }
    if let PieceKind::Byte(byte) = &mut kind {
        *byte = byte_of(text).ok_or_else(|| malformed("a byte piece such as <0x0A>", text.to_owned()))?;
    }
    if text.is_empty() || text.len() > LONGEST_PIECE {
        return Err(malformed("a piece of 1 to 1024 bytes", format!("{} bytes", text.len())));
    }
    if !score.is_finite() {
        return Err(malformed("a finite score", score.to_string()));
    }
    Ok(Piece { text: text.to_owned(), score, kind })
}

/// The byte a piece such as `<0x0A>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The value of a field.
enum Value<'b> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'b [u8]),
}

/// Why a protocol buffer cannot be read.
struct Broken {
    expected: &'static str,
    found: String,
}

/// The fields of one message, in the order they are written.
struct Fields<'b> {
    rest: &'b [u8],
}

impl<'b> Fields<'b> {
    fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    /// The next field: its number and value.
    fn next(&mut self) -> Result<Option<(u64, Value<'b>)>, Broken> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                let bytes = bytes.first_chunk::<4>().expect("four bytes were taken");
                Value::Fixed32(u32::from_le_bytes(*bytes))
            }
            wire => {
                return Err(Broken {
                    expected: "a protocol buffer of pieces",
                    found: format!("wire type {wire} with {} bytes left", self.rest.len()),
                });
            }
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0;
        for (place, &byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7F) << (7 * place);
            if byte < 0x80 {
                self.rest = &self.rest[place + 1..];
                return Ok(value);
            }
        }
        Err(Broken { expected: "a number of at most ten bytes", found: "no end of it".into() })
    }

    fn take(&mut self, length: u64) -> Result<&'b [u8], Broken> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let Some((taken, rest)) = taken else {
            let found = format!("{} bytes left", self.rest.len());
            return Err(Broken {
                expected: "a field of the length it states",
                found: format!("{length}, and {found}"),
            });
        };
        self.rest = rest;
        Ok(taken)
    }
}
