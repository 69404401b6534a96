//! `compare`: runs side by side.

use crate::app::App;
use crate::{format, out, table};
use serde::Serialize;
use std::path::PathBuf;
use trainer::{Kind, Metrics, RunReader, Split, Table};

/// Puts runs side by side: result, size, speed, memory
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folders, finished or not
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// Also write the table as CSV, with all digits
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// What is compared of a run.
#[derive(Debug, Serialize)]
struct Row {
    run: String,
    architecture: String,
    /// Whether the run has finished; then the metrics are those of the test split, else the last of the validation split.
    finished: bool,
    metrics: Metrics,
    parameters: Option<usize>,
    steps: u64,
    ms_per_step: Option<f64>,
    work_per_second: Option<(f64, String)>,
    peak_memory: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// When a folder is no run folder.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for dir in &args.runs {
        rows.push(Row::of(&RunReader::open(dir)?));
    }
    if let Some(file) = &args.csv {
        pretrained::write_atomic(file, table::csv(&exact(&rows)).as_bytes())?;
        app.note(&format!("written to {}", file.display()));
    }
    if app.json {
        return out::json(&rows);
    }
    out::raw(table::text(&readable(&rows)));
    if rows.iter().any(|row| !row.finished) {
        out::line("* not finished: the last values of the validation split");
    }
    Ok(())
}

impl Row {
    fn of(run: &RunReader) -> Self {
        let results = run.results.as_ref();
        let last = |kind, split| {
            let all = run.records.iter().rev();
            all.into_iter()
                .find(|record| record.kind == kind && record.split == split)
        };
        let valid = last(Kind::Evaluation, Some(Split::Valid));
        let metrics = results.map(|results| results.test.clone());
        let rate = last(Kind::Time, None).and_then(|r| r.values.get("steps_per_second"));
        Self {
            run: run.name(),
            architecture: run.recipe.architecture.clone(),
            finished: results.is_some(),
            metrics: metrics
                .or(valid.map(|record| record.values.clone()))
                .unwrap_or_default(),
            parameters: results.and_then(|results| results.parameters),
            steps: match results {
                Some(results) => results.steps,
                None => run.records.last().map_or(0, |record| record.step),
            },
            ms_per_step: results
                .map(|r| r.ms_per_step)
                .or(rate.map(|rate| 1e3 / rate)),
            work_per_second: results.and_then(|results| results.work_per_second.clone()),
            peak_memory: results.and_then(|results| results.peak_memory),
        }
    }
}

/// The names of all metrics, in the order in which they appear.
fn metrics(rows: &[Row]) -> Vec<&str> {
    let mut names = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| row.metrics.iter()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn readable(rows: &[Row]) -> Table {
    let names = metrics(rows);
    let absent = || "n/a".to_owned();
    let row = |row: &Row| {
        let star = if row.finished { "" } else { " *" };
        let mut cells = vec![format!("{}{star}", row.run)];
        let value = |name: &&str| row.metrics.get(name).map_or_else(absent, format::number);
        cells.extend(names.iter().map(value));
        cells.push(row.parameters.map_or_else(absent, format::whole));
        cells.push(row.steps.to_string());
        cells.push(row.ms_per_step.map_or_else(absent, format::number));
        cells.push(
            row.work_per_second
                .as_ref()
                .map_or_else(absent, |(rate, unit)| {
                    format!("{} {unit}", format::count(rate.round()))
                }),
        );
        cells.push(format::memory(row.peak_memory));
        cells
    };
    let after = [
        "parameters",
        "steps",
        "ms per step",
        "per second",
        "peak memory",
    ];
    let columns: Vec<&str> = ["run"]
        .into_iter()
        .chain(names.iter().copied())
        .chain(after)
        .collect();
    table::table("", &columns, rows.iter().map(row).collect())
}

/// The same for programs: all digits, no units in the cells, empty where nothing is known.
fn exact(rows: &[Row]) -> Table {
    let names = metrics(rows);
    let text = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let row = |row: &Row| {
        let mut cells = vec![
            row.run.clone(),
            row.architecture.clone(),
            row.finished.to_string(),
        ];
        cells.extend(names.iter().map(|name| text(row.metrics.get(name))));
        cells.push(row.parameters.map_or(String::new(), |n| n.to_string()));
        cells.push(row.steps.to_string());
        cells.push(text(row.ms_per_step));
        let (rate, unit) = row.work_per_second.clone().unzip();
        cells.extend([text(rate), unit.unwrap_or_default()]);
        cells.push(row.peak_memory.map_or(String::new(), |n| n.to_string()));
        cells
    };
    let before = ["run", "architecture", "finished"];
    let after = [
        "parameters",
        "steps",
        "ms_per_step",
        "work_per_second",
        "work_unit",
        "peak_memory_bytes",
    ];
    let columns: Vec<&str> = before
        .into_iter()
        .chain(names.iter().copied())
        .chain(after)
        .collect();
    table::table("", &columns, rows.iter().map(row).collect())
}
