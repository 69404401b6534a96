//! Files as they are published: read, written, and refused with the reason.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{TensorData, f16};
use common::{archive, dict, float_tensor, golden, int, named, tensor};
use pretrained::{
    Error, NamedTensors, read_safetensors_with_metadata, read_tensors, read_torch, tensor_headers,
    weights_file, write_atomic, write_safetensors, write_safetensors_with_metadata,
};
use zip::CompressionMethod::Stored;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn file(folder: &tempfile::TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a writable folder");
    path
}

fn refusal(path: &Path) -> String {
    let error = read_tensors(path).expect_err("the file must be refused");
    assert_eq!(
        error.to_string(),
        tensor_headers(path).expect_err("here too").to_string(),
        "both ways in say the same"
    );
    error.to_string()
}

fn mixed() -> NamedTensors {
    named(&[
        ("b", tensor(&[1.0, -0.0, f32::NAN, f32::INFINITY], &[2, 2])),
        ("a.half", TensorData::new(vec![f16::from_f32(1.5); 3], [3])),
        ("a.ids", TensorData::new(vec![i64::MIN, 7], [2])),
        ("a.mask", TensorData::new(vec![true, false, true], [3])),
        ("empty", tensor(&[], &[0, 4])),
        ("scalar", tensor(&[2.5], &[])),
        ("double", TensorData::new(vec![0.1_f64], [1])),
        ("\"quoted\"\n", TensorData::new(vec![200_u8], [1])),
    ])
}

/// Bit for bit, since NaN is not equal to itself.
fn bits(tensors: &NamedTensors) -> Vec<(&str, Vec<usize>, String, &[u8])> {
    let tensors = tensors.iter();
    tensors
        .map(|(name, data)| {
            let kind = format!("{:?}", data.dtype());
            (name.as_str(), data.shape().to_vec(), kind, data.as_bytes())
        })
        .collect()
}

#[test]
fn safetensors_round_trip_bit_for_bit_and_deterministically() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &mixed()).expect("written");
    let (back, metadata) = read_safetensors_with_metadata(&path).expect("read");
    assert_eq!(bits(&back), bits(&mixed()));
    assert_eq!(
        metadata,
        BTreeMap::from([("format".to_string(), "pt".to_string())])
    );

    let first = fs::read(&path).expect("there");
    write_safetensors(&path, &mixed()).expect("written again");
    assert_eq!(first, fs::read(&path).expect("there"));
    assert_eq!(
        fs::read_dir(folder.path()).expect("readable").count(),
        1,
        "no temporary file stays"
    );

    // The reference library accepts it, and every tensor is aligned to its elements.
    let theirs = safetensors::SafeTensors::deserialize(&first).expect("well formed");
    assert_eq!(theirs.len(), mixed().len());
    for (name, view) in theirs.iter() {
        let offset = view.data().as_ptr() as usize - first.as_ptr() as usize;
        assert_eq!(
            offset % (view.dtype().bitsize() / 8),
            0,
            "{name} at {offset}"
        );
    }
}

#[test]
fn metadata_of_ones_own_is_kept() {
    let folder = folder();
    let path = folder.path().join("x.safetensors");
    let given = BTreeMap::from([("step".to_string(), "40".to_string())]);
    write_safetensors_with_metadata(&path, &mixed(), &given).expect("written");
    let (_, metadata) = read_safetensors_with_metadata(&path).expect("read");
    assert_eq!(metadata["step"], "40");
    assert_eq!(metadata["format"], "pt");
}

#[test]
fn headers_list_what_reading_gives() {
    for path in [
        golden("seq_adaptive_cache.safetensors"),
        golden("checkpoint_zip.pt"),
        golden("checkpoint_legacy.pt"),
    ] {
        let tensors = read_tensors(&path).expect("a reference file");
        let headers = tensor_headers(&path).expect("a reference file");
        assert!(headers.len() > 20);
        let listed: Vec<_> = headers
            .iter()
            .map(|header| (&header.name, &header.shape))
            .collect();
        let shapes: Vec<_> = tensors
            .iter()
            .map(|(name, data)| (name, data.shape().to_vec()))
            .collect();
        assert_eq!(
            listed,
            shapes
                .iter()
                .map(|(name, shape)| (*name, shape))
                .collect::<Vec<_>>()
        );
        assert!(headers.iter().any(|header| header.dtype == "F32"));
    }
}

