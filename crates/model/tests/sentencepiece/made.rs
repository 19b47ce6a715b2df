//! SentencePiece models made up of a few pieces, for tests and for the seeds of the fuzzers.

pub(crate) const NORMAL: u64 = 1;
pub(crate) const UNKNOWN: u64 = 2;
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
pub(crate) const UNUSED: u64 = 5;
pub(crate) const BYTE: u64 = 6;

pub(crate) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field that holds bytes.
pub(crate) fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3 | 2, &mut out);
    varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

pub(crate) fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3, &mut out);
    varint(value, &mut out);
    out
}

pub(crate) fn piece(text: &str, score: f32, kind: u64) -> Vec<u8> {
    let mut content = bytes(1, text.as_bytes());
    content.push(2 << 3 | 5);
    content.extend_from_slice(&score.to_le_bytes());
    content.extend(number(3, kind));
    bytes(1, &content)
}

pub(crate) const UNIGRAM_TYPE: u64 = 1;
pub(crate) const BPE_TYPE: u64 = 2;

pub(crate) fn trainer(model_type: u64, byte_fallback: bool) -> Vec<u8> {
    bytes(2, &[number(3, model_type), number(35, byte_fallback.into())].concat())
}

/// No rules; a blank in front; extra white space kept.
pub(crate) fn identity() -> Vec<u8> {
    bytes(3, &[number(3, 1), number(4, 0), number(5, 1)].concat())
}

pub(crate) fn byte_pieces() -> Vec<u8> {
    (0..=255u8).flat_map(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, BYTE)).collect()
}

pub(crate) fn start() -> Vec<u8> {
    [piece("<unk>", 0.0, UNKNOWN), piece("<s>", 0.0, CONTROL), piece("</s>", 0.0, CONTROL)].concat()
}

/// A BPE model in the manner of LLaMA: 3 special pieces, 256 bytes, then `words` with falling scores.
pub(crate) fn llama(words: &[&str]) -> Vec<u8> {
    let mut model = [start(), byte_pieces()].concat();
    for (i, word) in words.iter().enumerate() {
        model.extend(piece(word, -(i as f32), NORMAL));
    }
    [model, trainer(BPE_TYPE, true), identity()].concat()
}
