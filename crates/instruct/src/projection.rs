//! Replies name strings; spans need places. Projection finds every place of a named string in the text.

use std::collections::BTreeSet;

use taiyi_corpus::offsets::{ByteSpan, CharSpan, TextIndex};

/// Projects typed strings onto the text: every occurrence of each string becomes an entity.
///
/// A Latin letter or digit at the end of a string must not be followed by another in the text, and likewise at its
/// start, so that `ADR` is not found in `ADRB2`. A string that does not occur is looked for without regard to case; if it still
/// does not occur it stands for nothing in the text and is returned among the unfound: the caller counts each as a
/// false positive. Unless `nested`, longer strings claim their places first and shorter ones are not found inside.
pub fn project(text: &str, entities: &[(String, String)], nested: bool) -> Projection {
    let index = TextIndex::new(text);
    // ASCII lower-casing keeps byte positions.
    let lowered = text.to_ascii_lowercase();
    let mut order: Vec<&(String, String)> =
        entities.iter().filter(|(_, mention)| !mention.trim().is_empty()).collect();
    order.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.cmp(b)));
    order.dedup();
    let mut projection = Projection::default();
    let mut taken: Vec<(ByteSpan, usize)> = Vec::new();
    for (at, (kind, mention)) in order.into_iter().enumerate() {
        let mention = mention.trim();
        let mut places = occurrences(text, mention);
        if places.is_empty() {
            places = occurrences(&lowered, &mention.to_ascii_lowercase());
        }
        if places.is_empty() {
            projection.unfound.insert((kind.clone(), mention.to_owned()));
        }
        for place in places {
            let inside_another = taken.iter().any(|(other, by)| {
                // The same place under another type is a different claim, not a nested one.
                *by != at && *other != place && other.start < place.end && place.start < other.end
            });
            if !nested && inside_another {
                continue;
            }
            taken.push((place, at));
            let span = index.chars_of(place).expect("occurrences start and end on character boundaries");
            projection.found.insert(Placed { span, kind: kind.clone() });
        }
    }
    projection
}

/// An entity at its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// Where, in code points of the text.
    pub span: CharSpan,
    /// Its type, as the reply named it.
    pub kind: String,
}

/// Where replies stand in the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection {
    /// Entities with their spans.
    pub found: BTreeSet<Placed>,
    /// Typed strings that do not occur in the text.
    pub unfound: BTreeSet<(String, String)>,
}

fn occurrences(text: &str, mention: &str) -> Vec<ByteSpan> {
    let joined = |a: Option<char>, b: Option<char>| matches!((a, b), (Some(a), Some(b)) if a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric());
    text.match_indices(mention)
        .map(|(start, found)| ByteSpan { start, end: start + found.len() })
        .filter(|place| {
            !joined(text[..place.start].chars().next_back(), mention.chars().next())
                && !joined(mention.chars().next_back(), text[place.end..].chars().next())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(text: &str, entities: &[(&str, &str)], nested: bool) -> Vec<(usize, usize, String)> {
        let entities: Vec<_> =
            entities.iter().map(|(kind, mention)| (kind.to_string(), mention.to_string())).collect();
        let found = project(text, &entities, nested).found;
        found.into_iter().map(|entity| (entity.span.start, entity.span.end, entity.kind)).collect()
    }

    #[test]
    fn every_occurrence_but_none_inside_a_word() {
        let found = spans("ADR and ADRB2 and adr.", &[("g", "ADR")], false);
        assert_eq!(found, [(0, 3, "g".into())]);
        let found = spans("ADRB2 and adr.", &[("g", "ADR")], false);
        assert_eq!(found, [(10, 13, "g".into())]);
    }

    #[test]
    fn nested_mentions_only_where_the_corpus_nests() {
        let text = "患者胃癌术后";
        let entities = [("疾病", "胃癌"), ("部位", "胃")];
        assert_eq!(spans(text, &entities, false), [(2, 4, "疾病".into())]);
        assert_eq!(spans(text, &entities, true).len(), 2);
        assert_eq!(spans(text, &[("疾病", "胃癌"), ("症状", "胃癌")], false).len(), 2);
    }

    #[test]
    fn what_is_not_in_the_text_is_counted_apart() {
        let projection = project("no such thing", &[("d".into(), "cancer".into())], false);
        assert!(projection.found.is_empty());
        assert_eq!(projection.unfound.len(), 1);
        let span = Placed { span: CharSpan::new(3, 7), kind: "d".into() };
        assert!(project("no such thing", &[("d".into(), "such".into())], false).found.contains(&span));
    }
}
