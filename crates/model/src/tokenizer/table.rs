//! Sets of characters, several in one table.

use regex_syntax::hir::{Class, HirKind};

const PAGE: usize = 256;

/// Eight sets of characters as one byte for each code point, in pages of 256 of which equal ones are stored once.
pub(crate) struct CharTable {
    index: Vec<u16>,
    pages: Vec<[u8; PAGE]>,
}

impl CharTable {
    /// Builds the table of sets given as (bit, class of a regular expression), with the Unicode tables of `regex-syntax`.
    ///
    /// # Panics
    ///
    /// On a class that is none: they are constants of this crate.
    pub(crate) fn new(sets: &[(u8, &str)]) -> Self {
        let mut flat = vec![0u8; 0x11_0000];
        for (bit, pattern) in sets {
            let hir = regex_syntax::parse(pattern).expect("a constant, valid pattern");
            let HirKind::Class(Class::Unicode(ranges)) = hir.kind() else {
                unreachable!("a class pattern parses to a class")
            };
            for range in ranges.ranges() {
                add(&mut flat, *bit, range.start() as u32, range.end() as u32);
            }
        }
        Self::paged(&flat)
    }

    /// Builds the table of sets given as (bit, closed ranges of code points).
    pub(crate) fn from_ranges(sets: &[(u8, &[(u32, u32)])]) -> Self {
        let mut flat = vec![0u8; 0x11_0000];
        for (bit, ranges) in sets {
            for &(first, last) in *ranges {
                add(&mut flat, *bit, first, last);
            }
        }
        Self::paged(&flat)
    }

    fn paged(flat: &[u8]) -> Self {
        let mut pages: Vec<[u8; PAGE]> = Vec::new();
        let mut index = Vec::with_capacity(flat.len() / PAGE);
        for page in flat.as_chunks::<PAGE>().0 {
            let at = pages.iter().position(|p| p == page).unwrap_or_else(|| {
                pages.push(*page);
                pages.len() - 1
            });
            index.push(u16::try_from(at).expect("there are 4352 pages in all"));
        }
        Self { index, pages }
    }

    /// The sets a character is in.
    #[inline]
    pub(crate) fn of(&self, c: char) -> u8 {
        let code = c as usize;
        self.pages[usize::from(self.index[code / PAGE])][code % PAGE]
    }

    /// Whether a character is in one of the sets.
    #[inline]
    pub(crate) fn has(&self, c: char, bits: u8) -> bool {
        self.of(c) & bits != 0
    }
}

fn add(flat: &mut [u8], bit: u8, first: u32, last: u32) {
    for flags in &mut flat[first as usize..=last as usize] {
        *flags |= bit;
    }
}
