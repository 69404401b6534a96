//! Curves over a common axis.

use super::{COLOURS, GRID, INK, failed, number, plot_error, shortened, style, text};
use crate::{Axis, Lines, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

const LEGEND_ROWS: usize = 18;

/// Draws curves. Beyond seven, colours return with dashes.
///
/// # Errors
/// [`Error::Plot`](crate::Error::Plot) when the values cannot be drawn.
pub fn svg_lines(lines: &Lines) -> Result<String> {
    let mut out = String::new();
    draw_lines(&mut out, lines).map_err(|message| plot_error(&lines.title, message))?;
    Ok(out)
}

fn draw_lines(out: &mut String, lines: &Lines) -> std::result::Result<(), String> {
    let (width, height) = (860u32, 420u32);
    let root = SVGBackend::with_string(out, (width, height)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let curves: Vec<(&str, Vec<(f64, f64)>)> = lines
        .series
        .iter()
        .map(|series| (series.name.as_str(), placed(lines, &series.points)))
        .collect();
    let points = || curves.iter().flat_map(|(_, points)| points);
    let x_range = range(points().map(|p| p.0));
    let y_range = range(points().map(|p| p.1));
    let legend = curves.len() > 1;
    let (left, right) = root.split_horizontally(if legend { width - 200 } else { width });
    let (x_label, y_label) = (lines.x.caption(), lines.y.caption());
    let mut chart = ChartBuilder::on(&left)
        .caption(&lines.title, style(20.0))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(x_range.0..x_range.1, y_range.0..y_range.1)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(x_label)
        .y_desc(y_label)
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(style(13.0))
        .axis_desc_style(style(14.0))
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&|v| tick(&lines.x, *v))
        .y_label_formatter(&|v| tick(&lines.y, *v))
        .draw()
        .map_err(failed)?;
    for (i, (_, points)) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()].stroke_width(2);
        if let [point] = points.as_slice() {
            chart
                .draw_series([Circle::new(*point, 3, colour.filled())])
                .map_err(failed)?;
            continue;
        }
        let points = points.iter().copied();
        match dash(i) {
            None => chart.draw_series(LineSeries::new(points, colour)),
            Some((on, off)) => chart.draw_series(DashedLineSeries::new(points, on, off, colour)),
        }
        .map_err(failed)?;
    }
    if points().next().is_none() {
        let middle = (width as i32 / 2, height as i32 / 2);
        text(
            &root,
            "no data yet",
            middle,
            16.0,
            HPos::Center,
            VPos::Center,
        )?;
    }
    if legend {
        for (i, (name, _)) in curves.iter().take(LEGEND_ROWS).enumerate() {
            let y = 48 + 19 * i as i32;
            let colour = COLOURS[i % COLOURS.len()].stroke_width(3);
            let pieces: &[(i32, i32)] = match dash(i) {
                None => &[(4, 28)],
                Some(_) => &[(4, 10), (14, 20), (24, 28)],
            };
            for &(from, to) in pieces {
                right
                    .draw(&PathElement::new(vec![(from, y), (to, y)], colour))
                    .map_err(failed)?;
            }
            text(
                &right,
                &shortened(name, 24),
                (36, y),
                14.0,
                HPos::Left,
                VPos::Center,
            )?;
        }
        if curves.len() > LEGEND_ROWS {
            let more = format!("and {} more", curves.len() - LEGEND_ROWS);
            let y = 48 + 19 * LEGEND_ROWS as i32;
            text(&right, &more, (36, y), 14.0, HPos::Left, VPos::Center)?;
        }
    }
    root.present().map_err(failed)
}

fn dash(series: usize) -> Option<(i32, i32)> {
    match series / COLOURS.len() {
        0 => None,
        1 => Some((8, 4)),
        _ => Some((3, 3)),
    }
}

/// The points that can be drawn, at their places on the axes.
fn placed(lines: &Lines, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let place = |axis: &Axis, value: f64| if axis.log { value.log10() } else { value };
    points
        .iter()
        .map(|&(x, y)| (place(&lines.x, x), place(&lines.y, y)))
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect()
}

/// A range around values, never empty.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    if low > high {
        return (0.0, 1.0);
    }
    // The extremes of f64 have no range around them.
    let (low, high) = (low.max(-1e300), high.min(1e300));
    let margin = match (high - low) * 0.04 {
        margin if margin > low.abs().max(high.abs()) * 1e-9 => margin,
        _ => low.abs().max(high.abs()).max(1e-9) * 0.1,
    };
    (low - margin, high + margin)
}

fn tick(axis: &Axis, value: f64) -> String {
    number(if axis.log { 10f64.powf(value) } else { value })
}
