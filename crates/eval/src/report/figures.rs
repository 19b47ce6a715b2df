//! Figures as SVG. Series differ in colour and in place or shape, and every value is written beside its mark.

use std::fmt::Write;

use plotters::prelude::*;

use super::html::escape;

/// A curve: its name and its points.
pub struct Curve {
    /// Name in the legend.
    pub name: String,
    /// Points in order of x.
    pub points: Vec<(f64, f64)>,
}

/// A group of bars: its name, and a value for each series; `None` leaves a gap.
pub struct BarGroup {
    /// Name beside the group.
    pub name: String,
    /// One value per series, 0..=1.
    pub values: Vec<Option<f64>>,
}

/// A single bar.
pub struct Bar {
    /// Name beside it.
    pub name: String,
    /// Its value, 0..=1.
    pub value: f64,
    /// The interval around it.
    pub interval: Option<(f64, f64)>,
    /// What it is.
    pub kind: BarKind,
}

/// What a bar stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// The model that is reported.
    Ours,
    /// A trivial baseline.
    Baseline,
    /// A published score.
    Published,
}

/// A row of points: what was reached on one benchmark by several systems.
pub struct DotRow {
    /// Name beside the row.
    pub name: String,
    /// Our score and its interval.
    pub ours: (f64, (f64, f64)),
    /// A score per series; `None` where there is none.
    pub values: Vec<Option<f64>>,
}

/// Why a figure could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("a figure could not be drawn: {0}")]
pub struct FigureError(String);

/// Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008).
const PALETTE: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8d6e00"];
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
const GREY: &str = "#9aa0a6";
/// Bars of series that build on each other, such as trivial, before, after: from pale to strong.
const BARS: [&str; 6] = [GREY, "#8fc1e3", "#0072b2", "#d55e00", "#009e73", "#cc79a7"];
const WIDTH: f64 = 820.0;
const FONT: &str = "system-ui, 'Noto Sans', 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif";

/// Draws curves over a common axis, such as the loss of both stages over steps.
///
/// # Errors
/// When the drawing library refuses; not for empty input, which draws empty axes.
pub fn lines(x_name: &str, y_name: &str, curves: &[Curve]) -> Result<String, FigureError> {
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let finite = || points().filter(|(x, y)| x.is_finite() && y.is_finite());
    let x_max = finite().map(|(x, _)| x).fold(f64::NEG_INFINITY, f64::max);
    let x_max = if x_max.is_finite() { x_max } else { 1.0 };
    let x_min = finite().map(|(x, _)| x).fold(x_max, f64::min);
    let y_max = finite().map(|(_, y)| y).fold(0.0, f64::max).max(1e-9) * 1.05;
    let y_min = finite().map(|(_, y)| y).fold(y_max, f64::min).min(y_max) * 0.95;
    let mut svg = String::new();
    let draw = |svg: &mut String| -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (WIDTH as u32, 360)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .x_label_area_size(42)
            .y_label_area_size(58)
            .build_cartesian_2d(x_min..x_max.max(x_min + 1e-9), y_min..y_max.max(y_min + 1e-9))?;
        chart
            .configure_mesh()
            .x_desc(x_name)
            .y_desc(y_name)
            .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { format!("{x:.1}") })
            .axis_desc_style(("sans-serif", 14))
            .label_style(("sans-serif", 12))
            .bold_line_style(BLACK.mix(0.08))
            .light_line_style(TRANSPARENT)
            .axis_style(BLACK.mix(0.4))
            .draw()?;
        for (at, curve) in curves.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let points = curve.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(curve.name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        if !curves.is_empty() {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .label_font(("sans-serif", 13))
                .background_style(WHITE.mix(0.9))
                .border_style(BLACK.mix(0.15))
                .draw()?;
        }
        root.present()?;
        Ok(())
    };
    draw(&mut svg).map_err(|error| FigureError(error.to_string()))?;
    Ok(svg)
}

