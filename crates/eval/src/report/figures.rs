//! Figures as SVG.

use plotters::prelude::*;

/// A curve: its name and its points.
pub struct Curve {
    /// Name in the legend.
    pub name: String,
    /// Points in order of x.
    pub points: Vec<(f64, f64)>,
}

/// A group of bars: its name, and a value for each series; `None` leaves a gap.
pub struct BarGroup {
    /// Name under the group.
    pub name: String,
    /// One value per series, 0..=1.
    pub values: Vec<Option<f64>>,
}

/// Why a figure could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("a figure could not be drawn: {0}")]
pub struct FigureError(String);

const COLOURS: [RGBColor; 6] = [
    RGBColor(21, 101, 192),
    RGBColor(239, 108, 0),
    RGBColor(46, 125, 50),
    RGBColor(173, 20, 87),
    RGBColor(106, 27, 154),
    RGBColor(84, 110, 122),
];

fn colour(at: usize) -> RGBColor {
    COLOURS[at % COLOURS.len()]
}

/// Draws curves over a common axis, such as the loss of both stages over steps.
///
/// # Errors
/// When the drawing library refuses; not for empty input, which draws empty axes.
pub fn lines(x_name: &str, y_name: &str, curves: &[Curve]) -> Result<String, FigureError> {
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let finite = || points().filter(|(x, y)| x.is_finite() && y.is_finite());
    let x_max = finite().map(|(x, _)| x).fold(1.0, f64::max);
    let x_min = finite().map(|(x, _)| x).fold(x_max, f64::min);
    let y_max = finite().map(|(_, y)| y).fold(0.0, f64::max).max(1e-9) * 1.05;
    let y_min = finite().map(|(_, y)| y).fold(y_max, f64::min).min(y_max) * 0.95;
    let mut svg = String::new();
    let draw = |svg: &mut String| -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (820, 360)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(38)
            .y_label_area_size(56)
            .build_cartesian_2d(x_min..x_max.max(x_min + 1e-9), y_min..y_max)?;
        chart.configure_mesh().x_desc(x_name).y_desc(y_name).light_line_style(WHITE).draw()?;
        for (at, curve) in curves.iter().enumerate() {
            let points = curve.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
            chart
                .draw_series(LineSeries::new(points, colour(at).stroke_width(2)))?
                .label(curve.name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour(at).stroke_width(2)));
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK.mix(0.2)).draw()?;
        root.present()?;
        Ok(())
    };
    draw(&mut svg).map_err(|error| FigureError(error.to_string()))?;
    Ok(svg)
}

/// Draws groups of bars for several series, such as scores before and after training per task.
///
/// # Errors
/// When the drawing library refuses.
pub fn bars(y_name: &str, series: &[&str], groups: &[BarGroup]) -> Result<String, FigureError> {
    let mut svg = String::new();
    let draw = |svg: &mut String| -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (820, 380)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(38)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..groups.len().max(1) as f64, 0.0..1.15)?;
        let name = |x: &f64| {
            let at = x.floor() as usize;
            if (x - at as f64 - 0.5).abs() < 1e-6 {
                groups.get(at).map(|g| g.name.clone()).unwrap_or_default()
            } else {
                String::new()
            }
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .y_desc(y_name)
            .light_line_style(WHITE)
            .y_label_formatter(&|y| if *y <= 1.001 { format!("{y:.1}") } else { String::new() })
            .draw()?;
        let width = 0.8 / series.len().max(1) as f64;
        for (at, label) in series.iter().enumerate() {
            let bars = groups.iter().enumerate().filter_map(|(group, bars)| {
                let value = bars.values.get(at).copied().flatten()?;
                let left = group as f64 + 0.1 + at as f64 * width;
                Some(Rectangle::new([(left, 0.0), (left + width * 0.92, value)], colour(at).filled()))
            });
            chart
                .draw_series(bars)?
                .label(*label)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour(at).filled()));
            let values = groups.iter().enumerate().filter_map(|(group, bars)| {
                let value = bars.values.get(at).copied().flatten()?;
                let left = group as f64 + 0.1 + at as f64 * width;
                Some(Text::new(format!("{value:.2}"), (left, value + 0.045), ("sans-serif", 11)))
            });
            chart.draw_series(values)?;
        }
        let names = (0..groups.len()).map(|group| {
            let x = group as f64 + 0.5;
            let style =
                TextStyle::from(("sans-serif", 13).into_font()).pos(plotters::style::text_anchor::Pos::new(
                    plotters::style::text_anchor::HPos::Center,
                    plotters::style::text_anchor::VPos::Top,
                ));
            (x, name(&x), style)
        });
        for (x, text, style) in names {
            let at = chart.backend_coord(&(x, 0.0));
            root.draw(&Text::new(text, (at.0, at.1 + 6), style))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.2))
            .draw()?;
        root.present()?;
        Ok(())
    };
    draw(&mut svg).map_err(|error| FigureError(error.to_string()))?;
    Ok(svg)
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
        let group = BarGroup { name: "疾病".into(), values: vec![Some(0.5), None] };
        let svg = bars("F1", &["before", "after"], &[group]).unwrap();
        assert!(svg.contains("疾病") && svg.contains("0.50"));
    }
}
