//! Charts as SVG: legible on white, also for the colour-blind, with the legend outside the data.

use crate::figure::{Axis, Bars, Heatmap, Lines};
use crate::{Error, Figure, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "sans-serif";
const LEGEND_ROWS: usize = 18;

/// Okabe and Ito's colours for all kinds of colour vision, without the yellow that white swallows.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Draws a figure; `None` for a table or a text, which are no charts.
///
/// # Errors
/// [`Error::Plot`] when the values cannot be drawn.
pub fn svg(figure: &Figure) -> Result<Option<String>> {
    match figure {
        Figure::Lines(lines) => svg_lines(lines).map(Some),
        Figure::Heatmap(heatmap) => svg_heatmap(heatmap).map(Some),
        Figure::Bars(bars) => svg_bars(bars).map(Some),
        Figure::Table(_) | Figure::Text(_) => Ok(None),
    }
}

/// Draws curves. Beyond seven, colours return with dashes.
///
/// # Errors
/// [`Error::Plot`] when the values cannot be drawn.
pub fn svg_lines(lines: &Lines) -> Result<String> {
    let mut out = String::new();
    draw_lines(&mut out, lines).map_err(|message| plot_error(&lines.title, message))?;
    Ok(out)
}

/// Draws a matrix as colours, with the values in the cells where they have room.
///
/// # Errors
/// [`Error::Plot`] when a row is not as long as the list of columns.
pub fn svg_heatmap(heatmap: &Heatmap) -> Result<String> {
    let mut out = String::new();
    draw_heatmap(&mut out, heatmap).map_err(|message| plot_error(&heatmap.title, message))?;
    Ok(out)
}

/// Draws one horizontal bar for each name.
///
/// # Errors
/// [`Error::Plot`] when the values cannot be drawn.
pub fn svg_bars(bars: &Bars) -> Result<String> {
    let mut out = String::new();
    draw_bars(&mut out, bars).map_err(|message| plot_error(&bars.title, message))?;
    Ok(out)
}

fn plot_error(title: &str, message: String) -> Error {
    Error::Plot {
        title: title.to_owned(),
        message,
    }
}

fn failed(error: impl Display) -> String {
    error.to_string()
}

fn style(size: f64) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

fn text(
    area: &Area,
    text: &str,
    at: (i32, i32),
    size: f64,
    h: HPos,
    v: VPos,
) -> std::result::Result<(), String> {
    let style = style(size).pos(Pos::new(h, v));
    area.draw(&Text::new(text.to_owned(), at, style))
        .map_err(failed)
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

/// A number in few characters: `0.0315`, `12.5`, `4200`, `3e-7`.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "n/a".to_owned();
    }
    let size = value.abs();
    if size == 0.0 || size < 1e-300 {
        return "0".to_owned();
    }
    if !(1e-4..1e6).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trimmed(digits));
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 7) as usize;
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

fn trimmed(digits: &str) -> &str {
    match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    }
}

