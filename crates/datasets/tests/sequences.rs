//! Generated classification tasks: what the labels mean, that seeds decide everything, and the published format.

use datasets::listops::{ListOpsSpec, evaluate, read, tokenize};
use datasets::pathfinder::PathfinderSpec;
use std::collections::HashSet;

#[test]
fn listops_trees_are_within_limits_distinct_and_rightly_labelled() {
    let spec = ListOpsSpec {
        min_length: 32,
        max_length: 200,
        train: 3000,
        valid: 100,
        test: 100,
        seed: 4,
        ..Default::default()
    };
    let made = spec.generate().unwrap();
    assert_eq!(made, spec.generate().unwrap());
    assert_ne!(
        made,
        ListOpsSpec {
            seed: 5,
            ..spec.clone()
        }
        .generate()
        .unwrap()
    );
    let all: Vec<_> = made
        .train
        .iter()
        .chain(&made.valid)
        .chain(&made.test)
        .collect();
    let distinct: HashSet<_> = all.iter().map(|e| &e.ids).collect();
    assert_eq!(distinct.len(), 3200);
    for example in &all {
        // With their brackets, trees have as many ids as their length counts.
        assert!((33..200).contains(&example.ids.len()));
        assert_eq!(evaluate(&example.ids), Some(example.label));
    }
    // Measured with an independent transcription: the most frequent class of 500-2000 has 0.172, of 32-200 0.16.
    let floor = made.majority_share(&made.train);
    assert!((0.14..0.20).contains(&floor), "{floor}");

    // The same draws without brackets: the labels stay, the tokens get fewer.
    let bare = ListOpsSpec {
        close_bracket: false,
        ..spec
    }
    .generate()
    .unwrap();
    assert!(bare.train.iter().all(|e| !e.ids.contains(&15)));
    assert_eq!(bare.train[0].label, made.train[0].label);
}

#[test]
fn listops_operators() {
    for (text, expected) in [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", Some(9)),
        ("( ( ( [MED 3 ) 4 ) ] )", Some(3)),
        ("[MED 1 8 5 ]", Some(5)),
        ("[SM 7 8 9 ]", Some(4)),
        ("5", Some(5)),
        ("[MAX ]", None),
        ("[MAX 1 2", None),
        ("1 2", None),
        ("", None),
        ("[AVG 1 2 ]", None),
    ] {
        assert_eq!(evaluate(&tokenize(text, true)), expected, "{text}");
    }
    assert_eq!(tokenize("( [MIN 1 ) ]", false), [13, 2]);
}

#[test]
fn limits_that_cannot_be_met_are_told() {
    let spec = ListOpsSpec {
        min_length: 50,
        max_length: 51,
        ..Default::default()
    };
    assert!(
        spec.generate()
            .unwrap_err()
            .to_string()
            .contains("max_length")
    );
    let flat = ListOpsSpec {
        max_depth: 1,
        ..Default::default()
    };
    assert!(
        flat.generate()
            .unwrap_err()
            .to_string()
            .contains("a million draws")
    );
    assert!(
        ListOpsSpec {
            max_args: 1,
            ..Default::default()
        }
        .generate()
        .is_err()
    );
}

#[test]
fn published_listops_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train", "val", "test"] {
        let text = "Source\tTarget\n( ( ( [MAX 3 ) 4 ) ] )\t4\n( ( ( [SM 3 ) 9 ) ] )\t2\n";
        std::fs::write(dir.path().join(format!("basic_{name}.tsv")), text).unwrap();
    }
    let read_back = read(dir.path(), true).unwrap();
    assert_eq!(read_back.train.len(), 2);
    assert!(
        read_back
            .test
            .iter()
            .all(|e| evaluate(&e.ids) == Some(e.label))
    );
    std::fs::write(dir.path().join("basic_val.tsv"), "Source\tTarget\nno tab\n").unwrap();
    let message = read(dir.path(), true).unwrap_err().to_string();
    assert!(message.contains("line 2"), "{message}");
}

#[test]
fn pathfinder_pictures_are_balanced_and_repeatable() {
    let spec = PathfinderSpec {
        train: 300,
        valid: 10,
        test: 10,
        ..Default::default()
    };
    let made = spec.generate().unwrap();
    assert_eq!(made, spec.generate().unwrap());
    let joined = made.train.iter().filter(|e| e.label == 1).count();
    assert!((100..200).contains(&joined), "{joined}");
    for example in &made.train {
        assert_eq!(example.ids.len(), 1024);
        let lit = example.ids.iter().filter(|p| **p > 0).count();
        assert!((40..700).contains(&lit), "{lit}");
        assert!(example.ids.iter().all(|p| *p < 256));
    }
    // Neither class has more ink than the other, by which it could be told.
    let ink = |label: u16| {
        let of = made.train.iter().filter(|e| e.label == label);
        let sums: Vec<f64> = of
            .map(|e| e.ids.iter().map(|p| f64::from(*p)).sum())
            .collect();
        sums.iter().sum::<f64>() / sums.len() as f64
    };
    assert!(
        (ink(0) / ink(1) - 1.0).abs() < 0.08,
        "{} {}",
        ink(0),
        ink(1)
    );
    assert!(
        PathfinderSpec {
            size: 3,
            ..Default::default()
        }
        .generate()
        .is_err()
    );
}
