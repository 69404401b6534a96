//! `list`: the architectures.

use crate::app::App;
use crate::backend::Backend;
use crate::registry::ARCHITECTURES;
use crate::{out, table};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Lists the architectures, their recipes, and the backends of this program
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// None that is expected.
pub fn run(_: Args, app: &App) -> anyhow::Result<()> {
    let backends = Backend::ALL
        .into_iter()
        .filter(|backend| backend.compiled());
    let backends: Vec<&str> = backends.map(Backend::name).collect();
    if app.json {
        let all = ARCHITECTURES.iter().map(|a| {
            let checks: Vec<&str> = a.replays.iter().map(|(check, _)| *check).collect();
            json!({
                "name": a.name, "summary": a.summary, "paper": a.paper, "checks": checks,
                "bench": a.bench.is_some(), "recipes": recipes(a.name),
            })
        });
        return out::json(
            &json!({ "architectures": all.collect::<Vec<_>>(), "backends": backends }),
        );
    }
    for architecture in ARCHITECTURES {
        let recipes = recipes(architecture.name);
        let recipes = recipes.iter().map(|path| path.display().to_string());
        let checks: Vec<&str> = architecture
            .replays
            .iter()
            .map(|(check, _)| *check)
            .collect();
        out::line(format!("{}: {}", architecture.name, architecture.summary));
        let mut facts = vec![("  paper", architecture.paper.to_owned())];
        for (i, recipe) in recipes.enumerate() {
            facts.push((if i == 0 { "  recipes" } else { "" }, recipe));
        }
        facts.push(("  golden checks", checks.join(", ")));
        out::raw(table::facts(&facts));
        out::line("");
    }
    out::line(format!("backends compiled in: {}", backends.join(", ")));
    Ok(())
}

/// The shipped recipes of an architecture: `configs/NAME/*.json` here or in a folder above.
fn recipes(name: &str) -> Vec<PathBuf> {
    let up = ["", "..", "../..", "../../.."];
    let folders = up.map(|up| Path::new(up).join("configs").join(name));
    let Some(folder) = folders.into_iter().find(|folder| folder.is_dir()) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    found.sort();
    found
}
