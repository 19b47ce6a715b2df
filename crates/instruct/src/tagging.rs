//! Entities as one label a token, and back: `B-` where a mention begins, `I-` where it goes on, `O` elsewhere.
//!
//! ```text
//! text      No Naloxone - induced delirium
//! tokens    No | Na ##lox ##one | - | induced | del ##irium
//! labels    O    B-Chemical I-Chemical I-Chemical  O  O  B-Disease I-Disease
//! ```
//!
//! Labels hold flat mentions of one piece each. What they cannot hold is left out and counted ([`MentionCounts`]). A token is
//! a range of bytes here: this module knows nothing of vocabularies.

use std::collections::BTreeSet;
use std::ops::{AddAssign, Range};

use serde::{Deserialize, Serialize};
use taiyi_corpus::offsets::{ByteSpan, TextIndex};
use taiyi_corpus::schema::Ie;

use crate::units::sentences;

/// What a label says of a token; the number is that of the entity type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Outside,
    Begin(usize),
    Inside(usize),
}

/// The labels of a token classifier, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagSet {
    labels: Vec<String>,
    tags: Vec<Tag>,
    types: Vec<String>,
}

/// A label that says nothing about entities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the label `{0}` is neither `O` nor begins with `B-` or `I-`")]
pub struct NoTag(pub String);

/// A mention of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mention {
    /// Its bytes of the text.
    pub span: ByteSpan,
    /// Number of its type in [`TagSet::types`].
    pub kind: usize,
}

impl Mention {
    /// A mention of these bytes.
    pub fn new(bytes: Range<usize>, kind: usize) -> Self {
        Self { span: ByteSpan { start: bytes.start, end: bytes.end }, kind }
    }
}

/// What became of the mentions of a text, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MentionCounts {
    /// Mentions that labels hold.
    pub kept: u64,
    /// Mentions left out because they overlap a longer one.
    pub overlapping: u64,
    /// Mentions left out because they are in several pieces.
    pub discontinuous: u64,
    /// Mentions left out because the source does not say where they stand, or no token stands there.
    pub unplaced: u64,
    /// Kept mentions that begin or end inside a token, whose labels therefore say more than the mention.
    pub widened: u64,
    /// Borders between windows that stand inside a kept mention.
    pub cut: u64,
}

impl AddAssign for MentionCounts {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.overlapping += other.overlapping;
        self.discontinuous += other.discontinuous;
        self.unplaced += other.unplaced;
        self.widened += other.widened;
        self.cut += other.cut;
    }
}

impl TagSet {
    /// The labels of entity types: `O`, then `B-` and `I-` of each type.
    pub fn of_types(types: &BTreeSet<String>) -> Self {
        let (mut labels, mut tags) = (vec!["O".to_owned()], vec![Tag::Outside]);
        for (number, kind) in types.iter().enumerate() {
            labels.extend([format!("B-{kind}"), format!("I-{kind}")]);
            tags.extend([Tag::Begin(number), Tag::Inside(number)]);
        }
        Self { labels, tags, types: types.iter().cloned().collect() }
    }

    /// Reads the labels of a model, in whatever order they stand.
    ///
    /// # Errors
    /// For the first label that is none of `O`, `B-…` and `I-…`.
    pub fn parse(labels: &[String]) -> Result<Self, NoTag> {
        let mut types: Vec<String> = Vec::new();
        let mut tags = Vec::with_capacity(labels.len());
        for label in labels {
            let (begins, kind) = match label.split_once('-') {
                None if label == "O" => {
                    tags.push(Tag::Outside);
                    continue;
                }
                Some(("B", kind)) => (true, kind),
                Some(("I", kind)) => (false, kind),
                _ => return Err(NoTag(label.clone())),
            };
            let number = types.iter().position(|known| known == kind).unwrap_or_else(|| {
                types.push(kind.to_owned());
                types.len() - 1
            });
            tags.push(if begins { Tag::Begin(number) } else { Tag::Inside(number) });
        }
        Ok(Self { labels: labels.to_vec(), tags, types })
    }

