//! The pieces of a SentencePiece model file, as GGUF wants them.
//!
//! A model is a protocol buffer: field 1, repeated, holds the pieces (1 text, 2 score, 3 kind), field 2 how it was trained
//! (3 the algorithm, 41 and 42 the ids of the beginning and the end of text, 40 and 43 those of the unknown piece and of
//! padding), field 3 how text is normalised (3 whether a space is put before it).
//! Source: sentencepiece, `sentencepiece_model.proto`.

use std::path::Path;

use super::TokenizerError;
use super::vocabulary::LARGEST_ID;
use crate::weights::gguf::{Token, TokenKind, Vocabulary};

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Word([u8; 4]),
    Bytes(&'a [u8]),
    /// Eight bytes, which no field of interest has.
    Long,
}

/// Takes a number of seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// Calls back with the number and the value of every field; `None` where the message breaks off.
fn fields<'a>(mut bytes: &'a [u8], mut field: impl FnMut(u64, Field<'a>) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            1 => take(&mut bytes, 8).map(|_| Field::Long)?,
            2 => {
                let length = varint(&mut bytes)?;
                Field::Bytes(take(&mut bytes, length)?)
            }
            5 => Field::Word(*take(&mut bytes, 4)?.first_chunk()?),
            _ => return None,
        };
        field(tag >> 3, value)?;
    }
    Some(())
}

fn piece(bytes: &[u8]) -> Option<Token> {
    let mut token = Token { text: String::new(), score: 0.0, kind: TokenKind::Normal };
    fields(bytes, |number, value| {
        match (number, value) {
            (1, Field::Bytes(text)) => token.text = std::str::from_utf8(text).ok()?.to_owned(),
            (2, Field::Word(score)) => token.score = f32::from_le_bytes(score),
            (3, Field::Number(kind)) => token.kind = TokenKind::of_number(i64::try_from(kind).ok()?)?,
            _ => {}
        }
        Some(())
    })?;
    Some(token)
}

/// Reads the pieces, special ids and dummy prefix of a model that merges by score.
///
/// # Errors
/// What is not such a file, and models of the Unigram kind, which no architecture of ours with a GGUF has.
pub(super) fn vocabulary(path: &Path, bytes: &[u8]) -> Result<Vocabulary, TokenizerError> {
    const BPE: u64 = 2;
    let mut vocabulary =
        Vocabulary { model: "llama".to_owned(), pre: Some("default".to_owned()), ..Vocabulary::default() };
    let mut algorithm = 1;
    let (mut unk, mut bos, mut eos, mut pad) = (0_i32, 1_i32, 2_i32, -1_i32);
    let mut prefix = true;
    let read = fields(bytes, |number, value| {
        match (number, value) {
            (1, Field::Bytes(bytes)) => vocabulary.tokens.push(piece(bytes)?),
            (2, Field::Bytes(trained)) => fields(trained, |number, value| {
                // Negative ids, which switch a piece off, are spelled as 64-bit numbers.
                if let Field::Number(n) = value {
                    match number {
                        3 => algorithm = n,
                        40 => unk = n as i32,
                        41 => bos = n as i32,
                        42 => eos = n as i32,
                        43 => pad = n as i32,
                        _ => {}
                    }
                }
                Some(())
            })?,
            (3, Field::Bytes(normal)) => fields(normal, |number, value| {
                if let (3, Field::Number(n)) = (number, value) {
                    prefix = n != 0;
                }
                Some(())
            })?,
            _ => {}
        }
        Some(())
    });
    let count = vocabulary.tokens.len();
    if read.is_none() || count == 0 || count > LARGEST_ID as usize {
        return Err(TokenizerError::malformed(
            path,
            format!("after {count} pieces"),
            "a SentencePiece model of 1 to 4194303 pieces",
            "bytes that are none",
        ));
    }
    if algorithm != BPE {
        return Err(TokenizerError::Unsupported {
            path: path.to_owned(),
            what: "a SentencePiece model that does not merge by score (Unigram)".into(),
            hint: "write the file without a tokenizer".into(),
        });
    }
    let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < count);
    (vocabulary.unk, vocabulary.bos, vocabulary.eos, vocabulary.pad) = (id(unk), id(bos), id(eos), id(pad));
    vocabulary.add_space_prefix = Some(prefix);
    Ok(vocabulary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, body.len() as u8];
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_model_by_hand() {
        let mut piece = message(1, "▁a".as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend((-1.5_f32).to_le_bytes());
        piece.extend([3 << 3, 4]);
        let mut model = message(1, &piece);
        model.extend(message(1, &message(1, b"b")));
        // The algorithm is BPE, the end is piece 1, padding is switched off.
        let mut trained = vec![3 << 3, 2, 0xD0, 0x02, 1, 0xD8, 0x02];
        trained.extend([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]);
        model.extend(message(2, &trained));
        model.extend(message(3, &[3 << 3, 0]));
        let read = vocabulary(Path::new("x"), &model).unwrap();
        assert_eq!(read.tokens[0], Token { text: "▁a".into(), score: -1.5, kind: TokenKind::UserDefined });
        assert_eq!(read.tokens[1], Token { text: "b".into(), score: 0.0, kind: TokenKind::Normal });
        assert_eq!((read.unk, read.bos, read.eos, read.pad), (Some(0), Some(1), Some(1), None));
        assert_eq!(read.add_space_prefix, Some(false));
        for end in 0..model.len() {
            // Cut anywhere it is refused, or is the model without its last fields.
            if let Err(error) = vocabulary(Path::new("x"), &model[..end]) {
                assert!(!error.to_string().contains('\n'));
            }
        }
        assert!(vocabulary(Path::new("x"), &message(1, &[0xFF; 12])).is_err());
        let unigram = vocabulary(Path::new("x"), &message(1, &message(1, b"b"))).unwrap_err();
        assert!(unigram.to_string().contains("Unigram"), "{unigram}");
    }
}
