//! Labels of a text, one or several. With exactly one gold and one predicted label per text it equals accuracy.
//!
//! ```
//! use taiyi_eval::metrics::label_micro_f1::score;
//! let total = score(&["a".into(), "b".into()], &["b".into(), "c".into()]).total();
//! assert_eq!((total.true_positives, total.false_positives, total.false_negatives), (1, 1, 1));
//! ```

use std::collections::BTreeSet;

use super::{ItemScore, compare_sets};

/// Scores one text.
pub fn score(gold: &[String], predicted: &[String]) -> ItemScore {
    let gold: BTreeSet<&String> = gold.iter().collect();
    let predicted: BTreeSet<&String> = predicted.iter().collect();
    compare_sets(&gold, &predicted, |label| label.as_str())
}
