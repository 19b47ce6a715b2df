//! Metrics. Each compares the gold and the prediction of one item and gives [`Counts`] per type; a corpus score is
//! the micro-F1 of the sums. A metric is one file and one line here.

pub mod accuracy;
pub mod label_micro_f1;
pub mod strict_micro_f1;
pub mod surface_micro_f1;
pub mod triple_micro_f1;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// A metric's name; it holds the matching rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Entities by span and type; replies projected onto the text.
    StrictMicroF1,
    /// Entities by distinct string and type, per document.
    SurfaceMicroF1,
    /// Relations by the strings of head and tail and the relation's type, per document.
    TripleMicroF1,
    /// Labels, single or several per text.
    LabelMicroF1,
    /// Share of items answered with the right choice or label.
    Accuracy,
}

impl Metric {
    /// The name as reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StrictMicroF1 => "strict_micro_f1",
            Self::SurfaceMicroF1 => "surface_micro_f1",
            Self::TripleMicroF1 => "triple_micro_f1",
            Self::LabelMicroF1 => "label_micro_f1",
            Self::Accuracy => "accuracy",
        }
    }

    /// What is compared, in a sentence.
    pub fn rule(self) -> &'static str {
        match self {
            Self::StrictMicroF1 => {
                "An entity counts when span and type are those of the gold; every place of a string in the reply is taken, \
                 and a string that is not in the text is a false positive."
            }
            Self::SurfaceMicroF1 => {
                "Distinct strings per document and type are compared, without regard to case and spacing."
            }
            Self::TripleMicroF1 => {
                "A relation counts when type, head and tail are those of the gold; any name of a concept counts."
            }
            Self::LabelMicroF1 => "Labels per text are compared.",
            Self::Accuracy => "The share of items with the right answer; an unanswered one is wrong.",
        }
    }

    /// The name in a table for people.
    pub fn display_name(self) -> &'static str {
        match self {
            Self::StrictMicroF1 => "strict F1",
            Self::SurfaceMicroF1 => "surface F1",
            Self::TripleMicroF1 => "triple F1",
            Self::LabelMicroF1 => "label F1",
            Self::Accuracy => "accuracy",
        }
    }
}

/// What was found, what was found wrongly, what was missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// In gold and prediction.
    pub true_positives: u64,
    /// In the prediction only.
    pub false_positives: u64,
    /// In gold only.
    pub false_negatives: u64,
}

impl Counts {
    /// TP / (TP + FP); 0 where nothing was predicted.
    pub fn precision(&self) -> f64 {
        ratio(self.true_positives, self.true_positives + self.false_positives)
    }

    /// TP / (TP + FN); 0 where there is no gold.
    pub fn recall(&self) -> f64 {
        ratio(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// 2 TP / (2 TP + FP + FN); 1 where there is neither gold nor prediction.
    ///
    /// ```
    /// let counts = taiyi_eval::metrics::Counts { true_positives: 3, false_positives: 1, false_negatives: 2 };
    /// assert!((counts.f1() - 2.0 * 3.0 / (2.0 * 3.0 + 1.0 + 2.0)).abs() < 1e-12);
    /// ```
    pub fn f1(&self) -> f64 {
        if self.true_positives + self.false_positives + self.false_negatives == 0 {
            return 1.0;
        }
        ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.true_positives += other.true_positives;
        self.false_positives += other.false_positives;
        self.false_negatives += other.false_negatives;
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The score of one item: counts per type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Counts by entity type, relation type or label.
    pub per_type: BTreeMap<String, Counts>,
}

impl ItemScore {
    /// The counts over all types.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.per_type.values() {
            total += *counts;
        }
        total
    }
}

/// Sums the items' counts.
pub fn sum<'a>(items: impl IntoIterator<Item = &'a ItemScore>) -> ItemScore {
    let mut sum = ItemScore::default();
    for item in items {
        for (kind, counts) in &item.per_type {
            *sum.per_type.entry(kind.clone()).or_default() += *counts;
        }
    }
    sum
}

/// Compares two sets of typed things: the rule every micro-F1 here shares.
fn compare_sets<T: Ord>(gold: &BTreeSet<T>, predicted: &BTreeSet<T>, kind: impl Fn(&T) -> &str) -> ItemScore {
    let mut score = ItemScore::default();
    let mut count =
        |thing: &T, add: Counts| *score.per_type.entry(kind(thing).to_owned()).or_default() += add;
    for thing in gold {
        if predicted.contains(thing) {
            count(thing, Counts { true_positives: 1, ..Counts::default() });
        } else {
            count(thing, Counts { false_negatives: 1, ..Counts::default() });
        }
    }
    for thing in predicted.difference(gold) {
        count(thing, Counts { false_positives: 1, ..Counts::default() });
    }
    score
}
