//! `verify`: golden cases replayed, every difference reported.

use crate::app::App;
use crate::backend::Backend;
use crate::format::{error, seconds};
use crate::verify::{CaseResult, Status, Verification, default_folder, verify};
use crate::{out, table};
use serde_json::json;
use std::path::PathBuf;
use trainer::golden::Report;

/// Replays golden cases: numbers made by running the reference implementations
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cases, folders of cases, or folders of such folders; by default tests/golden
    #[arg(value_name = "DIR")]
    pub paths: Vec<PathBuf>,
    /// The backend; on wgpu the tolerances are ten times wider
    #[arg(long)]
    pub backend: Option<Backend>,
}

/// Runs the command.
///
/// # Errors
/// When a case misses or cannot be read.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let backend = Backend::choose(args.backend, None)?;
    let device = backend.device(&app.command)?;
    let paths = match args.paths.is_empty() {
        true => vec![default_folder()],
        false => args.paths,
    };
    let json = app.json;
    let found = verify(&paths, &device, backend.widen(), |case| {
        if !json {
            show(case);
        }
    })?;
    if json {
        out::json(&json!({
            "backend": backend, "passed": found.passed(), "cases": found.cases,
        }))?;
    } else {
        out::line(summary(&found, backend));
    }
    match found.passed() {
        true => Ok(()),
        false => Err(anyhow::anyhow!(
            "{} of {} cases missed, {} could not be read",
            found.count(Status::Missed),
            found.cases.len(),
            found.count(Status::Unreadable)
        )),
    }
}

fn summary(found: &Verification, backend: Backend) -> String {
    let count = |status| found.count(status);
    format!(
        "{} cases on {}: {} passed, {} missed, {} unreadable, {} not run, {} not implemented yet",
        found.cases.len(),
        backend.name(),
        count(Status::Passed),
        count(Status::Missed),
        count(Status::Unreadable),
        count(Status::NotRun),
        count(Status::NotImplemented)
    )
}

fn show(case: &CaseResult) {
    let status = match case.status {
        Status::Passed => "passed",
        Status::Missed => "MISSED",
        Status::NotRun => "not run",
        Status::NotImplemented => "not implemented yet",
        Status::Unreadable => "UNREADABLE",
    };
    let check = case
        .check
        .as_ref()
        .map_or(String::new(), |check| format!(" ({check})"));
    out::line(format!(
        "{}{check}: {status}, {}",
        case.file.display(),
        seconds(case.seconds)
    ));
    if let Some(message) = &case.message
        && case.status != Status::NotImplemented
    {
        out::line(format!("  {message}"));
    }
    if let Some(report) = &case.report {
        details(report);
    }
    out::line("");
}

fn details(report: &Report) {
    let word = |passed: bool| if passed { "" } else { "miss" }.to_owned();
    let mut rows = Vec::new();
    for tensor in &report.tensors {
        rows.push(vec![
            format!("  {}", tensor.name),
            format!("{:?}", tensor.shape),
            error(tensor.worst_abs),
            error(tensor.worst_rel),
            word(tensor.passed),
        ]);
    }
    for fact in &report.facts {
        rows.push(vec![
            format!("  {}", fact.name),
            "json".to_owned(),
            error(fact.worst_abs),
            String::new(),
            word(fact.passed),
        ]);
    }
    if !rows.is_empty() {
        let columns = ["  compared", "shape", "worst abs", "worst rel", ""];
        out::raw(table::text(&table::table("", &columns, rows)));
    }
    let tensors = report.tensors.iter().map(|t| (&t.name, &t.problem));
    let facts = report.facts.iter().map(|f| (&f.name, &f.problem));
    for (name, problem) in tensors.chain(facts) {
        if let Some(problem) = problem {
            out::line(format!("  {name}: {problem}"));
        }
    }
    for (names, reason) in reasons(report) {
        out::line(format!("  not compared: {} ({reason})", names.join(", ")));
    }
}

/// What was not compared, by reason.
fn reasons(report: &Report) -> Vec<(Vec<&str>, &str)> {
    let mut all: Vec<(Vec<&str>, &str)> = Vec::new();
    for skipped in &report.not_compared {
        match all.iter_mut().find(|(_, reason)| *reason == skipped.reason) {
            Some((names, _)) => names.push(&skipped.name),
            None => all.push((vec![&skipped.name], &skipped.reason)),
        }
    }
    all
}