#[test]
fn published_torch_files_hold_the_reference_weights() {
    let reference = read_tensors(&golden("seq_adaptive_cache.safetensors")).expect("read");
    let expected: NamedTensors = reference
        .into_iter()
        .filter_map(|(name, data)| Some((name.strip_prefix("weights.")?.to_string(), data)))
        .collect();
    assert!(expected.len() > 20);
    for name in ["checkpoint_zip.pt", "checkpoint_legacy.pt"] {
        let path = golden(name);
        let mut weights: NamedTensors = read_tensors(&path)
            .expect("a reference file")
            .into_iter()
            .map(|(name, data)| {
                let plain = name.strip_prefix("module.").expect("DataParallel's prefix");
                (plain.to_string(), data)
            })
            .collect();
        let all = weights.len() + 1; // the optimiser's sums
        let masks: Vec<String> = weights
            .keys()
            .filter(|name| name.ends_with(".mask_template"))
            .cloned()
            .collect();
        assert_eq!(
            masks.len(),
            2,
            "one buffer per layer, which no parameter of the reference lists"
        );
        for mask in masks {
            let values = weights
                .remove(&mask)
                .expect("listed")
                .try_into_vec::<f32>()
                .expect("f32");
            let expected: Vec<f32> = (0..values.len())
                .rev()
                .map(|distance| -(distance as f32))
                .collect();
            assert_eq!(values, expected);
        }
        assert_eq!(
            weights.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        assert!(weights == expected, "{name}: some values differ");

        let sums = read_torch(&path, Some("optimizer")).expect("a dictionary too");
        assert_eq!(sums.keys().collect::<Vec<_>>(), ["state.0.sum"]);
        let whole = read_torch(&path, Some("")).expect("the outermost dictionary");
        assert_eq!(whole.len(), all);
        assert!(whole.contains_key("optimizer.state.0.sum"));
        let error = read_torch(&path, Some("modle"))
            .expect_err("no such key")
            .to_string();
        assert!(
            error.contains("'modle' not found") && error.contains("\"scheduler_iter\""),
            "{error}"
        );
    }
}

#[test]
fn the_weights_of_a_training_checkpoint_are_found() {
    let folder = folder();
    let storages: [(&str, &[f32]); 2] = [("0", &[1.0, 2.0]), ("1", &[9.0])];
    let weight = || float_tensor("0", 2, &[2], &[1]);
    let moment = || float_tensor("1", 1, &[1], &[1]);
    let state = || dict(&[("m.weight", weight())]);
    let optimizer = || dict(&[("exp_avg", moment())]);
    let cases: [(&str, Vec<u8>, &[&str]); 6] = [
        (
            "flat",
            dict(&[("model.weight", weight()), ("optimizer.bias", moment())]),
            &["model.weight", "optimizer.bias"],
        ),
        (
            "wrapped",
            dict(&[
                ("epoch", int(3)),
                ("state_dict", state()),
                ("optimizer", optimizer()),
            ]),
            &["m.weight"],
        ),
        (
            "model",
            dict(&[
                ("model", state()),
                ("optim_state", optimizer()),
                ("rng_state", moment()),
            ]),
            &["m.weight"],
        ),
        (
            "pair",
            dict(&[("G", state()), ("D", state()), ("optimizer_G", optimizer())]),
            &["D.m.weight", "G.m.weight"],
        ),
        // A dictionary of settings under a key that usually holds weights.
        (
            "settings",
            dict(&[("model", dict(&[("dim", int(8))])), ("net", state())]),
            &["net.m.weight"],
        ),
        (
            "whole",
            dict(&[("weight", weight()), ("model", state())]),
            &["model.m.weight", "weight"],
        ),
    ];
    for (name, root, expected) in cases {
        let path = file(
            &folder,
            &format!("{name}.bin"),
            archive(&root, &storages, Stored),
        );
        let tensors = read_tensors(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(tensors.keys().collect::<Vec<_>>(), expected, "{name}");
    }

    let path = file(
        &folder,
        "none.pt",
        archive(&dict(&[("epoch", int(3))]), &[], Stored),
    );
    assert!(refusal(&path).contains("holds no tensors"));
}

#[test]
fn strided_tensors_are_read_in_row_major_order() {
    let folder = folder();
    let root = dict(&[("w", float_tensor("0", 6, &[3, 2], &[1, 3]))]);
    let bytes = archive(&root, &[("0", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])], Stored);
    let tensors = read_tensors(&file(&folder, "t.pt", bytes)).expect("a transposed view");
    assert_eq!(
        tensors["w"],
        tensor(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0], &[3, 2])
    );
}

