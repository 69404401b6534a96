//! Every golden case of this architecture, on every backend.
#![cfg(feature = "train")]

#[path = "../../core-attn/tests/common/mod.rs"]
mod common;

use common::devices;
use std::path::Path;
use trainer::golden::replay_folder;

#[test]
fn every_case_replays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/adaptive-span");
    for (backend, device) in devices() {
        let widen = if backend == "wgpu" { 10.0 } else { 1.0 };
        let found = replay_folder(&adaptive_span::ARCHITECTURE, &folder, &device, widen)
            .unwrap_or_else(|e| panic!("{backend}: {e}"));
        assert!(found.cases >= 9, "{backend}: only {} cases", found.cases);
        assert!(found.misses.is_empty(), "{backend}: {:#?}", found.misses);
        assert!(found.not_run.is_empty(), "{backend}: {:#?}", found.not_run);
    }
}
