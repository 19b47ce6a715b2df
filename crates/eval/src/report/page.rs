//! The report as an HTML page.

use super::example::{self, Example, Problem};
use super::figures::{Bar, BarKind, DotRow, dots, ranking};
use super::html::Page;
use super::markdown::TYPE_HEADER;
use super::{BenchmarkReport, EvalReport, percent, systems};
use crate::error::EvalError;
use crate::items::Items;
use crate::predictions::Given;
use crate::score::Scored;

pub(super) fn render(report: &EvalReport) -> Result<String, EvalError> {
    let adapter = report.adapter.as_ref().map_or(String::new(), |adapter| format!(" + {adapter}"));
    let mut page = Page::new(
        "Evaluation 评测",
        &format!("{}{adapter} · {} · {:.0} s", report.model, report.program, report.seconds),
    );
    page.heading("Scores 成绩");
    let systems = systems(&report.benchmarks);
    let mut header = vec!["Benchmark 测试集", "Metric 指标", "Ours 本模型", "95 %", "Trivial 平凡基线"];
    header.extend(&systems);
    header.push("Specialised 专用模型");
    let rows: Vec<Vec<String>> = report
        .benchmarks
        .iter()
        .map(|benchmark| {
            let mut cells = benchmark.overview(&systems);
            benchmark.metric.display_name().clone_into(&mut cells[1]);
            cells
        })
        .collect();
    page.table(&header, &rows, &[]);
    page.note(&format!(
        "Percent 百分数. Intervals are 95 % bootstrap over items ({} resamples, seed {}). Trivial: the best of the baselines \
         that need no model. Published scores are those of the named sources and not measured here. \
         区间为按条目自助法的 95 % 区间；已发表成绩引自所列出处，并非本次测得。",
        report.resamples, report.seed
    ));
    if report.benchmarks.len() > 1 {
        page.figure(
            &overview(report, &systems)?,
            "Ours with its interval beside published scores. 本模型成绩及区间与已发表成绩。",
        );
    }
    for benchmark in &report.benchmarks {
        section(&mut page, benchmark)?;
    }
    Ok(page.render())
}

fn overview(report: &EvalReport, systems: &[&str]) -> Result<String, EvalError> {
    let mut series = systems.to_vec();
    series.push("best specialised 最佳专用模型");
    let rows: Vec<DotRow> = report
        .benchmarks
        .iter()
        .map(|benchmark| {
            let mut values: Vec<Option<f64>> =
                systems.iter().map(|system| benchmark.published_by(system)).collect();
            values.push(benchmark.best_specialised().map(|(_, score)| score));
            DotRow {
                name: benchmark.display_name.clone(),
                ours: (benchmark.score, benchmark.interval),
                values,
            }
        })
        .collect();
    Ok(dots("score, percent 成绩（%）", "ours 本模型", &series, &rows)?)
}

fn section(page: &mut Page, benchmark: &BenchmarkReport) -> Result<(), EvalError> {
    page.heading(&benchmark.display_name);
    if benchmark.missing > 0 {
        page.warning(&format!(
            "{} of {} items have no prediction and count as empty. {0} 条没有预测，按空计。",
            benchmark.missing, benchmark.items
        ));
    }
    let header = ["Score 成绩", "Value 值", "95 %", "Precision 精确率", "Recall 召回率"];
    page.table(&header, &benchmark.score_rows(), &[0]);
    let mut bars = vec![Bar {
        name: "ours 本模型".to_owned(),
        value: benchmark.score,
        interval: Some(benchmark.interval),
        kind: BarKind::Ours,
    }];
    let plain =
        |name: &str, value: f64, kind: BarKind| Bar { name: name.to_owned(), value, interval: None, kind };
    bars.extend(benchmark.baselines.iter().map(|one| plain(&one.name, one.score, BarKind::Baseline)));
    bars.extend(benchmark.published.iter().map(|one| plain(&one.system, one.score, BarKind::Published)));
    let svg = ranking(&format!("{}, percent 成绩（%）", benchmark.metric.name()), &bars)?;
    let mut sources: Vec<&str> = benchmark.published.iter().map(|one| one.source.as_str()).collect();
    sources.dedup();
    sources.sort_unstable();
    sources.dedup();
    let caption = if sources.is_empty() {
        "Ours, then trivial baselines (grey). 本模型；灰色为平凡基线。".to_owned()
    } else {
        format!(
            "Ours with its interval, trivial baselines (grey), published scores (pale): {}. 本模型及区间；灰色为平凡基线；浅色为已发表成绩。",
            sources.join("; ")
        )
    };
    page.figure(&svg, &caption);
    if benchmark.per_type.len() > 1 {
        page.subheading(&format!("Per type 分类别 ({})", benchmark.metric.name()));
        let rows: Vec<Vec<String>> = benchmark.type_rows();
        page.table(&TYPE_HEADER, &rows, &[]);
    }
    page.notes(&benchmark.facts());
    let baselines: Vec<String> = benchmark
        .baselines
        .iter()
        .map(|one| format!("{} ({}): {}", one.name, percent(one.score), one.description))
        .collect();
    page.notes(&baselines);
    if !benchmark.examples.is_empty() {
        page.subheading("Examples 示例");
        add_chosen(page, &benchmark.examples);
    }
    Ok(())
}

/// Adds to a page: a few items with what is right and what was replied, telling ones first.
pub fn add_examples(page: &mut Page, set: &Items, given: &[Option<Given>], scored: &Scored) {
    add_chosen(page, &example::choose(set, given, scored));
}

fn add_chosen(page: &mut Page, examples: &[Example]) {
    if examples.iter().any(|example| example.gold_spans.is_some()) {
        page.note(
            "✓ solid line: right. ✗ dashed line: predicted, but not in the gold. ○ dotted line: missed. \
             ✓ 实线：正确；✗ 虚线：误报；○ 点线：漏报。",
        );
    }
    for example in examples {
        add_example(page, example);
    }
}

/// Adds an example: gold and prediction one under the other.
fn add_example(page: &mut Page, example: &Example) {
    let unreadable = match &example.problem {
        None => String::new(),
        Some(Problem::Missing) => " · ✗ no prediction 无预测".to_owned(),
        Some(Problem::Unparsable(why)) => format!(" · ✗ unparsable 无法解析: {why}"),
    };
    match (&example.gold_spans, &example.predicted_spans) {
        (Some(gold), Some(predicted)) => {
            page.highlighted(&format!("{} · gold 标准答案", example.id), &example.text, gold);
            let mut who = format!("{} · predicted 预测{unreadable}", example.id);
            if !example.unfound.is_empty() {
                let strings: Vec<String> =
                    example.unfound.iter().map(|(kind, text)| format!("{text} ({kind})")).collect();
                who.push_str(&format!(" · ✗ not in the text 不在原文中: {}", strings.join("; ")));
            }
            match &example.problem {
                Some(Problem::Unparsable(_)) => page.quoted(&who, &example.reply),
                _ => page.highlighted(&who, &example.text, predicted),
            }
        }
        _ => {
            let sign = match (&example.problem, example.right) {
                (Some(_), _) => unreadable.trim_start_matches(" · "),
                (None, true) => "✓ right 正确",
                (None, false) => "✗ wrong 有误",
            };
            let text = format!(
                "{}\n→ gold 标准答案: {}\n→ predicted 预测: {}",
                example.text, example.gold, example.reply
            );
            page.quoted(&format!("{} · {sign}", example.id), &text);
        }
    }
}
