//! What a comparison must notice.

use super::*;
use burn::tensor::TensorData;
use pretrained::NamedTensors;
use serde_json::{Value, json};
use std::path::PathBuf;

fn case(tolerance: Option<Tolerance>, tensors: &[(&str, TensorData)]) -> Case {
    Case {
        name: "case".to_owned(),
        file: PathBuf::from("case.json"),
        model: "m".to_owned(),
        check: "c".to_owned(),
        config: None,
        tolerance,
        json: json!({}),
        tensors: named(tensors),
    }
}

fn named(tensors: &[(&str, TensorData)]) -> NamedTensors {
    let tensors = tensors.iter().cloned();
    tensors
        .map(|(name, data)| (name.to_owned(), data))
        .collect()
}

fn replayed(tensors: &[(&str, TensorData)]) -> Replayed {
    Replayed {
        tensors: named(tensors),
        ..Replayed::default()
    }
}

fn tolerance(abs: f64, rel: f64, grad_abs: Option<f64>) -> Option<Tolerance> {
    Some(Tolerance {
        abs,
        rel,
        grad_abs,
        grad_rel: None,
    })
}

#[test]
fn a_perturbed_value_is_a_miss_and_is_located() {
    let expected = TensorData::from([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    let case = case(tolerance(1e-3, 1e-3, None), &[("output.y", expected)]);
    let near = TensorData::from([[1.001f32, 2.0, 3.0], [4.0, 5.0, 6.006]]);
    let report = compare(&case, &replayed(&[("output.y", near)]), 1.0);
    assert!(report.passed, "{report:?}");
    let far = TensorData::from([[1.0f32, 2.0, 3.0], [4.0, 5.01, 6.0]]);
    let report = compare(&case, &replayed(&[("output.y", far.clone())]), 1.0);
    let problem = report.tensors[0].problem.clone().expect("a miss");
    assert!(
        problem.contains("[1, 1]") && problem.starts_with("1 of 6"),
        "{problem}"
    );
    assert!((report.tensors[0].worst_abs - 0.01).abs() < 1e-6);
    assert!((report.tensors[0].worst_rel - 0.002).abs() < 1e-6);
    assert!(compare(&case, &replayed(&[("output.y", far)]), 10.0).passed);
}

#[test]
fn without_a_tolerance_and_for_integers_everything_must_be_equal() {
    let floats = TensorData::from([1.0f32, 2.0]);
    let exact = case(None, &[("output.y", floats.clone())]);
    assert!(compare(&exact, &replayed(&[("output.y", floats)]), 10.0).passed);
    let off = TensorData::from([1.0f32, 2.000_000_2]);
    assert!(!compare(&exact, &replayed(&[("output.y", off)]), 10.0).passed);
    let big = 1i64 << 60;
    let ids = case(
        tolerance(9.0, 9.0, None),
        &[("output.ids", TensorData::from([big, 3]))],
    );
    let same = TensorData::from([big, 3]);
    assert!(compare(&ids, &replayed(&[("output.ids", same)]), 1.0).passed);
    let next = TensorData::from([big + 1, 3]);
    assert!(!compare(&ids, &replayed(&[("output.ids", next)]), 1.0).passed);
    let short = case(
        tolerance(9.0, 9.0, None),
        &[("output.ids", TensorData::from([2i64, 3]))],
    );
    let narrow = TensorData::from([2i32, 3]);
    assert!(compare(&short, &replayed(&[("output.ids", narrow)]), 1.0).passed);
    let float = TensorData::from([2.5f32, 3.0]);
    assert!(!compare(&short, &replayed(&[("output.ids", float)]), 1.0).passed);
}

#[test]
fn shapes_must_agree_but_a_scalar_may_have_one_axis() {
    let one = TensorData::from([0.5f32]);
    let none = TensorData::new(vec![0.5f32], Vec::<usize>::new());
    let case_ = case(None, &[("output.loss", none)]);
    assert!(compare(&case_, &replayed(&[("output.loss", one)]), 1.0).passed);
    let flat = case(None, &[("output.y", TensorData::from([1.0f32, 2.0]))]);
    let column = TensorData::from([[1.0f32], [2.0]]);
    let report = compare(&flat, &replayed(&[("output.y", column)]), 1.0);
    let problem = report.tensors[0].problem.clone().expect("a miss");
    assert!(problem.contains("[2, 1] instead of [2]"), "{problem}");
}

#[test]
fn nan_meets_nan_only_and_infinity_its_own() {
    let wide = tolerance(1e30, 1.0, None);
    let odd = TensorData::from([f32::NAN, f32::INFINITY, 1.0]);
    let case = case(wide, &[("output.y", odd.clone())]);
    assert!(compare(&case, &replayed(&[("output.y", odd)]), 1.0).passed);
    for other in [
        [0.0, f32::INFINITY, 1.0],
        [f32::NAN, f32::NEG_INFINITY, 1.0],
        [f32::NAN, f32::INFINITY, f32::NAN],
        [f32::NAN, 1e30, 1.0],
    ] {
        let found = replayed(&[("output.y", TensorData::from(other))]);
        let report = compare(&case, &found, 1.0);
        assert_eq!(report.tensors[0].misses, 1, "{other:?}");
        assert!(report.tensors[0].worst_abs.is_infinite());
    }
}

#[test]
fn what_is_left_out_is_a_miss_or_has_a_reason() {
    let x = TensorData::from([1.0f32]);
    let names = [
        "input.x",
        "weights.w",
        "output.a",
        "output.b",
        "mid.m",
        "mid.s",
        "grad.w",
        "grad_r1.w",
    ];
    let tensors: Vec<_> = names.iter().map(|name| (*name, x.clone())).collect();
    let case = case(tolerance(0.0, 0.0, Some(0.5)), &tensors);
    let near = TensorData::from([1.4f32]);
    let mut replay = replayed(&[("output.a", x.clone()), ("grad.w", near.clone())]);
    replay.selectors.push("mid.s".to_owned());
    let report = compare(&case, &replay, 1.0);
    let missed: Vec<&str> = report
        .tensors
        .iter()
        .filter(|t| !t.passed)
        .map(|t| t.name.as_str())
        .collect();
    assert_eq!(missed, ["grad_r1.w", "output.b"]);
    let listed: Vec<&str> = report
        .not_compared
        .iter()
        .map(|n| n.name.as_str())
        .collect();
    assert_eq!(listed, ["mid.m", "mid.s"]);
    replay
        .skipped
        .push(("output.b".to_owned(), "not imported".to_owned()));
    replay
        .skipped
        .push(("grad_r1.*".to_owned(), "second order".to_owned()));
    let report = compare(&case, &replay, 1.0);
    assert!(report.passed, "{report:?}");
    assert_eq!(report.not_compared.len(), 4);
    // The wider tolerance is for gradients only.
    let all = replayed(&[
        ("output.a", near.clone()),
        ("output.b", x),
        ("grad.w", near.clone()),
        ("grad_r1.w", near),
    ]);
    let report = compare(&case, &all, 1.0);
    let failed = report.tensors.iter().filter(|t| !t.passed).count();
    assert_eq!(failed, 1, "{report:?}");
}

#[test]
fn facts_are_compared_to_the_last_leaf() {
    let expected = json!({ "trace": [{ "lr": 0.1, "len": 64, "trim": null }], "name": "x" });
    let fact = |found: Value, tolerance| {
        let replay = Replayed {
            facts: vec![Fact::close("trace", expected.clone(), found, tolerance)],
            ..Replayed::default()
        };
        compare(&case(None, &[]), &replay, 1.0).facts[0].clone()
    };
    assert!(fact(expected.clone(), None).passed);
    let near = json!({ "trace": [{ "lr": 0.1001, "len": 64, "trim": null }], "name": "x" });
    let report = fact(near.clone(), None);
    assert_eq!(
        report.problem.as_deref(),
        Some("at trace.0.lr: 0.1001 instead of 0.1")
    );
    let report = fact(near, tolerance(1e-3, 0.0, None));
    assert!(report.passed && (report.worst_abs - 1e-4).abs() < 1e-12);
    for found in [
        json!({ "trace": [{ "lr": 0.1, "len": 64, "trim": 0 }], "name": "x" }),
        json!({ "trace": [{ "lr": 0.1, "len": 64 }], "name": "x" }),
        json!({ "trace": [{ "lr": 0.1, "len": 65, "trim": null }], "name": "x" }),
        json!({ "trace": [{ "lr": 0.1, "len": 64, "trim": null, "more": 1 }], "name": "x" }),
        json!({ "trace": [], "name": "x" }),
        json!({ "trace": [{ "lr": "0.1", "len": 64, "trim": null }], "name": "x" }),
    ] {
        assert!(
            !fact(found.clone(), tolerance(1e-3, 0.0, None)).passed,
            "{found}"
        );
    }
}
