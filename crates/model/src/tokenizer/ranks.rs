//! Rank lists of the tiktoken kind: one `base64(token) rank` per line.
//!
//! Qwen's first generation ships one as `qwen.tiktoken`, GLM-4 as `tokenizer.model`. The lists hold no special tokens and
//! no pattern; those follow from the tokenizer class.
//!
//! ```text
//! IQ== 0
//! Ig== 1
//! ```

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::TokenizerError;
use super::added::AddedToken;
use super::bpe::{ByteBpe, Pool};
use super::merge::Merges;
use super::split::{GLM4_PATTERN, QWEN_PATTERN, Splitter};
use super::vocabulary::{LARGEST_ID, NO_ID, Vocabulary};

/// Whose rules go with a rank list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RankFamily {
    /// NFC first, numbers one by one.
    Qwen,
    /// No normalisation, numbers in groups of three.
    Glm4,
}

/// Special tokens of the first Qwen generation, which follow the ranks in this order.
/// Source: Qwen-7B, `tokenization_qwen.py`.
pub(crate) fn qwen_special_tokens(first: u32) -> Vec<AddedToken> {
    let names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
    let extras = (0..205).map(|i| format!("<|extra_{i}|>"));
    // The reference normalises the whole text before it looks for special tokens.
    (first..)
        .zip(names.into_iter().chain(extras))
        .map(|(id, name)| AddedToken { normalised: true, ..AddedToken::special(id, name) })
        .collect()
}

/// Whether a file looks like a rank list: its first line is base64, a space and a number.
pub(crate) fn looks_like_ranks(bytes: &[u8]) -> bool {
    bytes.split(|&b| b == b'\n').next().is_some_and(|line| line.len() < 4096 && parse_line(line).is_ok())
}

/// Reads a rank list.
///
/// # Errors
///
/// Lines that are not `base64 rank`, ranks or tokens that occur twice, ranks beyond 2²², single bytes without a rank.
pub(crate) fn read_ranks(path: &Path, bytes: &[u8], family: RankFamily) -> Result<ByteBpe, TokenizerError> {
    let mut tokens: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut line_of_rank: Vec<u32> = Vec::new();
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let place = || format!("line {}", number + 1);
        let (token, rank) = parse_line(line).map_err(|expected| {
            TokenizerError::malformed(path, place(), expected, String::from_utf8_lossy(line))
        })?;
        if line_of_rank.len() <= rank as usize {
            line_of_rank.resize(rank as usize + 1, 0);
        }
        let before = std::mem::replace(&mut line_of_rank[rank as usize], number as u32 + 1);
        if before != 0 {
            return Err(TokenizerError::malformed(
                path,
                place(),
                "a rank of its own for every token",
                format!("rank {rank}, which line {before} has"),
            ));
        }
        tokens.push((rank, token));
    }
    let vocabulary = Vocabulary::new(&tokens);
    if let Some((rank, token)) = tokens.iter().find(|(rank, token)| vocabulary.id_of(token) != Some(*rank)) {
        return Err(TokenizerError::malformed(
            path,
            format!("line {}", line_of_rank[*rank as usize]),
            "every token once",
            format!("{:?} again, at rank {rank}", String::from_utf8_lossy(token)),
        ));
    }
    let byte_ids = byte_ids(path, &vocabulary)?;
    let merges = Merges::from_ranks(byte_ids, &vocabulary);
    let pattern = match family {
        RankFamily::Qwen => QWEN_PATTERN,
        RankFamily::Glm4 => GLM4_PATTERN,
    };
    Ok(ByteBpe {
        vocabulary,
        merges,
        whole_pieces: true,
        splitters: vec![Splitter::new(pattern).expect("a known pattern")],
        normalise: family == RankFamily::Qwen,
        scratch: Pool::default(),
    })
}

/// The ids of the 256 single bytes, without which some text could not be encoded.
pub(crate) fn byte_ids(path: &Path, vocabulary: &Vocabulary) -> Result<[u32; 256], TokenizerError> {
    let mut ids = [NO_ID; 256];
    for byte in 0..=255u8 {
        ids[usize::from(byte)] = vocabulary.id_of(&[byte]).ok_or_else(|| {
            TokenizerError::malformed(
                path,
                "vocabulary",
                "a token for each of the 256 bytes",
                format!("none for byte 0x{byte:02X}"),
            )
        })?;
    }
    Ok(ids)
}

/// Longest token of a rank list; finding the ways to merge it takes time by the square of its length. GLM-4's longest has 513 bytes.
const LONGEST_TOKEN: usize = 1024;

fn parse_line(line: &[u8]) -> Result<(Vec<u8>, u32), &'static str> {
    const SHAPE: &str = "`base64 rank`";
    let space = line.iter().position(|&b| b == b' ').ok_or(SHAPE)?;
    let rank = std::str::from_utf8(&line[space + 1..]).map_err(|_| SHAPE)?;
    let rank: u32 = rank.trim_end().parse().map_err(|_| "a whole number as rank")?;
    if rank > LARGEST_ID {
        return Err("a rank below 4194304");
    }
    let token = STANDARD.decode(&line[..space]).map_err(|_| "a token in complete base64")?;
    if token.is_empty() || token.len() > LONGEST_TOKEN {
        return Err("a token of 1 to 1024 bytes");
    }
    Ok((token, rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(extra: &str) -> Vec<u8> {
        let bytes: String = (0..=255u8).map(|b| format!("{} {b}\n", STANDARD.encode([b]))).collect();
        (bytes + extra).into_bytes()
    }

    fn message(bytes: &[u8]) -> String {
        let error = read_ranks(Path::new("x.tiktoken"), bytes, RankFamily::Qwen).unwrap_err();
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn broken_lists_say_where() {
        assert!(read_ranks(Path::new("x"), &list("YWI= 256\r\n\n"), RankFamily::Qwen).is_ok());
        assert!(message(&list("YWI 256\n")).contains("line 257: expected a token in complete base64"));
        assert!(message(&list("YWI=\n")).contains("line 257: expected `base64 rank`, found YWI="));
        assert!(message(&list("YWI= 255\n")).contains("rank 255, which line 256 has"));
        assert!(message(&list("YWI= 256\nYWI= 257\n")).contains("line 258: expected every token once"));
        assert!(message(&list("YWI= 99999999999\n")).contains("whole number"));
        assert!(message(&list("YWI= 4194304\n")).contains("below 4194304"));
        assert!(message(&list(" 256\n")).contains("1 to 1024 bytes"));
        assert!(message(b"AA== 0\n").contains("none for byte 0x01"));
        assert!(message(&[0xFF, 0xFE, b' ', b'1', b'\n']).contains("line 1"));
        assert!(message(b"").contains("256 bytes"));
    }
}
