//! The Long Range Arena: tiny files in the published layouts, and what stands in for them.

use std::fs;
use std::path::Path;

use datasets::images::{cifar10, emoji};
use datasets::labelled::{LabelledSpec, load};
use datasets::lra::{self, Data, LraSpec, byte_sequences};
use datasets::sequences::Sequences;

fn spec(json: &str) -> LraSpec {
    serde_json::from_str(json).unwrap()
}

fn sequences(json: &str, base: &Path) -> Sequences {
    match spec(json).load(base).unwrap() {
        Data::Sequences(data) => data,
        Data::Pairs(_) => panic!("{json} gives pairs"),
    }
}

fn failed(json: &str, base: &Path) -> String {
    spec(json).load(base).unwrap_err().to_string()
}

#[test]
fn reviews_as_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for half in ["train", "test"] {
        for class in ["neg", "pos"] {
            let folder = dir.path().join("aclImdb").join(half).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..10 {
                fs::write(folder.join(format!("{i}_7.txt")), format!("{class} é {i}")).unwrap();
            }
            fs::write(folder.join("urls.dat"), "no review").unwrap();
        }
    }
    let data = sequences(
        r#"{ "task": "text", "path": "aclImdb", "max_length": 6 }"#,
        dir.path(),
    );
    assert_eq!(
        (data.train.len(), data.valid.len(), data.test.len()),
        (18, 2, 20)
    );
    // "neg é 0" has 8 bytes: é is two.
    let bytes = b"neg \xc3\xa9".map(|b| u16::from(b) + 1);
    assert_eq!(data.test[0].ids, bytes);
    assert_eq!((data.test[0].label, data.test[19].label), (0, 1));
    fs::remove_dir_all(dir.path().join("aclImdb/test/pos")).unwrap();
    let message = failed(r#"{ "task": "text", "path": "aclImdb" }"#, dir.path());
    assert!(message.contains("aclImdb/test/pos"), "{message}");
    let message = failed(
        r#"{ "task": "text", "path": "aclImdb", "max_length": 0 }"#,
        dir.path(),
    );
    assert!(message.contains("data.max_length"), "{message}");
}

