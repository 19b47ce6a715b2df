//! A set of byte strings that answers which of them a text starts with.

/// A trie whose nodes lie level by level, the children of a node side by side in the order of their bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Trie {
    /// The byte that leads to each node.
    labels: Vec<u8>,
    /// Where the children of each node begin; they end where those of the next node begin.
    children: Vec<u32>,
    /// The value of the string that ends at each node, or [`NO_VALUE`].
    values: Vec<u32>,
    /// Children of the root by their byte; 0 where there is none.
    roots: Vec<u32>,
}

/// Marks a node at which no string ends.
const NO_VALUE: u32 = u32::MAX;

impl Trie {
    /// Builds the trie of non-empty strings with their values. Of equal strings the first counts.
    pub(super) fn new<'s>(strings: impl Iterator<Item = (&'s [u8], u32)>) -> Self {
        let mut strings: Vec<(&[u8], u32)> = strings.filter(|(string, _)| !string.is_empty()).collect();
        strings.sort_by(|a, b| a.0.cmp(b.0));
        strings.dedup_by(|later, first| later.0 == first.0);
        let mut trie =
            Self { labels: vec![0], children: Vec::new(), values: vec![NO_VALUE], roots: vec![0; 256] };
        // The strings below each node of the level being laid out, as a range of the sorted list.
        let mut level: Vec<_> = std::iter::once(0..strings.len()).collect();
        let mut depth = 0;
        while !level.is_empty() {
            let mut below = Vec::new();
            for range in level {
                trie.children.push(trie.labels.len() as u32);
                let mut at = range.start;
                // A string that ends at the node sorts first among those that pass it.
                if at < range.end && strings[at].0.len() == depth {
                    at += 1;
                }
                while at < range.end {
                    let label = strings[at].0[depth];
                    let count = strings[at..range.end].partition_point(|(string, _)| string[depth] == label);
                    let (string, value) = strings[at];
                    if depth == 0 {
                        trie.roots[usize::from(label)] = trie.labels.len() as u32;
                    }
                    trie.labels.push(label);
                    trie.values.push(if string.len() == depth + 1 { value } else { NO_VALUE });
                    below.push(at..at + count);
                    at += count;
                }
            }
            level = below;
            depth += 1;
        }
        trie.children.push(trie.labels.len() as u32);
        trie
    }

    /// Calls back with the length and value of every string that the text starts with, shortest first.
    #[inline]
    pub(super) fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let Some(&first) = text.first() else { return };
        let mut node = match self.roots.get(usize::from(first)) {
            Some(&node) if node != 0 => node as usize,
            _ => return,
        };
        let mut length = 1;
        loop {
            if self.values[node] != NO_VALUE {
                found(length, self.values[node]);
            }
            let Some(&byte) = text.get(length) else { return };
            let children = self.children[node] as usize..self.children[node + 1] as usize;
            let Ok(child) = self.labels[children.clone()].binary_search(&byte) else { return };
            node = children.start + child;
            length += 1;
        }
    }

    /// The length of the longest string that the text starts with.
    pub(super) fn longest(&self, text: &[u8]) -> Option<usize> {
        let mut longest = None;
        self.prefixes(text, |length, _| longest = Some(length));
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(trie: &Trie, text: &str) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        trie.prefixes(text.as_bytes(), |length, value| found.push((length, value)));
        found
    }

    #[test]
    fn finds_every_prefix_and_nothing_else() {
        let strings = ["a", "ab", "abcd", "b", "糖", "糖尿病", "ab", "z"];
        let trie = Trie::new(strings.iter().zip(0..).map(|(s, v)| (s.as_bytes(), v)));
        assert_eq!(found(&trie, "abcde"), [(1, 0), (2, 1), (4, 2)]);
        assert_eq!(found(&trie, "abc"), [(1, 0), (2, 1)]);
        assert_eq!(found(&trie, "糖尿病人"), [(3, 4), (9, 5)]);
        assert_eq!(found(&trie, "糖尿"), [(3, 4)]);
        assert_eq!(found(&trie, "c"), []);
        assert_eq!(found(&trie, ""), []);
        assert_eq!(trie.longest("abcd".as_bytes()), Some(4));
        assert_eq!(trie.longest("y".as_bytes()), None);
        let empty = Trie::new(std::iter::empty());
        assert_eq!(found(&empty, "a"), []);
        assert_eq!(found(&Trie::default(), "a"), []);
    }

    #[test]
    fn agrees_with_looking_at_each_string() {
        let strings: Vec<Vec<u8>> =
            (0..3000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8).to_string().into_bytes()).collect();
        let trie = Trie::new(strings.iter().zip(0..).map(|(s, v)| (s.as_slice(), v)));
        for i in 0..500u64 {
            let text = (i * 48_271 * 69_621).to_string();
            let mut expected: Vec<usize> =
                strings.iter().filter(|s| text.as_bytes().starts_with(s)).map(Vec::len).collect();
            expected.sort_unstable();
            expected.dedup();
            let lengths: Vec<usize> = found(&trie, &text).iter().map(|(length, _)| *length).collect();
            assert_eq!(lengths, expected, "{text}");
        }
    }
}
