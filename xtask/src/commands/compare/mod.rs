//! `compare`: runs side by side.

mod page;
mod row;
mod runs;

use crate::app::App;
use crate::backend::Backend;
use crate::{out, table};
use row::Row;
use std::path::PathBuf;
use trainer::RunReader;

/// Puts runs side by side: result, size, speed, memory, reach
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folders, finished or not; a recipe is trained first, unless its run is there already
    #[arg(value_name = "RUN|RECIPE", required = true)]
    pub runs: Vec<PathBuf>,
    /// Where recipes are trained, each in a folder of its own
    #[arg(long, value_name = "DIR", default_value = "runs/compare")]
    pub runs_in: PathBuf,
    /// The backend for recipes; by default what each says, else flex
    #[arg(long)]
    pub backend: Option<Backend>,
    /// Also write the table as CSV, with all digits
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Also write a page: Markdown if its name ends in .md, else HTML with curves
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When something is neither a run folder nor a recipe, or a recipe cannot be trained.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for path in &args.runs {
        let dir = match path.is_file() {
            true => runs::train(path, &args.runs_in, args.backend, app)?,
            false => path.clone(),
        };
        runs.push(RunReader::open(&dir)?);
    }
    let rows: Vec<Row> = runs.iter().map(Row::of).collect();
    if let Some(file) = &args.csv {
        pretrained::write_atomic(file, table::csv(&row::exact(&rows)).as_bytes())?;
        app.note(&format!("written to {}", file.display()));
    }
    if let Some(file) = &args.page {
        let text = page::of(file, &runs, &rows, app);
        pretrained::write_atomic(file, text.as_bytes())?;
        app.note(&format!("written to {}", file.display()));
    }
    if app.json {
        return out::json(&rows);
    }
    out::raw(table::text(&row::readable(&rows)));
    if rows.iter().any(|row| !row.finished) {
        out::line(row::UNFINISHED);
    }
    Ok(())
}
