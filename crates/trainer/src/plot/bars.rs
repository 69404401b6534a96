//! One bar for each name.

use super::{COLOURS, GRID, failed, number, plot_error, shortened, text};
use crate::{Bars, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Draws one horizontal bar for each name.
///
/// # Errors
/// [`Error::Plot`](crate::Error::Plot) when the values cannot be drawn.
pub fn svg_bars(bars: &Bars) -> Result<String> {
    let mut out = String::new();
    draw_bars(&mut out, bars).map_err(|message| plot_error(&bars.title, message))?;
    Ok(out)
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
