//! Relations by the strings of head and tail and the relation's type.
//!
//! A side of a gold relation may have several names (every mention of a BC5CDR concept); naming any of them counts,
//! and a second prediction of the same gold relation under another name counts neither way.
//!
//! ```
//! use taiyi_eval::metrics::triple_micro_f1::{GoldTriple, PredictedTriple, score};
//! let gold = [GoldTriple::new("CID", ["naloxone", "NX"], ["hypertension"]), GoldTriple::new("CID", ["lithium"], ["coma"])];
//! let predicted = [
//!     PredictedTriple::new("CID", "Naloxone", "hypertension"),
//!     PredictedTriple::new("CID", "NX", "hypertension"),
//!     PredictedTriple::new("CID", "naloxone", "coma"),
//! ];
//! let total = score(&gold, &predicted).total();
//! assert_eq!((total.true_positives, total.false_positives, total.false_negatives), (1, 1, 1));
//! ```

use std::collections::BTreeSet;

use super::surface_micro_f1::normalise;
use super::{Counts, ItemScore};

/// A relation of the gold, each side by all its names, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoldTriple {
    /// Relation type.
    pub relation: String,
    /// Names of the head.
    pub heads: BTreeSet<String>,
    /// Names of the tail.
    pub tails: BTreeSet<String>,
}

impl GoldTriple {
    /// A gold relation; the names are normalised here.
    pub fn new<T: AsRef<str>>(
        relation: &str,
        heads: impl IntoIterator<Item = T>,
        tails: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            relation: relation.to_owned(),
            heads: heads.into_iter().map(|name| normalise(name.as_ref())).collect(),
            tails: tails.into_iter().map(|name| normalise(name.as_ref())).collect(),
        }
    }

    fn matches(&self, predicted: &PredictedTriple) -> bool {
        self.relation == predicted.relation
            && self.heads.contains(&predicted.head)
            && self.tails.contains(&predicted.tail)
    }
}

/// A predicted relation, normalised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PredictedTriple {
    /// Relation type.
    pub relation: String,
    /// Head.
    pub head: String,
    /// Tail.
    pub tail: String,
}

impl PredictedTriple {
    /// A predicted relation; the strings are normalised here.
    pub fn new(relation: &str, head: &str, tail: &str) -> Self {
        Self { relation: relation.to_owned(), head: normalise(head), tail: normalise(tail) }
    }
}

/// Scores one document. Each gold relation counts, even where two are equal in type and names: concepts that are named
/// only together ("visual or auditory toxicity") are two.
pub fn score(gold: &[GoldTriple], predicted: &[PredictedTriple]) -> ItemScore {
    let predicted: BTreeSet<&PredictedTriple> = predicted.iter().collect();
    let mut found = vec![false; gold.len()];
    let mut score = ItemScore::default();
    for triple in predicted {
        let mut matched = false;
        for (gold, found) in gold.iter().zip(&mut found) {
            if gold.matches(triple) {
                matched = true;
                *found = true;
            }
        }
        if !matched {
            *score.per_type.entry(triple.relation.clone()).or_default() +=
                Counts { false_positives: 1, ..Counts::default() };
        }
    }
    for (gold, found) in gold.iter().zip(found) {
        let counts = Counts {
            true_positives: u64::from(found),
            false_positives: 0,
            false_negatives: u64::from(!found),
        };
        *score.per_type.entry(gold.relation.clone()).or_default() += counts;
    }
    score
}
