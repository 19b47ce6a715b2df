//! Entities by span and type: a prediction counts when a gold entity has the same spans and the same type.
//!
//! ```
//! use std::collections::BTreeSet;
//! use taiyi_corpus::offsets::CharSpan;
//! use taiyi_eval::metrics::strict_micro_f1::{SpanEntity, score};
//! let entity = |start, end, kind: &str| SpanEntity { spans: vec![CharSpan::new(start, end)], kind: kind.into() };
//! let gold = BTreeSet::from([entity(0, 7, "Chemical"), entity(20, 28, "Disease"), entity(40, 44, "Disease")]);
//! // One right, one with a wrong end, one of the wrong type.
//! let predicted = BTreeSet::from([entity(0, 7, "Chemical"), entity(20, 27, "Disease"), entity(40, 44, "Chemical")]);
//! let total = score(&gold, &predicted).total();
//! assert_eq!((total.true_positives, total.false_positives, total.false_negatives), (1, 2, 2));
//! assert!((total.f1() - 1.0 / 3.0).abs() < 1e-12);
//! ```

use std::collections::BTreeSet;

use taiyi_corpus::offsets::CharSpan;

use super::{ItemScore, compare_sets};

/// An entity by its spans, in code points of the item's text, and its type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanEntity {
    /// The spans in order; several for a discontinuous mention.
    pub spans: Vec<CharSpan>,
    /// The type.
    pub kind: String,
}

/// Scores one item.
pub fn score(gold: &BTreeSet<SpanEntity>, predicted: &BTreeSet<SpanEntity>) -> ItemScore {
    compare_sets(gold, predicted, |entity| &entity.kind)
}