/// Draws groups of bars for several series, such as scores before and after training per task; a bar is a row, so that
/// names and values never stand on each other.
///
/// # Errors
/// When a value is not a fraction.
pub fn bars(x_name: &str, series: &[&str], groups: &[BarGroup]) -> Result<String, FigureError> {
    let bar = 17.0;
    let group_height = bar * series.len() as f64 + 16.0;
    let names = groups.iter().map(|group| group.name.as_str());
    let mut canvas = Canvas::new(names, Legend::Bars(series), group_height);
    for (at, group) in groups.iter().enumerate() {
        let top = canvas.top + group_height * at as f64;
        canvas.row_name(&group.name, top + group_height / 2.0, false);
        if at > 0 {
            canvas.rule(top);
        }
        for (place, value) in group.values.iter().take(series.len()).enumerate() {
            let Some(value) = value else { continue };
            let y = top + 8.0 + bar * place as f64;
            canvas.bar(
                y,
                bar - 3.0,
                fraction(*value)?,
                BARS[place % BARS.len()],
                None,
                place + 1 == series.len(),
            );
        }
    }
    Ok(canvas.finish(x_name))
}

/// Draws one bar a row: a score with its interval beside baselines and published scores.
///
/// # Errors
/// When a value is not a fraction.
pub fn ranking(x_name: &str, rows: &[Bar]) -> Result<String, FigureError> {
    let height = 25.0;
    let mut canvas = Canvas::new(rows.iter().map(|row| row.name.as_str()), Legend::None, height);
    for (at, row) in rows.iter().enumerate() {
        let top = canvas.top + height * at as f64;
        canvas.row_name(&row.name, top + height / 2.0, row.kind == BarKind::Ours);
        let colour = match row.kind {
            BarKind::Ours => PALETTE[0],
            BarKind::Baseline => GREY,
            BarKind::Published => "#b8cfe0",
        };
        let interval = match row.interval {
            Some((low, high)) => Some((fraction(low)?, fraction(high)?)),
            None => None,
        };
        canvas.bar(
            top + 4.0,
            height - 8.0,
            fraction(row.value)?,
            colour,
            interval,
            row.kind == BarKind::Ours,
        );
    }
    Ok(canvas.finish(x_name))
}

/// Draws a row per benchmark: our score with its interval, and a mark of another shape for each series.
///
/// # Errors
/// When a value is not a fraction.
pub fn dots(x_name: &str, ours: &str, series: &[&str], rows: &[DotRow]) -> Result<String, FigureError> {
    let height = 34.0;
    let mut legend = vec![ours];
    legend.extend(series);
    let mut canvas = Canvas::new(rows.iter().map(|row| row.name.as_str()), Legend::Marks(&legend), height);
    for (at, row) in rows.iter().enumerate() {
        let y = canvas.top + height * (at as f64 + 0.5);
        canvas.row_name(&row.name, y, false);
        canvas.rule(y);
        for (place, value) in row.values.iter().take(series.len()).enumerate() {
            if let Some(value) = value {
                let x = canvas.x(fraction(*value)?);
                canvas.mark(place + 1, x, y);
            }
        }
        let (value, (low, high)) = row.ours;
        let (x, low, high) =
            (canvas.x(fraction(value)?), canvas.x(fraction(low)?), canvas.x(fraction(high)?));
        let blue = PALETTE[0];
        let _ = writeln!(
            canvas.body,
            "<line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{blue}\" stroke-width=\"4\"/>"
        );
        canvas.mark(0, x, y);
        // Near the left end a centred value would stand on the row's name.
        let label_at = x.max(canvas.left + 14.0);
        let _ = writeln!(
            canvas.body,
            "<text x=\"{label_at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" font-weight=\"600\" fill=\"{blue}\">{:.1}</text>",
            y - 8.0,
            100.0 * value
        );
    }
    Ok(canvas.finish(x_name))
}

fn fraction(value: f64) -> Result<f64, FigureError> {
    // Half a percent of slack for sums of floating-point numbers.
    if (-0.005..=1.005).contains(&value) {
        Ok(value.clamp(0.0, 1.0))
    } else {
        Err(FigureError(format!("expected a score between 0 and 1, found {value}")))
    }
}

