//! Entities by distinct string and type within a document, as generative systems are usually scored.
//!
//! Strings are compared after trimming, joining white space to one space, and lower-casing.
//!
//! ```
//! use taiyi_eval::metrics::surface_micro_f1::{score, surface_set};
//! let gold = surface_set([("Disease", "Chest  pain"), ("Disease", "chest pain"), ("Chemical", "aspirin")]);
//! let predicted = surface_set([("Disease", "chest pain"), ("Disease", "pain")]);
//! let total = score(&gold, &predicted).total();
//! assert_eq!((total.true_positives, total.false_positives, total.false_negatives), (1, 1, 1));
//! assert!((total.f1() - 0.5).abs() < 1e-12);
//! ```

use std::collections::BTreeSet;

use super::{ItemScore, compare_sets};

/// Distinct (type, normalised string) pairs of one document.
pub type SurfaceSet = BTreeSet<(String, String)>;

/// Collects typed strings into a set of normalised ones.
pub fn surface_set<K: Into<String>, T: AsRef<str>>(entities: impl IntoIterator<Item = (K, T)>) -> SurfaceSet {
    entities.into_iter().map(|(kind, text)| (kind.into(), normalise(text.as_ref()))).collect()
}

/// Trims, joins white space, lower-cases.
pub fn normalise(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Scores one document.
pub fn score(gold: &SurfaceSet, predicted: &SurfaceSet) -> ItemScore {
    compare_sets(gold, predicted, |(kind, _)| kind)
}