    /// The labels in the order of their numbers.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The entity types.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// The mentions of a document that labels can hold, in the order of the text: in one piece, and of those that overlap the
    /// longest. What is annotated twice counts once.
    ///
    /// # Errors
    /// The first type that has no label.
    pub fn mentions(&self, ie: &Ie, text: &str) -> Result<(Vec<Mention>, MentionCounts), String> {
        let index = TextIndex::new(text);
        let mut counts = MentionCounts::default();
        let mut found = BTreeSet::new();
        for entity in &ie.entities {
            let Some(kind) = self.types.iter().position(|known| *known == entity.kind) else {
                return Err(entity.kind.clone());
            };
            match entity.offsets.as_slice() {
                [] => counts.unplaced += 1,
                [span] => match index.bytes(*span).filter(|bytes| bytes.start < bytes.end) {
                    Some(span) => {
                        found.insert(Mention { span, kind });
                    }
                    None => counts.unplaced += 1,
                },
                _ => counts.discontinuous += 1,
            }
        }
        let mut longest_first: Vec<Mention> = found.into_iter().collect();
        longest_first.sort_by_key(|mention| std::cmp::Reverse(mention.span.end - mention.span.start));
        let mut kept: Vec<Mention> = Vec::with_capacity(longest_first.len());
        for mention in longest_first {
            let at = kept.partition_point(|other| other.span.end <= mention.span.start);
            if kept.get(at).is_some_and(|other| other.span.start < mention.span.end) {
                counts.overlapping += 1;
            } else {
                kept.insert(at, mention);
            }
        }
        counts.kept = kept.len() as u64;
        Ok((kept, counts))
    }

    /// The number of each token's label; `None` for a token that stands for no text, such as a blank. `mentions` are in the
    /// order of the text and do not overlap; those that get no token are taken out of `counts.kept`.
    pub fn label(
        &self,
        tokens: &[Range<usize>],
        mentions: &[Mention],
        counts: &mut MentionCounts,
    ) -> Vec<Option<usize>> {
        let number = |tag: Tag| self.tags.iter().position(|known| *known == tag);
        let outside = number(Tag::Outside);
        let mut labels: Vec<Option<usize>> =
            tokens.iter().map(|token| outside.filter(|_| !token.is_empty())).collect();
        // A token that two mentions share belongs to the first of them.
        let mut free = 0;
        for mention in mentions {
            let begin = number(Tag::Begin(mention.kind)).or_else(|| number(Tag::Inside(mention.kind)));
            let inside = number(Tag::Inside(mention.kind)).or(begin);
            let first = tokens.partition_point(|token| token.end <= mention.span.start).max(free);
            let after = first + tokens[first..].partition_point(|token| token.start < mention.span.end);
            let mut own = (first..after).filter(|at| !tokens[*at].is_empty());
            let Some(start) = own.next() else {
                counts.kept = counts.kept.saturating_sub(1);
                counts.unplaced += 1;
                continue;
            };
            labels[start] = begin;
            let mut last = start;
            for at in own {
                labels[at] = inside;
                last = at;
            }
            let exact = tokens[start].start == mention.span.start && tokens[last].end == mention.span.end;
            counts.widened += u64::from(!exact);
            free = after;
        }
        labels
    }

    /// The mentions that labels of tokens say. A mention that lacks its beginning counts all the same; numbers without a label
    /// are `O`.
    pub fn read(&self, tokens: &[Range<usize>], labels: &[usize]) -> Vec<Mention> {
        let mut found: Vec<Mention> = Vec::new();
        // The mention that goes on, and the token it reached.
        let mut open: Option<(Mention, &Range<usize>)> = None;
        for (token, label) in tokens.iter().zip(labels) {
            if token.is_empty() {
                continue;
            }
            let tag = self.tags.get(*label).copied().unwrap_or(Tag::Outside);
            open = match (tag, open.take()) {
                (Tag::Outside, before) => {
                    found.extend(before.map(|(mention, _)| mention));
                    None
                }
                // A character in several tokens is one place, whatever they say.
                (Tag::Begin(kind), Some((mention, last)))
                    if mention.kind == kind && token.start < last.end =>
                {
                    Some((Mention::new(mention.span.start..token.end, kind), token))
                }
                (Tag::Inside(kind), Some((mention, _))) if mention.kind == kind => {
                    Some((Mention::new(mention.span.start..token.end, kind), token))
                }
                (Tag::Begin(kind) | Tag::Inside(kind), before) => {
                    found.extend(before.map(|(mention, _)| mention));
                    Some((Mention::new(token.clone(), kind), token))
                }
            };
        }
        found.extend(open.map(|(mention, _)| mention));
        found
    }
}

