//! Share of items with the right choice or label. An item is one true positive, or one false positive and one false
//! negative, so that the micro-F1 of the sums is the accuracy; an unanswered item is wrong.
//!
//! ```
//! use taiyi_eval::metrics::{accuracy::score, sum};
//! let items = [score("yes", Some("yes")), score("no", Some("yes")), score("maybe", None), score("no", Some("no"))];
//! assert!((sum(&items).total().f1() - 0.5).abs() < 1e-12);
//! ```

use super::{Counts, ItemScore};

/// Scores one item; the counts stand under the gold answer's name.
pub fn score(gold: &str, predicted: Option<&str>) -> ItemScore {
    let right = predicted == Some(gold);
    let counts = Counts {
        true_positives: u64::from(right),
        false_positives: u64::from(!right),
        false_negatives: u64::from(!right),
    };
    ItemScore { per_type: [(gold.to_owned(), counts)].into() }
}
