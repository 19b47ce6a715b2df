//! Character classes of the pre-tokenisation patterns: `\p{L}`, `\p{N}`, `\s` and the rest.
//!
//! The classes are taken from `regex-syntax`, so that the hand-written scanner and a regular expression never
//! disagree about a character, whatever Unicode version the crate carries.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

/// Which of the disjoint classes a character belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CharClass {
    /// None of the below: punctuation, marks, symbols, controls, unassigned.
    Other = 0,
    /// `\p{L}`.
    Letter = 1,
    /// `\p{N}`.
    Number = 2,
    /// `\s` but not a line end.
    Space = 3,
    /// `\r` or `\n`.
    Newline = 4,
}

const PAGE: usize = 256;

/// Class of every code point, in pages of 256 of which equal ones are stored once.
pub(crate) struct ClassTable {
    /// `ascii[b]` for b < 128; one cache line pair for the commonest text.
    ascii: [CharClass; 128],
    index: Vec<u16>,
    pages: Vec<[CharClass; PAGE]>,
}

impl ClassTable {
    /// The table, built on first use (about a millisecond).
    pub(crate) fn get() -> &'static Self {
        static TABLE: OnceLock<ClassTable> = OnceLock::new();
        TABLE.get_or_init(Self::build)
    }

    fn build() -> Self {
        let mut flat = vec![CharClass::Other; 0x11_0000];
        for (pattern, class) in
            [(r"\p{L}", CharClass::Letter), (r"\p{N}", CharClass::Number), (r"\s", CharClass::Space)]
        {
            let hir = regex_syntax::parse(pattern).expect("a constant, valid pattern");
            let HirKind::Class(Class::Unicode(ranges)) = hir.kind() else {
                unreachable!("a class pattern parses to a class")
            };
            for range in ranges.ranges() {
                flat[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
        flat['\r' as usize] = CharClass::Newline;
        flat['\n' as usize] = CharClass::Newline;
        let mut ascii = [CharClass::Other; 128];
        ascii.copy_from_slice(&flat[..128]);
        let mut pages: Vec<[CharClass; PAGE]> = Vec::new();
        let mut index = Vec::with_capacity(flat.len() / PAGE);
        for page in flat.chunks_exact(PAGE) {
            let page: &[CharClass; PAGE] = page.try_into().expect("chunks are whole pages");
            let at = pages.iter().position(|p| p == page).unwrap_or_else(|| {
                pages.push(*page);
                pages.len() - 1
            });
            index.push(u16::try_from(at).expect("there are 4352 pages in all"));
        }
        Self { ascii, index, pages }
    }

    /// The class of a character.
    #[inline]
    pub(crate) fn of(&self, c: char) -> CharClass {
        let code = c as usize;
        match self.ascii.get(code) {
            Some(&class) => class,
            None => self.pages[usize::from(self.index[code / PAGE])][code % PAGE],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_agree_with_the_standard_library_where_it_has_them() {
        let table = ClassTable::get();
        for c in '\0'..=char::MAX {
            let class = table.of(c);
            let space = matches!(class, CharClass::Space | CharClass::Newline);
            assert_eq!(space, c.is_whitespace(), "{c:?}");
        }
        assert_eq!(table.of('糖'), CharClass::Letter);
        assert_eq!(table.of('Ⅷ'), CharClass::Number);
        assert_eq!(table.of('½'), CharClass::Number);
        assert_eq!(table.of('\u{301}'), CharClass::Other);
        assert_eq!(table.of('。'), CharClass::Other);
        assert_eq!(table.of('\u{3000}'), CharClass::Space);
    }
}