/// Cuts a text's tokens into windows of at most `room` tokens, each as long as it can be: at the last border of a sentence
/// within reach, else at the last blank or comma, else at the last token; inside one of `mentions` (in order, apart) only where
/// one is longer than a window. Nothing is left out; `room` of 0 counts as 1.
pub fn windows(text: &str, tokens: &[Range<usize>], mentions: &[Mention], room: usize) -> Vec<Range<usize>> {
    let room = room.max(1);
    if tokens.len() <= room {
        return Some(0..tokens.len()).filter(|all| !all.is_empty()).into_iter().collect();
    }
    let index = TextIndex::new(text);
    let starts: BTreeSet<usize> =
        sentences(text).into_iter().filter_map(|sentence| index.byte(sentence.start)).collect();
    // A border stands before token `at`: how good it is there, 0 the best.
    let rank = |at: usize| -> u8 {
        let (before, next) = (&tokens[at - 1], &tokens[at]);
        // The tokens of one character stay together where they can.
        if before.end > next.start {
            return 4;
        }
        if is_cut(mentions, next.start) {
            return 3;
        }
        if starts.range(before.end..=next.start).next().is_some() {
            return 0;
        }
        let gap = text.get(before.end..next.start).is_some_and(|gap| gap.contains(char::is_whitespace));
        let comma = text.get(..before.end).and_then(|text| text.chars().next_back());
        let comma = comma.is_some_and(|c| matches!(c, ',' | ';' | ':' | '，' | '；' | '：' | '、'));
        if gap || comma { 1 } else { 2 }
    };
    let mut windows = Vec::new();
    let mut start = 0;
    while tokens.len() - start > room {
        let reach = start + room;
        let best = (start + 1..=reach).rev().map(|at| (rank(at), at)).min_by_key(|(rank, _)| *rank);
        let end = best.map_or(reach, |(_, at)| at);
        windows.push(start..end);
        start = end;
    }
    windows.push(start..tokens.len());
    windows
}

/// How many borders between windows stand inside one of `mentions`.
pub fn cut(windows: &[Range<usize>], tokens: &[Range<usize>], mentions: &[Mention]) -> u64 {
    let borders = windows.iter().skip(1).filter_map(|window| tokens.get(window.start));
    borders.filter(|token| is_cut(mentions, token.start)).count() as u64
}

