//! Labelled texts: what is embedded, and how a spec is read.

use std::collections::HashSet;
use std::path::Path;

use datasets::glue::{Example, Label, Task};
use datasets::labelled::{Labelled, LabelledSpec, Negatives, load};
use datasets::verses::{self, Translation};
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

fn pairs_with(negatives: Negatives) -> Labelled {
    let spec = LabelledSpec {
        negatives: Some(negatives),
        ..LabelledSpec::named("nt-verses")
    };
    load(&spec, Path::new(".")).unwrap()
}

fn shared_words(example: &Example) -> f64 {
    let words = |text: &str| -> HashSet<String> {
        let parts = text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|w| !w.is_empty());
        parts.map(str::to_lowercase).collect()
    };
    let (a, b) = (
        words(&example.text_a),
        words(example.text_b.as_deref().unwrap()),
    );
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}

#[test]
fn verse_pairs_leak_nothing_between_splits() {
    let verses = verses::splits().unwrap();
    let of = |verses: &[verses::Verse], translation| -> HashSet<String> {
        verses
            .iter()
            .map(|v| v.text(translation).to_owned())
            .collect()
    };
    let mut means = vec![];
    for negatives in [
        Negatives::Hardest,
        Negatives::Neighbouring,
        Negatives::Random,
    ] {
        let data = pairs_with(negatives);
        for (examples, verses) in [
            (&data.train, &verses.train),
            (&data.valid, &verses.valid),
            (&data.test, &verses.test),
        ] {
            assert_eq!(examples.len(), 2 * verses.len());
            assert_eq!(of_class(examples, 1), verses.len());
            let (first, second) = (of(verses, Translation::Kjv), of(verses, Translation::Web));
            let own: HashSet<(&str, &str)> = verses
                .iter()
                .map(|v| (v.text(Translation::Kjv), v.text(Translation::Web)))
                .collect();
            for example in examples {
                let (a, b) = (&example.text_a, example.text_b.as_ref().unwrap());
                assert!(first.contains(a) && second.contains(b));
                let same = example.label == Label::Class(1);
                assert_eq!(own.contains(&(a.as_str(), b.as_str())), same, "{a} | {b}");
            }
        }
        let mean = |class| {
            let of = data.test.iter().filter(|e| e.label == Label::Class(class));
            of.clone().map(shared_words).sum::<f64>() / of.count() as f64
        };
        assert!(mean(1) > 0.5, "{}", mean(1));
        means.push(mean(0));
    }
    // The hardest ones share the most words, the random ones the fewest.
    assert!(means[0] > means[1] && means[1] > means[2], "{means:?}");
    // Without a choice, the hardest.
    let plain = load(&LabelledSpec::named("nt-verses"), Path::new(".")).unwrap();
    assert_eq!(plain, pairs_with(Negatives::Hardest));
}

#[test]
fn verses_are_split_by_chapter() {
    let splits = verses::splits().unwrap();
    let chapters = |verses: &[verses::Verse]| -> HashSet<(usize, usize)> {
        verses.iter().map(|v| (v.book, v.chapter)).collect()
    };
    let [train, valid, test] = [&splits.train, &splits.valid, &splits.test].map(|v| chapters(v));
    assert_eq!((train.len(), valid.len(), test.len()), (182, 26, 52));
    assert!(train.is_disjoint(&valid) && train.is_disjoint(&test) && valid.is_disjoint(&test));
    let all = verses::load().unwrap();
    assert_eq!(all.len(), 7947);
    let verse = all.iter().find(|v| v.to_string() == "JHN 11:35").unwrap();
    let texts = [Translation::Kjv, Translation::Web, Translation::Rv1909].map(|t| verse.text(t));
    assert_eq!(texts, ["Jesus wept.", "Jesus wept.", "Y lloró Jesús."]);
}

#[test]
fn only_verses_have_a_choice_of_negatives() {
    let spec = LabelledSpec {
        negatives: Some(Negatives::Random),
        ..LabelledSpec::named("sotu-era4")
    };
    let message = spec.validate().unwrap_err().to_string();
    assert!(message.contains("data.negatives"), "{message}");
}
