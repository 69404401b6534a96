//! Tables for a terminal, for Markdown and as CSV, and figures as tables.

use crate::format::number;
use std::fmt::Write as _;
use trainer::{Bars, Figure, Heatmap, Lines, Table};

/// A table of these headings and rows.
pub fn table(title: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Table {
    Table {
        title: title.to_owned(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        rows,
    }
}

/// A table for a terminal: columns of numbers are set flush right, the headings are underlined.
pub fn text(table: &Table) -> String {
    let columns = table.columns.len();
    let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
    let width = |i: usize| {
        let cells = table.rows.iter().map(|row| cell(row, i));
        let all = cells.chain([cell(&table.columns, i)]);
        all.map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let numeric: Vec<bool> = (0..columns).map(|i| is_numeric(table, i)).collect();
    let line = |row: &[String]| {
        let mut out = String::new();
        for i in 0..columns {
            let text = cell(row, i);
            let pad = " ".repeat(widths[i].saturating_sub(text.chars().count()));
            match numeric[i] {
                true => out.push_str(&(pad + &text)),
                false => out.push_str(&(text + &pad)),
            }
            out.push_str("  ");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    };
    let mut out = String::new();
    if table.columns.iter().any(|c| !c.is_empty()) {
        out.push_str(&line(&table.columns));
        let rule: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
        out.push_str(&line(&rule));
    }
    for row in &table.rows {
        out.push_str(&line(row));
    }
    out
}

/// Whether every cell of a column begins like a number, and one at least is not empty. The first column holds names.
fn is_numeric(table: &Table, column: usize) -> bool {
    let mut cells = table
        .rows
        .iter()
        .filter_map(|row| row.get(column))
        .filter(|cell| !cell.is_empty())
        .peekable();
    let like = |cell: &String| {
        let start = cell.trim_start_matches(['-', '+', '±', '<', '>', '~']);
        let number = start.starts_with(|c: char| c.is_ascii_digit());
        number || matches!(cell.as_str(), "n/a" | "inf" | "NaN" | "–" | "-")
    };
    column > 0 && cells.peek().is_some() && cells.all(like)
}

/// A table for Markdown.
pub fn markdown(table: &Table) -> String {
    let row = |cells: &[String]| {
        let cells = cells
            .iter()
            .map(|c| c.replace('|', "\\|").replace('\n', " "));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = (0..table.columns.len()).map(|i| match is_numeric(table, i) {
        true => "---:".to_owned(),
        false => "---".to_owned(),
    });
    let mut out = row(&table.columns) + &row(&rule.collect::<Vec<_>>());
    for cells in &table.rows {
        out.push_str(&row(cells));
    }
    out
}

/// A table as CSV (RFC 4180).
pub fn csv(table: &Table) -> String {
    let row = |cells: &[String]| {
        let cells = cells
            .iter()
            .map(|c| match c.contains(['"', ',', '\n', '\r']) {
                true => format!("\"{}\"", c.replace('"', "\"\"")),
                false => c.clone(),
            });
        cells.collect::<Vec<_>>().join(",") + "\r\n"
    };
    let rows = table.rows.iter().map(|cells| row(cells));
    row(&table.columns) + &rows.collect::<String>()
}

/// Names and values in two columns.
pub fn facts<N: AsRef<str>, V: AsRef<str>>(facts: &[(N, V)]) -> String {
    let names = facts.iter().map(|(name, _)| name.as_ref().chars().count());
    let width = names.max().unwrap_or(0);
    facts.iter().fold(String::new(), |mut out, (name, value)| {
        let (name, value) = (name.as_ref(), value.as_ref());
        let pad = " ".repeat(width.saturating_sub(name.chars().count()));
        let _ = writeln!(out, "{name}{pad}  {value}");
        out
    })
}

/// A figure for a terminal, with its title.
pub fn figure_text(figure: &Figure) -> String {
    let body = match figure {
        Figure::Text(text) => format!("{}\n", text.text.trim_end()),
        figure => text(&as_table(figure)),
    };
    format!("{}\n{body}", figure.title())
}

/// A figure for Markdown, with its title as a heading.
pub fn figure_markdown(figure: &Figure) -> String {
    let body = match figure {
        Figure::Text(text) => format!("```text\n{}\n```\n", text.text.trim_end()),
        figure => markdown(&as_table(figure)),
    };
    format!("### {}\n\n{body}", figure.title())
}

/// The numbers of a figure as a table.
fn as_table(figure: &Figure) -> Table {
    match figure {
        Figure::Table(table) => table.clone(),
        Figure::Heatmap(heatmap) => heatmap_table(heatmap),
        Figure::Bars(bars) => bars_table(bars),
        Figure::Lines(lines) => lines_table(lines),
        Figure::Text(text) => table(&text.title, &[""], vec![vec![text.text.clone()]]),
    }
}

fn heatmap_table(heatmap: &Heatmap) -> Table {
    let corner = format!("{} \\ {}", heatmap.y.caption(), heatmap.x.caption());
    let rows = heatmap.rows.iter().zip(&heatmap.values);
    let row = |(name, values): (&String, &Vec<f64>)| {
        let values = values.iter().map(|value| number(*value));
        [name.clone()].into_iter().chain(values).collect()
    };
    Table {
        title: heatmap.title.clone(),
        columns: [corner]
            .into_iter()
            .chain(heatmap.columns.iter().cloned())
            .collect(),
        rows: rows.map(row).collect(),
    }
}

fn bars_table(bars: &Bars) -> Table {
    let rows = bars.bars.iter();
    let rows = rows.map(|(name, value)| vec![name.clone(), number(*value)]);
    table(
        &bars.title,
        &[&bars.x.caption(), &bars.y.caption()],
        rows.collect(),
    )
}

/// One row for each x that some curve has.
fn lines_table(lines: &Lines) -> Table {
    let points = lines.series.iter().flat_map(|series| &series.points);
    let mut xs: Vec<f64> = points.map(|(x, _)| *x).filter(|x| x.is_finite()).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let row = |x: &f64| {
        let at = |series: &trainer::Series| {
            let point = series.points.iter().find(|(px, _)| px == x);
            point.map_or(String::new(), |(_, y)| number(*y))
        };
        let values = lines.series.iter().map(at);
        // Steps and lengths are whole numbers and stay so.
        let x = if x.fract() == 0.0 {
            format!("{x}")
        } else {
            number(*x)
        };
        [x].into_iter().chain(values).collect()
    };
    let names = lines
        .series
        .iter()
        .map(|series| match lines.y.unit.as_deref() {
            Some(unit) => format!("{} ({unit})", series.name),
            None => series.name.clone(),
        });
    Table {
        title: lines.title.clone(),
        columns: [lines.x.caption()].into_iter().chain(names).collect(),
        rows: xs.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainer::{Axis, Series};

    fn sample() -> Table {
        let rows = [["a|b", "1.5"], ["c, \"d\"", "-20"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        table("t", &["name", "value"], rows)
    }

    #[test]
    fn numbers_are_flush_right_in_text_and_markdown() {
        let expected = "name    value\n──────  ─────\na|b       1.5\nc, \"d\"    -20\n";
        assert_eq!(text(&sample()), expected);
        let expected = "| name | value |\n| --- | ---: |\n| a\\|b | 1.5 |\n| c, \"d\" | -20 |\n";
        assert_eq!(markdown(&sample()), expected);
        assert_eq!(
            csv(&sample()),
            "name,value\r\na|b,1.5\r\n\"c, \"\"d\"\"\",-20\r\n"
        );
    }

    #[test]
    fn curves_become_rows_over_the_common_axis() {
        let series = |name: &str, points: &[(f64, f64)]| Series {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        let lines = Lines {
            title: "time".to_owned(),
            x: Axis::new("span"),
            y: Axis::with_unit("time", "ms"),
            series: vec![
                series("fixed", &[(512.0, 2.0), (2048.0, 8.0)]),
                series("adaptive", &[(512.0, 1.0)]),
            ],
        };
        let table = lines_table(&lines);
        assert_eq!(table.columns, ["span", "fixed (ms)", "adaptive (ms)"]);
        assert_eq!(table.rows[0], ["512", "2.0000", "1.0000"]);
        assert_eq!(table.rows[1], ["2048", "8.0000", ""]);
    }

    #[test]
    fn ragged_rows_do_not_panic() {
        let ragged = table("t", &["a", "b"], vec![vec!["1".to_owned()], vec![]]);
        assert!(text(&ragged).starts_with('a'));
        assert_eq!(facts(&[("a", "1"), ("long", "2")]), "a     1\nlong  2\n");
    }
}