fn shortened(name: &str, most: usize) -> String {
    match name.chars().count() > most {
        true => name.chars().take(most - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

fn draw_heatmap(out: &mut String, map: &Heatmap) -> std::result::Result<(), String> {
    let (rows, columns) = (map.rows.len(), map.columns.len());
    if map.values.len() != rows || map.values.iter().any(|row| row.len() != columns) {
        return Err(format!("the values are not {rows} rows of {columns}"));
    }
    if rows == 0 || columns == 0 {
        return Err("there are no values".to_owned());
    }
    let longest = |names: &[String]| names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let cell_w = (640 / columns as i32).clamp(4, 90);
    let cell_h = (480 / rows as i32).clamp(4, 34);
    let left = 46 + 8 * longest(&map.rows).min(24) as i32;
    let top = 46;
    let (grid_w, grid_h) = (cell_w * columns as i32, cell_h * rows as i32);
    let width = (left + grid_w + 120).max(300);
    let height = top + grid_h.max(120) + 64;
    let root = SVGBackend::with_string(out, (width as u32, height as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    text(&root, &map.title, (left, 10), 20.0, HPos::Left, VPos::Top)?;
    let finite = || map.values.iter().flatten().filter(|v| v.is_finite());
    let low = finite().copied().fold(f64::INFINITY, f64::min);
    let high = finite().copied().fold(f64::NEG_INFINITY, f64::max);
    let share = |value: f64| match high > low {
        true => (value - low) / (high - low),
        false => 0.5,
    };
    for (r, row) in map.values.iter().enumerate() {
        for (c, &value) in row.iter().enumerate() {
            let (x, y) = (left + cell_w * c as i32, top + cell_h * r as i32);
            if !value.is_finite() {
                continue;
            }
            let colour = shade(share(value));
            let cell = Rectangle::new([(x, y), (x + cell_w, y + cell_h)], colour.filled());
            root.draw(&cell).map_err(failed)?;
            let label = number(value);
            if cell_h >= 14 && cell_w >= 8 * label.len() as i32 + 6 {
                let ink = if share(value) > 0.45 { WHITE } else { INK };
                let style = (FONT, 13.0).into_font().color(&ink);
                let style = style.pos(Pos::new(HPos::Center, VPos::Center));
                let middle = (x + cell_w / 2, y + cell_h / 2);
                root.draw(&Text::new(label, middle, style))
                    .map_err(failed)?;
            }
        }
    }
    // Where the cells are narrow, every so many names only.
    let every = |size: i32, room: i32| (room / size.max(1)).max(0) as usize + 1;
    let step = every(cell_h, 15);
    for (r, name) in map.rows.iter().enumerate().step_by(step) {
        let at = (left - 6, top + cell_h * r as i32 + cell_h / 2);
        text(
            &root,
            &shortened(name, 24),
            at,
            13.0,
            HPos::Right,
            VPos::Center,
        )?;
    }
    let room = 8 * longest(&map.columns).min(12) as i32 + 8;
    for (c, name) in map.columns.iter().enumerate().step_by(every(cell_w, room)) {
        let at = (left + cell_w * c as i32 + cell_w / 2, top + grid_h + 6);
        text(
            &root,
            &shortened(name, 12),
            at,
            13.0,
            HPos::Center,
            VPos::Top,
        )?;
    }
    let below = (left + grid_w / 2, top + grid_h + 30);
    text(
        &root,
        &map.x.caption(),
        below,
        14.0,
        HPos::Center,
        VPos::Top,
    )?;
    let beside = style(14.0)
        .transform(FontTransform::Rotate270)
        .pos(Pos::new(HPos::Center, VPos::Top));
    root.draw(&Text::new(map.y.caption(), (8, top + grid_h / 2), beside))
        .map_err(failed)?;
    if low <= high {
        draw_scale(&root, map, (left + grid_w + 24, top), (low, high))?;
    }
    root.present().map_err(failed)
}

fn draw_scale(
    root: &Area,
    map: &Heatmap,
    (x, top): (i32, i32),
    (low, high): (f64, f64),
) -> std::result::Result<(), String> {
    let steps = 24;
    for i in 0..steps {
        let y = top + 4 * (steps - 1 - i);
        let colour = shade(f64::from(i) / f64::from(steps - 1));
        root.draw(&Rectangle::new([(x, y), (x + 16, y + 4)], colour.filled()))
            .map_err(failed)?;
    }
    let bottom = top + 4 * steps;
    text(
        root,
        &number(high),
        (x + 22, top),
        13.0,
        HPos::Left,
        VPos::Top,
    )?;
    text(
        root,
        &number(low),
        (x + 22, bottom),
        13.0,
        HPos::Left,
        VPos::Bottom,
    )?;
    let caption = shortened(&map.scale.caption(), 16);
    text(root, &caption, (x, bottom + 8), 13.0, HPos::Left, VPos::Top)
}

/// From nearly white to dark blue: one hue, so that darkness alone tells the value.
fn shade(share: f64) -> RGBColor {
    let stops = [
        (240.0, 246.0, 252.0),
        (158.0, 202.0, 225.0),
        (49.0, 130.0, 189.0),
        (8.0, 48.0, 107.0),
    ];
    let at = share.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let below = (at.floor() as usize).min(stops.len() - 2);
    let (a, b, t) = (stops[below], stops[below + 1], at - below as f64);
    let mix = |a: f64, b: f64| (a + (b - a) * t).round() as u8;
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

fn draw_bars(out: &mut String, chart: &Bars) -> std::result::Result<(), String> {
    let row = 26;
    let longest = chart.bars.iter().map(|(name, _)| name.chars().count());
    let left = 34 + 8 * longest.max().unwrap_or(0).min(28) as i32;
    let (top, plot_w) = (46, 520);
    let height = top + row * chart.bars.len().max(1) as i32 + 58;
    let width = left + plot_w + 90;
    let root = SVGBackend::with_string(out, (width as u32, height as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    text(&root, &chart.title, (left, 10), 20.0, HPos::Left, VPos::Top)?;
    let finite = || chart.bars.iter().map(|b| b.1).filter(|v| v.is_finite());
    let low = finite().fold(0.0, f64::min).max(-1e300);
    let high = finite().fold(0.0, f64::max).min(1e300);
    let span = if high > low { high - low } else { 1.0 };
    let place = |value: f64| left + ((value - low) / span * f64::from(plot_w)).round() as i32;
    let bottom = top + row * chart.bars.len().max(1) as i32;
    for i in 0..=4 {
        let value = low + span * f64::from(i) / 4.0;
        let x = place(value);
        root.draw(&PathElement::new(vec![(x, top), (x, bottom)], GRID))
            .map_err(failed)?;
        text(
            &root,
            &number(value),
            (x, bottom + 6),
            13.0,
            HPos::Center,
            VPos::Top,
        )?;
    }
    for (i, (name, value)) in chart.bars.iter().enumerate() {
        let y = top + row * i as i32;
        let middle = y + row / 2;
        text(
            &root,
            &shortened(name, 28),
            (left - 8, middle),
            14.0,
            HPos::Right,
            VPos::Center,
        )?;
        if !value.is_finite() {
            text(
                &root,
                "n/a",
                (place(0.0) + 6, middle),
                13.0,
                HPos::Left,
                VPos::Center,
            )?;
            continue;
        }
        let (from, to) = (place(value.min(0.0)), place(value.max(0.0)));
        let bar = Rectangle::new(
            [(from, y + 4), (to.max(from + 1), y + row - 4)],
            COLOURS[0].filled(),
        );
        root.draw(&bar).map_err(failed)?;
        text(
            &root,
            &number(*value),
            (to + 6, middle),
            13.0,
            HPos::Left,
            VPos::Center,
        )?;
    }
    let middle = left + plot_w / 2;
    text(
        &root,
        &chart.y.caption(),
        (middle, bottom + 30),
        14.0,
        HPos::Center,
        VPos::Top,
    )?;
    text(
        &root,
        &chart.x.caption(),
        (left - 8, top - 6),
        13.0,
        HPos::Right,
        VPos::Bottom,
    )?;
    root.present().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Series;

    fn lines(points: Vec<Vec<(f64, f64)>>, log: bool) -> Lines {
        Lines {
            title: "loss <&> \"steps\"".to_owned(),
            x: Axis::new("step"),
            y: Axis {
                log,
                ..Axis::with_unit("loss", "nats")
            },
            series: points
                .into_iter()
                .enumerate()
                .map(|(i, points)| Series {
                    name: format!("head {i}"),
                    points,
                })
                .collect(),
        }
    }

    /// Every tag is closed in order and nothing unescaped is left over.
    fn well_formed(svg: &str) {
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("every tag ends");
            assert!(!text.contains('&') || text.contains(';'), "{text}");
            let name = tag.split([' ', '\n']).next().unwrap_or_default();
            if let Some(name) = name.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.to_owned()));
            } else if !tag.ends_with('/') {
                open.push(name.to_owned());
            }
        }
        assert!(open.is_empty(), "{open:?} stay open");
    }

    #[test]
    fn curves_have_a_title_axes_with_units_and_a_legend_outside() {
        let svg = svg_lines(&lines(
            vec![vec![(0.0, 3.0), (9.0, 1.0)], vec![(0.0, 2.0), (9.0, 2.5)]],
            false,
        ))
        .expect("drawn");
        well_formed(&svg);
        for part in [
            "loss &lt;&amp;&gt;",
            "loss (nats)",
            "step",
            "head 0",
            "head 1",
            "#0072B2",
            "#D55E00",
        ] {
            assert!(svg.contains(part), "{part} is missing");
        }
        // Curves are two pixels wide; the legend's names begin where the chart ends.
        let curves = svg
            .split("<polyline")
            .skip(1)
            .filter(|tag| tag.contains("stroke-width=\"2\""));
        let right = curves
            .filter_map(|tag| tag.split("points=\"").nth(1)?.split('"').next())
            .flat_map(str::split_whitespace)
            .filter_map(|point| point.split(',').next()?.parse::<i32>().ok())
            .max();
        let name = svg.split("<text").find(|tag| tag.contains("head 0"));
        let name = name.and_then(|tag| {
            tag.split("x=\"")
                .nth(1)?
                .split('"')
                .next()?
                .parse::<i32>()
                .ok()
        });
        assert!(right.is_some() && right < name, "{right:?} {name:?}");
    }

    #[test]
    fn odd_data_is_drawn_without_a_panic() {
        let odd = [
            vec![],
            vec![vec![]],
            vec![vec![(1.0, f64::NAN), (2.0, f64::INFINITY)]],
            vec![vec![(1.0, 1.0)]],
            vec![vec![(1.0, 0.0), (2.0, 0.0)]],
            vec![vec![(1.0, f64::MAX), (2.0, f64::MIN)]],
            vec![vec![(1.0, 1e-320), (2.0, -1e-320)]],
            vec![vec![(5.0, 1e9), (5.0, 1e9 + 1.0)]],
            vec![vec![(0.0, 1.0), (1.0, 2.0)]; 40],
        ];
        for points in odd {
            for log in [false, true] {
                well_formed(&svg_lines(&lines(points.clone(), log)).expect("drawn"));
            }
        }
    }

    #[test]
    fn heat_maps_show_values_and_refuse_ragged_rows() {
        let mut map = Heatmap {
            title: "learned span".to_owned(),
            x: Axis::new("head"),
            y: Axis::new("layer"),
            columns: vec!["1".into(), "2".into()],
            rows: vec!["1".into(), "2".into(), "3".into()],
            values: vec![vec![1.0, 2.0], vec![47.0, f64::NAN], vec![0.25, 3.0]],
            scale: Axis::with_unit("span", "tokens"),
        };
        let svg = svg_heatmap(&map).expect("drawn");
        well_formed(&svg);
        for part in [
            "learned span",
            "head",
            "layer",
            "span (tokens)",
            "0.25",
            "#08306B",
        ] {
            assert!(svg.contains(part), "{part} is missing");
        }
        map.columns = (0..700).map(|i| i.to_string()).collect();
        map.values = vec![vec![1.0; 700]; 3];
        well_formed(&svg_heatmap(&map).expect("drawn"));
        map.values[1].pop();
        assert!(svg_heatmap(&map).is_err());
        map.rows.clear();
        map.values.clear();
        assert!(svg_heatmap(&map).is_err());
    }

    #[test]
    fn bars_start_at_zero() {
        let bars = Bars {
            title: "time".to_owned(),
            x: Axis::new("model"),
            y: Axis::with_unit("time per step", "ms"),
            bars: vec![
                ("fixed".into(), 120.0),
                ("adaptive".into(), 30.5),
                ("broken".into(), f64::NAN),
                ("negative".into(), -10.0),
            ],
        };
        let svg = svg_bars(&bars).expect("drawn");
        well_formed(&svg);
        for part in [
            "fixed",
            "adaptive",
            "30.5",
            "n/a",
            "time per step (ms)",
            "-10",
        ] {
            assert!(svg.contains(part), "{part} is missing");
        }
        let empty = Bars {
            bars: Vec::new(),
            ..bars
        };
        well_formed(&svg_bars(&empty).expect("drawn"));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.031_5, "0.0315"),
            (12.5, "12.5"),
            (4200.0, "4200"),
            (3e-7, "3e-7"),
            (-1.25e9, "-1.25e9"),
            (999_999.4, "999999"),
            (f64::NAN, "n/a"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