#[test]
fn sharded_checkpoints_are_joined() {
    let folder = folder();
    let one = named(&[("a", tensor(&[1.0], &[1])), ("b", tensor(&[0.0], &[1]))]);
    let two = named(&[("b", tensor(&[2.0], &[1])), ("extra", tensor(&[3.0], &[1]))]);
    write_safetensors(&folder.path().join("one.safetensors"), &one).expect("written");
    write_safetensors(&folder.path().join("two.safetensors"), &two).expect("written");
    let index = r#"{"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    let path = file(&folder, "model.safetensors.index.json", index);

    let expected = named(&[
        ("a", tensor(&[1.0], &[1])),
        ("b", tensor(&[2.0], &[1])),
        ("extra", tensor(&[3.0], &[1])),
    ]);
    assert_eq!(read_tensors(&path).expect("joined"), expected);
    assert_eq!(
        read_tensors(folder.path()).expect("found by its folder"),
        expected
    );
    assert_eq!(tensor_headers(&path).expect("joined").len(), 3);

    let path = file(
        &folder,
        "c.json",
        r#"{"weight_map": {"c": "one.safetensors"}}"#,
    );
    assert!(refusal(&path).contains("places `c` in one.safetensors, which does not hold it"));
    let path = file(
        &folder,
        "up.json",
        r#"{"weight_map": {"a": "../one.safetensors"}}"#,
    );
    assert!(refusal(&path).contains("must lie beside the index"));
    let path = file(
        &folder,
        "loop.json",
        r#"{"weight_map": {"a": "loop.json"}}"#,
    );
    assert!(refusal(&path).contains("no weights file itself"));
    let path = file(
        &folder,
        "gone.json",
        r#"{"weight_map": {"a": "gone.safetensors"}}"#,
    );
    assert!(refusal(&path).contains("cannot read"));
    let path = file(&folder, "config.json", r#"{"hidden_size": 8}"#);
    assert!(refusal(&path).contains("without a `weight_map`"));
    let path = file(&folder, "list.json", r#"{"weight_map": ["a"]}"#);
    assert!(refusal(&path).contains("weight_map: expected an object, found a list"));
}

#[test]
fn a_folder_gives_its_preferred_weights() {
    let folder = folder();
    let error = weights_file(folder.path()).expect_err("empty").to_string();
    assert!(
        error.contains("a folder without weights") && error.contains("model.safetensors"),
        "{error}"
    );
    let path = file(&folder, "pytorch_model.bin", "");
    assert_eq!(weights_file(folder.path()).expect("one"), path);
    let path = file(&folder, "model.safetensors", "");
    assert_eq!(weights_file(folder.path()).expect("two"), path);
}

#[test]
fn files_of_other_kinds_are_named_with_the_remedy() {
    let folder = folder();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let mut index = vec![0; 40];
    index.extend(0xdb47_7524_8b80_fb57_u64.to_le_bytes());
    let cases: [(&str, &[u8], &str, &str); 11] = [
        (
            "model.safetensors",
            lfs.as_bytes(),
            "a git-LFS pointer",
            "git lfs pull",
        ),
        (
            "lfs.bin",
            lfs.as_bytes(),
            "a git-LFS pointer",
            "git lfs pull",
        ),
        (
            "page.pt",
            b"\n <!DOCTYPE html><html>",
            "a web page",
            "download the file again",
        ),
        (
            "page.safetensors",
            b"<HTML><body>404",
            "a web page",
            "download the file again",
        ),
        (
            "model.ckpt.index",
            &index,
            "TensorFlow checkpoint",
            "export it",
        ),
        (
            "model.ckpt.data-00000-of-00001",
            b"\0\0\0\0",
            "TensorFlow checkpoint",
            "export it",
        ),
        (
            "weights.h5",
            b"\x89HDF\r\n\x1a\nrest",
            "HDF5",
            "save the model's weights",
        ),
        ("model.gguf", b"GGUF\x03\0\0\0", "GGUF", "safetensors"),
        ("model.tgz", b"\x1f\x8b\x08\0", "gzip", "decompress"),
        ("empty.pt", b"", "empty", "fetch it again"),
        (
            "noise.dat",
            b"hello, world",
            "not a weights file",
            "safetensors",
        ),
    ];
    for (name, bytes, found, remedy) in cases {
        let path = file(&folder, name, bytes);
        let message = refusal(&path);
        assert!(message.contains(name), "{message}");
        assert!(
            message.contains(found) && message.contains(remedy),
            "{name}: {message}"
        );
    }
    let error = read_tensors(&folder.path().join("absent.pt")).expect_err("absent");
    assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
}

#[test]
fn a_write_that_fails_leaves_the_old_file() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &mixed()).expect("written");
    let old = fs::read(&path).expect("there");

    let mut reserved = mixed();
    reserved.insert("__metadata__".into(), tensor(&[1.0], &[1]));
    let error = write_safetensors(&path, &reserved).expect_err("a reserved name");
    assert!(error.to_string().contains("__metadata__"), "{error}");
    assert_eq!(fs::read(&path).expect("there"), old);

    let taken = folder.path().join("folder");
    fs::create_dir(&taken).expect("created");
    fs::write(taken.join("inside"), "x").expect("written");
    let absent = folder.path().join("absent/file");
    for target in [
        taken.as_path(),
        absent.as_path(),
        Path::new("/"),
        Path::new(""),
    ] {
        let error = write_atomic(target, b"new").expect_err("no file can be there");
        assert!(
            matches!(
                error,
                Error::Io {
                    action: "write",
                    ..
                }
            ),
            "{error}"
        );
    }
    assert_eq!(
        fs::read_dir(folder.path()).expect("readable").count(),
        2,
        "no temporary file stays"
    );

    write_atomic(&path, b"new").expect("replaced");
    assert_eq!(fs::read(&path).expect("there"), b"new");
}
