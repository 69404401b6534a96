//! Labelled texts: what is embedded, and how a spec is read.

use std::collections::HashSet;
use std::path::Path;

use datasets::glue::{Example, Label, Task};
use datasets::labelled::{Labelled, LabelledSpec, load};
use datasets::{CorpusSpec, embedded};

fn named(name: &str) -> Labelled {
    load(&LabelledSpec::named(name), Path::new(".")).unwrap()
}

fn of_class(examples: &[Example], class: usize) -> usize {
    examples
        .iter()
        .filter(|e| e.label == Label::Class(class))
        .count()
}

#[test]
fn eras_are_balanced_and_split_by_speech() {
    let data = named("sotu-era4");
    for (examples, each) in [(&data.train, 1120), (&data.valid, 160), (&data.test, 320)] {
        assert!((0..4).all(|class| of_class(examples, class) == each));
        for example in examples {
            assert!((240..=700).contains(&example.text_a.len()));
            assert_eq!(example.text_b, None);
        }
    }
    assert_eq!(data.majority_share(&data.test), Some(0.25));

    // The table itself: no speech in two splits, each of the era that its year says, no passage twice.
    let table = String::from_utf8(embedded::open("sotu-era4").unwrap()).unwrap();
    let mut splits = std::collections::HashMap::new();
    let mut texts = HashSet::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let (split, label, speech, text) = (cells[0], cells[1], cells[2], cells[3]);
        assert_eq!(*splits.entry(speech).or_insert(split), split, "{speech}");
        let (from, to) = label.split_once('-').unwrap();
        assert!((from..=to).contains(&&speech[..4]), "{speech} in {label}");
        assert!(texts.insert(text), "{text}");
    }
    assert!(splits.len() > 200);
}

#[test]
fn data_of_another_kind_is_sent_to_its_own_reader() {
    let message = load(&LabelledSpec::named("moby-dick"), Path::new("."))
        .unwrap_err()
        .to_string();
    assert!(message.contains("running text"), "{message}");
    for name in ["sotu-era4", embedded::BERT_BASE_UNCASED] {
        let message = datasets::load(&CorpusSpec::named(name), Path::new("."))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("data.name") && message.contains("moby-dick"),
            "{message}"
        );
    }
}

#[test]
fn a_spec_names_one_source() {
    let read = |json: &str| serde_json::from_str::<LabelledSpec>(json).unwrap();
    for json in [
        r#"{ "name": "sotu-era4" }"#,
        r#"{ "task": "SST-2", "path": "glue/SST-2" }"#,
    ] {
        assert!(read(json).validate().is_ok(), "{json}");
    }
    for (json, part) in [
        ("{}", "\"name\" alone"),
        (r#"{ "task": "sst-2" }"#, "data.path"),
        (r#"{ "path": "x" }"#, "data.task"),
        (r#"{ "name": "sotu-era4", "path": "x" }"#, "\"name\" with"),
        (r#"{ "task": "sst-3", "path": "x" }"#, "sst-2"),
    ] {
        let message = read(json).validate().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    assert!(serde_json::from_str::<LabelledSpec>(r#"{ "nam": "x" }"#).is_err());
}

#[test]
fn glue_comes_in_the_same_form() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("SST-2");
    std::fs::create_dir(&folder).unwrap();
    for (split, text) in [
        ("train", "good \t1\nbad \t0\nworse \t0\n"),
        ("dev", "fine \t1\n"),
    ] {
        let text = format!("sentence\tlabel\n{text}");
        std::fs::write(folder.join(format!("{split}.tsv")), text).unwrap();
    }
    let spec = LabelledSpec {
        task: Some("sst-2".into()),
        path: Some("SST-2".into()),
        ..LabelledSpec::default()
    };
    let data = load(&spec, dir.path()).unwrap();
    assert_eq!(data.task, Some(Task::Sst2));
    assert_eq!((data.train.len(), data.valid.len()), (3, 1));
    assert_eq!(data.valid, data.test);
    assert_eq!(data.majority_share(&data.test), Some(0.0));
}
