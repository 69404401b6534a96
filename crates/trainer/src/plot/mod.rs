//! Charts as SVG: legible on white, also for the colour-blind, with the legend outside the data.

mod bars;
mod heatmap;
mod lines;

pub use bars::svg_bars;
pub use heatmap::svg_heatmap;
pub use lines::svg_lines;

use crate::{Error, Figure, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "sans-serif";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Axis, Bars, Heatmap, Lines, Series};

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