/// Whether a border before byte `at` stands inside a mention.
fn is_cut(mentions: &[Mention], at: usize) -> bool {
    let mention = mentions.get(mentions.partition_point(|mention| mention.span.end <= at));
    mention.is_some_and(|mention| mention.span.start < at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use taiyi_corpus::offsets::CharSpan;
    use taiyi_corpus::schema::{Entity, Passage};

    fn types(types: &[&str]) -> BTreeSet<String> {
        types.iter().map(|kind| (*kind).to_owned()).collect()
    }

    fn ie(text: &str, entities: &[(&str, &[(usize, usize)])]) -> Ie {
        let entity = |(kind, spans): &(&str, &[(usize, usize)])| Entity {
            id: String::new(),
            kind: (*kind).to_owned(),
            text: Vec::new(),
            offsets: spans.iter().map(|(start, end)| CharSpan::new(*start, *end)).collect(),
            normalized: Vec::new(),
        };
        let passage = Passage {
            id: "p".to_owned(),
            kind: "text".to_owned(),
            text: text.to_owned(),
            offsets: CharSpan::new(0, text.chars().count()),
        };
        Ie { passages: vec![passage], entities: entities.iter().map(entity).collect(), ..Ie::default() }
    }

    /// Words, and single characters beyond ASCII, as tokens.
    fn tokens(text: &str) -> Vec<Range<usize>> {
        let mut tokens: Vec<Range<usize>> = Vec::new();
        let mut open = false;
        for (at, c) in text.char_indices() {
            let word = c.is_ascii_alphanumeric();
            match tokens.last_mut() {
                Some(last) if word && open => last.end = at + 1,
                _ if !c.is_whitespace() => tokens.push(at..at + c.len_utf8()),
                _ => {}
            }
            open = word;
        }
        tokens
    }

    #[test]
    fn labels_are_named_in_a_fixed_order_and_read_in_any() {
        let tags = TagSet::of_types(&types(&["Disease", "Chemical"]));
        assert_eq!(tags.labels(), ["O", "B-Chemical", "I-Chemical", "B-Disease", "I-Disease"]);
        assert_eq!(TagSet::parse(tags.labels()).unwrap(), tags);
        let foreign = ["I-cell-line", "B-cell-line", "O"].map(str::to_owned);
        let tags = TagSet::parse(&foreign).unwrap();
        assert_eq!(tags.types(), ["cell-line"]);
        assert_eq!(tags.read(&[0..2, 3..5], &[1, 0]), [Mention::new(0..5, 0)]);
        for wrong in ["LABEL_0", "disease", "X-a"] {
            let error = TagSet::parse(&["O".to_owned(), wrong.to_owned()]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("the label `{wrong}` is neither `O` nor begins with `B-` or `I-`")
            );
        }
    }

    #[test]
    fn the_longest_wins_and_what_labels_cannot_hold_is_counted() {
        let text = "慢性肾衰竭 with naïve T cells";
        let tags = TagSet::of_types(&types(&["a", "b"]));
        let ie = ie(
            text,
            &[
                ("a", &[(2, 5)]),
                ("b", &[(0, 5)]),
                ("b", &[(0, 5)]),
                ("a", &[(11, 24)]),
                ("b", &[(17, 24)]),
                ("a", &[(0, 1), (3, 4)]),
                ("a", &[]),
                ("a", &[(20, 99)]),
            ],
        );
        let (mentions, mut counts) = tags.mentions(&ie, text).unwrap();
        let strings: Vec<&str> =
            mentions.iter().map(|mention| &text[mention.span.start..mention.span.end]).collect();
        assert_eq!(strings, ["慢性肾衰竭", "naïve T cells"]);
        let expected =
            MentionCounts { kept: 2, overlapping: 2, discontinuous: 1, unplaced: 2, ..Default::default() };
        assert_eq!(counts, expected);
        let tokens = tokens(text);
        let labels = tags.label(&tokens, &mentions, &mut counts);
        let read: Vec<usize> = labels.into_iter().map(|label| label.unwrap()).collect();
        assert_eq!(tags.read(&tokens, &read), mentions);
        assert_eq!(counts, expected);
        let other = ie_with("c");
        assert_eq!(tags.mentions(&other, "x").unwrap_err(), "c");
    }

    fn ie_with(kind: &str) -> Ie {
        ie("x", &[(kind, &[(0, 1)])])
    }

    #[test]
    fn borders_inside_tokens_are_counted_and_shared_tokens_belong_to_the_first() {
        let tags = TagSet::of_types(&types(&["a"]));
        // `GRAR` is one token of two mentions, ` ` one without text.
        let tokens = [0..4, 4..4, 5..9];
        let mentions = [Mention::new(0..2, 0), Mention::new(2..4, 0), Mention::new(5..9, 0)];
        let mut counts = MentionCounts { kept: 3, ..Default::default() };
        assert_eq!(tags.label(&tokens, &mentions, &mut counts), [Some(1), None, Some(1)]);
        assert_eq!((counts.kept, counts.widened, counts.unplaced), (2, 1, 1));
        // Three tokens of one character are one mention, also where each says that it begins one.
        assert_eq!(tags.read(&[0..3, 0..3, 0..3, 3..6], &[1, 1, 2, 2]), [Mention::new(0..6, 0)]);
        assert_eq!(tags.read(&[0..3, 0..3, 0..3], &[1, 1, 1]), [Mention::new(0..3, 0)]);
        assert_eq!(tags.read(&[0..3, 3..6], &[1, 1]).len(), 2);
        assert_eq!(tags.read(&[0..3, 3..6, 7..9], &[2, 0, 99]), [Mention::new(0..3, 0)]);
    }

    #[test]
    fn windows_end_where_it_hurts_least() {
        let cut_text = |text: &str, mentions: &[(usize, usize)], room: usize| -> Vec<String> {
            let tokens = tokens(text);
            let mentions: Vec<Mention> =
                mentions.iter().map(|&(start, end)| Mention::new(start..end, 0)).collect();
            let windows = windows(text, &tokens, &mentions, room);
            assert!(windows.iter().all(|window| window.len() <= room));
            windows
                .iter()
                .map(|window| text[tokens[window.start].start..tokens[window.end - 1].end].to_owned())
                .collect()
        };
        let text = "Fever came. It went, then it came back. All is well";
        assert_eq!(cut_text(text, &[], 12), ["Fever came. It went, then it came back.", "All is well"]);
        assert_eq!(cut_text(text, &[], 8)[..2], ["Fever came.", "It went, then it came back."]);
        // Without a sentence's end within reach: a comma, then any token.
        assert_eq!(cut_text("血压高，心率快而呼吸急促", &[], 6), ["血压高，", "心率快而呼吸", "急促"]);
        // `急促` is a mention; `心率快而呼吸急促` is too long not to be cut.
        let at = |text: &str, part: &str| (text.find(part).unwrap(), text.find(part).unwrap() + part.len());
        let text = "心率快而呼吸急促";
        assert_eq!(cut_text(text, &[at(text, "呼吸急促")], 6), ["心率快而", "呼吸急促"]);
        assert_eq!(cut_text(text, &[at(text, text)], 6), ["心率快而呼吸", "急促"]);
        assert_eq!(windows("", &[], &[], 5), []);
    }

    proptest! {
        #[test]
        fn windows_hold_every_token_once_and_labels_come_back(
            text in "([a-z]{1,7}[ ,.]{0,2}|[血压高。，é]{1,4}|[A-Z][a-z]{2} ){1,40}",
            room in 1_usize..12,
            seeds in prop::collection::vec((0_usize..200, 1_usize..9, 0_usize..2), 0..12),
        ) {
            let tokens = tokens(&text);
            prop_assume!(!tokens.is_empty());
            let mut mentions: Vec<Mention> = Vec::new();
            for (start, length, kind) in seeds {
                let first = start % tokens.len();
                let last = (first + length - 1).min(tokens.len() - 1);
                let mention = Mention::new(tokens[first].start..tokens[last].end, kind);
                let apart = |other: &Mention| other.span.end <= mention.span.start || mention.span.end <= other.span.start;
                if mentions.iter().all(apart) {
                    mentions.push(mention);
                }
            }
            mentions.sort();
            let windows = windows(&text, &tokens, &mentions, room);
            prop_assert_eq!(windows[0].start, 0);
            prop_assert_eq!(windows.last().unwrap().end, tokens.len());
            prop_assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert!(windows.iter().all(|window| (1..=room).contains(&window.len())));
            // What is cut is longer than a window.
            let longer = mentions.iter().filter(|mention| {
                tokens.iter().filter(|token| token.start < mention.span.end && mention.span.start < token.end).count() > room
            }).count();
            if longer == 0 {
                prop_assert_eq!(cut(&windows, &tokens, &mentions), 0);
            }
            let tags = TagSet::of_types(&types(&["a", "b"]));
            let mut counts = MentionCounts { kept: mentions.len() as u64, ..Default::default() };
            let labels: Vec<usize> = tags.label(&tokens, &mentions, &mut counts).into_iter().map(Option::unwrap).collect();
            prop_assert_eq!(tags.read(&tokens, &labels), mentions);
            prop_assert_eq!(counts.widened, 0);
        }
    }
}
