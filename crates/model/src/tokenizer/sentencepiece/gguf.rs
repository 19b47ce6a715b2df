//! SentencePiece models as GGUF files hold them: pieces, scores and kinds, with few of the model's settings.

use std::path::Path;

use super::model::{Model, ModelType, Piece, PieceKind, byte_of};
use crate::tokenizer::TokenizerError;
use crate::weights::gguf::{Token, TokenKind, Vocabulary};

/// The tokenizer part of a GGUF file, out of a model file.
///
/// # Errors
///
/// As [`Model::read`], and models of the unigram kind, which no architecture written as GGUF has.
pub(crate) fn vocabulary(path: &Path, bytes: &[u8]) -> Result<Vocabulary, TokenizerError> {
    let model = Model::read(path, bytes)?;
    if model.model_type != ModelType::Bpe {
        return Err(TokenizerError::Unsupported {
            path: path.to_owned(),
            what: "a SentencePiece model that does not merge by score (Unigram)".into(),
            hint: "write the file without a tokenizer".into(),
        });
    }
    let special =
        model.special.map(|id| u32::try_from(id).ok().filter(|id| (*id as usize) < model.pieces.len()));
    let [unk, bos, eos, pad] = special;
    let token = |piece: Piece| Token {
        score: piece.score,
        kind: match piece.kind {
            PieceKind::Normal => TokenKind::Normal,
            PieceKind::Unknown => TokenKind::Unknown,
            PieceKind::Control => TokenKind::Control,
            PieceKind::UserDefined => TokenKind::UserDefined,
            PieceKind::Unused => TokenKind::Unused,
            PieceKind::Byte(_) => TokenKind::Byte,
        },
        text: piece.text,
    };
    Ok(Vocabulary {
        model: "llama".to_owned(),
        pre: Some("default".to_owned()),
        tokens: model.pieces.into_iter().map(token).collect(),
        add_space_prefix: Some(model.add_dummy_prefix),
        unk,
        bos,
        eos,
        pad,
        ..Vocabulary::default()
    })
}

impl Model {
    /// The model that a GGUF file's tokenizer part stands for, as llama.cpp reads it: text as it is, a space in front unless
    /// the file says otherwise, characters without a piece as bytes where there are byte pieces.
    pub(super) fn of_vocabulary(path: &Path, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let mut pieces = Vec::with_capacity(vocabulary.tokens.len());
        for (id, token) in vocabulary.tokens.iter().enumerate() {
            let malformed = |expected: &str| {
                TokenizerError::malformed(path, format!("token {id}"), expected, token.text.clone())
            };
            let kind = match token.kind {
                TokenKind::Normal => PieceKind::Normal,
                TokenKind::Unknown => PieceKind::Unknown,
                TokenKind::Control => PieceKind::Control,
                TokenKind::UserDefined => PieceKind::UserDefined,
                TokenKind::Unused => PieceKind::Unused,
                TokenKind::Byte => PieceKind::Byte(
                    byte_of(&token.text).ok_or_else(|| malformed("a byte piece such as <0x0A>"))?,
                ),
            };
            if token.text.is_empty()
                || token.text.len() > super::model::LONGEST_PIECE
                || !token.score.is_finite()
            {
                return Err(malformed("a piece of 1 to 1024 bytes with a finite score"));
            }
            pieces.push(Piece { text: token.text.clone(), score: token.score, kind });
        }
        let byte_fallback = pieces.iter().any(|piece| matches!(piece.kind, PieceKind::Byte(_)));
        Ok(Self {
            pieces,
            model_type: ModelType::Bpe,
            byte_fallback,
            add_dummy_prefix: vocabulary.add_space_prefix.unwrap_or(true),
            remove_extra_whitespaces: false,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::SentencePiece;
    use super::*;

    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, body.len() as u8];
        bytes.extend_from_slice(body);
        bytes
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let mut body = field(1, text.as_bytes());
        body.push(2 << 3 | 5);
        body.extend(score.to_le_bytes());
        body.extend([3 << 3, kind]);
        field(1, &body)
    }

    /// A BPE model whose end of text is piece 2 and whose padding is switched off.
    fn model(algorithm: u8) -> Vec<u8> {
        let mut model = [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3)].concat();
        model.extend([piece("▁", -2.0, 1), piece("a", -3.0, 1), piece("▁a", -1.5, 1)].concat());
        let mut trained = vec![3 << 3, algorithm, 0xD0, 0x02, 2, 0xD8, 0x02];
        trained.extend([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]);
        model.extend(field(2, &trained));
        model.extend(field(3, &[3 << 3, 1, 4 << 3, 0]));
        model
    }

    #[test]
    fn a_model_goes_into_a_gguf_vocabulary_and_back() {
        let path = Path::new("tokenizer.model");
        let written = vocabulary(path, &model(2)).unwrap();
        assert_eq!(written.tokens[5], Token { text: "▁a".into(), score: -1.5, kind: TokenKind::Normal });
        assert_eq!((written.unk, written.bos, written.eos, written.pad), (Some(0), Some(1), Some(2), None));
        assert_eq!(written.add_space_prefix, Some(true));
        let from_file = SentencePiece::read(path, &model(2), &|_| false).unwrap();
        let from_gguf = SentencePiece::of_vocabulary(path, &written).unwrap();
        for text in ["a", "a a", "", " a"] {
            let (mut expected, mut found) = (Vec::new(), Vec::new());
            from_file.encode(text, true, &mut expected);
            from_gguf.encode(text, true, &mut found);
            assert_eq!(found, expected, "{text:?}");
        }
        let unigram = vocabulary(path, &model(1)).unwrap_err();
        assert!(unigram.to_string().contains("Unigram"), "{unigram}");
        for end in 0..model(2).len() {
            // Cut anywhere it is refused, or is the model without its last fields.
            if let Err(error) = vocabulary(path, &model(2)[..end]) {
                assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