/// Rows over an axis from 0 to 100, names to the left, a legend above.
struct Canvas {
    body: String,
    left: f64,
    top: f64,
    bottom: f64,
}

const RIGHT: f64 = WIDTH - 46.0;

/// What explains the series.
enum Legend<'a> {
    None,
    Bars(&'a [&'a str]),
    Marks(&'a [&'a str]),
}

impl Canvas {
    fn new<'a>(names: impl Iterator<Item = &'a str>, legend: Legend, row_height: f64) -> Self {
        let (mut widest, mut rows) = (0.0_f64, 0);
        for name in names {
            widest = widest.max(text_width(name, 13.0));
            rows += 1;
        }
        let left = (widest + 26.0).clamp(90.0, 330.0);
        let mut canvas = Self { body: String::new(), left, top: 14.0, bottom: 0.0 };
        match legend {
            Legend::None => {}
            Legend::Bars(names) => canvas.legend(names, false),
            Legend::Marks(names) => canvas.legend(names, true),
        }
        canvas.bottom = canvas.top + row_height * f64::from(rows);
        canvas.grid();
        canvas
    }

    fn legend(&mut self, names: &[&str], marks: bool) {
        let (mut x, mut y) = (16.0, 20.0);
        for (at, name) in names.iter().enumerate() {
            let width = text_width(name, 12.0) + 34.0;
            if x + width > WIDTH - 10.0 && x > 16.0 {
                x = 16.0;
                y += 20.0;
            }
            if marks {
                self.mark(at, x + 6.0, y);
            } else {
                let colour = BARS[at % BARS.len()];
                let top = y - 5.5;
                let _ = writeln!(
                    self.body,
                    "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"12\" height=\"11\" rx=\"2\" fill=\"{colour}\"/>"
                );
            }
            let _ = writeln!(
                self.body,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\" fill=\"#333\">{}</text>",
                x + 17.0,
                y + 4.0,
                escape(name)
            );
            x += width;
        }
        self.top = y + 24.0;
    }

    fn x(&self, value: f64) -> f64 {
        self.left + value * (RIGHT - self.left)
    }

    fn grid(&mut self) {
        for tick in 0..=5 {
            let x = self.x(f64::from(tick) / 5.0);
            let _ = writeln!(
                self.body,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#e3e6e8\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#666\">{}</text>",
                self.top - 4.0,
                self.bottom + 4.0,
                self.bottom + 18.0,
                tick * 20
            );
        }
    }

    fn row_name(&mut self, name: &str, y: f64, strong: bool) {
        let weight = if strong { " font-weight=\"700\"" } else { "" };
        let width = text_width(name, 13.0);
        // A name that is too long is squeezed, not cut.
        let squeeze = if width > self.left - 20.0 {
            format!(" textLength=\"{:.0}\" lengthAdjust=\"spacingAndGlyphs\"", self.left - 20.0)
        } else {
            String::new()
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"13\" fill=\"#222\"{weight}{squeeze}>{}</text>",
            self.left - 10.0,
            y + 4.5,
            escape(name)
        );
    }

    fn rule(&mut self, y: f64) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" x2=\"{RIGHT:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e3e6e8\"/>",
            self.left
        );
    }

    fn bar(
        &mut self,
        y: f64,
        height: f64,
        value: f64,
        colour: &str,
        interval: Option<(f64, f64)>,
        strong: bool,
    ) {
        let end = self.x(value);
        let middle = y + height / 2.0;
        let _ = writeln!(
            self.body,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"2\" fill=\"{colour}\"/>",
            self.left,
            (end - self.left).max(1.0)
        );
        let mut label_at = end;
        if let Some((low, high)) = interval {
            let (low, high) = (self.x(low), self.x(high));
            label_at = label_at.max(high);
            let (above, below) = (middle - 4.0, middle + 4.0);
            let _ = writeln!(
                self.body,
                "<path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {above:.1}V{below:.1}M{high:.1} {above:.1}V{below:.1}\" stroke=\"#222\" stroke-width=\"1.4\" fill=\"none\"/>"
            );
        }
        let weight = if strong { " font-weight=\"700\"" } else { "" };
        let _ = writeln!(
            self.body,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11.5\" fill=\"#222\"{weight}>{:.1}</text>",
            label_at + 6.0,
            middle + 4.0,
            100.0 * value
        );
    }

    /// The mark of a series: colour and shape go together.
    fn mark(&mut self, series: usize, x: f64, y: f64) {
        let colour = PALETTE[series % PALETTE.len()];
        let shape = match series % 6 {
            0 => {
                format!("<path d=\"M{x:.1} {:.1}l5.5 5.5l-5.5 5.5l-5.5 -5.5z\" fill=\"{colour}\"/>", y - 5.5)
            }
            1 => format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.6\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            ),
            2 => format!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8.4\" height=\"8.4\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                x - 4.2,
                y - 4.2
            ),
            3 => format!(
                "<path d=\"M{x:.1} {:.1}l5 8.6h-10z\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                y - 5.2
            ),
            4 => format!(
                "<path d=\"M{x:.1} {:.1}l5 -8.6h-10z\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                y + 5.2
            ),
            _ => format!(
                "<path d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\"/>",
                x - 4.0,
                y - 4.0
            ),
        };
        self.body.push_str(&shape);
        self.body.push('\n');
    }

    fn finish(self, x_name: &str) -> String {
        let height = self.bottom + 46.0;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             font-family=\"{FONT}\">\n<rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#fff\"/>\n{}\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"12\" fill=\"#444\">{}</text>\n</svg>",
            self.body,
            (self.left + RIGHT) / 2.0,
            self.bottom + 37.0,
            escape(x_name)
        )
    }
}

