//! A report as one self-contained HTML page: no script, no network, readable on paper.

use taiyi_corpus::offsets::{CharSpan, TextIndex};

/// A page under construction.
pub struct Page {
    title: String,
    body: String,
}

/// An entity to highlight: its place and the name of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Highlight {
    /// Where, in code points of the text.
    pub span: CharSpan,
    /// Display name of the type.
    pub kind: String,
    /// How it compares with the gold.
    pub verdict: Verdict,
}

/// How a highlighted entity compares with the gold; each looks different without colours, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to compare with.
    #[default]
    Unknown,
    /// In gold and prediction.
    Right,
    /// In the prediction only.
    Wrong,
    /// In the gold only.
    Missed,
}

impl Highlight {
    /// An entity without a gold to compare with.
    pub fn new(span: CharSpan, kind: impl Into<String>) -> Self {
        Self { span, kind: kind.into(), verdict: Verdict::Unknown }
    }
}

impl Verdict {
    fn class(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Right => " class=\"right\"",
            Self::Wrong => " class=\"wrong\"",
            Self::Missed => " class=\"missed\"",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Right => " ✓",
            Self::Wrong => " ✗",
            Self::Missed => " ○",
        }
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: #6b6b6b; --good: #1b7a3d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --dim: #a0a0a0; --good: #6dd58c; --bad: #f2b8b5; } }
body { font: 16px/1.6 system-ui, 'Noto Sans', 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif;
  max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.8rem; line-height: 1.25; margin-bottom: .2rem; }
h2 { font-size: 1.3rem; margin-top: 2.6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .3rem; }
.lead { color: var(--dim); margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; word-break: keep-all; } tr.best td { font-weight: 600; }
figure { margin: 1.2rem 0; } figure svg { max-width: 100%; height: auto; background: #fff; border-radius: 8px; border: 1px solid var(--line); }
figcaption, .note { color: var(--dim); font-size: .88rem; } ul.facts { color: var(--dim); font-size: .88rem; padding-left: 1.2rem; }
.sample { border-left: 3px solid var(--line); padding: .45rem .9rem; margin: .8rem 0; background: var(--soft); border-radius: 0 6px 6px 0; line-height: 1.95; overflow-wrap: anywhere; }
.sample .who { color: var(--dim); font-size: .82rem; line-height: 1.5; }
mark { border-radius: 4px; padding: .08rem .25rem; color: inherit; border-bottom: 2px solid transparent; }
mark small { opacity: .8; margin-left: .3rem; font-size: .72em; }
mark.right { border-bottom: 2px solid var(--good); } mark.wrong { border-bottom: 2px dashed var(--bad); }
mark.missed { border-bottom: 3px dotted currentColor; background: none !important; }
.good { color: var(--good); } .bad { color: var(--bad); }
pre { background: var(--soft); padding: .7rem .9rem; overflow-x: auto; border-radius: 6px; white-space: pre-wrap; }
.warn { border: 1px solid var(--bad); border-radius: 6px; padding: .5rem .9rem; }
.notice { color: var(--dim); font-size: .88rem; border-top: 1px solid var(--line); margin-top: 3rem; padding-top: .6rem; }
@media print { body { margin: 0; max-width: none; } figure, .sample, tr { break-inside: avoid; } }
";

/// Backgrounds of highlighted types, told apart also by their printed names.
const COLOURS: [&str; 8] =
    ["#ffcc8088", "#90caf988", "#a5d6a788", "#f48fb188", "#ce93d888", "#80deea88", "#e6ee9c88", "#bcaaa488"];

impl Page {
    /// A page with a title and a line under it.
    pub fn new(title: &str, lead: &str) -> Self {
        let mut page = Self { title: title.to_owned(), body: String::new() };
        page.element("h1", "", title);
        page.element("p", " class=\"lead\"", lead);
        page
    }

    fn element(&mut self, tag: &str, attributes: &str, text: &str) {
        self.body.push_str(&format!("<{tag}{attributes}>{}</{tag}>\n", escape(text)));
    }

    /// A section's heading.
    pub fn heading(&mut self, text: &str) {
        self.element("h2", "", text);
    }

    /// A heading inside a section.
    pub fn subheading(&mut self, text: &str) {
        self.element("h3", "", text);
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.element("p", "", text);
    }

    /// A small remark.
    pub fn note(&mut self, text: &str) {
        self.element("p", " class=\"note\"", text);
    }

    /// A list of small remarks.
    pub fn notes(&mut self, texts: &[String]) {
        self.body.push_str("<ul class=\"facts\">\n");
        for text in texts {
            self.element("li", "", text);
        }
        self.body.push_str("</ul>\n");
    }

    /// A paragraph that must not be overlooked.
    pub fn warning(&mut self, text: &str) {
        self.element("p", " class=\"warn\"", text);
    }

    /// Preformatted text.
    pub fn code(&mut self, text: &str) {
        self.element("pre", "", text);
    }

    /// A table; the first column is text, the others are numbers. Rows in `best` are emphasised. A cell that starts
    /// with ✓ or ✗ gets its colour.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>], best: &[usize]) {
        self.body.push_str("<div class=\"wide\"><table>\n<tr>");
        for cell in header {
            self.body.push_str(&format!("<th>{}</th>", escape(cell)));
        }
        self.body.push_str("</tr>\n");
        for (at, row) in rows.iter().enumerate() {
            self.body.push_str(if best.contains(&at) { "<tr class=\"best\">" } else { "<tr>" });
            for cell in row {
                let class = match cell.chars().next() {
                    Some('✓') => " class=\"good\"",
                    Some('✗') => " class=\"bad\"",
                    _ => "",
                };
                self.body.push_str(&format!("<td{class}>{}</td>", escape(cell)));
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</table></div>\n");
    }

    /// A figure: SVG text made by this crate, and its caption.
    pub fn figure(&mut self, svg: &str, caption: &str) {
        self.body.push_str(&format!("<figure>{svg}<figcaption>{}</figcaption></figure>\n", escape(caption)));
    }

    /// A text under a line that says whose it is; line breaks are kept.
    pub fn quoted(&mut self, who: &str, text: &str) {
        let html = escape(text).replace('\n', "<br>");
        self.body.push_str(&format!(
            "<div class=\"sample\"><div class=\"who\">{}</div>{html}</div>\n",
            escape(who)
        ));
    }

    /// A text with its entities highlighted, under a line that says who found them. An entity inside another is drawn
    /// inside it; of two that cross, the first is drawn.
    pub fn highlighted(&mut self, who: &str, text: &str, highlights: &[Highlight]) {
        let mut kinds: Vec<&str> = highlights.iter().map(|highlight| highlight.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut order: Vec<&Highlight> =
            highlights.iter().filter(|highlight| !highlight.span.is_empty()).collect();
        order.sort_by_key(|highlight| (highlight.span.start, std::cmp::Reverse(highlight.span.end)));
        let index = TextIndex::new(text);
        let mut html = String::new();
        let mut at = 0;
        // The marks that are open, outermost first: where each ends and what stands before its end.
        let mut open: Vec<(usize, String)> = Vec::new();
        let mut upto = |html: &mut String, open: &mut Vec<(usize, String)>, position: usize| {
            while let Some((end, closing)) = open.pop_if(|(end, _)| *end <= position) {
                html.push_str(&escape(&text[at..end]));
                html.push_str(&closing);
                at = end;
            }
            html.push_str(&escape(&text[at..position]));
            at = position;
        };
        for highlight in order {
            let Some(bytes) = index.bytes(highlight.span) else { continue };
            upto(&mut html, &mut open, bytes.start);
            if open.last().is_some_and(|(end, _)| *end < bytes.end) {
                continue;
            }
            let colour =
                COLOURS[kinds.iter().position(|kind| *kind == highlight.kind).unwrap_or(0) % COLOURS.len()];
            html.push_str(&format!("<mark{} style=\"background:{colour}\">", highlight.verdict.class()));
            let closing =
                format!("<small>{}{}</small></mark>", escape(&highlight.kind), highlight.verdict.sign());
            open.push((bytes.end, closing));
        }
        upto(&mut html, &mut open, text.len());
        self.body.push_str(&format!(
            "<div class=\"sample\"><div class=\"who\">{}</div>{html}</div>\n",
            escape(who)
        ));
    }

    /// The whole page.
    pub fn render(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n{}\
             <p class=\"notice\">Model output; not medical advice. 模型生成内容，不构成医疗建议。</p>\n</body>\n</html>\n",
            escape(&self.title),
            self.body
        )
    }
}

/// Escapes text for HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn highlight(start: usize, end: usize, kind: &str) -> Highlight {
        Highlight::new(CharSpan::new(start, end), kind)
    }

    fn marked(text: &str, highlights: &[Highlight]) -> String {
        let mut page = Page::new("t", "l");
        page.highlighted("model", text, highlights);
        let html = page.render();
        let from = html.find("model</div>").unwrap() + "model</div>".len();
        html[from..from + html[from..].find("</div>").unwrap()]
            .replace(" style=\"background:", " \"")
            .replace('"', "")
    }

    #[test]
    fn highlights_are_marked_and_text_is_escaped() {
        let html = marked("患者<高血压>三年", &[highlight(3, 6, "疾病")]);
        assert_eq!(html, "患者&lt;<mark #ffcc8088>高血压<small>疾病</small></mark>&gt;三年");
        assert!(Page::new("a <b>", "lead").render().contains("<h1>a &lt;b&gt;</h1>"));
    }

    #[test]
    fn an_entity_inside_another_is_drawn_inside_and_a_crossing_one_is_not() {
        let nested = [highlight(0, 4, "a"), highlight(0, 2, "b"), highlight(2, 4, "b"), highlight(3, 6, "c")];
        let html = marked("0123456", &nested);
        let a = "<mark #ffcc8088><mark #90caf988>01<small>b</small></mark><mark #90caf988>23<small>b</small></mark><small>a</small></mark>456";
        assert_eq!(html, a);
    }

    #[test]
    fn verdicts_differ_by_sign_and_line_not_by_colour_alone() {
        let with = |verdict| marked("x", &[Highlight { verdict, ..highlight(0, 1, "k") }]);
        assert!(with(Verdict::Right).contains("class=right") && with(Verdict::Right).contains("k ✓"));
        assert!(with(Verdict::Wrong).contains("class=wrong") && with(Verdict::Wrong).contains("k ✗"));
        assert!(with(Verdict::Missed).contains("class=missed") && with(Verdict::Missed).contains("k ○"));
    }

    #[test]
    fn spans_past_the_end_are_left_out() {
        assert_eq!(marked("abc", &[highlight(2, 9, "k"), highlight(5, 4, "k")]), "abc");
    }
}
