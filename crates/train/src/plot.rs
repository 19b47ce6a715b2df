//! The loss of a run as an SVG figure.

use crate::TrainError;
use crate::metrics::{Held, Record};
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SIZE: (u32, u32) = (900, 480);

/// Draws the loss of every step, its running mean, and the held-out losses, and replaces `path` by the figure.
pub(crate) fn loss(path: &Path, stage: &str, records: &[Record], held: &[Held]) -> Result<(), TrainError> {
    if records.is_empty() {
        return Ok(());
    }
    let svg =
        draw(stage, records, held).map_err(|message| TrainError::Plot { path: path.to_owned(), message })?;
    let partial = path.with_extension("svg.partial");
    fs::write(&partial, svg)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(TrainError::file(path, "cannot write the figure"))
}

fn draw(stage: &str, records: &[Record], held: &[Held]) -> Result<String, String> {
    let mut svg = String::new();
    let first = records[0].step as f64;
    let last = (records[records.len() - 1].step as f64).max(first + 1.0);
    let mean = running_mean(records);
    let mut curves: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for measured in held {
        if let Some(loss) = measured.loss {
            curves.entry(&measured.name).or_default().push((measured.step as f64, loss));
        }
    }
    // The first steps of a run from random weights would flatten everything after them, hence from the mean.
    let all = mean.iter().chain(curves.values().flatten()).map(|&(_, loss)| loss);
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), loss| (low.min(loss), high.max(loss)));
    let margin = ((high - low) * 0.08).max(1e-3);
    let (bottom, top) = ((low - margin).max(0.0), high + margin);
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(text)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(format!("{stage}: loss, nats per labelled token"), ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(first..last, bottom..top)
            .map_err(text)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("optimizer step")
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_label_formatter(&|loss| format!("{loss:.2}"))
            .draw()
            .map_err(text)?;
        let points = records.iter().map(|record| (record.step as f64, record.loss.clamp(bottom, top)));
        chart.draw_series(LineSeries::new(points, &RGBColor(178, 203, 226))).map_err(text)?;
        let blue = RGBColor(31, 119, 180);
        chart
            .draw_series(LineSeries::new(mean, blue.stroke_width(2)))
            .map_err(text)?
            .label("training, running mean")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], blue.stroke_width(2)));
        let colours =
            [RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189), RGBColor(255, 127, 14)];
        for (index, (name, curve)) in curves.into_iter().enumerate() {
            let colour = colours[index % colours.len()];
            let line = LineSeries::new(curve, colour.stroke_width(2)).point_size(3);
            chart
                .draw_series(line)
                .map_err(text)?
                .label(format!("held out: {name}"))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .position(SeriesLabelPosition::UpperRight)
            .draw()
            .map_err(text)?;
        root.present().map_err(text)?;
    }
    Ok(svg)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Mean of the last 5 % of the steps up to each one, at least 5.
fn running_mean(records: &[Record]) -> Vec<(f64, f64)> {
    let window = (records.len() / 20).max(5);
    let mut sum = 0.0;
    let mut mean = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        sum += record.loss;
        if index >= window {
            sum -= records[index - window].loss;
        }
        mean.push((record.step as f64, sum / (index + 1).min(window) as f64));
    }
    mean
}
