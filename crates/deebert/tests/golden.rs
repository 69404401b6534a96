//! Every golden case of this architecture, on every backend.
#![cfg(feature = "train")]

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use common::devices;
use std::path::Path;
use trainer::golden::{Case, compare, find};

#[test]
fn every_case_replays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/deebert");
    let files = find(&folder).unwrap();
    assert!(files.len() >= 4, "only {} cases were found", files.len());
    for (backend, device) in devices() {
        for file in &files {
            let case = Case::load(file).unwrap();
            let replay = deebert::ARCHITECTURE.replay(&case.check);
            let replay = replay.unwrap_or_else(|| panic!("no replay for {}", case.check));
            let found =
                replay(&case, &device).unwrap_or_else(|e| panic!("{backend} {}: {e}", case.name));
            let report = compare(&case, &found, if backend == "wgpu" { 10.0 } else { 1.0 });
            let tensors = report.tensors.iter().map(|t| (&t.name, &t.problem));
            let facts = report.facts.iter().map(|f| (&f.name, &f.problem));
            let misses: Vec<_> = tensors.chain(facts).filter(|(_, p)| p.is_some()).collect();
            assert!(report.passed, "{backend} {}: {misses:#?}", case.name);
            let explained = |n: &str| found.skipped.iter().any(|(name, _)| name == n);
            let unexplained = |n: &&trainer::golden::NotCompared| !explained(&n.name);
            let left: Vec<_> = report.not_compared.iter().filter(unexplained).collect();
            assert!(left.is_empty(), "{backend} {}: {left:?}", case.name);
        }
    }
}
