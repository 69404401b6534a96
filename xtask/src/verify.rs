//! Replaying golden cases.

use crate::panics;
use crate::registry::ARCHITECTURES;
use burn::tensor::Device;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use trainer::golden::{self, Case, Report};

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Everything that was compared agrees.
    Passed,
    /// Something differs, the replay failed, or an architecture that is here has no replay for it.
    Missed,
    /// It needs something that is not on this machine, such as weights; no failure.
    NotRun,
    /// Its model is not part of this workspace yet; no failure.
    NotImplemented,
    /// The case itself could not be read.
    Unreadable,
}

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// Its file.
    pub file: PathBuf,
    /// Its model, as far as it could be read.
    pub model: Option<String>,
    /// Its check, as far as it could be read.
    pub check: Option<String>,
    /// How it ended.
    pub status: Status,
    /// Why, where no comparison tells.
    pub message: Option<String>,
    /// The comparison.
    pub report: Option<Report>,
    /// How long the replay took.
    pub seconds: f64,
}

/// All cases.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The cases, in the order of their files.
    pub cases: Vec<CaseResult>,
}

impl Verification {
    /// How many cases ended so.
    pub fn count(&self, status: Status) -> usize {
        self.cases
            .iter()
            .filter(|case| case.status == status)
            .count()
    }

    /// Whether no case missed and every case could be read.
    pub fn passed(&self) -> bool {
        self.count(Status::Missed) + self.count(Status::Unreadable) == 0
    }
}

/// The folder of the golden cases of this workspace: `tests/golden` here or above, else where this program was built.
pub fn default_folder() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let above = here.ancestors().map(|folder| folder.join("tests/golden"));
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    above
        .into_iter()
        .find(|folder| folder.is_dir())
        .unwrap_or(built)
}

/// Replays every case under these paths (a case, a folder of cases, a folder of such folders) on a device. `widen` multiplies the
/// tolerances; `each` is called as soon as a case is done.
///
/// # Errors
/// When a path holds no case. What is wrong with a case is part of its result.
pub fn verify(
    paths: &[PathBuf],
    device: &Device,
    widen: f64,
    mut each: impl FnMut(&CaseResult),
) -> trainer::Result<Verification> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(golden::find(path)?);
    }
    let cases = files.into_iter().map(|file| {
        let result = replay(file, device, widen);
        each(&result);
        result
    });
    Ok(Verification {
        cases: cases.collect(),
    })
}

fn replay(file: PathBuf, device: &Device, widen: f64) -> CaseResult {
    let mut result = CaseResult {
        file,
        model: None,
        check: None,
        status: Status::Unreadable,
        message: None,
        report: None,
        seconds: 0.0,
    };
    let case = match panics::caught(|| Case::load(&result.file)) {
        Ok(Ok(case)) => case,
        Ok(Err(error)) => {
            return CaseResult {
                message: Some(error.to_string()),
                ..result
            };
        }
        Err(panic) => {
            return CaseResult {
                message: Some(panic),
                ..result
            };
        }
    };
    result.model = Some(case.model.clone());
    result.check = Some(case.check.clone());
    let Some(architecture) = ARCHITECTURES.iter().find(|a| a.name == case.model) else {
        result.status = Status::NotImplemented;
        result.message = Some(format!("`{}` is not implemented yet", case.model));
        return result;
    };
    result.status = Status::Missed;
    let Some(replay) = architecture.replay(&case.check) else {
        let known: Vec<&str> = architecture.replays.iter().map(|(name, _)| *name).collect();
        result.message = Some(format!(
            "`{}` has no replay for the check `{}`; it has: {}",
            case.model,
            case.check,
            known.join(", ")
        ));
        return result;
    };
    let start = Instant::now();
    let replayed = panics::caught(|| replay(&case, device));
    result.seconds = start.elapsed().as_secs_f64();
    match replayed {
        Ok(Ok(replayed)) => {
            let report = golden::compare(&case, &replayed, widen);
            let compared = report.tensors.len() + report.facts.len();
            if report.passed && compared > 0 {
                result.status = Status::Passed;
            } else if report.passed && report.not_compared.is_empty() {
                result.message = Some("nothing was compared".to_owned());
            } else if report.passed {
                result.status = Status::NotRun;
                result.message = Some("nothing could be compared, see below".to_owned());
            }
            result.report = Some(report);
        }
        Ok(Err(error)) => result.message = Some(format!("the replay failed: {error}")),
        Err(panic) => result.message = Some(panic),
    }
    result
}
