//! The report as Markdown.

use super::{BenchmarkReport, EvalReport, TypeScore, interval, percent, systems};

pub(super) fn render(report: &EvalReport) -> String {
    let mut text = format!("# Evaluation 评测: {}\n\n", cell(&report.model));
    let adapter =
        report.adapter.as_ref().map_or(String::new(), |adapter| format!(", adapter `{}`", cell(adapter)));
    text.push_str(&format!(
        "{}{adapter}; {:.0} s. Scores in percent 百分数; intervals are 95 % bootstrap over items ({} resamples, seed {}).\n\n",
        report.program, report.seconds, report.resamples, report.seed
    ));
    text.push_str("## Scores 成绩\n\n");
    let systems = systems(&report.benchmarks);
    let mut header = vec!["Benchmark 测试集", "Metric 指标", "Ours 本模型", "95 %", "Trivial 平凡基线"];
    header.extend(&systems);
    header.push("Specialised 专用模型");
    table(&mut text, &header, report.benchmarks.iter().map(|benchmark| benchmark.overview(&systems)));
    for benchmark in &report.benchmarks {
        section(&mut text, benchmark);
    }
    text.push_str("Model output; not medical advice. 模型生成内容，不构成医疗建议。\n");
    text
}

fn section(text: &mut String, benchmark: &BenchmarkReport) {
    text.push_str(&format!("## {}\n\n", cell(&benchmark.display_name)));
    for fact in benchmark.facts() {
        text.push_str(&format!("- {}\n", cell(&fact)));
    }
    text.push('\n');
    let header = ["Score 成绩", "Value 值", "95 %", "Precision 精确率", "Recall 召回率"];
    table(text, &header, benchmark.score_rows());
    table(text, &TYPE_HEADER, benchmark.type_rows());
    if !benchmark.published.is_empty() {
        let rows = benchmark.published.iter();
        let rows = rows.map(|one| vec![one.system.clone(), percent(one.score), one.source.clone()]);
        table(text, &["Published 已发表", "Score 成绩", "Source 出处"], rows);
    }
}

pub(super) const TYPE_HEADER: [&str; 7] =
    ["Type 类别", "Precision 精确率", "Recall 召回率", "F1", "TP", "FP", "FN"];

impl BenchmarkReport {
    /// A row per type: its name, with the readable one where that says more, and its scores.
    pub(super) fn type_rows(&self) -> Vec<Vec<String>> {
        let named = |name: &str| match self.readable_types.get(name) {
            Some(readable) if !readable.eq_ignore_ascii_case(name) => format!("{name} ({readable})"),
            _ => name.to_owned(),
        };
        let row = |(name, score): &(String, TypeScore)| {
            vec![
                named(name),
                percent(score.precision),
                percent(score.recall),
                percent(score.f1),
                score.counts.true_positives.to_string(),
                score.counts.false_positives.to_string(),
                score.counts.false_negatives.to_string(),
            ]
        };
        self.per_type.iter().map(row).collect()
    }

    /// A row per metric of ours, then one per baseline and metric.
    pub(super) fn score_rows(&self) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = Vec::new();
        for metric in &self.scores {
            rows.push(vec![
                metric.metric.name().to_owned(),
                percent(metric.score),
                interval(metric.interval),
                percent(metric.all.precision),
                percent(metric.all.recall),
            ]);
        }
        let dash = || "–".to_owned();
        for baseline in &self.baselines {
            for (metric, score) in &baseline.scores {
                let name = format!("{}, {metric}", baseline.name);
                let expected =
                    baseline.expected.map_or_else(dash, |value| format!("expected {}", percent(value)));
                rows.push(vec![name, percent(*score), expected, dash(), dash()]);
            }
        }
        rows
    }
}

fn table(text: &mut String, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    text.push_str(&line(header.iter().map(|name| cell(name)).collect()));
    let ruler = (0..header.len()).map(|at| if at == 0 { "---" } else { "---:" }.to_owned());
    text.push_str(&line(ruler.collect()));
    for row in rows {
        text.push_str(&line(row.iter().map(|value| cell(value)).collect()));
    }
    text.push('\n');
}

/// A text that breaks neither a table nor a line.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