#[test]
fn pairs_of_papers() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join(format!("new_aan_pairs.{name}.tsv")), text).unwrap();
    };
    for name in ["train", "eval", "test"] {
        write(
            name,
            "1.0\tA1\tB2\tfirst \"paper\"\tsecond\n0\tA1\tC3\tabc\tde\n",
        );
    }
    let json = r#"{ "task": "retrieval", "path": ".", "max_length": 7 }"#;
    let Data::Pairs(data) = spec(json).load(dir.path()).unwrap() else {
        panic!("papers are pairs");
    };
    assert_eq!(
        (data.train.len(), data.valid.len(), data.test.len()),
        (2, 2, 2)
    );
    assert_eq!((data.longest(), data.vocab_size), (7, 257));
    assert_eq!((data.train[0].label, data.train[1].label), (1, 0));
    let ids = |text: &str| text.bytes().map(|b| u16::from(b) + 1).collect::<Vec<_>>();
    assert_eq!(data.train[0].ids(), [ids("first \""), ids("second")]);
    for (text, part) in [
        ("1\tA\tB\tone text\n", "eval.tsv:1: 4 columns"),
        (
            "1\tA\tB\tx\ty\n2\tA\tB\tx\ty\n",
            "eval.tsv:2: the label \"2\"",
        ),
        ("", "there is no pair"),
    ] {
        write("eval", text);
        let message = failed(json, dir.path());
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn pictures_of_cifar() {
    let dir = tempfile::tempdir().unwrap();
    let record = |label: u8, rgb: [u8; 3]| -> Vec<u8> {
        let planes = rgb.iter().flat_map(|value| vec![*value; 1024]);
        std::iter::once(label).chain(planes).collect()
    };
    for batch in 1..=5u8 {
        let both = [record(batch, [batch, 0, 0]), record(9, [0, 0, 255])].concat();
        fs::write(dir.path().join(format!("data_batch_{batch}.bin")), both).unwrap();
    }
    fs::write(dir.path().join("test_batch.bin"), record(0, [200, 100, 50])).unwrap();
    let colour = cifar10(dir.path()).unwrap();
    assert_eq!(
        (colour.train.len(), colour.valid.len(), colour.test.len()),
        (9, 1, 1)
    );
    assert_eq!(colour.test[0].pixels[..6], [200, 100, 50, 200, 100, 50]);
    assert_eq!(colour.classes[usize::from(colour.valid[0].label)], "truck");
    let grey = sequences(r#"{ "task": "image", "path": "." }"#, dir.path());
    // 0.2989 · 200 + 0.587 · 100 + 0.114 · 50 = 124.18
    assert_eq!(grey.test[0].ids, vec![124u16; 1024]);
    fs::write(dir.path().join("test_batch.bin"), record(10, [0; 3])).unwrap();
    let message = failed(r#"{ "task": "image", "path": "." }"#, dir.path());
    assert!(message.contains("the label 10"), "{message}");
    fs::write(dir.path().join("test_batch.bin"), [0; 100]).unwrap();
    assert!(failed(r#"{ "task": "image", "path": "." }"#, dir.path()).contains("100 bytes"));
}

/// A grey PNG of 2 x 2 pixels with stored (not compressed) data, assembled by hand.
fn tiny_png(pixels: [u8; 4]) -> Vec<u8> {
    fn crc(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }
    let raw = [0, pixels[0], pixels[1], 0, pixels[2], pixels[3]];
    let (mut a, mut b) = (1u32, 0u32);
    for byte in raw {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    let mut data = vec![0x78, 1, 1, 6, 0, 0xf9, 0xff];
    data.extend(raw);
    data.extend((b << 16 | a).to_be_bytes());
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let header = [0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0, 0, 0];
    for (kind, data) in [
        (b"IHDR", header.to_vec()),
        (b"IDAT", data),
        (b"IEND", vec![]),
    ] {
        let chunk = [kind.to_vec(), data.clone()].concat();
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(&chunk);
        out.extend(crc(&chunk).to_be_bytes());
    }
    out
}

#[test]
fn pictures_of_pathfinder() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["metadata", "imgs/0"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    let mut list = String::new();
    for i in 0..20u8 {
        let label = i % 2;
        let png = tiny_png([i, 255 * label, 3, 4]);
        fs::write(dir.path().join(format!("imgs/0/sample_{i}.png")), png).unwrap();
        list.push_str(&format!(
            "imgs/0 sample_{i}.png {i} {label} 1.8 6 2.0 5 1.5 2 1\n"
        ));
    }
    fs::write(dir.path().join("imgs/0/sample_20.png"), "").unwrap();
    list.push_str("imgs/0 sample_20.png 20 1\n");
    fs::write(dir.path().join("metadata/0.npy"), &list).unwrap();
    let json = r#"{ "task": "pathfinder-files", "path": "." }"#;
    let data = sequences(json, dir.path());
    assert_eq!(
        (data.train.len(), data.valid.len(), data.test.len()),
        (16, 2, 2)
    );
    let all: Vec<_> = data
        .train
        .iter()
        .chain(&data.valid)
        .chain(&data.test)
        .collect();
    assert!(
        all.iter()
            .all(|e| e.ids.len() == 4 && e.ids[1] == 255 * e.label)
    );
    for (line, part) in [
        ("imgs/0 sample_1.png 1\n", "0.npy:1: expected"),
        ("imgs/0 sample_1.png 1 2\n", "0.npy:1: expected"),
        ("../x sample_1.png 1 1\n", "outside"),
        ("imgs/0 sample_99.png 1 1\n", "sample_99.png"),
        ("imgs/0 sample_1.png 1 1\n", "holds 1 pictures"),
    ] {
        fs::write(dir.path().join("metadata/0.npy"), line).unwrap();
        let message = failed(json, dir.path());
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn passages_of_one_speech_or_of_two() {
    let Data::Pairs(data) = spec(r#"{ "task": "retrieval-speeches" }"#)
        .load(Path::new("."))
        .unwrap()
    else {
        panic!("passages are pairs");
    };
    assert_eq!(data, lra::same_speech(4000).unwrap());
    assert!(data.train.len() > 4400 && data.test.len() > 1200);
    let same = data.test.iter().filter(|pair| pair.label == 1).count();
    let share = same as f64 / data.test.len() as f64;
    assert!((0.45..0.55).contains(&share), "{share}");
    assert!(data.test.iter().all(|pair| pair.ids()[0] != pair.ids()[1]));
}

#[test]
fn only_single_texts_become_sequences() {
    let verses = load(&LabelledSpec::named("nt-verses"), Path::new(".")).unwrap();
    let message = byte_sequences(&verses, 100).unwrap_err().to_string();
    assert!(message.contains("single texts"), "{message}");
    // Missing data says how to get it.
    let message = failed(r#"{ "task": "image-fashion" }"#, Path::new("/"));
    assert!(message.contains("data import fashion-mnist"), "{message}");
    assert!(serde_json::from_str::<LraSpec>(r#"{ "task": "image-fashion", "size": 3 }"#).is_err());
    assert_eq!(emoji().unwrap().grey().size(), 1024);
}
