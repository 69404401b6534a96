//! Every golden case replays on every backend, and a case that is not right does not.

use burn_formers_tests::{root, succeed, text, xtask};
use std::fs;
use std::path::{Path, PathBuf};
use xtask::backend::Backend;
use xtask::verify::{Status, Verification, verify};

fn cases() -> PathBuf {
    root().join("tests/golden")
}

fn replay(paths: &[PathBuf], backend: Backend) -> Verification {
    let device = backend.device(&[]).expect("the backend is there");
    verify(paths, &device, backend.widen(), |_| {}).expect("there are cases")
}

fn all_pass(backend: Backend) {
    let found = replay(&[cases()], backend);
    assert!(found.cases.len() >= 9, "only {} cases", found.cases.len());
    for case in &found.cases {
        let report = case.report.as_ref();
        let problems: Vec<&String> = report.map_or(Vec::new(), |report| {
            let tensors = report.tensors.iter().filter_map(|t| t.problem.as_ref());
            tensors
                .chain(report.facts.iter().filter_map(|f| f.problem.as_ref()))
                .collect()
        });
        let file = case.file.display();
        // Weights that are not on this machine are no failure, if it is said how to get them.
        let told = report.is_some_and(|r| {
            let mut reasons = r.not_compared.iter().map(|n| &n.reason);
            reasons.all(|reason| reason.contains("cargo xtask data import"))
        });
        assert!(
            case.status == Status::Passed || (case.status == Status::NotRun && told),
            "{file}: {:?} {:?} {problems:?}",
            case.status,
            case.message
        );
    }
}

#[cfg(feature = "flex")]
#[test]
fn every_case_passes_on_flex() {
    all_pass(Backend::Flex);
}

#[cfg(feature = "ndarray")]
#[test]
fn every_case_passes_on_ndarray() {
    all_pass(Backend::Ndarray);
}

#[cfg(feature = "wgpu")]
#[test]
fn every_case_passes_on_wgpu() {
    match Backend::Wgpu.device(&[]) {
        Ok(_) => all_pass(Backend::Wgpu),
        Err(error) => println!("skipped: {error:#}"),
    }
}

/// Copies a case into a folder of its own.
fn copy(name: &str, into: &Path) -> PathBuf {
    let from = cases().join("adaptive-span");
    for extension in ["json", "safetensors"] {
        let file = format!("{name}.{extension}");
        if from.join(&file).is_file() {
            fs::copy(from.join(&file), into.join(&file)).expect("copied");
        }
    }
    into.join(format!("{name}.json"))
}

#[test]
fn a_perturbed_tensor_is_a_miss_and_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let case = copy("seq_fixed_span", dir.path());
    let weights = case.with_extension("safetensors");
    let mut tensors = pretrained::read_tensors(&weights).expect("tensors");
    let name = tensors
        .keys()
        .find(|name| name.starts_with("output."))
        .expect("an output");
    let name = name.clone();
    let data = tensors[&name].clone();
    let mut values: Vec<f32> = data.iter::<f32>().collect();
    values[0] += 0.01;
    let changed = burn::tensor::TensorData::new(values, data.shape().clone());
    tensors.insert(name.clone(), changed);
    pretrained::write_safetensors(&weights, &tensors).expect("written");
    let found = replay(&[dir.path().to_path_buf()], Backend::Flex);
    assert!(!found.passed());
    let report = found.cases[0].report.as_ref().expect("it was compared");
    let missed: Vec<&str> = report
        .tensors
        .iter()
        .filter(|t| !t.passed)
        .map(|t| t.name.as_str())
        .collect();
    assert_eq!(missed, [name.as_str()]);
}

#[test]
fn a_changed_fact_is_a_miss() {
    let dir = tempfile::tempdir().expect("a folder");
    let case = copy("data_text8", dir.path());
    let mut json: serde_json::Value = pretrained::read_json(&case).expect("a case");
    json["vocabulary_in_id_order"][0] = "?".into();
    fs::write(&case, json.to_string()).expect("written");
    let found = replay(&[case], Backend::Flex);
    assert_eq!(found.count(Status::Missed), 1, "{found:?}");
}

#[test]
fn what_cannot_be_replayed_is_told_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, json: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("case.json"), json).expect("a case");
    };
    write(
        "a",
        r#"{ "model": "adaptive-span", "check": "no-such-check" }"#,
    );
    write("b", r#"{ "model": "no-such-model", "check": "model" }"#);
    write("c", r#"{ "model": "adaptive-span", "check": "#);
    write(
        "d",
        r#"{ "model": "adaptive-span", "check": "model", "config": { "hidden_size": 7 } }"#,
    );
    let found = replay(&[dir.path().to_path_buf()], Backend::Flex);
    let status: Vec<Status> = found.cases.iter().map(|case| case.status).collect();
    use Status::{Missed, NotImplemented, Unreadable};
    assert_eq!(status, [Missed, NotImplemented, Unreadable, Missed]);
    let first = found.cases[0].message.as_deref().expect("a reason");
    assert!(
        first.contains("no-such-check") && first.contains("span_mask"),
        "{first}"
    );
}

#[test]
fn the_command_reports_and_its_exit_code_tells() {
    let folder = cases().join("adaptive-span");
    let folder = folder.to_str().expect("a plain path");
    let json = succeed(root(), &["verify", folder, "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["passed"], true);
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("x.json"), "{}").expect("written");
    let output = xtask(dir.path(), &["verify", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("UNREADABLE"),
        "{}",
        text(&output.stdout)
    );
    let output = xtask(dir.path(), &["verify", "no-such-folder"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}
