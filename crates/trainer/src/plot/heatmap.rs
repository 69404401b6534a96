//! A matrix as colours.

use super::{Area, FONT, INK, failed, number, plot_error, shortened, style, text};
use crate::{Heatmap, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Draws a matrix as colours, with the values in the cells where they have room.
///
/// # Errors
/// [`Error::Plot`](crate::Error::Plot) when a row is not as long as the list of columns.
pub fn svg_heatmap(heatmap: &Heatmap) -> Result<String> {
    let mut out = String::new();
    draw_heatmap(&mut out, heatmap).map_err(|message| plot_error(&heatmap.title, message))?;
    Ok(out)
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
                let ink = if share(value) > 0.6 { WHITE } else { INK };
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
