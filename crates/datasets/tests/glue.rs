//! GLUE's files in their three forms, and what is wrong in them.

use datasets::glue::{Label, Task, load, read_file};
use std::fs;
use std::path::Path;

fn file() -> &'static Path {
    "dev.tsv".as_ref()
}

#[test]
fn the_benchmarks_layout_is_read_to_the_letter() {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/bert/glue_formats.json");
    let case: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    for case in case["cases"].as_array().unwrap() {
        let task = Task::from_name(case["task"].as_str().unwrap()).unwrap();
        // With and without a byte-order mark and carriage returns.
        let text = case["text"].as_str().unwrap();
        for text in [
            text.to_owned(),
            format!("\u{feff}{}", text.replace('\n', "\r\n")),
        ] {
            let found = task.parse_tsv(&text, file()).unwrap();
            let expected = case["expected"].as_array().unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(found.text_a, expected["text_a"]);
                assert_eq!(found.text_b.as_deref(), expected["text_b"].as_str());
                match found.label {
                    Label::Class(class) => assert_eq!(class as u64, expected["label"]),
                    Label::Value(value) => assert_eq!(value, expected["label"]),
                    Label::None => panic!("no label"),
                }
            }
        }
    }
}

#[test]
fn named_columns_are_read_from_json_lines_and_csv() {
    let json = "{\"sentence1\": \"a\", \"sentence2\": \"b\", \"label\": 1, \"idx\": 0}\n{\"sentence1\": \"c\", \"sentence2\": \"d\", \"label\": -1}\n";
    let rows = Task::Rte
        .parse_json_lines(json, "train.jsonl".as_ref())
        .unwrap();
    assert_eq!(rows[0].label, Label::Class(1));
    assert_eq!(
        (rows[1].text_b.as_deref(), rows[1].label),
        (Some("d"), Label::None)
    );
    let csv = "idx,premise,hypothesis,label\n0,\"He said \"\"no\"\", then\nleft.\",He left.,entailment\n1,A,B,2\n";
    let rows = Task::Mnli.parse_csv(csv, "train.csv".as_ref()).unwrap();
    assert_eq!(rows[0].text_a, "He said \"no\", then\nleft.");
    assert_eq!(
        (rows[0].label, rows[1].label),
        (Label::Class(1), Label::Class(2))
    );
    let error = Task::Mnli
        .parse_csv("a,b\n1,2\n", "x.csv".as_ref())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no column is named sentence1 or premise"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    let say = |task: Task, text: &str| task.parse_tsv(text, file()).unwrap_err().to_string();
    let short = say(
        Task::Rte,
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\n",
    );
    assert!(
        short.contains("dev.tsv:3") && short.contains("3 columns"),
        "{short}"
    );
    let label = say(Task::Sst2, "sentence\tlabel\ngood\tgreat\n");
    assert!(
        label.contains("dev.tsv:2") && label.contains("\"great\""),
        "{label}"
    );
    let score = say(Task::StsB, "h\n0\t1\t2\t3\t4\t5\t6\ta\tb\tNaN\n");
    assert!(score.contains("no number from 0 to 5"), "{score}");
    assert!(
        Task::Qqp
            .parse_tsv("h\nfew\tcolumns\n", file())
            .unwrap()
            .is_empty()
    );
    assert!(
        Task::from_name("squad")
            .unwrap_err()
            .to_string()
            .contains("sts-b")
    );
    assert_eq!(Task::from_name("STSB").unwrap(), Task::StsB);
}

#[test]
fn a_folder_gives_its_splits() {
    let dir = tempfile::tempdir().unwrap();
    let missing = load(dir.path(), Task::Cola).unwrap_err().to_string();
    assert!(missing.contains("train.tsv"), "{missing}");
    fs::write(dir.path().join("train.tsv"), "x\t1\t\tGood.\n").unwrap();
    fs::write(dir.path().join("dev.tsv"), "x\t0\t*\tBad good.\n").unwrap();
    fs::write(dir.path().join("test.tsv"), "index\tsentence\n0\tWhat.\n").unwrap();
    let found = load(dir.path(), Task::Cola).unwrap();
    assert_eq!((found.train.len(), found.dev[0].1.len()), (1, 1));
    assert_eq!(
        (found.test[0].text_a.as_str(), found.test[0].label),
        ("What.", Label::None)
    );
    let other = dir.path().join("validation.jsonl");
    fs::write(&other, "{\"sentence\": \"x\", \"label\": -1}\n").unwrap();
    assert_eq!(read_file(&other, Task::Cola).unwrap()[0].label, Label::None);
    fs::remove_file(dir.path().join("dev.tsv")).unwrap();
    let unlabelled = load(dir.path(), Task::Cola).unwrap_err().to_string();
    assert!(
        unlabelled.contains("example 0 has no label"),
        "{unlabelled}"
    );
}
