//! A report as one self-contained HTML page: no script, no network, readable on paper.

use taiyi_corpus::offsets::{CharSpan, TextIndex};

/// A page under construction.
pub struct Page {
    title: String,
    body: String,
}

/// An entity to highlight: its place and the name of its type.
pub struct Highlight {
    /// Where, in code points of the text.
    pub span: CharSpan,
    /// Display name of the type.
    pub kind: String,
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #1565c0; }
body { font: 16px/1.55 system-ui, 'Noto Sans', 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
.lead { color: #777; margin-top: 0; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
th { font-weight: 600; } tr.best td { font-weight: 600; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { color: #777; font-size: .9rem; }
.sample { border-left: 3px solid var(--line); padding: .3rem .9rem; margin: .8rem 0; background: var(--soft); }
.sample .who { color: #777; font-size: .85rem; }
mark { border-radius: 4px; padding: .05rem .25rem; color: inherit; }
mark small { opacity: .75; margin-left: .3rem; }
pre { background: var(--soft); padding: .7rem .9rem; overflow-x: auto; border-radius: 6px; white-space: pre-wrap; }
.warn { border: 1px solid #c62828; border-radius: 6px; padding: .5rem .9rem; }
.notice { color: #777; font-size: .9rem; border-top: 1px solid var(--line); margin-top: 3rem; padding-top: .6rem; }
";

/// Backgrounds of highlighted types, told apart also by their printed names.
const COLOURS: [&str; 8] =
    ["#ffcc8088", "#90caf988", "#a5d6a788", "#f48fb188", "#ce93d888", "#80deea88", "#e6ee9c88", "#bcaaa488"];

impl Page {
    /// A page with a title and a line under it.
    pub fn new(title: &str, lead: &str) -> Self {
        let mut page = Self { title: title.to_owned(), body: String::new() };
        page.body.push_str(&format!("<h1>{}</h1>\n<p class=\"lead\">{}</p>\n", escape(title), escape(lead)));
        page
    }

    /// A section's heading.
    pub fn heading(&mut self, text: &str) {
        self.body.push_str(&format!("<h2>{}</h2>\n", escape(text)));
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.body.push_str(&format!("<p>{}</p>\n", escape(text)));
    }

    /// A paragraph that must not be overlooked.
    pub fn warning(&mut self, text: &str) {
        self.body.push_str(&format!("<p class=\"warn\">{}</p>\n", escape(text)));
    }

    /// Preformatted text.
    pub fn code(&mut self, text: &str) {
        self.body.push_str(&format!("<pre>{}</pre>\n", escape(text)));
    }

    /// A table; the first column is text, the others are numbers. Rows in `best` are emphasised.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>], best: &[usize]) {
        self.body.push_str("<table>\n<tr>");
        for cell in header {
            self.body.push_str(&format!("<th>{}</th>", escape(cell)));
        }
        self.body.push_str("</tr>\n");
        for (at, row) in rows.iter().enumerate() {
            self.body.push_str(if best.contains(&at) { "<tr class=\"best\">" } else { "<tr>" });
            for cell in row {
                self.body.push_str(&format!("<td>{}</td>", escape(cell)));
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</table>\n");
    }

    /// A figure: SVG text made by this crate, and its caption.
    pub fn figure(&mut self, svg: &str, caption: &str) {
        self.body.push_str(&format!("<figure>{svg}<figcaption>{}</figcaption></figure>\n", escape(caption)));
    }

    /// A text with its entities highlighted, under a line that says who found them.
    pub fn highlighted(&mut self, who: &str, text: &str, highlights: &[Highlight]) {
        let mut kinds: Vec<&str> = highlights.iter().map(|highlight| highlight.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut order: Vec<&Highlight> = highlights.iter().collect();
        order.sort_by_key(|highlight| (highlight.span.start, std::cmp::Reverse(highlight.span.end)));
        let index = TextIndex::new(text);
        let mut html = String::new();
        let mut at = 0;
        for highlight in order {
            // Marks cannot overlap; the longer of two overlapping entities is drawn.
            let Some(bytes) = index.bytes(highlight.span) else { continue };
            if bytes.start < at {
                continue;
            }
            let colour =
                COLOURS[kinds.iter().position(|kind| *kind == highlight.kind).unwrap_or(0) % COLOURS.len()];
            html.push_str(&escape(&text[at..bytes.start]));
            html.push_str(&format!(
                "<mark style=\"background:{colour}\">{}<small>{}</small></mark>",
                escape(&text[bytes.start..bytes.end]),
                escape(&highlight.kind)
            ));
            at = bytes.end;
        }
        html.push_str(&escape(&text[at..]));
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

    #[test]
    fn highlights_are_marked_and_text_is_escaped() {
        let mut page = Page::new("a <b>", "lead");
        let highlight =
            |start, end, kind: &str| Highlight { span: CharSpan::new(start, end), kind: kind.into() };
        page.highlighted("model", "患者<高血压>三年", &[highlight(3, 6, "疾病"), highlight(4, 6, "部位")]);
        let html = page.render();
        assert!(
            html.contains(
                "患者&lt;<mark style=\"background:#90caf988\">高血压<small>疾病</small></mark>&gt;三年"
            ),
            "{html}"
        );
        assert!(html.contains("<h1>a &lt;b&gt;</h1>"));
    }
}
