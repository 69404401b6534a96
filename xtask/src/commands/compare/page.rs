//! The comparison as a page.

use super::row::{self, Row};
use crate::app::App;
use crate::format::shell_word;
use crate::table;
use std::fmt::Write as _;
use std::path::Path;
use trainer::{Axis, Bars, Figure, Kind, Lines, RunReader, Series, Split};

const TITLE: &str = "Runs side by side";

/// The page for a file of this name.
pub fn of(file: &Path, runs: &[RunReader], rows: &[Row], app: &App) -> String {
    let mut results = row::readable(rows);
    results.title = "Results".to_owned();
    let mut about = table::table("What ran", &["run", "architecture", "what it is"], vec![]);
    for (run, row) in runs.iter().zip(rows) {
        let text = run.recipe.about.clone().unwrap_or_default();
        about
            .rows
            .push(vec![row.run.clone(), row.architecture.clone(), text]);
    }
    let mut intro = places(runs, app);
    if rows.iter().any(|row| !row.finished) {
        let _ = write!(intro, " {}.", row::UNFINISHED);
    }
    let markdown = file.extension().is_some_and(|end| end == "md");
    let mut figures = vec![Figure::Table(results), Figure::Table(about)];
    if !markdown {
        figures.extend(charts(runs, rows));
        return trainer::report::page(TITLE, &intro, &figures);
    }
    let mut text = format!(
        "<!-- Written by `{}`; do not edit. -->\n\n# {TITLE}\n\n{intro}\n",
        command(app)
    );
    for figure in &figures {
        let _ = write!(text, "\n{}", table::figure_markdown(figure));
    }
    text
}

fn command(app: &App) -> String {
    let words = app.command.iter().map(|word| shell_word(word));
    let words: Vec<String> = words.collect();
    format!("cargo xtask {}", words.join(" "))
}

/// Where the runs took place.
fn places(runs: &[RunReader], app: &App) -> String {
    let mut all: Vec<String> = vec![];
    for environment in runs.iter().filter_map(|run| run.environment.as_ref()) {
        let machine = environment.processor.as_deref();
        let place = format!(
            "{} ({}; {})",
            environment.backend,
            environment.device,
            machine.unwrap_or("an unknown processor")
        );
        if !all.contains(&place) {
            all.push(place);
        }
    }
    let command = command(app);
    match all.as_slice() {
        [] => format!("Written by `{command}`."),
        [one] => format!("Written by `{command}`; trained on {one}."),
        several => format!(
            "Written by `{command}`; trained on {}: times of different machines do not compare.",
            several.join(" and ")
        ),
    }
}

/// Curves of the loss and of the first metric that all runs have, and how far back each looks.
fn charts(runs: &[RunReader], rows: &[Row]) -> Vec<Figure> {
    let curve = |title: String, kind, split, name: &str| {
        let series = runs.iter().zip(rows).map(|(run, row)| Series {
            name: row.run.clone(),
            points: run.series(kind, Some(split), name),
        });
        Figure::Lines(Lines {
            title,
            x: Axis::new("step"),
            y: Axis::new(name),
            series: series.filter(|s| !s.points.is_empty()).collect(),
        })
    };
    let mut all = vec![];
    if let Some(name) = row::common(rows).first() {
        let title = format!("{name} on the validation split");
        all.push(curve(title, Kind::Evaluation, Split::Valid, name));
    }
    let title = "loss in training".to_owned();
    all.push(curve(title, Kind::Train, Split::Train, "loss"));
    let reach = rows
        .iter()
        .filter_map(|r| Some((r.run.clone(), r.reach? as f64)));
    let bars: Vec<(String, f64)> = reach.collect();
    if !bars.is_empty() {
        all.push(Figure::Bars(Bars {
            title: "Reach".to_owned(),
            x: Axis::new("run"),
            y: Axis::with_unit("reach", "tokens"),
            bars,
        }));
    }
    all.retain(|figure| !matches!(figure, Figure::Lines(lines) if lines.series.is_empty()));
    all
}
