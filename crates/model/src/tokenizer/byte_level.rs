//! The printable stand-ins of bytes in byte-level vocabularies.
//!
//! GPT-2's vocabularies write each byte as one printable character: bytes that print as themselves in Latin-1
//! stay, the other 68 become U+0100, U+0101, ... in order, so that a space is `Ġ` and a newline `Ċ`.
//! Source: GPT-2, `encoder.py`, `bytes_to_unicode`.

/// The character that stands for a byte.
pub(crate) fn char_of_byte(byte: u8) -> char {
    if prints(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !prints(b)).count() as u32;
    char::from_u32(0x100 + before).expect("U+0100..=U+0143 are characters")
}

fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// Both directions of the byte alphabet.
pub(crate) struct ByteAlphabet {
    chars: [char; 256],
    bytes: [Option<u8>; 0x144],
}

impl ByteAlphabet {
    pub(crate) fn new() -> Self {
        let mut chars = ['\0'; 256];
        let mut bytes = [None; 0x144];
        for byte in 0..=255u8 {
            let c = char_of_byte(byte);
            chars[usize::from(byte)] = c;
            bytes[c as usize] = Some(byte);
        }
        Self { chars, bytes }
    }

    /// Spells bytes in the byte alphabet.
    pub(crate) fn spell(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|&b| self.chars[usize::from(b)]).collect()
    }

    /// Reads a token back into bytes; `None` when a character is no byte's stand-in.
    pub(crate) fn read(&self, token: &str) -> Option<Vec<u8>> {
        token.chars().map(|c| self.bytes.get(c as usize).copied().flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_matches_the_published_table() {
        assert_eq!(char_of_byte(b' '), 'Ġ');
        assert_eq!(char_of_byte(b'\n'), 'Ċ');
        assert_eq!(char_of_byte(0xAD), '\u{143}');
        let alphabet = ByteAlphabet::new();
        for byte in 0..=255u8 {
            assert_eq!(alphabet.read(&alphabet.spell(&[byte])), Some(vec![byte]));
        }
        assert_eq!(alphabet.read("糖"), None);
    }
}