/// About how wide a text is: Latin letters take half an em, Chinese characters a whole one.
fn text_width(text: &str, size: f64) -> f64 {
    text.chars().map(|c| if c.is_ascii() { 0.56 } else { 1.0 }).sum::<f64>() * size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_hold_their_names_and_survive_odd_input() {
        let curve = Curve { name: "stage 1".into(), points: vec![(1.0, 3.0), (2.0, f64::NAN), (3.0, 2.0)] };
        let svg = lines("step", "loss", &[curve]).unwrap();
        assert!(svg.contains("stage 1") && svg.contains("<polyline"));
        assert!(!svg.contains("NaN"));
        lines("step", "loss", &[]).unwrap();
        let group = BarGroup { name: "疾病 <1>".into(), values: vec![Some(0.5), None] };
        let svg = bars("F1", &["before", "after"], &[group]).unwrap();
        assert!(svg.contains("疾病 &lt;1&gt;") && svg.contains(">50.0<"));
        bars("F1", &[], &[]).unwrap();
        dots("F1", "ours", &[], &[]).unwrap();
    }

    #[test]
    fn a_bar_is_as_long_as_its_value_and_nonsense_is_refused() {
        let row = |value| Bar { name: "x".into(), value, interval: None, kind: BarKind::Published };
        let svg = ranking("F1", &[row(0.5)]).unwrap();
        // The axis runs from 90 to 774: half of it is 342.
        assert!(svg.contains("width=\"342.0\""), "{svg}");
        assert!(ranking("F1", &[row(50.0)]).is_err());
        assert!(ranking("F1", &[row(f64::NAN)]).is_err());
    }

    #[test]
    fn every_series_of_dots_has_a_mark_of_its_own() {
        let row = DotRow { name: "b".into(), ours: (0.4, (0.3, 0.5)), values: vec![Some(0.6), None] };
        let svg = dots("F1", "ours", &["one", "two"], &[row]).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2, "legend and point");
        assert_eq!(svg.matches("height=\"8.4\"").count(), 1, "legend alone");
        assert!(svg.contains(">40.0<"));
    }
}
