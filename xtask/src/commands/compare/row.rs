//! What is compared of a run.

use crate::{format, table};
use serde::Serialize;
use trainer::{Kind, Metrics, RunReader, Split, Table};

/// What the star behind a run means.
pub const UNFINISHED: &str = "* not finished: the last values of the validation split";

/// What is compared of a run.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The name of its folder.
    pub run: String,
    /// What was trained.
    pub architecture: String,
    /// Whether the run has finished; then the metrics are those of the test split, else the last of the validation split.
    pub finished: bool,
    /// The result.
    pub metrics: Metrics,
    /// Scalars in the weights.
    pub parameters: Option<usize>,
    /// Training steps done.
    pub steps: u64,
    /// Time of a training step.
    pub ms_per_step: Option<f64>,
    /// The same for each token of it, where a step reads tokens.
    pub ms_per_token: Option<f64>,
    /// What was read per second of training, and its unit.
    pub work_per_second: Option<(f64, String)>,
    /// Bytes.
    pub peak_memory: Option<u64>,
    /// How many tokens back a language model can look.
    pub reach: Option<usize>,
}

impl Row {
    /// Reads the results of a run, or its log where it has not finished.
    pub fn of(run: &RunReader) -> Self {
        let results = run.results.as_ref();
        let last = |kind, split| {
            let all = run.records.iter().rev();
            all.into_iter()
                .find(|record| record.kind == kind && record.split == split)
        };
        let valid = last(Kind::Evaluation, Some(Split::Valid));
        let metrics = results.map(|results| results.test.clone());
        let time = last(Kind::Time, None);
        let rate = time.and_then(|r| r.values.get("steps_per_second"));
        let work = results.and_then(|results| results.work_per_second.clone());
        let tokens = match &work {
            Some((rate, unit)) if unit == "tokens" => Some(*rate),
            Some(_) => None,
            None => time.and_then(|r| r.values.get("tokens_per_second")),
        };
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
            ms_per_token: tokens.map(|rate| 1e3 / rate),
            work_per_second: work,
            peak_memory: results.and_then(|results| results.peak_memory),
            reach: results.and_then(|results| results.reach),
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

/// The metrics that can be compared: those that all runs have, and what some give beside one of them under a longer name
/// (`bits_per_byte_strict`). All, where the runs have nothing in common.
pub fn common(rows: &[Row]) -> Vec<&str> {
    let all = metrics(rows);
    let everywhere = |name: &&str| rows.iter().all(|row| row.metrics.get(name).is_some());
    let shared: Vec<&str> = all.iter().copied().filter(everywhere).collect();
    let variant = |name: &str| {
        let mut shared = shared.iter();
        shared.any(|s| *s == name || name.strip_prefix(s).is_some_and(|r| r.starts_with('_')))
    };
    match shared.is_empty() {
        true => all,
        false => all.into_iter().filter(|name| variant(name)).collect(),
    }
}

/// The table for people.
pub fn readable(rows: &[Row]) -> Table {
    let names = common(rows);
    let absent = || "n/a".to_owned();
    let reach = rows.iter().any(|row| row.reach.is_some());
    let per_token = rows.iter().any(|row| row.ms_per_token.is_some());
    let row = |row: &Row| {
        let star = if row.finished { "" } else { " *" };
        let mut cells = vec![format!("{}{star}", row.run)];
        let value = |name: &&str| row.metrics.get(name).map_or_else(absent, format::number);
        cells.extend(names.iter().map(value));
        cells.push(row.parameters.map_or_else(absent, format::whole));
        cells.push(row.steps.to_string());
        cells.push(row.ms_per_step.map_or_else(absent, format::number));
        if per_token {
            cells.push(row.ms_per_token.map_or_else(absent, format::number));
        }
        cells.push(
            row.work_per_second
                .as_ref()
                .map_or_else(absent, |(rate, unit)| {
                    format!("{} {unit}", format::count(rate.round()))
                }),
        );
        cells.push(format::memory(row.peak_memory));
        if reach {
            cells.push(row.reach.map_or_else(absent, format::whole));
        }
        cells
    };
    let mut columns = vec!["run"];
    columns.extend(names.iter().copied());
    columns.extend(["parameters", "steps", "ms per step"]);
    columns.extend(per_token.then_some("ms per token"));
    columns.extend(["per second", "peak memory"]);
    columns.extend(reach.then_some("reach (tokens)"));
    table::table("", &columns, rows.iter().map(row).collect())
}

/// The same for programs: all digits, no units in the cells, empty where nothing is known.
pub fn exact(rows: &[Row]) -> Table {
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
        cells.push(text(row.ms_per_token));
        let (rate, unit) = row.work_per_second.clone().unzip();
        cells.extend([text(rate), unit.unwrap_or_default()]);
        cells.push(row.peak_memory.map_or(String::new(), |n| n.to_string()));
        cells.push(row.reach.map_or(String::new(), |n| n.to_string()));
        cells
    };
    let before = ["run", "architecture", "finished"];
    let after = [
        "parameters",
        "steps",
        "ms_per_step",
        "ms_per_token",
        "work_per_second",
        "work_unit",
        "peak_memory_bytes",
        "reach_tokens",
    ];
    let columns: Vec<&str> = before
        .into_iter()
        .chain(names.iter().copied())
        .chain(after)
        .collect();
    table::table("", &columns, rows.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(run: &str, metrics: &[(&str, f64)]) -> Row {
        let all = metrics.iter();
        Row {
            run: run.to_owned(),
            architecture: "a".to_owned(),
            finished: true,
            metrics: all
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            parameters: Some(1000),
            steps: 3,
            ms_per_step: Some(20.0),
            ms_per_token: Some(0.25),
            work_per_second: Some((4000.0, "tokens".to_owned())),
            peak_memory: Some(1 << 20),
            reach: Some(960),
        }
    }

    #[test]
    fn what_all_have_is_shown_and_everything_is_written() {
        let rows = [
            row(
                "one",
                &[("bits_per_byte", 2.0), ("loss", 1.4), ("span_mean", 7.0)],
            ),
            row(
                "two",
                &[
                    ("bits_per_byte", 2.1),
                    ("bits_per_byte_strict", 2.2),
                    ("loss", 1.5),
                ],
            ),
        ];
        assert_eq!(
            common(&rows),
            ["bits_per_byte", "loss", "bits_per_byte_strict"]
        );
        let table = readable(&rows);
        assert_eq!(
            table.columns.last().map(String::as_str),
            Some("reach (tokens)")
        );
        assert_eq!(table.rows[0][3], "n/a");
        assert!(
            table
                .rows
                .iter()
                .all(|cells| cells.len() == table.columns.len())
        );
        let exact = exact(&rows);
        assert!(exact.columns.iter().any(|c| c == "span_mean"));
        assert!(
            exact
                .rows
                .iter()
                .all(|cells| cells.len() == exact.columns.len())
        );
        let strangers = [
            row("one", &[("accuracy", 0.5)]),
            row("two", &[("loss", 1.0)]),
        ];
        assert_eq!(common(&strangers), ["accuracy", "loss"]);
    }

    #[test]
    fn runs_of_other_models_have_no_columns_for_tokens() {
        let mut other = row("one", &[("accuracy", 0.5)]);
        (other.ms_per_token, other.reach) = (None, None);
        let table = readable(&[other]);
        assert!(
            !table.columns.iter().any(|c| c.contains("token")),
            "{:?}",
            table.columns
        );
    }
}
