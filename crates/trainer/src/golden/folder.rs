//! All cases of a folder, for an architecture's own tests.

use super::{Case, compare, find};
use crate::architecture::Architecture;
use crate::{Error, Result};
use burn::tensor::Device;
use std::path::Path;

/// What came of the cases of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderReport {
    /// How many cases were replayed.
    pub cases: usize,
    /// What differs or was not compared without a reason, a line each.
    pub misses: Vec<String>,
    /// Cases of which nothing could be compared, with the reason.
    pub not_run: Vec<String>,
}

/// Replays every case of a folder. `widen` multiplies the tolerances.
///
/// # Errors
/// A case that cannot be read, for which there is no replay, or whose replay fails.
pub fn replay_folder(
    architecture: &Architecture,
    folder: &Path,
    device: &Device,
    widen: f64,
) -> Result<FolderReport> {
    let mut all = FolderReport::default();
    for file in find(folder)? {
        let case = Case::load(&file)?;
        let replay = architecture.replay(&case.check).ok_or_else(|| {
            let expected = format!("a check of {}", architecture.name);
            Error::value(format!("the check of {}", case.name), &case.check, expected)
        })?;
        let found = replay(&case, device)?;
        let report = compare(&case, &found, widen);
        let tensors = report.tensors.iter().map(|t| (&t.name, &t.problem));
        let facts = report.facts.iter().map(|f| (&f.name, &f.problem));
        for (name, problem) in tensors.chain(facts) {
            if let Some(problem) = problem {
                all.misses.push(format!("{}: {name}: {problem}", case.name));
            }
        }
        // A name ending in `*` stands for all that begin so.
        let explains = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        };
        for left in &report.not_compared {
            let selector = found.selectors.contains(&left.name);
            let skipped = found.skipped.iter().any(|(s, _)| explains(s, &left.name));
            if !selector && !skipped {
                all.misses
                    .push(format!("{}: {} was not compared", case.name, left.name));
            }
        }
        if report.tensors.is_empty() && report.facts.is_empty() {
            let why = found.skipped.first().map_or("", |(_, why)| why.as_str());
            all.not_run.push(format!("{}: {why}", case.name));
        }
        all.cases += 1;
    }
    Ok(all)
}
