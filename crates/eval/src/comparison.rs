//! Before against after: what fine-tuning brought on one task, beside what is trivial.

use serde::{Serialize, Serializer};
use taiyi_instruct::Ask;

use crate::baselines::ScoredBaseline;
use crate::bootstrap;
use crate::error::EvalError;
use crate::items::Items;
use crate::metrics::Metric;
use crate::report::figures::{BarGroup, Curve, bars, lines};
use crate::report::html::Page;
use crate::report::percent;
use crate::score::{Scored, Scores};

/// One task, scored before and after training on the same items. Scores are fractions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The task's id, such as the dataset's.
    pub id: String,
    /// Its readable name.
    pub display_name: String,
    /// Language of the texts.
    pub language: String,
    /// The task's code: `NER`, `TC`, …
    pub task: String,
    /// The metric.
    pub metric: Metric,
    /// The best trivial baseline's score.
    pub trivial: f64,
    /// What that baseline is.
    pub trivial_name: String,
    /// The base model's score.
    pub before: f64,
    /// The tuned model's score.
    pub after: f64,
    /// 95 % paired bootstrap interval of `after` minus the better of `before` and `trivial`.
    #[serde(serialize_with = "as_list")]
    pub interval: (f64, f64),
    /// Which of the two `after` is compared with: `before` or `trivial`.
    pub compared_with: &'static str,
    /// Items that were scored.
    pub items: usize,
    /// Replies of the base model that could not be parsed.
    pub unparsable_before: usize,
    /// Replies of the tuned model that could not be parsed.
    pub unparsable_after: usize,
}

fn as_list<S: Serializer>(pair: &(f64, f64), serializer: S) -> Result<S::Ok, S::Error> {
    [pair.0, pair.1].serialize(serializer)
}

impl Comparison {
    /// Compares scores of the same items by their main metric.
    ///
    /// # Errors
    /// When one of them is not scored by that metric, or not on these items.
    pub fn new(
        id: &str,
        display_name: &str,
        set: &Items,
        baselines: &[ScoredBaseline],
        before: &Scored,
        after: &Scored,
        seed: u64,
    ) -> Result<Self, EvalError> {
        let wrong = |message: &str| EvalError::Benchmark { id: id.to_owned(), message: message.to_owned() };
        let metric =
            after.scores.first().map(|scores| scores.metric).ok_or_else(|| wrong("no metric was scored"))?;
        let scores = |scored: &Scored| -> Result<Scores, EvalError> {
            let scores = scored.of(metric).ok_or_else(|| wrong("the scores are not by the same metric"))?;
            if scores.items.len() == set.items.len() {
                Ok(scores.clone())
            } else {
                Err(wrong("the scores are not of the same items"))
            }
        };
        let (before_scores, after_scores) = (scores(before)?, scores(after)?);
        let mut trivial: Option<(&str, Scores)> = None;
        for baseline in baselines {
            let scores = scores(&baseline.scored)?;
            if trivial.as_ref().is_none_or(|(_, best)| scores.value() > best.value()) {
                trivial = Some((baseline.name, scores));
            }
        }
        let against_trivial = trivial
            .as_ref()
            .filter(|(_, scores)| scores.value() > before_scores.value())
            .map(|(_, scores)| scores);
        let better = against_trivial.unwrap_or(&before_scores);
        Ok(Self {
            id: id.to_owned(),
            display_name: display_name.to_owned(),
            language: set.language.code().to_owned(),
            task: task_code(set.ask).to_owned(),
            metric,
            trivial: trivial.as_ref().map_or(0.0, |(_, scores)| scores.value()),
            trivial_name: trivial.as_ref().map_or("none", |(name, _)| name).to_owned(),
            before: before_scores.value(),
            after: after_scores.value(),
            interval: bootstrap::paired_interval(&better.items, &after_scores.items, seed),
            compared_with: if against_trivial.is_some() { "trivial" } else { "before" },
            items: set.items.len(),
            unparsable_before: before.unparsable().values().sum(),
            unparsable_after: after.unparsable().values().sum(),
        })
    }

    /// Whether the whole interval is above zero.
    pub fn improved(&self) -> bool {
        self.interval.0 > 0.0
    }
}

fn task_code(ask: Ask) -> &'static str {
    match ask {
        Ask::Ner | Ask::NerOne => "NER",
        Ask::Re | Ask::ReOne => "RE",
        Ask::Tc => "TC",
        Ask::Tp => "TP",
        Ask::Qa => "QA",
        Ask::Mrd => "MRD",
        Ask::Mt => "MT",
    }
}

/// Adds to a page: the scores before and after training, as a table and a figure.
///
/// # Errors
/// When the figure cannot be drawn.
pub fn add_scores(page: &mut Page, comparisons: &[Comparison]) -> Result<(), EvalError> {
    page.heading("Scores before and after 微调前后的成绩");
    let header = [
        "Task 任务",
        "Metric 指标",
        "Items 条数",
        "Trivial 平凡基线",
        "Before 微调前",
        "After 微调后",
        "Gain 95 % 提升区间",
        "",
    ];
    let rows: Vec<Vec<String>> = comparisons
        .iter()
        .map(|one| {
            vec![
                format!("{} ({}, {})", one.display_name, one.task, one.language),
                one.metric.display_name().to_owned(),
                one.items.to_string(),
                percent(one.trivial),
                percent(one.before),
                percent(one.after),
                signed_interval(one.interval),
                if one.improved() {
                    "✓ better 更好".to_owned()
                } else {
                    "✗ not shown 未见提升".to_owned()
                },
            ]
        })
        .collect();
    page.table(&header, &rows, &[]);
    page.note(
        "Percent, on texts never trained on. Gain: 95 % paired bootstrap interval of after minus the better of before and \
         trivial. 百分数；评测文本从未参与训练。提升区间：微调后减去“微调前与平凡基线中较好者”的 95 % 配对自助区间。",
    );
    let groups: Vec<BarGroup> = comparisons
        .iter()
        .map(|one| BarGroup {
            name: one.display_name.clone(),
            values: vec![Some(one.trivial), Some(one.before), Some(one.after)],
        })
        .collect();
    let svg =
        bars("score, percent 成绩（%）", &["trivial 平凡基线", "before 微调前", "after 微调后"], &groups)?;
    page.figure(&svg, "Scores per task, percent. 各任务成绩（百分数）。");
    for one in comparisons {
        if one.unparsable_after > 0 {
            page.note(&format!(
                "{}: {} of {} replies of the tuned model could not be parsed and count as empty.",
                one.display_name, one.unparsable_after, one.items
            ));
        }
    }
    Ok(())
}

/// Adds to a page: the loss over steps, a curve for each stage.
///
/// # Errors
/// When the figure cannot be drawn.
pub fn add_losses(page: &mut Page, curves: &[Curve]) -> Result<(), EvalError> {
    page.heading("Training loss 训练损失");
    let svg = lines("step 步", "loss 损失", curves)?;
    page.figure(&svg, "Mean loss per learned token over the optimizer steps. 每个学习词元的平均损失。");
    Ok(())
}

fn signed_interval((low, high): (f64, f64)) -> String {
    format!("{:+.1} … {:+.1}", 100.0 * low, 100.0 * high)
}
