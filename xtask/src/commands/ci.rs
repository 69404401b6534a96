//! `ci`: all checks of the workspace, in the order in which they fail soonest.

use crate::app::App;
use crate::backend::Backend;
use crate::registry::ARCHITECTURES;
use crate::{format, out, table};
use anyhow::Context as _;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Runs format, lints, documentation, tests, the quickstarts and the golden cases, as .ci/run does
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on after a failure and report all
    #[arg(long)]
    pub keep_going: bool,
    /// Leave out what takes longest: the training of the quickstarts
    #[arg(long)]
    pub quick: bool,
}

/// One check: a name and a command of cargo or of this program.
struct Check {
    name: String,
    program: Program,
    words: Vec<String>,
}

enum Program {
    Cargo,
    Ourselves,
}

/// Runs the command.
///
/// # Errors
/// When a check fails.
pub fn run(args: Args, app: &App) -> anyhow::Result<()> {
    app.wait_for_cancel();
    let root = root()?;
    let mut rows: Vec<(String, bool, f64)> = Vec::new();
    for check in checks(args.quick) {
        out::note(format!("── {}", check.name));
        let start = Instant::now();
        let passed = check.run(&root, app)?;
        rows.push((check.name, passed, start.elapsed().as_secs_f64()));
        if app.cancel.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(trainer::Error::cancelled().into());
        }
        if !passed && !args.keep_going {
            break;
        }
    }
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| !row.1)
        .map(|row| row.0.as_str())
        .collect();
    if app.json {
        let rows = rows.iter();
        let rows = rows.map(|(n, p, s)| json!({ "check": n, "passed": p, "seconds": s }));
        out::json(&rows.collect::<Vec<_>>())?;
    } else {
        let rows = rows.iter().map(|(name, passed, seconds)| {
            let word = if *passed { "passed" } else { "FAILED" };
            vec![name.clone(), word.to_owned(), format::seconds(*seconds)]
        });
        let rows = rows.collect();
        out::raw(table::text(&table::table(
            "",
            &["check", "result", "time"],
            rows,
        )));
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(anyhow::anyhow!("failed: {}", failed.join(", "))),
    }
}

fn checks(quick: bool) -> Vec<Check> {
    let check = |name: String, program: Program, words: &[&str]| Check {
        name,
        program,
        words: words.iter().map(|word| (*word).to_owned()).collect(),
    };
    let cargo = |name: &str, words: &[&str]| check(name.to_owned(), Program::Cargo, words);
    let mut all = vec![
        cargo("format", &["fmt", "--all", "--check"]),
        cargo(
            "lints",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        cargo("documentation", &["doc", "--workspace", "--no-deps"]),
        cargo("tests", &["test", "--workspace"]),
    ];
    if !quick {
        for architecture in ARCHITECTURES {
            let recipe = format!("configs/{}/quickstart.json", architecture.name);
            let name = format!("quickstart of {}", architecture.name);
            all.push(check(name, Program::Ourselves, &["train", &recipe]));
        }
    }
    for backend in Backend::ALL
        .into_iter()
        .filter(|backend| backend.compiled())
    {
        let name = format!("golden cases on {}", backend.name());
        all.push(check(
            name,
            Program::Ourselves,
            &["verify", "--backend", backend.name()],
        ));
    }
    all
}

impl Check {
    /// Whether the check passed; its output goes to stderr, so that stdout holds the summary alone.
    fn run(&self, root: &Path, app: &App) -> anyhow::Result<bool> {
        let program = match self.program {
            Program::Cargo => std::env::var_os("CARGO").map_or("cargo".into(), PathBuf::from),
            Program::Ourselves => std::env::current_exe().context("cannot find this program")?,
        };
        let mut command = Command::new(&program);
        command
            .args(&self.words)
            .current_dir(root)
            .stdin(Stdio::null());
        // Only rustdoc reads this, so the build of everything else stays as it is.
        command.env("RUSTDOCFLAGS", "-D warnings");
        if let Program::Ourselves = self.program {
            command.args(["--threads", &app.threads.to_string()]);
        }
        command.stdout(std::io::stderr());
        let status = command.status();
        let status = status.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(status.success())
    }
}

/// The root of the workspace: the first folder from here upwards that holds this program's source.
fn root() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("there is no current folder")?;
    let found = here
        .ancestors()
        .find(|folder| folder.join("xtask/Cargo.toml").is_file());
    let found = found.map(Path::to_path_buf);
    found.ok_or_else(|| crate::fail::usage("run this inside the workspace of burn-formers"))
}
